"""What a simulated endpoint (`model_server.py`) saw and said, in a file that survives `kill -9`.

One JSON line an event, each appended by a single write, so that nothing written is lost or torn when the process is
killed:

- `received` when a request is there in full, before any byte of its answer (unless it is answered early, on purpose);
- `first_byte` when the kernel has the first byte of its final answer: a client may have seen it. A 1xx is not it;
- `finished` when the kernel has the last byte of an answer that can be read as a whole, errors included;
- `cut` instead of `finished` when the client left, the server was stopped, or a fault broke the answer.

So `received` is an upper bound of what was answered, and the others are proof. A process that is killed just after it sent
something may lack the line of it: then its last line of that request is an earlier one. There is never a line without
the bytes. `count` grows by one from line to line, also over restarts on the same file; give every process a file of its own.
`pid` and `serial` together name a request, `at_ns` is the machine's monotonic clock, the same for all its processes.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import msgspec

_LONGEST_LINE = 1 << 17  # a request id stands in a head, and heads are shorter


class Journal:
    """Appends to a file. A disk that is full raises OSError: a journal with holes would prove nothing."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._pid = os.getpid()
        self._serial = 0
        self._count = self._last_count()

    def entry(self, replica: str, request_id: str | None, method: str, path: str) -> Entry:
        """The entry of one request, whose head has just arrived; it writes nothing yet."""
        self._serial += 1
        return Entry(self, self._serial, replica, request_id, method, path)

    def append(self, **line: object) -> None:
        self._count += 1
        data = msgspec.json.encode({"count": self._count, **line, "pid": self._pid, "at_ns": time.monotonic_ns()}) + b"\n"
        if os.write(self._file, data) != len(data):
            raise OSError(f"{self._path}: a line of the journal was not written whole; is the disk full?")

    def _last_count(self) -> int:
        size = os.fstat(self._file).st_size
        tail = os.pread(self._file, _LONGEST_LINE, max(0, size - _LONGEST_LINE))
        lines = [line for line in tail.split(b"\n") if line]
        if not lines:
            return 0
        try:
            return int(json.loads(lines[-1])["count"])
        except (ValueError, TypeError, KeyError):
            text = f"{self._path}: the last line is not one of a journal; give another file or remove this one"
            raise ValueError(text) from None


class Entry:
    """The lines of one request. `first_byte`, and the end (`finished` or `cut`), are written once each."""

    __slots__ = ("_about", "_ended", "_journal", "fault", "model", "started", "status")

    def __init__(self, journal: Journal, serial: int, replica: str, request_id: str | None, method: str, path: str) -> None:
        self._journal = journal
        self._about = {"replica": replica, "serial": serial, "request_id": request_id, "method": method, "path": path}
        self._ended = False
        self.started = False
        self.status: int | None = None
        self.model: str | None = None
        self.fault: str | None = None

    def received(self) -> None:
        self._journal.append(event="received", **self._about)

    def first_byte(self) -> None:
        if not self.started:
            self.started = True
            self._write("first_byte")

    def finished(self) -> None:
        self._end("finished")

    def cut(self, why: str) -> None:
        self._end("cut", why=why)

    def _end(self, event: str, **more: object) -> None:
        if not self._ended:
            self._ended = True
            self._write(event, **more)

    def _write(self, event: str, **more: object) -> None:
        self._journal.append(event=event, **self._about, model=self.model, status=self.status, fault=self.fault, **more)
