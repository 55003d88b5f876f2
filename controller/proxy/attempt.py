"""One attempt at one variant: it connects, sends, watches the time, and tells the figures how it ended.

The answer itself goes to a sink: the client's `Relay`, or nobody for a shadow's copy.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from .keys import KeyMissing
from .outbound import Headers, UpstreamConnection
from .usage import Capture

if TYPE_CHECKING:
    from .forward import Forward
    from .gate import Gate
    from .live import LiveRoute, Target

_CONNECT_S = 10.0


class Failure:
    """Why there is no (whole) answer. `elsewhere` tells that another agent may be asked instead."""

    __slots__ = ("code", "elsewhere", "message", "status")

    def __init__(self, status: int, code: str, message: str, *, elsewhere: bool) -> None:
        self.status = status
        self.code = code
        self.message = message
        self.elsewhere = elsewhere


class Sink(Protocol):
    """Where an answer goes."""

    paused: bool

    def answered(self, status: int, reason: bytes, headers: Headers, length: bytes | None) -> bool: ...
    def body(self, data: bytes) -> None: ...
    def flush(self, final: bool) -> None: ...
    def ended(self) -> None: ...
    def failed(self, failure: Failure) -> None: ...


class Attempt:
    """Sends a request to a target. Exactly one of success, failure or `cancel` ends it, and is counted."""

    __slots__ = (
        "_capture",
        "_connection",
        "_forward",
        "_gate",
        "_head",
        "_last",
        "_open",
        "_route",
        "_sink",
        "_started",
        "_status",
        "_task",
        "_timer",
        "target",
    )

    def __init__(self, gate: Gate, route: LiveRoute, target: Target, forward: Forward, sink: Sink) -> None:
        self._gate = gate
        self._route = route
        self.target = target
        self._forward = forward
        self._sink = sink
        self._connection: UpstreamConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._capture: Capture | None = None
        self._head = b""
        self._status = 0
        self._open = True
        self._started = self._last = gate.loop.time()

    def begin(self) -> None:
        upstream = self.target.upstream
        try:
            self._head = self._forward.head(self.target)
        except KeyMissing as error:
            self._fail(Failure(502, "endpoint_key_missing", f"{self._name()}: {error}", elsewhere=True))
            return
        self._timer = self._gate.loop.call_later(upstream.timeout_s, self._on_time)
        connection = self._gate.pool.take(upstream)
        if connection is not None:
            self._send(connection)
        else:
            self._task = self._gate.loop.create_task(self._connect())

    def cancel(self) -> None:
        """The client is gone, so the upstream may stop too. That is nobody's error."""
        if self._open:
            self._release()
            self._count("499", error=False, success=False)

    def pause(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        self._last = self._gate.loop.time()  # the silence was the client's
        if self._connection is not None:
            self._connection.resume()

    def _send(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        connection.send(self, self._head, self._forward.body(self.target))

    async def _connect(self) -> None:
        upstream = self.target.upstream
        try:
            async with asyncio.timeout(_CONNECT_S):
                connection = await self._gate.pool.connect(upstream)
        except TimeoutError:
            text = f"{self._name()} accepted no connection in {_CONNECT_S:g} s"
            self._fail(Failure(502, "endpoint_unreachable", text, elsewhere=True))
        except (OSError, ValueError) as error:
            text = getattr(error, "strerror", None) or type(error).__name__
            self._fail(Failure(502, "endpoint_unreachable", f"{self._name()} is not reachable: {text}", elsewhere=True))
        else:
            self._task = None
            if self._open:
                self._send(connection)
            else:
                connection.abort()

    def _name(self) -> str:
        return f"The endpoint {self.target.upstream.name}"

    def _on_time(self) -> None:
        """A timer that is set once an attempt; it looks how long the silence is and sleeps for the rest."""
        if not self._open:
            return
        timeout = self.target.upstream.timeout_s
        left = self._last + timeout - self._gate.loop.time()
        if left > 0:
            self._timer = self._gate.loop.call_later(left, self._on_time)
        else:
            text = f"{self._name()} was silent for {timeout:g} s"
            self._fail(Failure(504, "endpoint_timeout", text, elsewhere=False), error=not self._sink.paused)

    # the connection's Reply

    def answered(self, status: int, reason: bytes, headers: Headers, length: bytes | None) -> None:
        self._status = status
        if 200 <= status < 300:
            kind = next((value for name, value in headers if name == b"content-type"), b"").lower()
            if kind.startswith((b"text/event-stream", b"application/json")):
                self._capture = Capture(stream=kind.startswith(b"text/"))
        if not self._sink.answered(status, reason, headers, length):
            name = self._name()
            self._fail(Failure(status, "endpoint_unavailable", f"{name} answered {status}", elsewhere=True))
        elif self._sink.paused:
            self.pause()

    def body(self, data: bytes) -> None:
        if self._capture is not None:
            self._capture.add(data)
        self._sink.body(data)

    def flush(self) -> None:
        self._last = self._gate.loop.time()
        self._sink.flush(False)

    def ended(self) -> None:
        if not self._open:
            return
        self._connection = None
        self._release()
        self._sink.flush(True)
        status = self._status
        self._count(str(status), error=status == 429 or status >= 500, success=status < 400)
        self._sink.ended()

    def lost(self, reason: str, *, retry: bool) -> None:
        if not self._open:
            return
        self._connection = None
        if retry:  # an idle connection that the other side was just closing; nothing was answered
            self._task = self._gate.loop.create_task(self._connect())
            return
        self._fail(Failure(502, "endpoint_broken", f"{self._name()} broke: {reason}", elsewhere=True))

    # the end

    def _fail(self, failure: Failure, *, error: bool = True) -> None:
        """`error` is False where the silence was that of a client that does not read."""
        if not self._open:
            return
        if not error:
            code = "499"
        elif self._status and failure.status != self._status:
            code = "died"
        else:
            code = str(failure.status)
        self._release()
        self._count(code, error=error, success=False)
        self._sink.failed(failure)

    def _release(self) -> None:
        self._open = False
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None and self._task is not asyncio.current_task(self._gate.loop):
            self._task.cancel()
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    def _count(self, code: str, *, error: bool, success: bool) -> None:
        seconds = self._gate.loop.time() - self._started if success else None
        usage = self._capture.usage(self.target.price) if self._capture is not None else None
        self._gate.count(self._route, self.target, code, error=error, seconds=seconds, usage=usage)


class Nobody:
    """The sink of a shadow's copy: the answer is read to its end and thrown away."""

    paused = False

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def answered(self, status: int, reason: bytes, headers: Headers, length: bytes | None) -> bool:
        return True

    def body(self, data: bytes) -> None:
        pass

    def flush(self, final: bool) -> None:
        pass

    def ended(self) -> None:
        self._gate.shadows -= 1

    def failed(self, failure: Failure) -> None:
        self._gate.shadows -= 1
