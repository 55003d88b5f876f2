"""Makes calls side by side within three bounds: concurrency, money, and the wish to stop. What is under way always finishes.

Place in the flow: below `run`. A call is on disk before it is made, and its answer before the next one counts, so that a process
that is killed anywhere knows afterwards what it may have paid for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Generic, NamedTuple, TypeVar

from controller.errors import Permanent, Temporary

T = TypeVar("T")
R = TypeVar("R")
LOOK_SECONDS = 0.2
CENT_OF_NOTHING = 1e-9


class Purse:
    """USD up to a ceiling. A call is let through only if all that is under way could cost its worst and still fit.

    `standing` is what has to stay free besides calls: of endpoints that are paid by the minute.
    """

    def __init__(self, ceiling: float, standing: Callable[[], float] = lambda: 0.0) -> None:
        self.ceiling, self.spent, self.reserved, self.standing = ceiling, 0.0, 0.0, standing
        self.unknown = 0  # replies whose cost nobody knows
        self.dearest: dict[str, float] = {}

    def take(self, what: str, worst: float | None) -> float | None:
        """What is now reserved for the call, or None when it could go over the ceiling.

        Without a price the dearest call so far is the guess; of the first nobody knows, and it may go.
        """
        wanted = self.dearest.get(what, 0.0) if worst is None else worst
        owed = self.spent + self.standing()
        if owed + self.reserved + wanted > self.ceiling + CENT_OF_NOTHING or (worst is None and owed >= self.ceiling):
            return None
        self.reserved += wanted
        return wanted

    def settle(self, what: str, reserved: float, paid: float | None) -> None:
        self.reserved -= reserved
        self.unknown += paid is None
        self.spent += paid or 0.0
        self.dearest[what] = max(self.dearest.get(what, 0.0), paid or 0.0)


class Halt(NamedTuple):
    """Why not everything was done. `error` is Temporary or Permanent, or None for a stop that was asked for or the ceiling."""

    reason: str
    error: Exception | None = None
    ceiling: bool = False


class Crew(Generic[T, R]):
    """Works through tasks. `worst(task)` is what it is called in the purse and USD; `do` runs in a thread, the rest here."""

    def __init__(
        self,
        do: Callable[[T], R],
        *,
        purse: Purse,
        worst: Callable[[T], tuple[str, float | None]],
        before: Callable[[T], None],
        after: Callable[[T, R], float | None],
        stop: Callable[[], str],
        concurrency: int,
    ) -> None:
        self._do, self._purse, self._worst = do, purse, worst
        self._before, self._after, self._stop = before, after, stop
        self._concurrency = concurrency

    def run(self, tasks: Iterable[T]) -> Halt | None:
        """None when all are done. `after` records a result and says what it cost."""
        halt: Halt | None = None
        left = deque(tasks)
        under_way: dict[Future[R], tuple[T, str, float]] = {}
        with ThreadPoolExecutor(self._concurrency, thread_name_prefix="evaluating") as pool:
            while True:
                halt = halt or self._halted(bool(left))
                while halt is None and left and len(under_way) < self._concurrency:
                    what, worst = self._worst(left[0])
                    reserved = self._purse.take(what, worst)
                    if reserved is None:  # what is under way may turn out cheaper
                        if not under_way:
                            halt = Halt(
                                f"its ceiling of {self._purse.ceiling:.4g} USD leaves no room for another call", ceiling=True
                            )
                        break
                    task = left.popleft()
                    self._before(task)
                    under_way[pool.submit(self._do, task)] = (task, what, reserved)
                if not under_way:
                    return halt
                done, _ = wait(under_way, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    halt = self._finished(future, *under_way.pop(future)) or halt

    def _halted(self, more: bool) -> Halt | None:
        why = self._stop() if more else ""
        return Halt(why) if why else None

    def _finished(self, future: Future[R], task: T, what: str, reserved: float) -> Halt | None:
        error = future.exception()
        if error is None:
            self._purse.settle(what, reserved, self._after(task, future.result()))
            return None
        self._purse.settle(what, reserved, 0.0)
        if isinstance(error, Temporary | Permanent):
            return Halt(str(error), error)
        raise error


class Outage:
    """Counts calls in a row that were not answered for a reason that may pass. Raises Temporary from `note` at the limit."""

    def __init__(self, limit: int) -> None:
        self._limit, self._row, self._lock = limit, 0, threading.Lock()

    def note(self, unanswered: str) -> None:
        with self._lock:
            self._row = self._row + 1 if unanswered else 0
            if self._row >= self._limit:
                raise Temporary(f"{self._row} calls in a row were not answered, the last: {unanswered}")
