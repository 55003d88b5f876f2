"""The folder of one evaluation's work, `<data>/evaluations/<intent>/`: what the door writes and the child process reads, and back.

    order.json      what to do; written once, by whoever claims the intent
    dataset.jsonl   the rows, as they were when it started
    lock            held by the child while it lives, inherited from the door: nobody starts a second one
    pid             of the child
    calls.jsonl     every call before it is made and every answer, fsynced: what a resumed run goes on from
    progress.json   replaced while it runs
    result.json     at the end
    cancelled       makes the child stop
    log             what the child printed

Only the folder decides what happened: a process id proves nothing, the lock does.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from controller.errors import Temporary

FORMAT = 1
STOPPED = 75
"""Exit code of a child that can go on later (EX_TEMPFAIL)."""


class Order(msgspec.Struct, frozen=True):
    """All that the child is told. `spec` is an Evaluation's with defaults; `worst` and `ceiling` are USD.

    `environment` has endpoints, prices, inference and langsmith as environment.yaml says, with references to secrets only.
    """

    intent: str
    name: str
    agent: str
    candidate: dict[str, str]
    baseline: dict[str, str]
    state: dict[str, Any]
    dataset: dict[str, Any]
    trained_on: list[dict[str, str | None]]
    spec: dict[str, Any]
    worst: dict[str, float | None]
    ceiling: float
    data: str
    environment: dict[str, Any]
    format: int = FORMAT


class Work:
    """One such folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        return self.folder / name

    def order(self) -> Order | None:
        try:
            return msgspec.json.decode(self.path("order.json").read_bytes(), type=Order)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise Temporary(f"{self.path('order.json')} cannot be read: {error}") from error

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON object that is replaced as a whole; None when it is not there."""
        try:
            found: dict[str, Any] = json.loads(self.path(name).read_bytes())
            return found
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise Temporary(f"{self.path(name)} cannot be read: {error}") from error

    def write(self, name: str, content: bytes, *, once: bool = False) -> bool:
        """Atomic and fsynced. `once`: only if it is not there yet; says whether it was written. Raises Temporary."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=f".{name}.")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                if once:
                    with contextlib.suppress(FileExistsError):
                        os.link(temporary, self.path(name))
                        return True
                    return False
                os.replace(temporary, self.path(name))
                return True
            finally:
                Path(temporary).unlink(missing_ok=True)
        except OSError as error:
            raise Temporary(f"{self.path(name)} cannot be written: {error.strerror or error}") from error

    def lock(self) -> int | None:
        """A descriptor that holds the lock, or None while a child holds it. Whoever inherits it keeps it."""
        handle = os.open(self.path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        return handle

    def alive(self) -> bool:
        """Whether a child holds the lock."""
        try:
            handle = os.open(self.path("lock"), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """Of a file that grows; a last line that was cut by a crash does not count."""
        try:
            content = self.path(name).read_bytes()
        except FileNotFoundError:
            return
        for line in content.splitlines():
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict):
                    yield found


class Journal:
    """Appends lines, each on disk before it counts. Begins with a line end, should the one before have been cut."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")
        if self._file.tell():
            self._file.write(b"\n")

    def append(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
