"""What the proxy answers by itself: response heads, OpenAI-style errors, and the small JSON pages."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec

JSON = b"application/json"
TEXT = b"text/plain; version=0.0.4; charset=utf-8"

_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in HTTPStatus}


class Page:
    """One answer of the proxy itself."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(self, status: int, body: bytes, content_type: bytes = JSON, headers: bytes = b"") -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers

    def encode(self, *, head_only: bool = False, keep_alive: bool = True, http10: bool = False) -> bytes:
        parts = [_LINES[self.status], self.headers, connection_line(keep_alive, http10)]
        if self.status != 304:
            parts.append(b"content-type: %b\r\ncontent-length: %d\r\n" % (self.content_type, len(self.body)))
        parts.append(b"\r\n")
        if not head_only and self.status != 304:
            parts.append(self.body)
        return b"".join(parts)


def connection_line(keep_alive: bool, http10: bool) -> bytes:
    """What has to be said about the connection, which is nothing where the version's default holds."""
    if not keep_alive:
        return b"connection: close\r\n"
    return b"connection: keep-alive\r\n" if http10 else b""


def json_page(status: int, content: Any, headers: bytes = b"") -> Page:
    return Page(status, msgspec.json.encode(content), JSON, headers)


def error_object(message: str, code: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    """The error as OpenAI's clients expect it."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def error_page(status: int, message: str, code: str, headers: bytes = b"") -> Page:
    if status >= 500:
        kind = "api_error"
    elif status in (401, 403):
        kind = "authentication_error"
    else:
        kind = "invalid_request_error"
    return json_page(status, error_object(message, code, kind), headers)


def error_event(message: str, code: str) -> bytes:
    """An error as the last event of a stream that broke."""
    return b"data: " + msgspec.json.encode(error_object(message, code, "api_error")) + b"\n\n"
