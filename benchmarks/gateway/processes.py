"""A process on one core, and what it and its children have used by the operating system's own account."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.gateway.machine import pinned

_TICK = os.sysconf("SC_CLK_TCK")
_STOP_S = 5.0


class Ended(Exception):
    """A process that should run has ended; the text is the end of what it printed."""


class Running:
    """A started program with everything that it has started; `stop` leaves nothing of it."""

    def __init__(self, command: Sequence[str], core: int, log: Path, env: Mapping[str, str], cwd: Path) -> None:
        self._log = log
        with open(log, "wb") as out:
            self._child = subprocess.Popen(
                pinned(core, *command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **env},
                cwd=cwd,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raises Ended."""
        code = self._child.poll()
        if code is not None:
            raise Ended(f"it ended with {code}: {self.last_words()}")

    def last_words(self) -> str:
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:160] if lines else "it printed nothing"

    def cpu(self) -> float:
        """Seconds of user and system time of the whole tree so far: all threads, living children, and dead ones waited for."""
        return sum(sum(map(int, fields[11:15])) for fields in self._tree()) / _TICK

    def memory(self) -> float:
        """Resident MB of the whole tree; pages that its processes share count in each of them."""
        return sum(int(fields[21]) for fields in self._tree()) * os.sysconf("SC_PAGE_SIZE") / 1e6

    def _tree(self) -> list[list[str]]:
        """The fields of /proc/PID/stat after the name, of the process and all its descendants."""
        found: dict[int, list[str]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    found[int(entry.name)] = (entry / "stat").read_text().rpartition(")")[2].split()
        inside = {self._child.pid}
        while more := {pid for pid, fields in found.items() if int(fields[1]) in inside} - inside:
            inside |= more
        return [found[pid] for pid in inside if pid in found]

    def stop(self) -> None:
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(_STOP_S)
        self._signal(signal.SIGKILL)
        self._child.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, number)


@contextlib.contextmanager
def running(
    command: Sequence[str], *, core: int, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Running]:
    process = Running(command, core, log, env or {}, cwd or log.parent)
    try:
        yield process
    finally:
        process.stop()
