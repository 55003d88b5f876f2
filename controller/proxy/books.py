"""Where everything that has ended is written down: figures, accounts, sessions, the ring of records, log and export."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from .accounts import Accounts
from .forward import Forward
from .live import LiveRoute, Target
from .metrics import Metrics
from .record import Record
from .sessions import Sessions
from .statsfile import StatsFile
from .usage import Capture, Usage

_RING = 128


class Ended(Protocol):
    """What is written down of a visit to a variant."""

    target: Target
    route: LiveRoute
    forward: Forward
    usage: Usage | None
    capture: Capture | None
    code: str
    tries: int
    sent_at: float
    first_at: float
    ended_at: float


class Books:
    """The figures of the process. Who wants each record as it comes adds itself to `listeners`; they must be quick."""

    def __init__(self, loop: asyncio.AbstractEventLoop, data: Path, name: str = "") -> None:
        self.metrics = Metrics()
        self.file = StatsFile(data / f"stats{name}.json")
        self.stats = self.file.load(time.time)
        self.accounts = Accounts(time.time, self.stats.kept_accounts)
        self.sessions = Sessions()
        self.number = 0  # of the newest record in the ring
        self.ring: deque[Record] = deque(maxlen=_RING)
        self.listeners: list[Callable[[Record], None]] = []
        self.tripped: Callable[[str, str], None] = lambda agent, step: None
        self.others: dict[tuple[str, str, str], tuple[int, int]] = {}  # requests and errors that other workers counted
        self._loop = loop

    def visited(self, visit: Ended, *, error: bool, seconds: float | None) -> None:
        """A visit to a variant has ended. Then the guard is asked, unless that was stable or gets copies only."""
        target, route = visit.target, visit.route
        cell, series = target.cell, target.series
        if cell is None or series is None:
            cell = target.cell = self.stats.cell(target.agent, target.step, target.variant)
            series = target.series = self.metrics.series(target.agent, target.variant, target.version, target.model)
        usage = visit.usage
        series.add(visit.code, visit.tries, usage)
        if not visit.forward.judged:
            return
        cell.version = target.version
        cell.add(error=error, seconds=seconds, usage=usage, tries=visit.tries)
        self.stats.changed = True
        if seconds is not None:
            events = visit.capture.events if visit.capture is not None else 0
            per_token = (visit.ended_at - visit.first_at) / (events - 1) if events > 1 else None
            series.timed(seconds, visit.first_at - visit.sent_at, per_token)
        guard = route.route.guard
        if guard is None or route.tripped or not error or target is route.targets[0] or target is route.shadow:
            return
        more = self.others.get((target.agent, target.step, target.variant), (0, 0))
        if self.stats.judge(target.agent, target.step, cell.requests + more[0], cell.errors + more[1], guard):
            route.tripped = True
            self.metrics.guard_tripped(target.agent, target.step)
            self.tripped(target.agent, target.step)
            self.write()

    def ended(self, record: Record) -> None:
        """A request of a client has ended."""
        self.number += 1
        self.ring.append(record)
        if record.session and record.agent:
            self.sessions.add(record)
        if record.bottleneck:
            self.metrics.bottleneck(record.agent, record.bottleneck)
        for listener in self.listeners:
            listener(record)

    def records(self, after: int, most: int) -> tuple[int, list[Record]]:
        """The number of the newest record and those after a number, oldest first, at most the last so many."""
        count = min(max(self.number - after, 0), len(self.ring), most)
        return self.number, list(self.ring)[len(self.ring) - count :] if count else []

    def write(self) -> None:
        """Figures to disk, now."""
        self.file.write(self.stats, self.accounts)


class AccessLog:
    """One JSON line a request, written in bundles off the event loop. A full disk loses lines, never requests."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lines: list[bytes] = []
        self.lost = 0
        self._encoder = msgspec.json.Encoder()

    def add(self, record: Record) -> None:
        if len(self._lines) < 100_000:
            self._lines.append(self._encoder.encode(record))
        else:
            self.lost += 1

    async def keep(self) -> None:
        """Write what has come, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(0.25)
            if self._lines:
                await loop.run_in_executor(None, self.write)

    def write(self) -> None:
        """The file is opened each time, so that it can be rotated by renaming."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            if self._path == "-":
                print(b"\n".join(lines).decode(), flush=True)
                return
            with open(self._path, "ab") as file:
                file.write(b"\n".join(lines) + b"\n")
        except OSError:
            self.lost += len(lines)
