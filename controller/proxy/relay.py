"""One client's request on its way through: chosen, attempted, perhaps elsewhere too, and relayed chunk by chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .attempt import Attempt, Failure
from .forward import HOP_BY_HOP, Forward, named_by_connection
from .pages import connection_line, error_event, error_page

if TYPE_CHECKING:
    from .gate import Gate
    from .inbound import ClientConnection, Request
    from .live import Live, LiveRoute
    from .outbound import Headers

_ELSEWHERE = (502, 503, 504)
_NOT_RELAYED = HOP_BY_HOP | {b"content-length"}


class Relay:
    """The sink of a client's attempts. The table that the request began with is the one that it ends with."""

    __slots__ = (
        "_agent",
        "_attempt",
        "_chunked",
        "_client",
        "_fallbacks",
        "_forced",
        "_forward",
        "_gate",
        "_keep_alive",
        "_last",
        "_live",
        "_out",
        "_request",
        "_session",
        "_sized",
        "_sse",
        "_started",
        "paused",
    )

    def __init__(
        self, gate: Gate, live: Live, route: LiveRoute, client: ClientConnection, request: Request, forward: Forward
    ) -> None:
        self._gate = gate
        self._live = live
        self._client = client
        self._request = request
        self._forward = forward
        self._agent = route.agent
        self._fallbacks = list(route.route.fallbacks)
        self._session = request.text(b"x-session-id")
        self._forced = request.text(b"x-turnout-variant")
        self._attempt: Attempt | None = None
        self._keep_alive = request.keep_alive
        self._started = False  # whether the client has got a byte
        self._chunked = False
        self._sized = False
        self._sse = False
        self._out: list[bytes] = []
        self._last = b""
        self.paused = client.paused

    def begin(self, route: LiveRoute) -> None:
        target = route.choose(self._session, self._forced)
        self._attempt = Attempt(self._gate, route, target, self._forward, self)
        self._attempt.begin()

    # the client's side

    def client_gone(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()

    def pause(self) -> None:
        self.paused = True
        if self._attempt is not None:
            self._attempt.pause()

    def resume(self) -> None:
        self.paused = False
        if self._attempt is not None:
            self._attempt.resume()

    # the attempt's sink

    def answered(self, status: int, reason: bytes, headers: Headers, length: bytes | None) -> bool:
        if status in _ELSEWHERE and self._fallbacks:
            return False
        assert self._attempt is not None
        request, target = self._request, self._attempt.target
        parts = [b"HTTP/1.1 %d %b\r\n" % (status, reason)]
        named = named_by_connection(headers)
        for name, value in headers:
            if name in _NOT_RELAYED or name in named or name.startswith(b"x-turnout-"):
                continue
            if name == b"content-type":
                self._sse = value.lower().startswith(b"text/event-stream")
            parts.append(b"%b: %b\r\n" % (name, value))
        parts.append(target.headers)
        if target.agent != self._agent:
            parts.append(b"x-turnout-fallback-for: %b\r\n" % self._agent.encode("ascii", "backslashreplace"))
        self._sized = length is not None
        if length is not None:
            parts.append(b"content-length: %b\r\n" % length)
        elif status not in (204, 304):
            if request.http10:
                self._keep_alive = False
            else:
                self._chunked = True
                parts.append(b"transfer-encoding: chunked\r\n")
        self._keep_alive = self._keep_alive and not self._gate.draining
        parts += (connection_line(self._keep_alive, request.http10), b"\r\n")
        self._out.append(b"".join(parts))
        self._started = True
        return True

    def body(self, data: bytes) -> None:
        if self._chunked:
            self._out.append(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self._out.append(data)
        if self._sse:
            self._last = data[-4:] if len(data) >= 4 else (self._last + data)[-4:]

    def flush(self, final: bool) -> None:
        if final and self._chunked:
            self._out.append(b"0\r\n\r\n")
        if self._out:
            out, self._out = self._out, []
            self._client.write(out)

    def ended(self) -> None:
        self._attempt = None
        self._client.finished(self._keep_alive)

    def failed(self, failure: Failure) -> None:
        self._attempt = None
        if self._started:
            self._broke_off(failure)
            return
        while failure.elsewhere and self._fallbacks:
            route = self._live.routes.get(self._fallbacks.pop(0))
            if route is not None:
                self.begin(route)
                return
        page = error_page(failure.status, failure.message, failure.code)
        self._client.answer(self._request, page)

    def _broke_off(self, failure: Failure) -> None:
        """A stream of events can say that it broke; any other answer can only be cut off."""
        if self._sized or not self._sse:
            self.flush(False)
            self._client.cut_off()
            return
        boundary = not self._last or self._last.endswith((b"\n\n", b"\r\r", b"\r\n\r\n"))
        self.body((b"" if boundary else b"\n\n") + error_event(failure.message, failure.code))
        self.flush(True)
        self._client.finished(self._keep_alive)
