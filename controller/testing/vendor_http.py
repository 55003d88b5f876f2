"""The HTTP of vendors' doubles (`vendor_double.py`): requests in, answers out, and the faults that happen on the wire."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from .vendor_faults import Fault, Faults


@dataclass(frozen=True)
class Asked:
    """One request. Header names are lower case."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes = b""

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise Refused(Answer(400, {"detail": f"The body is not JSON: {error}"})) from error


@dataclass(frozen=True)
class Answer:
    """`content` is sent as JSON (bytes as they are); `pieces` as a chunked stream, one piece as soon as it is there."""

    status: int
    content: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: Iterable[bytes] | None = None


class Refused(Exception):
    """What a vendor answers instead of doing it."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.status} {answer.content}")
        self.answer = answer


class Answering(Protocol):
    """What the server needs of a double."""

    faults: Faults
    stopping: threading.Event

    def control(self, asked: Asked) -> Answer: ...

    def act(self, asked: Asked, fault: Fault | None) -> Answer: ...


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], double: Answering) -> None:
        self.double = double
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves is no error of the double."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: what was asked is in `seen`."""

    def _work(self) -> None:
        double, asked = self.server.double, self._read()
        if asked.path.startswith("/-/"):
            self._send(double.control(asked))
            return
        fault = double.faults.take(asked.method, asked.path)
        kind = fault.kind if fault else ""
        if kind == "drop":
            self._die()
            return
        if kind == "slow" and fault is not None:
            double.stopping.wait(fault.seconds)
        answer = double.act(asked, fault)
        if kind in ("lose", "hang"):
            for _ in answer.pieces or ():
                pass  # the vendor does all of it, and bills it
            if kind == "hang" and fault is not None:
                double.stopping.wait(fault.seconds)
            self._die()
        else:
            self._send(answer, cut=kind == "cut")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _work

    def _read(self) -> Asked:
        place = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        if "chunked" in headers.get("transfer-encoding", ""):
            body = b"".join(self._chunks())
        else:
            body = self.rfile.read(int(headers.get("content-length") or 0))
        return Asked(self.command, place.path, parse_qs(place.query, keep_blank_values=True), headers, body)

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, answer: Answer, cut: bool = False) -> None:
        if answer.pieces is not None:
            self._stream(answer, answer.pieces, cut)
            return
        raw = isinstance(answer.content, bytes)
        body = answer.content if raw else json.dumps(answer.content, ensure_ascii=False).encode()
        self._head(answer, "application/octet-stream" if raw else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self._die()

    def _stream(self, answer: Answer, pieces: Iterable[bytes], cut: bool) -> None:
        self._head(answer, "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        # A cut stream loses its end, not its beginning: the client has seen a part of the text.
        for piece in list(pieces)[:3] if cut else pieces:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        if cut:
            self._die()
        else:
            self.wfile.write(b"0\r\n\r\n")

    def _head(self, answer: Answer, content_type: str) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", content_type)
        for name, value in answer.headers.items():
            self.send_header(name, value)

    def _die(self) -> None:
        """Leaves the connection without another byte."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
