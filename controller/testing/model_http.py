"""A small HTTP/1.1 server for the simulated model endpoints (`model_server.py`): one coroutine a request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

import httptools


class Request:
    """A complete request."""

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        self.headers: dict[str, str] = {}
        self.body = b""
        self.keep_alive = True

    @property
    def path(self) -> str:
        return self.target.partition(b"?")[0].decode("latin-1")


class Exchange:
    """The answering side of one request. Writing to a client that has left raises ConnectionResetError."""

    def __init__(self, connection: _Connection, keep_alive: bool) -> None:
        self._connection = connection
        self._keep_alive = keep_alive
        self.chunked = False

    async def json(self, status: int, content: Any) -> None:
        body = json.dumps(content, ensure_ascii=False).encode()
        head = self._head(status, b"application/json") + b"content-length: %d\r\n\r\n" % len(body)
        await self._connection.write(head + body)

    async def begin(self, status: int, content_type: bytes, length: int | None = None) -> None:
        """A head of which the body follows in pieces; chunked where no length is given."""
        self.chunked = length is None
        framing = b"transfer-encoding: chunked" if length is None else b"content-length: %d" % length
        await self._connection.write(self._head(status, content_type) + framing + b"\r\n\r\n")

    async def piece(self, data: bytes) -> None:
        await self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self.chunked else data)

    async def end(self) -> None:
        if self.chunked:
            await self._connection.write(b"0\r\n\r\n")

    def die(self) -> None:
        """Close the connection in the middle of whatever it was."""
        self._connection.close()

    def _head(self, status: int, content_type: bytes) -> bytes:
        closing = b"" if self._keep_alive else b"connection: close\r\n"
        return b"HTTP/1.1 %d Simulated\r\ncontent-type: %b\r\n%b" % (status, content_type, closing)


Answer = Callable[[Request, Exchange], Awaitable[None]]


class _Connection(asyncio.Protocol):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._requests: asyncio.Queue[Request] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._worker = asyncio.get_running_loop().create_task(self._work())

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        if self._worker is not None:
            self._worker.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.close()

    def on_message_begin(self) -> None:
        self._request = Request()

    def on_url(self, url: bytes) -> None:
        self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self._request.body += data

    def on_message_complete(self) -> None:
        self._request.method = self._parser.get_method().decode("ascii")
        self._request.keep_alive = self._parser.should_keep_alive()
        self._requests.put_nowait(self._request)

    async def _work(self) -> None:
        while True:
            request = await self._requests.get()
            try:
                await self._answer(request, Exchange(self, request.keep_alive))
            except ConnectionResetError:
                return
            if not request.keep_alive:
                self.close()

    async def write(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError
        self._transport.write(data)
        await self._writable.wait()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def listen(host: str, port: int, answer: Answer) -> tuple[asyncio.Server, int]:
    """A server on this port (0 picks a free one), and the port that it got."""
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(answer), host, port)
    return server, server.sockets[0].getsockname()[1]
