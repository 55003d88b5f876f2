"""What the proxy answers by itself: response heads, OpenAI-style errors, and the small JSON pages."""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

import msgspec

JSON = b"application/json"
TEXT = b"text/plain; version=0.0.4; charset=utf-8"

MESSAGES = b"/v1/messages"
RESPONSES = b"/v1/responses"
_OPENAI = {401: "authentication_error", 402: "insufficient_quota", 403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}
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


def error_object(message: str, code: str, status: int, path: bytes = b"") -> dict[str, Any]:
    """The error as OpenAI's clients expect it, or Anthropic's where theirs is asking."""
    if path.startswith(MESSAGES):
        kind = _ANTHROPIC.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": message, "code": code}}
    kind = _OPENAI.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def error_page(status: int, message: str, code: str, headers: bytes = b"", path: bytes = b"") -> Page:
    """A refusal with its reason; `code` is stable, the text is for people."""
    return json_page(status, error_object(message, code, status, path), headers)


def retry_after(seconds: float) -> bytes:
    """The header line for whoever may come again; nothing for 0."""
    return b"retry-after: %d\r\n" % math.ceil(seconds) if seconds else b""


def error_event(message: str, code: str, path: bytes = b"") -> bytes:
    """An error as the last event of a stream that broke."""
    content = msgspec.json.encode(error_object(message, code, 502, path))
    return b"%bdata: %b\n\n" % (b"event: error\n" if path.startswith((MESSAGES, RESPONSES)) else b"", content)
