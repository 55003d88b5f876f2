"""Copies of requests to a shadow: paid for, compared with the client's answer, and thrown away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .accounts import charge
from .compare import Pair
from .visit import Failure, Shared, Visit

if TYPE_CHECKING:
    from .ask import Ask
    from .forward import Forward
    from .live import LiveRoute, Target
    from .outbound import AnswerHead

_COPIES = 64


def copy(shared: Shared, route: LiveRoute, target: Target, ask: Ask, forward: Forward, pair: Pair) -> None:
    """Send a copy of a request. So many at once and no more: a slow shadow must not fill the memory."""
    if len(shared.copies) >= _COPIES:
        shared.books.metrics.shadow_dropped(route.agent)
        return
    made = Copy(shared, route, pair)
    made.visit = Visit(shared, route, target, ask, forward, made, whole=True)
    shared.copies.add(made.visit)
    made.visit.begin()


class Copy:
    """The sink of a copy's answer."""

    __slots__ = ("_pair", "_route", "_shared", "paused", "visit")

    def __init__(self, shared: Shared, route: LiveRoute, pair: Pair) -> None:
        self._shared = shared
        self._route = route
        self._pair = pair
        self.paused = False
        self.visit: Visit | None = None

    def answered(self, head: AnswerHead, length: bytes | None) -> bool:
        return True

    def body(self, data: bytes) -> None:
        pass

    def flush(self, final: bool) -> None:
        pass

    def ended(self) -> None:
        visit = self._end()
        if visit is not None and visit.capture is not None:
            self._pair.add(visit.capture.content())
            charge([self._route.account], visit.usage)

    def failed(self, failure: Failure) -> None:
        self._end()

    def _end(self) -> Visit | None:
        if self.visit is not None:
            self._shared.copies.discard(self.visit)
        return self.visit
