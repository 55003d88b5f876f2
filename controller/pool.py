"""How calls run side by side: threads for real, one after the other under a virtual clock. A parameter of the flow."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Pool(Protocol):
    """Gives each call's result or exception, in order."""

    def run(self, calls: Sequence[Callable[[], Any]]) -> list[Any]: ...


class SerialPool:
    """One call at a time, in order."""

    def run(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        return [_guarded(call) for call in calls]


class ThreadPool:
    """At most `size` calls at once, each given `seconds`; one that hangs is left behind, and reported as TimeoutError."""

    def __init__(self, size: int = 8, seconds: float = 20.0) -> None:
        self.size, self.seconds = size, seconds

    def run(self, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        if not calls:
            return []
        results: list[Any] = [TimeoutError(f"no answer within {self.seconds:.0f} s")] * len(calls)
        todo: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in range(len(calls)):
            todo.put(index)
        done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()

        def work() -> None:
            while True:
                try:
                    index = todo.get_nowait()
                except queue.Empty:
                    return
                done.put((index, _guarded(calls[index])))

        for _ in range(min(self.size, len(calls))):
            threading.Thread(target=work, daemon=True, name="turnout-call").start()
        left, end = len(calls), time.monotonic() + self.seconds * (1 + len(calls) // self.size)
        while left and (wait := end - time.monotonic()) > 0:
            try:
                index, result = done.get(timeout=wait)
            except queue.Empty:
                break
            results[index] = result
            left -= 1
        return results


def side_by_side(calls: Sequence[Callable[[], Any]], seconds: float) -> list[Any]:
    """For the targets of one provider: one that hangs keeps no other waiting. A single call runs where it stands."""
    return SerialPool().run(calls) if len(calls) < 2 else ThreadPool(len(calls), seconds).run(calls)


def _guarded(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return error
