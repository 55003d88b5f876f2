"""The side towards the clients: one instance a connection, which has its requests answered one after the other."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from time import monotonic
from typing import Protocol, cast

import httptools

from .ask import Head, Headers, path_of
from .pages import Page, error_page

_HEAD_LIMIT = 64 * 1024
_LINGER_S = 2.0
_DIGITS = 8  # of a content-length, at most
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,8})(?=[ \t]*\r\n)", re.IGNORECASE)
_SPECIAL = frozenset((b"expect", b"transfer-encoding", b"upgrade", b"trailer"))
_LOOKED_AT = frozenset((b"host", b"content-length", b"transfer-encoding", b"expect"))


class Current(Protocol):
    """Whatever answers the current request over some time."""

    def client_gone(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Host(Protocol):
    """What a client's connection has to know of the proxy."""

    loop: asyncio.AbstractEventLoop
    connections: set[ClientConnection]
    draining: bool
    held: int  # bytes of bodies in memory, of all connections

    def body_limit(self, request: Request) -> int: ...
    def has_room(self) -> bool: ...
    def dispatch(self, client: ClientConnection, request: Request) -> Current | None: ...


class Shape:
    """A head that the parser has accepted, around the digits of its content-length.

    An agent sends the same head again and again. One that differs in nothing but these digits means the same, so it is
    compared instead of parsed; everything else goes through the parser.
    """

    __slots__ = ("head", "headers", "limit", "method", "path", "prefix", "suffix", "target")

    def __init__(self, request: Request, prefix: bytes, suffix: bytes, limit: int) -> None:
        self.limit = limit
        self.prefix = prefix
        self.suffix = suffix
        self.method = request.method
        self.target = request.target
        self.headers = request.headers
        self.path = path_of(request.target)
        self.head: Head | None = None  # what it means, once that has been worked out

    def body_of(self, data: bytes) -> bytes | None:
        """The body, if these bytes are one whole request of this shape and nothing else."""
        start = len(self.prefix)
        end = data.find(self.suffix, start, start + _DIGITS + len(self.suffix))
        digits = data[start:end]
        if end < 0 or not digits.isdigit():
            return None
        end += len(self.suffix)
        return data[end:] if len(data) - end == int(digits) else None


class Request:
    """A complete request; header names are in lower case. With `refusal` it is one that nobody needs to look at."""

    __slots__ = ("body", "headers", "http10", "keep_alive", "method", "refusal", "shape", "target")

    def __init__(self, shape: Shape | None = None, body: bytes = b"") -> None:
        self.body = body
        self.http10 = False
        self.keep_alive = True
        self.refusal: Page | None = None
        self.shape = shape
        self.method: bytes = b"" if shape is None else shape.method
        self.target: bytes = b"" if shape is None else shape.target
        self.headers: Headers = [] if shape is None else shape.headers

    @property
    def path(self) -> bytes:
        return self.shape.path if self.shape is not None else path_of(self.target)

    def head_is_special(self) -> bool:
        """Whether it asks for more than an answer."""
        return any(name in _SPECIAL for name, _ in self.headers)

    def read(self, known: dict[bytes, int]) -> Head:
        """What the head says; worked out once for all requests of one shape."""
        shape = self.shape
        if shape is None:
            return Head(self.method, self.target, self.headers, known)
        if shape.head is None or shape.head.known is not known:
            shape.head = Head(self.method, self.target, self.headers, known)
        return shape.head

    def header(self, name: bytes) -> bytes | None:
        for known, value in self.headers:
            if known == name:
                return value
        return None

    def text(self, name: bytes) -> str | None:
        value = self.header(name)
        return None if value is None else value.decode("latin-1")


def _size(request: Request) -> int:
    return len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers)


class ClientConnection(asyncio.Protocol):
    """A client. Requests that it pipelines wait in order; while some wait, nothing more is read."""

    def __init__(self, host: Host, *, trusted: bool = False) -> None:
        self.trusted = trusted  # another worker of this proxy, on a socket of its own
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()
        self._current: Current | None = None
        self._busy = False
        self._deaf = False  # nothing that still comes will be looked at
        self._read_paused = False
        self._incoming: Request | None = None
        self._shape: Shape | None = None
        self._between = True  # the parser stands between two requests
        self._parts: list[bytes] = []
        self._size = 0
        self._limit = 0
        self._head_size = 0  # without the piece that it began in
        self._fed = 0
        self._began_in = 0  # size of that piece
        self._head_done = False
        self._continue = False
        self._held = 0
        self._size_of_current = 0
        self.paused = False
        self.heard_at = monotonic()

    @property
    def draining(self) -> bool:
        """Whether the proxy is about to end, so that no answer may promise another one."""
        return self._host.draining

    @property
    def endless(self) -> bool:
        """Whether what it is being told has no end of its own."""
        return bool(getattr(self._current, "endless", False))

    @property
    def idle(self) -> bool:
        return not self._busy and not self._waiting

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)
        self._host.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.connections.discard(self)
        self._deaf = True
        self._waiting.clear()
        self._let_go(self._held)
        current, self._current = self._current, None
        if current is not None:
            current.client_gone()

    def pause_writing(self) -> None:
        self.paused = True
        if self._current is not None:
            self._current.pause()

    def resume_writing(self) -> None:
        self.paused = False
        if self._current is not None:
            self._current.resume()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self.heard_at = monotonic()
        shape = self._shape
        if shape is not None and self._between and data.startswith(shape.prefix):
            body = shape.body_of(data)
            if body is not None and len(body) <= shape.limit and self._host.has_room():
                self._held += len(body)
                self._host.held += len(body)
                self._waiting.append(Request(shape, body))
                self._go_on()
                return
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        alone = self._between and not self._waiting
        self._fed = len(data)
        if not self._head_done:
            self._head_size += self._fed
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._deaf = True  # there is no other protocol to go on with
            if self._waiting:
                self._waiting[-1].keep_alive = False
        except httptools.HttpParserError as error:
            if not self._deaf:
                self._refuse(400, str(error.__context__ or error), "malformed_request")
        if not self._deaf and not self._head_done and self._head_size > _HEAD_LIMIT:
            self._refuse(400, "The head of the request is larger than 64 KiB", "headers_too_large")
        if alone and self._between and len(self._waiting) == 1 and not self._deaf:
            self._learn(data, self._waiting[-1])
        self._go_on()

    def _learn(self, data: bytes, request: Request) -> None:
        """Remember the shape of a request that came whole, alone, and with a length."""
        end = data.find(b"\r\n\r\n") + 4
        found = _LENGTH.findall(data[:end])
        if request.http10 or len(found) != 1 or len(data) - end != len(request.body) or not request.body:
            return
        place = _LENGTH.search(data, 0, end)
        if place is not None and data[:1].isalpha() and not request.head_is_special():
            self._shape = Shape(request, data[: place.start(1)], data[place.end(1) : end], self._limit)

    # httptools

    def on_message_begin(self) -> None:
        self._incoming = Request()
        self._between = False
        self._parts, self._size = [], 0
        self._began_in = self._fed
        self._head_size, self._head_done, self._continue = 0, False, False

    def on_url(self, url: bytes) -> None:
        if self._incoming is not None:
            self._incoming.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._incoming is not None and not self._head_done:  # else it is a trailer
            self._incoming.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        request = self._incoming
        if request is None:
            return
        version = self._parser.get_http_version()
        if version != "1.1":
            if version != "1.0":
                raise ValueError("Only versions 1.1 and 1.0 of HTTP are spoken here")
            request.http10 = True
        request.method = self._parser.get_method()
        if self._began_in + self._head_size > _HEAD_LIMIT and _size(request) > _HEAD_LIMIT:
            raise ValueError("The head of the request is larger than 64 KiB")
        hosts, codings, length, expect = 0, 0, None, None
        for header in request.headers:
            name = header[0]
            if name in _LOOKED_AT:
                if name == b"host":
                    hosts += 1
                elif name == b"content-length":
                    length = header[1]
                elif name == b"expect":
                    expect = header[1]
                else:
                    codings += 1 if header[1].strip().lower() == b"chunked" and not request.http10 else 2
        if hosts > 1 or (not hosts and not request.http10):
            raise ValueError("There must be one Host header")
        if codings > 1:  # the parser looks at the last one only, and what is in front of us may look at another
            raise ValueError("The only transfer coding is chunked, said once, and not in HTTP/1.0")
        self._head_done, self._size = True, 0
        self._limit = self._host.body_limit(request)
        if length is not None and int(length) > self._limit:
            self._too_large()
        elif expect is not None and not request.http10:
            if expect.lower() != b"100-continue":
                raise ValueError("The only expectation that can be met is 100-continue")
            self._continue = length is None or int(length) > 0

    def on_body(self, data: bytes) -> None:
        if self._incoming is None or self._deaf:
            return
        self._continue = False
        self._size += len(data)
        if self._size > self._limit:
            self._too_large()
            return
        if not self._host.has_room():
            text = "The proxy holds as many requests as its memory allows"
            self._refuse(429, text, "overloaded", b"retry-after: 1\r\n")
            return
        self._held += len(data)
        self._host.held += len(data)
        self._parts.append(data)

    def _let_go(self, size: int) -> None:
        self._held -= size
        self._host.held -= size

    def on_message_complete(self) -> None:
        request, self._incoming = self._incoming, None
        self._between = True
        self._head_size, self._head_done, self._continue = 0, False, False
        if request is None or self._deaf:
            return
        parts, self._parts = self._parts, []
        request.body = parts[0] if len(parts) == 1 else b"".join(parts)
        request.keep_alive = self._parser.should_keep_alive()
        self._deaf = not request.keep_alive
        self._waiting.append(request)

    # answering

    def _too_large(self) -> None:
        self._refuse(413, f"The body is larger than {self._limit >> 20} MiB", "request_too_large")

    def _refuse(self, status: int, message: str, code: str, headers: bytes = b"") -> None:
        """Queued like any request, so that the answers before it go out before it."""
        request = Request()
        if self._incoming is not None:
            request.target = self._incoming.target
        request.keep_alive = False
        request.refusal = error_page(status, message, code, headers, request.target)
        self._deaf = True
        self._parts = []
        self._incoming = None
        self._waiting.append(request)

    def _go_on(self) -> None:
        while self._waiting and not self._busy:
            self._busy = True
            request = self._waiting.popleft()
            self._size_of_current = len(request.body)
            if request.refusal is not None:
                self._answer_and_linger(request, request.refusal)
                return
            self._current = self._host.dispatch(self, request)
            if not self._busy:
                self._current = None
        if self._continue and not self._busy:
            self._continue = False
            self.write([b"HTTP/1.1 100 Continue\r\n\r\n"])
        self._read(not self._waiting)

    def _read(self, wanted: bool) -> None:
        if wanted is not self._read_paused or self._transport is None or self._transport.is_closing():
            return
        self._read_paused = not wanted
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def write(self, parts: list[bytes]) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.writelines(parts)

    def answer(self, request: Request, page: Page) -> None:
        """Answer the current request with a page of the proxy's own."""
        keep_alive = request.keep_alive and not self._host.draining
        head_only = request.method == b"HEAD"
        self.write([page.encode(head_only=head_only, keep_alive=keep_alive, http10=request.http10)])
        self.finished(keep_alive)

    def finished(self, keep_alive: bool) -> None:
        """The current request is answered; on to the next."""
        self._current = None
        if self._size_of_current:
            self._let_go(self._size_of_current)
            self._size_of_current = 0
        self.heard_at = monotonic()
        if not keep_alive:
            self._deaf = True
            self._waiting.clear()
            self.close()
            return
        self._busy = False
        if self._waiting or self._continue:
            self._host.loop.call_soon(self._go_on)

    def cut_off(self) -> None:
        """The answer cannot be finished; closing without its end is how the client learns of it."""
        self._current = None
        self._deaf = True
        self.close()

    def close(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _answer_and_linger(self, request: Request, page: Page) -> None:
        """Closing while the client still sends would reset the connection before it has read why."""
        self.write([page.encode(keep_alive=False)])
        if self._transport is not None and not self._transport.is_closing():
            self._read(True)
            if self._transport.can_write_eof():
                self._transport.write_eof()
            self._host.loop.call_later(_LINGER_S, self.close)
