"""One variant is asked for one request: a replica is chosen, tried, perhaps another one too, and the answer flows to a sink.

A further try is made only while no byte of an answer has gone to the client, only where asking twice is harmless, and only
as long as retries are a small part of the traffic. The variant's figures count the visit once, however many tries it took.
"""

from __future__ import annotations

import asyncio
import random
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from .keys import KeyMissing
from .outbound import AnswerHead, UpstreamConnection
from .pool import Full
from .usage import Capture, Usage

if TYPE_CHECKING:
    from .ask import Ask
    from .books import Books
    from .deadlines import Deadlines
    from .forward import Forward
    from .live import LiveRoute, Target
    from .outbound import Dialer
    from .replica import Replica

_RETRIED = (429, 502, 503, 504)  # by another replica; one that stands alone is believed
_BACKOFF_S = 0.025


class Failure:
    """Why there is no (whole) answer. `elsewhere` tells that another agent may be asked instead."""

    __slots__ = ("code", "elsewhere", "message", "retry_s", "status")

    def __init__(self, status: int, code: str, message: str, *, elsewhere: bool, retry_s: float = 0.0) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.elsewhere = elsewhere
        self.retry_s = retry_s


class Sink(Protocol):
    """Where an answer goes: to the client, or for a shadow's copy to nobody."""

    paused: bool

    def answered(self, head: AnswerHead, length: bytes | None) -> bool: ...
    def body(self, data: bytes) -> None: ...
    def flush(self, final: bool) -> None: ...
    def ended(self) -> None: ...
    def failed(self, failure: Failure) -> None: ...


class Shared:
    """What all requests of the process share."""

    __slots__ = ("books", "copies", "deadlines", "dialer", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, dialer: Dialer, deadlines: Deadlines, books: Books) -> None:
        self.loop = loop
        self.dialer = dialer
        self.deadlines = deadlines
        self.books = books
        self.copies: set[Visit] = set()  # to shadows, in flight


class Visit:
    """Exactly one of success, failure or `cancel` ends it, and is counted. Times are those of the event loop's clock."""

    __slots__ = (
        "_connection",
        "_endpoint",
        "_holds",
        "_judged",
        "_last",
        "_open",
        "_pool",
        "_retrying",
        "_shared",
        "_sink",
        "_task",
        "_timer",
        "_tried",
        "_written",
        "ask",
        "asked_at",
        "capture",
        "code",
        "connect_s",
        "ended_at",
        "first_at",
        "forward",
        "granted_at",
        "key",
        "replica",
        "route",
        "sent_at",
        "status",
        "target",
        "tries",
        "usage",
        "whole",
    )

    def __init__(
        self, shared: Shared, route: LiveRoute, target: Target, ask: Ask, forward: Forward, sink: Sink, *, whole: bool = False
    ) -> None:
        self._shared = shared
        self._pool = target.pool
        self._endpoint = target.pool.endpoint
        self.forward = forward
        self._sink = sink
        self._connection: UpstreamConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._written = (b"", b"")
        self._open = True
        self._holds = self._judged = False
        self._retrying = False
        self._tried: tuple[Replica, ...] = ()
        self.route = route
        self.target = target
        self.ask = ask
        self.whole = whole  # whether the answer is kept as a whole, to be compared or logged
        self.key = forward.affinity(self._endpoint.affinity, ask.head.session)
        self.replica: Replica | None = None
        self.capture: Capture | None = None
        self.usage: Usage | None = None
        self.code = ""
        self.status = 0
        self.tries = 0
        self.connect_s = 0.0
        self.asked_at = self._last = monotonic()
        self.granted_at = self.sent_at = self.first_at = self.ended_at = 0.0

    # choosing

    def begin(self) -> None:
        self._shared.deadlines.add(self)
        self._take()

    def _take(self) -> None:
        try:
            replica = self._pool.take(self, self._tried, trial=self.forward.repeatable)
        except Full:
            text = f"{self._name()} is busy and {self._endpoint.queue.size} requests wait for it already"
            self._fail(Failure(429, "endpoint_busy", text, elsewhere=True, retry_s=1.0))
            return
        if replica is not None:
            self.granted(replica)

    def granted(self, replica: Replica) -> None:
        now = monotonic()
        self.granted_at = self.granted_at or now
        self.replica, self._holds, self._judged = replica, True, False
        self.tries += 1
        self.status = 0
        self._last = self.sent_at = now
        try:
            self._written = self.forward.written(self.target.model, self.target.authorization(), replica)
        except KeyMissing as error:
            self._fail(Failure(502, "endpoint_key_missing", f"{self._name()}: {error}", elsewhere=True))
            return
        connection = self._shared.dialer.take(replica) if replica.idle and self.forward.repeatable else None
        if connection is not None:
            self._send(connection)
        else:
            self._task = self._shared.loop.create_task(self._connect(replica))

    def waited_in_vain(self) -> None:
        text = f"{self._name()} was busy for {self._endpoint.queue.wait_s:g} s"
        self._fail(Failure(429, "endpoint_busy", text, elsewhere=True, retry_s=1.0))

    # asking

    def _send(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        assert self.replica is not None
        self.replica.sent += 1
        connection.send(self, *self._written)

    async def _connect(self, replica: Replica) -> None:
        seconds = self._endpoint.connect_s
        began = monotonic()
        try:
            async with asyncio.timeout(seconds):
                connection = await self._shared.dialer.connect(replica)
        except TimeoutError:
            self._task = None
            self._not_connected(f"{self._name()} accepted no connection in {seconds:g} s")
        except (OSError, ValueError) as error:
            self._task = None
            text = getattr(error, "strerror", None) or type(error).__name__
            self._not_connected(f"{self._name()} is not reachable: {text}")
        else:
            self._task = None
            self.sent_at = self._last = monotonic()
            self.connect_s += self.sent_at - began
            if self._open:
                self._send(connection)
            else:
                connection.abort()

    def _not_connected(self, text: str) -> None:
        if self._open:
            self._judge(well=False)
            if not self._again(always=True):
                self._fail(Failure(502, "endpoint_unreachable", text, elsewhere=True))

    def _name(self) -> str:
        if self.replica is not None and len(self._pool.replicas) > 1:
            return f"The endpoint {self._pool.name} ({self.replica.name})"
        return f"The endpoint {self._pool.name}"

    def cancel(self) -> None:
        """The client is gone, so the upstream may stop too. That is nobody's error."""
        if self._open:
            self._tell_usage()
            self._close()
            self._count("499", error=False, seconds=None)

    def pause(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        self._last = monotonic()  # the silence was the client's
        if self._connection is not None:
            self._connection.resume()

    def look_at_the_time(self, now: float) -> None:
        endpoint = self._endpoint
        if endpoint.total_s and now - self.asked_at > endpoint.total_s:
            self._too_long(f"{self._name()} took longer than {endpoint.total_s:g} s", elsewhere=False)
        elif self._connection is None:
            return  # it waits for a replica, for a connection or for the next try; each has a limit of its own
        elif not self.status and endpoint.first_byte_s and now - self.sent_at > endpoint.first_byte_s:
            self._judge(well=False)
            if not self._again():
                self._too_long(f"{self._name()} answered nothing in {endpoint.first_byte_s:g} s")
        elif now - self._last > endpoint.timeout_s:
            if not self._sink.paused:
                self._judge(well=False)
            self._too_long(f"{self._name()} was silent for {endpoint.timeout_s:g} s")

    def _too_long(self, text: str, *, elsewhere: bool = True) -> None:
        """Who has not answered at all may be replaced by a fallback; the time of the whole request is over for those too."""
        self._fail(Failure(504, "endpoint_timeout", text, elsewhere=elsewhere), error=not self._sink.paused)

    # the connection's Reply

    def answered(self, head: AnswerHead, length: bytes | None) -> None:
        status = self.status = head.status
        if status >= 500 or status == 429:
            self._judge(well=status < 500)
            if status in _RETRIED and self._has_others() and self._again():
                return
        elif head.told_usage:
            self.capture = Capture(stream=head.stream, whole=self.whole)
        if not self._sink.answered(head, length):
            self._fail(Failure(status, "endpoint_unavailable", f"{self._name()} answered {status}", elsewhere=True))
        elif self._sink.paused:
            self.pause()

    def body(self, data: bytes) -> None:
        if not self.first_at:
            self.first_at = monotonic()
        if self.capture is not None:
            self.capture.add(data)
        self._sink.body(data)

    def flush(self) -> None:
        self._last = monotonic()
        self._sink.flush(False)

    def ended(self) -> None:
        if not self._open:
            return
        assert self.replica is not None
        self._connection = None
        status, replica = self.status, self.replica
        now = monotonic()
        self.first_at = self.first_at or now
        if status < 500 and status != 429:
            self._judge(well=True)
        if self.capture is not None:
            self.usage = self.capture.usage(self.target.price, self.forward.size)
            replica.measured(now, self.first_at - self.sent_at, now - self.sent_at, self.usage.output_tokens if self.usage else 0)
        replica.answered += 1
        self._close()
        self._sink.flush(True)
        self._count(str(status), error=status == 429 or status >= 500, seconds=now - self.asked_at if status < 400 else None)
        self._sink.ended()

    def lost(self, reason: str, *, retry: bool) -> None:
        if not self._open:
            return
        assert self.replica is not None
        self._connection = None
        if retry:  # an idle connection that the other side was just closing; nothing was answered
            self.replica.sent -= 1
            self._task = self._shared.loop.create_task(self._connect(self.replica))
            return
        self._judge(well=False)
        if not self.status and self._again():
            return
        self._fail(Failure(502, "endpoint_broken", f"{self._name()} broke: {reason}", elsewhere=True))

    # another try

    def _judge(self, *, well: bool) -> None:
        """What the replica did speaks for it or against it."""
        assert self.replica is not None
        if self._judged:
            return  # one try is one verdict, also where an answer that is an error breaks as well
        self._judged = True
        if well:
            self._pool.succeeded(self.replica)
        else:
            self.replica.failed += 1
            self._pool.failed(self.replica)

    def _again(self, *, always: bool = False) -> bool:
        """Try once more, if that is allowed. `always` = nothing was sent, so nothing can be done twice."""
        if self.tries > self._endpoint.retries or not (always or self.forward.repeatable):
            return False
        if not self._retrying and not self._pool.may_retry():
            return False
        assert self.replica is not None
        self._tried = (*self._tried, self.replica)
        others = self._has_others()
        self._release()
        if not self._retrying:
            self._retrying = True
            self._pool.retrying += 1
        self.status = 0
        self.capture = None
        if others:
            self._take()
        else:
            wait = _BACKOFF_S * 2 ** (self.tries - 1) * (0.5 + random.random())
            self._timer = self._shared.loop.call_later(wait, self._take)
        return True

    def _has_others(self) -> bool:
        return any(each.usable and each is not self.replica and each not in self._tried for each in self._pool.replicas)

    # the end

    def _fail(self, failure: Failure, *, error: bool = True) -> None:
        """`error` is False where the silence was that of a client that does not read."""
        if not self._open:
            return
        if not error:
            code = "499"
        elif self.status and failure.status != self.status:
            code = "died"
        else:
            code = str(failure.status)
        self._tell_usage()
        self._close()
        self._count(code, error=error, seconds=None)
        self._sink.failed(failure)

    def _tell_usage(self) -> None:
        """What has to be paid for although nobody got it whole."""
        if self.capture is not None:
            self.usage = self.capture.usage(self.target.price, self.forward.size)

    def _close(self) -> None:
        self._open = False
        self._shared.deadlines.remove(self)
        if self._retrying:
            self._pool.retrying -= 1
        if self._timer is not None:
            self._timer.cancel()
        self._release()
        self.ended_at = monotonic()

    def _release(self) -> None:
        """Give the replica back, with whatever was under way there."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._connection is not None:
            self._connection.abort()
            self._connection = None
        if self._holds and self.replica is not None:
            self._holds = False
            self._pool.give_back(self.replica)
        else:
            self._pool.forget(self)

    def _count(self, code: str, *, error: bool, seconds: float | None) -> None:
        self.code = code
        self._shared.books.visited(self, error=error, seconds=seconds)
