"""The side towards the models: connections, kept alive by replica, that report an answer as it arrives."""

from __future__ import annotations

import asyncio
import re
import ssl
from time import monotonic
from typing import Protocol, cast

import httptools

from .ask import HOP_BY_HOP, Headers, named_by_connection
from .replica import Replica

_HEAD_LIMIT = 64 * 1024
_NOT_RELAYED = HOP_BY_HOP | {b"content-length", b"x-request-id"}
_DIGITS = 8
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,8})(?=[ \t]*\r\n)", re.IGNORECASE)
_JOINED = 16 * 1024  # up to here copying is cheaper than a second buffer
_REASON = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_IDLE_S = 30.0  # an idle connection is not used again after this
_IDLE_MAX = 256  # of one origin


class AnswerHead:
    """The head of an answer without its length. `lines` = status line and header lines as they go to a client."""

    __slots__ = ("lines", "prefix", "reason", "status", "stream", "suffix", "told_usage")

    def __init__(self, status: int, reason: bytes, headers: Headers) -> None:
        self.status = status
        self.reason = reason
        self.prefix = self.suffix = b""  # around the digits of its length, where the same head may come again
        kind = b""
        hop: set[bytes] | frozenset[bytes] = _NOT_RELAYED
        for name, value in headers:
            if name == b"content-type":
                kind = value.lower()
            elif name == b"connection" and value.lower() not in (b"keep-alive", b"close"):
                hop = _NOT_RELAYED | named_by_connection(headers)
        self.stream = kind.startswith(b"text/event-stream")
        self.told_usage = 200 <= status < 300 and (self.stream or kind.startswith(b"application/json"))
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, reason)]
        lines += [b"%b: %b\r\n" % header for header in headers if header[0] not in hop and header[0][:10] != b"x-turnout-"]
        self.lines = b"".join(lines)

    def body_of(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Length and body, if these bytes are one whole answer with this head and nothing else."""
        start = len(self.prefix)
        if not start or not data.startswith(self.prefix):
            return None
        end = data.find(self.suffix, start, start + _DIGITS + len(self.suffix))
        digits = data[start:end]
        if end < 0 or not digits.isdigit():
            return None
        end += len(self.suffix)
        return (digits, data[end:]) if len(data) - end == int(digits) else None


class Reply(Protocol):
    """Who waits for the answer."""

    def answered(self, head: AnswerHead, length: bytes | None) -> None: ...
    def body(self, data: bytes) -> None: ...
    def flush(self) -> None: ...
    def ended(self) -> None: ...
    def lost(self, reason: str, *, retry: bool) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """One connection to an origin. It serves one request after another, and is closed whenever anything is odd."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self.idle_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._reply: Reply | None = None
        self._reused = False
        self._paused = False
        self._broken = ""
        self._begin()

    def _begin(self) -> None:
        self._reason = b""
        self._headers: Headers = []
        self._head_size = 0
        self._head_done = False
        self._informational = False
        self._complete = False
        self._keep_alive = False
        self._until_eof = False
        self._heard = False
        self._head: AnswerHead | None = None
        self._first = b""

    def send(self, reply: Reply, head: bytes, body: bytes) -> None:
        """Ask; the connection must be idle."""
        self._begin()
        self._reply = reply
        if self._transport is None or self._transport.is_closing():
            self._reply = None
            reply.lost("the connection was closed", retry=self._reused)
            return
        if len(body) < _JOINED:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    def pause(self) -> None:
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Nobody wants the answer any more. Closing is the only way to tell the upstream."""
        self._reply = None
        self._leave()
        if self._transport is not None:
            self._transport.abort()

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)

    def data_received(self, data: bytes) -> None:
        if self._reply is None:
            self.abort()  # it speaks without being asked
            return
        if not self._heard:
            self._heard = True
            known: AnswerHead | None = self._replica.answer_head  # type: ignore[assignment]  # only we put one there
            whole = known.body_of(data) if known is not None else None
            if known is not None and whole is not None:
                self._answer(known, *whole)
                return
            self._first = data
        if not self._head_done:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._broken = self._broken or "the upstream does not speak proper HTTP"
        if not self._head_done and self._head_size > 2 * _HEAD_LIMIT:
            self._broken = self._broken or "the head of the upstream's answer is too large"
        reply = self._reply
        if reply is None:
            return
        if self._complete:
            if self._first is data:
                self._learn(data)
            self._finish(reply)
        elif self._broken:
            reply.flush()
            self.abort()
            reply.lost(self._broken, retry=False)
        else:
            reply.flush()

    def _answer(self, head: AnswerHead, length: bytes, body: bytes) -> None:
        """A head that came before: an answer that the parser need not see."""
        reply = self._reply
        assert reply is not None
        reply.answered(head, length)
        if self._reply is reply:
            reply.body(body)
        if self._reply is reply:
            self._complete = self._keep_alive = True
            self._finish(reply)

    def _learn(self, data: bytes) -> None:
        """Remember the head of an answer that came whole, alone, with a length and without a wish to close."""
        head, end = self._head, data.find(b"\r\n\r\n") + 4
        if head is None or self._broken or not self._keep_alive or not data.startswith(b"HTTP/1.1 2") or head.status == 204:
            return
        place = _LENGTH.search(data, 0, end)
        if place is None or len(_LENGTH.findall(data[:end])) != 1 or int(place[1]) != len(data) - end or len(data) == end:
            return
        head.prefix, head.suffix = data[: place.start(1)], data[place.end(1) : end]
        self._replica.answer_head = head

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        reply, self._reply = self._reply, None
        if reply is None:
            return
        if self._until_eof and exc is None:
            reply.ended()
        else:
            reply.lost("the upstream closed the connection", retry=self._reused and not self._heard)

    def _finish(self, reply: Reply) -> None:
        self._reply = None
        transport = self._transport
        if self._broken or not self._keep_alive or transport is None or transport.get_write_buffer_size():
            if transport is not None:
                transport.close()  # also where it answered before it had read everything
        else:
            self.resume()
            self._reused = True
            self._wait()
        reply.ended()

    # httptools

    def on_message_begin(self) -> None:
        if self._complete:
            self._broken = "more than one answer"

    def on_status(self, reason: bytes) -> None:
        if reason != b"OK" and not _REASON.fullmatch(reason):
            raise ValueError("the reason of the upstream's answer has control characters")
        self._reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:
            return  # a trailer
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        if self._head_size > _HEAD_LIMIT and sum(len(name) + len(value) for name, value in self._headers) > _HEAD_LIMIT:
            raise ValueError("the head of the upstream's answer is too large")
        status = self._parser.get_status_code()
        if status < 100:
            raise ValueError("the status of the upstream's answer is none")
        if status < 200:
            self._informational = True
            return
        self._head_done = True
        length: bytes | None = None
        chunked = False
        for name, value in self._headers:
            if name == b"content-length":
                length = value
            elif name == b"transfer-encoding":
                if chunked or value.strip().lower() != b"chunked":
                    raise ValueError("the upstream's answer has a transfer coding that is not chunked alone")
                chunked = True
        self._until_eof = length is None and not chunked and status not in (204, 304)
        self._head = AnswerHead(status, self._reason, self._headers)
        if self._reply is not None:
            self._reply.answered(self._head, length)

    def on_body(self, data: bytes) -> None:
        if self._reply is not None and not self._complete:
            self._reply.body(data)

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational, self._reason, self._headers = False, b"", []
        elif not self._complete:
            self._complete = True
            self._keep_alive = self._parser.should_keep_alive()  # afterwards the parser no longer knows

    def _wait(self) -> None:
        replica = self._replica
        self.idle_since = monotonic()
        if replica.draining:
            self.abort()
            return
        if len(replica.idle) >= _IDLE_MAX:
            replica.idle.pop(0).abort()
        replica.idle.append(self)

    def _leave(self) -> None:
        if self in self._replica.idle:
            self._replica.idle.remove(self)


class Dialer:
    """Opens connections, and takes the one that was used last first, so that the rest can grow old and go."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tls: ssl.SSLContext | None = None

    def take(self, replica: Replica) -> UpstreamConnection | None:
        """An idle connection."""
        idle: list[UpstreamConnection] = replica.idle  # type: ignore[assignment]  # only we put something there
        oldest = monotonic() - _IDLE_S
        while idle:
            connection = idle.pop()
            if connection.idle_since >= oldest:
                return connection
            connection.abort()
        return None

    async def connect(self, replica: Replica) -> UpstreamConnection:
        """A new connection; raises OSError or ValueError."""
        if replica.tls and self._tls is None:
            self._tls = ssl.create_default_context()
        _, connection = await self._loop.create_connection(
            lambda: UpstreamConnection(replica),
            replica.host,
            replica.port,
            ssl=self._tls if replica.tls else None,
        )
        return connection

    def close_old(self, replica: Replica) -> None:
        """Idle connections beyond their time; the oldest stand first."""
        oldest = monotonic() - _IDLE_S
        while replica.idle and replica.idle[0].idle_since < oldest:
            replica.idle.pop(0).abort()
