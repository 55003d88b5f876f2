"""HTTP/1.1 read strictly, for tests that hold the bytes of a proxy against it; for authors of data planes and their fuzzers.

RFC 9112 without any of its leniencies: what passes here has one meaning for every parser. Nothing here is fast, and
nothing is shared with the proxy, which would be judged by its own grammar.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_TEXT = rb"[\t\x20-\x7e\x80-\xff]"
_REQUEST = re.compile(rb"(" + _TOKEN + rb") ([!-~]+) HTTP/1\.([01])")
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9]) (" + _TEXT + rb"*)")
_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*((?:[!-~\x80-\xff](?:" + _TEXT + rb"*[!-~\x80-\xff])?)?)[ \t]*")
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\' + _TEXT + rb')*"'
_SIZE = re.compile(rb"(0*[0-9A-Fa-f]{1,15})(?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*")
_LENGTH = re.compile(rb"0*[0-9]{1,18}")
_NO_TRAILERS = frozenset((b"content-length", b"transfer-encoding", b"host"))

Fields = list[tuple[bytes, bytes]]


class Malformed(ValueError):
    """Two parsers could read these bytes differently, or not at all."""


@dataclass(frozen=True)
class Message:
    """A whole message. `size` is how many bytes it takes, empty lines before it included; names of fields are in lower case."""

    headers: Fields
    body: bytes
    size: int
    old: bool  # HTTP/1.0

    def values(self, name: bytes) -> list[bytes]:
        return [value for known, value in self.headers if known == name]

    @property
    def keep_alive(self) -> bool:
        tokens = {token.strip().lower() for value in self.values(b"connection") for token in value.split(b",")}
        return b"close" not in tokens and (not self.old or b"keep-alive" in tokens)


@dataclass(frozen=True)
class Request(Message):
    method: bytes
    target: bytes


@dataclass(frozen=True)
class Answer(Message):
    status: int
    reason: bytes


def request(data: bytes) -> Request | None:
    """The first request of these bytes; None where it is not whole yet. Raises Malformed."""
    start = 0
    while data.startswith(b"\r\n", start):
        start += 2
    head = _head(data, start)
    if head is None:
        return None
    line, headers, at = head
    match = _REQUEST.fullmatch(line)
    if match is None:
        raise Malformed(f"no request line: {line!r}")
    old = match[3] == b"0"
    hosts = sum(name == b"host" for name, _ in headers)
    if hosts > 1 or (not hosts and not old):
        raise Malformed(f"{hosts} Host fields")
    body = _sized(data, at, headers, old=old)
    if body is None:
        return None
    content, end = body
    return Request(headers, content, end, old, match[1], match[2])


def answer(data: bytes, method: bytes = b"GET", *, ended: bool = False) -> Answer | None:
    """The first answer (also an interim one) of these bytes, to a request of this method; None where it is not whole yet.

    `ended` = nothing comes after these bytes, which is how an answer without a length ends. Raises Malformed.
    """
    head = _head(data, 0)
    if head is None:
        return None
    line, headers, at = head
    match = _STATUS.fullmatch(line)
    if match is None:
        raise Malformed(f"no status line: {line!r}")
    old, status = match[1] == b"0", int(match[2])
    framed = [name for name, _ in headers if name in (b"content-length", b"transfer-encoding")]
    if status < 200 or status == 204:
        if framed:
            raise Malformed(f"{status} with {framed[0]!r}")
        return Answer(headers, b"", at, old, status, match[3])
    if method == b"HEAD" or status == 304:
        _length(headers, old=old)
        return Answer(headers, b"", at, old, status, match[3])
    if not framed:
        return Answer(headers, data[at:], len(data), old, status, match[3]) if ended else None
    body = _sized(data, at, headers, old=old)
    return None if body is None else Answer(headers, body[0], body[1], old, status, match[3])


def _head(data: bytes, start: int) -> tuple[bytes, Fields, int] | None:
    end = data.find(b"\r\n\r\n", start)
    if end < 0:
        return None
    line, *rest = data[start:end].split(b"\r\n")
    return line, _fields(rest), end + 4


def _fields(lines: list[bytes]) -> Fields:
    found = []
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise Malformed(f"no field: {line[:100]!r}")
        found.append((match[1].lower(), match[2]))
    return found


def _length(headers: Fields, *, old: bool) -> int | None:
    """The length of the body, -1 for chunks, None where neither is said."""
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    lengths = [value for name, value in headers if name == b"content-length"]
    if codings:
        if lengths or len(codings) > 1 or codings[0].lower() != b"chunked" or old:
            raise Malformed(f"transfer codings {codings} beside lengths {lengths}, HTTP/1.{0 if old else 1}")
        return -1
    if not lengths:
        return None
    if len(lengths) > 1 or not _LENGTH.fullmatch(lengths[0]):
        raise Malformed(f"lengths {lengths}")
    return int(lengths[0])


def _sized(data: bytes, at: int, headers: Fields, *, old: bool) -> tuple[bytes, int] | None:
    length = _length(headers, old=old)
    if length == -1:
        return _chunks(data, at)
    end = at + (length or 0)
    return (data[at:end], end) if len(data) >= end else None


def _chunks(data: bytes, at: int) -> tuple[bytes, int] | None:
    parts: list[bytes] = []
    while True:
        end = data.find(b"\r\n", at)
        match = _SIZE.fullmatch(data[at : end if end >= 0 else len(data)])
        if end < 0:
            return None
        if match is None:
            raise Malformed(f"no chunk size: {data[at:end][:100]!r}")
        at, size = end + 2, int(match[1], 16)
        if not size:
            return _trailers(data, at, b"".join(parts))
        if len(data) < at + size + 2:
            return None
        parts.append(data[at : at + size])
        at += size + 2
        if data[at - 2 : at] != b"\r\n":
            raise Malformed(f"a chunk of {size} bytes ends with {data[at - 2 : at]!r}")


def _trailers(data: bytes, at: int, body: bytes) -> tuple[bytes, int] | None:
    lines: list[bytes] = []
    while (end := data.find(b"\r\n", at)) >= 0:
        if end == at:
            if late := [name for name, _ in _fields(lines) if name in _NO_TRAILERS]:
                raise Malformed(f"{late} behind the body")
            return body, end + 2
        lines.append(data[at:end])
        at = end + 2
    return None
