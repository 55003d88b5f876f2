"""multipart/form-data as LangSmith's ingestion wants it: every part typed and with its length, the whole perhaps compressed."""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from email.message import Message
from typing import Any

from ..vendor_http import Answer, Asked, Refused

MOST_BYTES = 200 * 1024 * 1024
"""A body that unpacks to more is refused: no double needs it, and a bomb must not take the machine down."""


@dataclass(frozen=True)
class Part:
    name: str
    content_type: str
    data: bytes

    def json(self) -> Any:
        try:
            return json.loads(self.data)
        except ValueError as error:
            raise bad(f"part {self.name!r} is not JSON: {error}") from error


def bad(message: str, status: int = 400) -> Refused:
    return Refused(Answer(status, {"error": message}))


def too_large(largest: int) -> Refused:
    return Refused(Answer(413, {"error": f"Request Entity Too Large: more than {largest} bytes"}))


def parts(asked: Asked, lengths: bool, largest: int = MOST_BYTES) -> list[Part]:
    """`lengths`: every part must say how long it is (the runs' ingestion demands it). Raises Refused (400, 413, 415, 422)."""
    header = Message()
    header["Content-Type"] = asked.headers.get("content-type", "")
    boundary = header.get_param("boundary")
    if header.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        raise bad("Content-Type is not multipart/form-data with a boundary")
    whole = unpacked(asked)
    if len(whole) > largest:
        raise too_large(largest)
    pieces = (b"\r\n" + whole).split(b"\r\n--" + boundary.encode())
    if len(pieces) < 2 or pieces[-1].rstrip(b"\r\n") != b"--":
        raise bad("the multipart body has no end")
    return [_part(piece, lengths) for piece in pieces[1:-1]]


def unpacked(asked: Asked) -> bytes:
    encoding = asked.headers.get("content-encoding", "")
    if encoding in ("", "identity"):
        return asked.body
    try:
        if encoding == "gzip":
            return gzip.decompress(asked.body)
        if encoding == "zstd":
            return _zstd(asked.body)
    except (OSError, EOFError, zlib.error) as error:
        raise bad(f"the body is not {encoding}: {error}") from error
    raise bad(f"Content-Encoding {encoding!r} is not supported", 415)


def _zstd(data: bytes) -> bytes:
    import zstandard

    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            return reader.read(MOST_BYTES)
    except zstandard.ZstdError as error:
        raise bad(f"the body is not zstd: {error}") from error


def _part(piece: bytes, lengths: bool) -> Part:
    head, found, data = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
    if not found:
        raise bad("a part has no headers")
    headers = Message()
    for line in head.decode("utf-8", "replace").split("\r\n"):
        field, _, value = line.partition(":")
        headers[field.strip()] = value.strip()
    name = headers.get_param("name", header="Content-Disposition")
    if not isinstance(name, str):
        raise bad("a part has no name")
    if headers["Content-Type"] is None:
        raise bad(f"part {name!r} has no Content-Type")
    if headers["Content-Encoding"] is not None:
        raise bad(f"part {name!r} has a Content-Encoding; only the whole request may have one")
    length = headers["Content-Length"] or headers.get_param("length")
    if lengths and length is None:
        raise bad(f"part {name!r} has neither a Content-Length nor a length parameter", 422)
    if length is not None and length != str(len(data)):
        raise bad(f"part {name!r} has {len(data)} bytes, its length says {length}", 422)
    return Part(name, headers.get_content_type(), data)
