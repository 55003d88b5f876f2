"""Actions of the controller as runs in LangSmith: a bounded queue beside the flow, which it never slows and never fails.

`Tracer.trace` only puts into a queue. A daemon thread sends batches; when LangSmith is down, slow or refuses, or the queue is
full, what cannot be sent is dropped and counted. The log in git is the record; this is a view of it.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from controller.clients.langsmith_sdk import Access, dotted, timed_id
from controller.errors import Permanent, Temporary

BATCH = 100
LONGEST_PAUSE = 60.0


@dataclass(frozen=True)
class Traced:
    """One action. `id` is that of its event or intent: traced twice it is the same run. Times are in UTC."""

    id: str
    name: str
    started: datetime
    ended: datetime
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] | None = None
    error: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    parent: Traced | None = None


@dataclass(frozen=True)
class Counts:
    """What became of the actions; `last_error` says why the last were dropped."""

    sent: int
    dropped: int
    waiting: int
    last_error: str = ""


class Tracer:
    """Every method returns at once, except `close`, which waits as long as it is told to.

    What was taken is settled (sent or dropped) in the order in which it came: when `counts().waiting` is n, it is the last n.
    """

    def __init__(self, access: Access, size: int = 1000, pause: float = 1.0) -> None:
        self._access, self._pause = access, pause
        self._queue: queue.Queue[Traced] = queue.Queue(size)
        self._lock = threading.Lock()
        self._sent = self._dropped = self._waiting = 0
        self._error = ""
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def trace(self, action: Traced) -> bool:
        """Whether it was taken. Never raises, never waits."""
        if not self._access.spec.trace:
            return False
        if self._closing.is_set():
            self._drop("it came after the end")
            return False
        with self._lock:
            try:
                self._queue.put_nowait(action)
            except queue.Full:
                self._dropped, self._error = self._dropped + 1, f"{self._queue.maxsize} actions wait already"
                return False
            self._waiting += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="turnout-trace", daemon=True)
                self._thread.start()
        return True

    @property
    def room(self) -> int:
        """How many more actions there is room for."""
        return max(0, self._queue.maxsize - self._queue.qsize())

    def counts(self) -> Counts:
        with self._lock:
            return Counts(self._sent, self._dropped, self._waiting, self._error)

    def close(self, seconds: float = 2.0) -> Counts:
        """Gives what waits this long to be sent; the rest is dropped and counted."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(seconds)
        counts = self.counts()
        if counts.waiting:
            reason = counts.last_error or f"{counts.waiting} actions were not sent within {seconds:g} s"
            counts = Counts(counts.sent, counts.dropped + counts.waiting, 0, reason)
        return counts

    def _work(self) -> None:
        client, pause = None, self._pause
        while True:
            batch = self._next()
            if not batch:
                break
            try:
                client = client or self._access.client(background=False, retries=0)
                self._send(client, batch)
                pause = self._pause
                self._settle(sent=len(batch))
            except Exception as error:  # whatever it is: tracing fails, the flow does not
                reason = str(error) if isinstance(error, Temporary | Permanent) else type(error).__name__
                self._settle(dropped=len(batch), reason=reason)
                _close(client)
                client = None  # a key may have been changed: the next one reads it again
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        _close(client)

    def _next(self) -> list[Traced]:
        """What waits, at most a batch; waits for the first. Nothing = the end."""
        batch: list[Traced] = []
        while not batch:
            with contextlib.suppress(queue.Empty):
                batch.append(self._queue.get(timeout=0.1))
            if not batch and self._closing.is_set():
                return []
        with contextlib.suppress(queue.Empty):
            while len(batch) < BATCH:
                batch.append(self._queue.get_nowait())
        return batch

    def _send(self, client: Any, batch: list[Traced]) -> None:
        """Raises Temporary, Permanent."""
        client.failures.clear()
        project = self._access.spec.project
        with self._access.translated("tracing actions"):
            client.multipart_ingest(create=[as_run(action, project) for action in batch])
        if client.failures:
            raise self._access.as_ours("tracing actions", client.failures[-1])

    def _settle(self, *, sent: int = 0, dropped: int = 0, reason: str = "") -> None:
        """What waited does so no more."""
        with self._lock:
            self._sent += sent
            self._dropped += dropped
            self._waiting -= sent + dropped
            self._error = reason or self._error

    def _drop(self, reason: str) -> None:
        """What was never taken."""
        with self._lock:
            self._dropped += 1
            self._error = reason


def _close(client: Any) -> None:
    if client is not None:
        with contextlib.suppress(Exception):
            client.close(timeout=0)


def as_run(action: Traced, project: str) -> dict[str, Any]:
    """The run of an action, complete, with the place in its trace that its parents give it."""
    above: list[Traced] = [action]
    while above[-1].parent is not None:
        above.append(above[-1].parent)
    ids = [timed_id(one.started, "action", one.id) for one in above]
    place = ""
    for one, run_id in zip(reversed(above), reversed(ids), strict=True):
        place = dotted(one.started, run_id, place)
    return {
        "id": ids[0],
        "trace_id": ids[-1],
        "parent_run_id": ids[1] if len(ids) > 1 else None,
        "dotted_order": place,
        "name": action.name,
        "run_type": "chain",
        "session_name": project,
        "start_time": action.started,
        "end_time": action.ended,
        "inputs": dict(action.inputs),
        "outputs": None if action.outputs is None else dict(action.outputs),
        "error": action.error,
        "tags": list(action.tags),
        "extra": {"metadata": dict(action.metadata)},
    }
