"""Time limits of requests in flight, looked at together: one timer for all costs less than one for each."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Protocol

_TICK_S = 0.05


class Limited(Protocol):
    """Something that may take too long."""

    def look_at_the_time(self, now: float) -> None: ...


class Deadlines:
    """Everything in flight is looked at every 50 ms; while nothing is, there is no timer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: set[Limited] = set()
        self._running = False

    def add(self, limited: Limited) -> None:
        self._watched.add(limited)
        if not self._running:
            self._running = True
            self._loop.call_later(_TICK_S, self._look)

    def remove(self, limited: Limited) -> None:
        self._watched.discard(limited)

    def _look(self) -> None:
        if not self._watched:
            self._running = False
            return
        now = monotonic()
        for limited in list(self._watched):
            limited.look_at_the_time(now)
        self._loop.call_later(_TICK_S, self._look)
