"""Writes the answers of simulated models (`model_server.py`) on the wire, in every way that a data plane must survive.

An answer is a head and pieces: a stream has one an event, JSON has one. Behaviour and fault decide how both are framed
and where they stop.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

from .model_behaviour import Behaviour
from .model_http import Exchange

_BEFORE = frozenset({"hang_before_head", "close_before_head", "reset_before_head", "not_http"})
_MIDDLE = frozenset({"hang_mid_body", "close_mid_body", "reset_mid_body"})
_CHUNKS = frozenset({"length_and_chunked", "bad_chunk_size", "huge_chunk_size", "chunk_extension"})
_LENGTHS = frozenset({"length_too_long", "length_too_short", "two_lengths", "two_equal_lengths"})
_AFTER = {
    "extra_bytes": b"bytes that belong to no answer",
    "second_answer": b"HTTP/1.1 200 Unasked\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
}
_GZIP = zlib.MAX_WBITS | 16

Pause = Callable[[int], Awaitable[None]]


@dataclass
class Reply:
    """An answer in its form. `count` is the number of pieces; `error_event` ends a stream that fails on the way."""

    status: int
    content_type: bytes
    pieces: Iterable[bytes]
    count: int = 1
    streamed: bool = False
    headers: tuple[tuple[bytes, bytes], ...] = ()
    error_event: bytes = b""


class Wire:
    """Writes one reply."""

    def __init__(self, exchange: Exchange, behaviour: Behaviour, fault: str | None, replica: str) -> None:
        self._exchange = exchange
        self._behaviour = behaviour
        self._fault = fault
        self._replica = replica.encode()

    async def send(self, reply: Reply, pause: Pause | None = None) -> None:
        """`pause(i)` passes before piece `i` of a stream. A fault that hangs ends only when the client leaves."""
        if self._fault in _BEFORE:
            await self._stop(self._fault)
            return
        for status in self._behaviour.informational or ():
            await self._exchange.interim(b"HTTP/1.1 %d Simulated\r\nlink: </style.css>; rel=preload\r\n\r\n" % status)
        framing = self._framing(reply)
        pieces, count = self._pieces(reply, framing)
        length = None
        if framing == "length":
            pieces = list(pieces)
            length = sum(map(len, pieces))
        head = self._head(reply, framing, length)
        if self._exchange.request.method == "HEAD":
            await self._put(head)
        elif self._fault == "close_mid_head":
            await self._put(head[: len(head) // 2])
            self._exchange.close()
        elif reply.streamed:
            await self._put(head)
            await self._body(b"", pieces, count, framing, True, pause)
        else:
            await self._body(head, pieces, count, framing, False, None)

    async def _body(
        self, head: bytes, pieces: Iterable[bytes], count: int, framing: str, streamed: bool, pause: Pause | None
    ) -> None:
        middle = count // 2
        ready = head
        for i, piece in enumerate(pieces):
            if i == middle and self._fault in _MIDDLE:
                await self._put(ready)
                await self._stop(self._fault)
                return
            if pause is not None:
                await pause(i)
            ready += self._framed(piece, framing, middle=i == middle)
            if streamed:
                await self._put(ready)
                ready = b""
        ready += b"0\r\n\r\n" if framing == "chunked" else b""
        await self._put(ready + _AFTER.get(self._fault or "", b""))
        if framing in ("eof", "http10"):
            self._exchange.close()

    async def _stop(self, fault: str | None) -> None:
        """End what has been sent so far, without an end."""
        if fault in ("hang_before_head", "hang_mid_body"):
            await asyncio.Event().wait()
        elif fault == "not_http":
            await self._put(b"SSH-2.0-OpenSSH_9.2\r\n")
            self._exchange.close()
        elif fault in ("reset_before_head", "reset_mid_body"):
            self._exchange.reset()
        else:
            self._exchange.close()

    # how it is framed

    def _framing(self, reply: Reply) -> str:
        if self._fault in _CHUNKS:
            return "chunked"
        if self._fault in _LENGTHS:
            return "length"
        if self._behaviour.framing is not None:
            return self._behaviour.framing
        if reply.streamed:
            return "eof" if self._exchange.request.version == "1.0" else "chunked"
        return "length"

    def _pieces(self, reply: Reply, framing: str) -> tuple[Iterable[bytes], int]:
        pieces, count = reply.pieces, reply.count
        if not reply.streamed and (framing == "chunked" or self._fault in _MIDDLE or self._fault == "end_early"):
            pieces, count = _halves(b"".join(pieces)), 2
        if self._fault == "end_early":
            pieces = islice(pieces, count // 2)
        elif self._fault == "error_event" and reply.streamed:
            pieces = chain(islice(pieces, count // 2), (reply.error_event,))
        if self._behaviour.gzip:
            pieces = _zipped(pieces)
        return pieces, count

    def _head(self, reply: Reply, framing: str, length: int | None) -> bytes:
        version = b"1.0" if framing == "http10" else b"1.1"
        lines = [b"HTTP/%b %d Simulated" % (version, reply.status), b"content-type: " + reply.content_type]
        lines.append(b"x-replica: " + self._replica)
        lines += [name + b": " + value for name, value in reply.headers]
        lines += [b"content-encoding: gzip"] if self._behaviour.gzip else []
        lines += [b"x-long: " + b"a" * (1024 * self._behaviour.header_kb)] if self._behaviour.header_kb else []
        lines += [b"x-folded: one\r\n two"] if self._fault == "obs_fold" else []
        if not self._exchange.request.keep_alive or framing == "eof":
            lines.append(b"connection: close")
        lines += self._lengths(framing, length or 0)
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _lengths(self, framing: str, length: int) -> list[bytes]:
        fault = self._fault
        if framing == "chunked":
            both = fault == "length_and_chunked"
            return [*([b"content-length: 4"] if both else []), b"transfer-encoding: chunked"]
        if framing != "length":
            return []
        if fault == "length_too_long":
            length += 10
        elif fault == "length_too_short":
            length = max(0, length - 10)
        lines = [b"content-length: %d" % length]
        if fault in ("two_lengths", "two_equal_lengths"):
            lines.append(b"content-length: %d" % (length + (fault == "two_lengths")))
        return lines

    def _framed(self, piece: bytes, framing: str, *, middle: bool = False) -> bytes:
        if framing != "chunked" or not piece:
            return piece
        size = b"%x" % len(piece)
        if self._fault == "chunk_extension":
            size += b';note="simulated"'
        elif middle and self._fault == "bad_chunk_size":
            size = b"zz"
        elif middle and self._fault == "huge_chunk_size":
            size = b"f" * 17
        return b"%b\r\n%b\r\n" % (size, piece)

    async def _put(self, data: bytes) -> None:
        if self._behaviour.drip_ms is None:
            await self._exchange.write(data)
            return
        for i in range(len(data)):
            await self._exchange.write(data[i : i + 1])
            await asyncio.sleep(self._behaviour.drip_ms / 1000)


def _halves(body: bytes) -> list[bytes]:
    return [body[: len(body) // 2], body[len(body) // 2 :]]


def _zipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Each piece can be read as soon as it is there; the end comes with the last one."""
    packer = zlib.compressobj(wbits=_GZIP)
    held: bytes | None = None
    for piece in pieces:
        if held is not None:
            yield packer.compress(held) + packer.flush(zlib.Z_SYNC_FLUSH)
        held = piece
    yield packer.compress(held or b"") + packer.flush(zlib.Z_FINISH)
