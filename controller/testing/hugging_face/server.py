"""The double over HTTP: two ports (the Hub with everything else, and the storage behind it), and the faults that were ordered.

One thread a connection. A request's body is read before anything is done, so a connection that breaks off acts on nothing.
"""

from __future__ import annotations

import contextlib
import json
import socket
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import parse_qs, urlsplit

from controller.testing.hugging_face import (
    commit_routes,
    control_routes,
    endpoint_routes,
    hub_routes,
    job_routes,
    storage_routes,
)
from controller.testing.hugging_face.accounts import account_of
from controller.testing.hugging_face.exchange import Answer, Refused, Request, Routes
from controller.testing.hugging_face.faults import Fault
from controller.testing.hugging_face.repositories import CHUNK
from controller.testing.hugging_face.world import World

HUB = Routes(
    control_routes.ROUTES,
    job_routes.ROUTES,
    endpoint_routes.ROUTES,
    commit_routes.ROUTES,
    hub_routes.ROUTES,
    storage_routes.ROUTES,
)
STORAGE = Routes(storage_routes.STORAGE_ROUTES)
_OPEN = ("/-/", "/api/complete_multipart/")


def listen(world: World, host: str, port: int, *, storage: bool = False) -> Server:
    """A server in a thread of its own; port 0 picks a free one."""
    routes = STORAGE if storage else HUB
    connection = type("Connection", (_Connection,), {"world": world, "routes": routes, "storage": storage})
    server = Server((host, port), connection)
    server.thread.start()
    return server


class Server(ThreadingHTTPServer):
    """Knows its connections, so that none of them outlives it."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], connection: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, connection)
        self.url = f"http://{address[0]}:{self.server_address[1]}"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._connections: set[Any] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self.thread.join()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Gone(Exception):
    """The connection ends without (more of) an answer."""


class _Connection(BaseHTTPRequestHandler):
    world: World
    routes: Routes
    storage: bool
    protocol_version = "HTTP/1.1"
    timeout = 120
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def do_GET(self) -> None:
        try:
            self._serve()
        except (_Gone, ConnectionError, TimeoutError):
            self._break_off()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing; the ledger counts."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        """By the double's clock: the SDK compares it with the times of log lines."""
        return super().date_time_string(self.world.clock.now() if timestamp is None else timestamp)

    def _serve(self) -> None:
        path = urlsplit(self.path).path
        controlled = path.startswith("/-/")
        fault = None if controlled else self.world.faults.take(self.command, path)
        if not controlled:
            with self.world.lock:  # of the storage only what is done: its addresses are used once
                self.world.requests[f"{self.command} {'storage' if self.storage else path}"] += 1
        body, size = self._body(fault.bytes if fault and fault.kind == "cut" else None)
        with body:
            if fault and not fault.acts_first:
                answer = self._failed(fault)
            else:
                answer = self._act(path, body, size)
                if fault and fault.kind != "truncate":
                    _drop(answer)
                    answer = self._failed(fault)
        self._send(answer, fault.bytes if fault and fault.kind == "truncate" else None)

    def _act(self, path: str, body: IO[bytes], size: int) -> Answer:
        try:
            request = Request(
                "GET" if self.command == "HEAD" else self.command,
                path,
                parse_qs(urlsplit(self.path).query, keep_blank_values=True),
                {key.lower(): value for key, value in self.headers.items()},
                body,
                size,
                hidden_after=self.world.faults.hidden_after(self.command, path, self.world.clock.now()),
            )
            if not self.storage and not path.startswith(_OPEN):
                request.account = account_of(self.world.options.accounts, request.headers.get("authorization", ""))
            with self.world.lock:
                return self.routes.answer(self.world, request)
        except Refused as refused:
            return refused.answer()

    def _failed(self, fault: Fault) -> Answer:
        """The answer that was ordered. Raises _Gone where it is none."""
        if fault.kind == "hang":
            self.world.closing.wait(3600.0 if fault.seconds is None else fault.seconds)
        if fault.kind != "status":
            raise _Gone
        return Answer(fault.status, {"error": fault.message}, headers=dict(fault.headers))

    def _body(self, cut_after: int | None) -> tuple[IO[bytes], int]:
        """The whole body, and its size. Raises _Gone when it is cut off, by order or by the client."""
        spooled = cast("IO[bytes]", tempfile.SpooledTemporaryFile(max_size=CHUNK))  # noqa: SIM115 - the caller closes it
        size = 0
        for piece in self._pieces():
            size += len(piece)
            if cut_after is not None and size > cut_after:
                spooled.close()
                raise _Gone
            spooled.write(piece)
        spooled.seek(0)
        return spooled, size

    def _pieces(self) -> Iterator[bytes]:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            while length := int(self.rfile.readline().split(b";")[0] or b"0", 16):
                yield self._exactly(length)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            piece = self._exactly(min(left, 1 << 16))
            left -= len(piece)
            yield piece

    def _exactly(self, length: int) -> bytes:
        data = self.rfile.read(length)
        if len(data) < length:
            raise _Gone
        return data

    def _send(self, answer: Answer, cut_after: int | None) -> None:
        pieces, length = _pieces_of(answer)
        self.send_response(answer.status)
        self.send_header("X-Request-Id", "double")
        if answer.content is not None:
            self.send_header("Content-Type", "application/json; charset=utf-8")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header(*(("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))))
        self.end_headers()
        if self.command == "HEAD":
            _drop(answer)
            return
        sent = 0
        for piece in pieces:
            if cut_after is not None and sent + len(piece) > cut_after:
                self.wfile.write(piece[: cut_after - sent])
                self.wfile.flush()
                raise _Gone
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if length is None else piece)
            sent += len(piece)
            if length is None:
                self.wfile.flush()
        if length is None:
            self.wfile.write(b"0\r\n\r\n")

    def _break_off(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


def _pieces_of(answer: Answer) -> tuple[Iterator[bytes], int | None]:
    """The body in pieces, and its length where it is known."""
    if answer.stream is not None:
        return answer.stream, None
    if answer.file is not None:
        path, first, length = answer.file
        return _slice(path, first, length), length
    body = answer.text or b"" if answer.content is None else json.dumps(answer.content, ensure_ascii=False).encode()
    return iter([body] if body else []), len(body)


def _slice(path: Path, first: int, length: int) -> Iterator[bytes]:
    with path.open("rb") as source:
        source.seek(first)
        while length and (piece := source.read(min(length, 1 << 16))):
            length -= len(piece)
            yield piece


def _drop(answer: Answer) -> None:
    """An event stream that nobody will read."""
    close = getattr(answer.stream, "close", None)
    if close is not None:
        close()
