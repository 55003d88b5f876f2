"""One client's request on its way through: chosen, visited, perhaps elsewhere too, and relayed chunk by chunk."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from .accounts import charge
from .ask import Ask
from .compare import Pair
from .pages import connection_line, error_event, error_page, retry_after
from .record import Record, slowest
from .shadow import copy
from .visit import Failure, Shared, Visit

if TYPE_CHECKING:
    from .forward import Forward
    from .inbound import ClientConnection, Request
    from .live import Live, LiveClient, LiveRoute
    from .outbound import AnswerHead
    from .usage import Usage

_ELSEWHERE = (429, 502, 503, 504)
_UNSENT = ("endpoint_unreachable", "endpoint_key_missing", "endpoint_busy")  # nothing can have been done yet
_CONTENT = 64 * 1024


class Relay:
    """The sink of a client's visits. The table that the request began with is the one that it ends with."""

    __slots__ = (
        "_agent",
        "_ask",
        "_caller",
        "_chunked",
        "_client",
        "_code",
        "_fallbacks",
        "_forward",
        "_keep_alive",
        "_last",
        "_live",
        "_out",
        "_pair",
        "_path",
        "_paused_at",
        "_paused_s",
        "_request",
        "_route",
        "_sent",
        "_shared",
        "_sized",
        "_sse",
        "_started",
        "_status",
        "_visit",
        "paused",
    )

    def __init__(
        self,
        shared: Shared,
        live: Live,
        route: LiveRoute,
        client: ClientConnection,
        caller: LiveClient | None,
        request: Request,
        path: bytes,
        ask: Ask,
        forward: Forward,
    ) -> None:
        self._shared = shared
        self._live = live
        self._route = route
        self._client = client
        self._caller = caller
        self._request = request
        self._path = path
        self._ask = ask
        self._forward = forward
        self._agent = route.agent
        self._fallbacks = list(route.route.fallbacks)
        self._visit: Visit | None = None
        self._pair: Pair | None = None
        self._keep_alive = request.keep_alive
        self._started = False  # whether the client has got a byte
        self._chunked = False
        self._sized = False
        self._sse = False
        self._out: list[bytes] = []
        self._last = b""
        self._status = 0
        self._code = ""
        self._sent = 0
        self._paused_at = 0.0
        self._paused_s = 0.0
        self.paused = client.paused

    def begin(self) -> None:
        """Ask, and send a copy to the shadow where the route says so."""
        route = self._route
        copied = route.shadow is not None and self._forward.judged and route.copied()
        if copied:
            stats, agent, step = self._shared.books.stats, route.agent, route.route.step
            self._pair = Pair(lambda same, likeness: stats.compared(agent, step, same=same, likeness=likeness))
        self._visit_route(route, whole=copied or self._live.table.content)
        if copied and route.shadow is not None and self._pair is not None:
            copy(self._shared, route, route.shadow, self._ask, self._forward, self._pair)

    def _visit_route(self, route: LiveRoute, *, whole: bool) -> None:
        target = route.choose(self._ask.head.session, self._ask.head.variant)
        self._visit = Visit(self._shared, route, target, self._ask, self._forward, self, whole=whole)
        self._visit.begin()

    # the client's side

    def client_gone(self) -> None:
        if self._visit is not None:
            self._visit.cancel()
            self._write_down("499", error=False)

    def pause(self) -> None:
        self.paused = True
        self._paused_at = monotonic()
        if self._visit is not None:
            self._visit.pause()

    def resume(self) -> None:
        self.paused = False
        self._paused_s += monotonic() - self._paused_at
        if self._visit is not None:
            self._visit.resume()

    # the visit's sink

    def answered(self, head: AnswerHead, length: bytes | None) -> bool:
        status = head.status
        if status in _ELSEWHERE and self._fallbacks and self._forward.repeatable:
            return False
        visit, request = self._visit, self._request
        assert visit is not None
        target = visit.target
        self._status = status
        self._sse = head.stream
        if status == 204:
            length = None  # it must not have one
        self._sized = length is not None
        self._keep_alive = self._keep_alive and not self._client.draining
        last = b""
        if length is not None:
            last = b"content-length: %b\r\n" % length
        elif status not in (204, 304):
            if request.http10:
                self._keep_alive = False
            else:
                self._chunked = True
                last = b"transfer-encoding: chunked\r\n"
        if target.agent != self._agent:
            last += b"x-turnout-fallback-for: %b\r\n" % self._agent.encode("ascii", "backslashreplace")
        if not self._keep_alive or request.http10:
            last += connection_line(self._keep_alive, request.http10)
        self._out.append(b"%b%bx-request-id: %b\r\n%b\r\n" % (head.lines, target.headers, self._ask.id.encode(), last))
        self._started = True
        return True

    def body(self, data: bytes) -> None:
        if self._chunked:
            self._out.append(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self._out.append(data)
        self._sent += len(data)
        if self._sse:
            self._last = data[-4:] if len(data) >= 4 else (self._last + data)[-4:]

    def flush(self, final: bool) -> None:
        if final and self._chunked:
            self._out.append(b"0\r\n\r\n")
        if self._out:
            out, self._out = self._out, []
            self._client.write(out)

    def ended(self) -> None:
        visit = self._visit
        if visit is not None and self._pair is not None and visit.capture is not None:
            self._pair.add(visit.capture.content())
        self._write_down(str(self._status), error=self._status == 429 or self._status >= 500)
        self._client.finished(self._keep_alive)

    def failed(self, failure: Failure) -> None:
        if self._started:
            self._broke_off(failure)
            return
        elsewhere = failure.elsewhere and (self._forward.repeatable or failure.code in _UNSENT)
        while elsewhere and self._fallbacks:
            route = self._live.routes.get(self._fallbacks.pop(0))
            if route is not None:
                self._visit_route(route, whole=self._live.table.content)
                return
        headers = b"%bx-request-id: %b\r\n" % (retry_after(failure.retry_s), self._ask.id.encode())
        page = error_page(failure.status, failure.message, failure.code, headers, self._path)
        self._status = failure.status
        self._write_down(failure.code, error=True)
        self._client.answer(self._request, page)

    def _broke_off(self, failure: Failure) -> None:
        """A stream of events can say that it broke; any other answer can only be cut off."""
        if self._sized or not self._sse:
            self.flush(False)
            self._write_down(failure.code, error=True)
            self._client.cut_off()
            return
        boundary = not self._last or self._last.endswith((b"\n\n", b"\r\r", b"\r\n\r\n"))
        self.body((b"" if boundary else b"\n\n") + error_event(failure.message, failure.code, self._path))
        self.flush(True)
        self._write_down(failure.code, error=True)
        self._client.finished(self._keep_alive)

    # the record

    def _write_down(self, code: str, *, error: bool) -> None:
        visit, self._visit = self._visit, None
        assert visit is not None
        usage = visit.usage
        if usage is not None or not error:
            accounts = [self._route.account] if self._caller is None else [self._route.account, self._caller.account]
            charge(accounts, usage)
        self._shared.books.ended(self._record(visit, usage, code, error=error))

    def _record(self, visit: Visit, usage: Usage | None, code: str, *, error: bool) -> Record:
        """Who answered, how long each part took, and what was used."""
        ask, target, replica, capture = self._ask, visit.target, visit.replica, visit.capture
        head = ask.head
        ended, granted, sent, first = visit.ended_at, visit.granted_at, visit.sent_at, visit.first_at
        queue_s = (granted or ended) - visit.asked_at
        network_s = visit.connect_s + self._paused_s
        prefill_s = (first or ended) - sent if granted else 0.0
        decode_s = max(0.0, ended - first - self._paused_s) if first else 0.0
        agent_s = ((head.pre_ms or 0.0) + (head.post_ms or 0.0)) / 1000
        events = capture.events if capture is not None else 0
        record = Record(
            id=ask.id,
            trace=ask.trace.trace,
            span=ask.trace.span,
            parent=ask.trace.parent,
            at=ask.at,
            method=head.method,
            path=head.path,
            agent=self._agent,
            variant=target.variant,
            version=target.version,
            step=target.step,
            model=target.model,
            endpoint=target.pool.name,
            replica=replica.name if replica is not None else "",
            answered_by="" if target.agent == self._agent else target.agent,
            client=self._caller.name if self._caller is not None else "",
            session=head.session or "",
            task=head.task or "",
            told_client=head.client or "",
            status=self._status,
            code=code,
            error=error,
            stream=self._sse,
            tries=visit.tries,
            total_s=ended - ask.began,
            queue_s=queue_s,
            network_s=network_s,
            prefill_s=prefill_s,
            decode_s=decode_s,
            token_s=decode_s / (events - 1) if events > 1 else 0.0,
            agent_s=agent_s,
            bottleneck=slowest(agent_s, queue_s, network_s, prefill_s, decode_s),
            bytes_in=len(self._request.body),
            bytes_out=self._sent,
        )
        if usage is not None:
            record.input_tokens, record.output_tokens = usage.input_tokens, usage.output_tokens
            record.cost_usd, record.estimated = usage.cost_usd, usage.estimated
        if self._live.table.content:
            record.prompt = self._request.body[:_CONTENT].decode("utf-8", "replace")
            record.answer = capture.content()[:_CONTENT].decode("utf-8", "replace") if capture is not None else ""
        return record
