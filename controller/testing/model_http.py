"""A small HTTP/1.1 server for the simulated model endpoints (`model_server.py`): one coroutine a request.

It writes with an empty buffer: `Exchange.write` returns when the kernel has the bytes, so a journal that is written
afterwards says the truth.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import deque
from typing import Any, Protocol, cast

import httptools

from .model_journal import Entry

_ABORTIVE = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST


class Request:
    """A request; complete unless `unread` says that its answer was asked for as soon as its head was there."""

    __slots__ = ("_body", "entry", "expects", "headers", "keep_alive", "method", "target", "unread", "version")

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        self.version = "1.1"
        self.headers: list[tuple[bytes, bytes]] = []
        self.keep_alive = True
        self.expects = False  # it waits for 100 Continue
        self.unread: str | None = None
        self.entry: Entry | None = None
        self._body: list[bytes] = []

    @property
    def body(self) -> bytes:
        if len(self._body) != 1:
            self._body = [b"".join(self._body)]
        return self._body[0]

    @property
    def path(self) -> str:
        return self.target.partition(b"?")[0].decode("latin-1")

    @property
    def query(self) -> str:
        return self.target.partition(b"?")[2].decode("latin-1")

    def header(self, name: bytes) -> str | None:
        """The last value of a header, by its name in lower case."""
        for key, value in reversed(self.headers):
            if key.lower() == name:
                return value.decode("latin-1")
        return None

    def add(self, data: bytes) -> None:
        self._body.append(data)


class Exchange:
    """The answering side of one request. Writing to a client that has left raises ConnectionResetError."""

    __slots__ = ("_connection", "request")

    def __init__(self, connection: _Connection, request: Request) -> None:
        self._connection = connection
        self.request = request

    async def write(self, data: bytes) -> None:
        """Give bytes of the final answer to the kernel."""
        self._connection.put(data)
        if self.request.entry is not None:
            self.request.entry.first_byte()
        await self._connection.drained()

    async def interim(self, data: bytes) -> None:
        """Give bytes that are not yet those of the final answer to the kernel."""
        self._connection.put(data)
        await self._connection.drained()

    async def json(self, status: int, content: Any) -> None:
        await self.whole(status, json.dumps(content, ensure_ascii=False).encode())

    async def whole(self, status: int, body: bytes, content_type: bytes = b"application/json") -> None:
        """A plain answer of known length."""
        closing = b"" if self.request.keep_alive else b"connection: close\r\n"
        head = b"HTTP/1.1 %d Simulated\r\ncontent-type: %b\r\n%bcontent-length: %d\r\n\r\n"
        content = b"" if self.request.method == "HEAD" else body
        await self.write(head % (status, content_type, closing, len(body)) + content)

    def close(self) -> None:
        """Close the connection in the middle of whatever it was."""
        self._connection.close()

    def reset(self) -> None:
        """The same with RST."""
        self._connection.reset()


class Site(Protocol):
    """Who answers the requests of a port."""

    def arrived(self, request: Request) -> str | None:
        """The head of a request is there. A text is a reason to answer now, without its body (`Request.unread`)."""

    async def answer(self, request: Request, exchange: Exchange) -> None:
        """Answer it. Called for one request of a connection after another."""


class _Connection(asyncio.Protocol):
    def __init__(self, site: Site) -> None:
        self._site = site
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._requests: deque[Request] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._more: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._answering = False
        self._lost = False
        self._closed = False  # by us

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)
        self._worker = asyncio.get_running_loop().create_task(self._work())

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self.resume_writing()
        if self._worker is not None:
            self._worker.cancel()

    def pause_writing(self) -> None:
        self._writable = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # our own failure, such as a journal that cannot be written
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            if self._transport is not None and not self._answering:
                self._transport.write(b"HTTP/1.1 400 Simulated\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.close()

    # httptools

    def on_message_begin(self) -> None:
        self._request = Request()

    def on_url(self, url: bytes) -> None:
        self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers.append((name, value))
        if len(name) == 6 and name.lower() == b"expect":
            self._request.expects = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        request = self._request
        request.method = self._parser.get_method().decode("ascii")
        request.version = self._parser.get_http_version()
        request.keep_alive = self._parser.should_keep_alive()
        request.unread = self._site.arrived(request)
        if request.unread is not None:
            self._queue(request)
        elif request.expects and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._request.add(data)

    def on_message_complete(self) -> None:
        request = self._request
        if request.entry is not None:
            request.entry.received()
        if request.unread is None:
            self._queue(request)

    # the answers

    def _queue(self, request: Request) -> None:
        self._requests.append(request)
        self._answering = True
        more, self._more = self._more, None
        if more is not None and not more.done():
            more.set_result(None)

    async def _work(self) -> None:
        while True:
            while not self._requests:
                self._answering = False
                self._more = asyncio.get_running_loop().create_future()
                await self._more
            request = self._requests.popleft()
            try:
                await self._site.answer(request, Exchange(self, request))
            except ConnectionResetError:
                self._cut(request, "the server closed the connection" if self._closed else "the client left")
                return
            except asyncio.CancelledError:
                self._cut(request, "the client left" if self._lost else "the server stopped")
                raise
            except BaseException:
                self._cut(request, "the server has an error")
                self.close()
                raise
            if not request.keep_alive:
                self.close()

    @staticmethod
    def _cut(request: Request, why: str) -> None:
        if request.entry is not None:
            request.entry.cut(why)

    def put(self, data: bytes) -> None:
        """The kernel gets at least the first of these bytes now."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError
        self._transport.write(data)

    async def drained(self) -> None:
        """Returns when the kernel has all that was put."""
        if self._writable is not None:
            await self._writable
        if self._lost:
            raise ConnectionResetError

    def close(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        self._closed = True
        if self._transport is not None:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORTIVE)
            self._transport.abort()


async def listen(host: str, port: int, site: Site, *, reuse_port: bool = False) -> tuple[asyncio.Server, int]:
    """A server on this port (0 picks a free one), and the port that it got. Raises OSError where it cannot listen."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(site), host, port, backlog=1024, reuse_port=reuse_port or None)
    return server, server.sockets[0].getsockname()[1]
