"""Reads tokens and cost from an answer that has already gone out; it looks at a bounded part and delays nothing."""

from __future__ import annotations

from collections import deque

import msgspec

from .table import Price

_WHOLE = 1 << 20  # a JSON answer is kept up to here
_TAIL = 1 << 17  # of a stream only the end is kept


class _Tokens(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None


class _Response(msgspec.Struct):
    usage: _Tokens | None = None


class _Answer(msgspec.Struct):
    usage: _Tokens | None = None
    response: _Response | None = None  # the last event of /v1/responses carries the whole answer


class Usage(msgspec.Struct, frozen=True):
    """What one answer used; `cost_usd` is None where nobody knows it."""

    input_tokens: int
    output_tokens: int
    cost_usd: float | None


_decoder = msgspec.json.Decoder(_Answer)


class Capture:
    """Collects the part of an answer in which the usage can stand."""

    __slots__ = ("_parts", "_size", "_stream")

    def __init__(self, stream: bool) -> None:
        self._stream = stream
        self._parts: deque[bytes] | None = deque()
        self._size = 0

    def add(self, data: bytes) -> None:
        parts = self._parts
        if parts is None:
            return
        parts.append(data)
        self._size += len(data)
        if self._stream:
            while self._size - len(parts[0]) >= _TAIL:
                self._size -= len(parts.popleft())
        elif self._size > _WHOLE:
            self._parts = None

    def usage(self, price: Price | None) -> Usage | None:
        if not self._parts:
            return None
        content = b"".join(self._parts)
        found = _in_stream(content) if self._stream else _in_json(content)
        return None if found is None else _priced(found, price)


def _in_json(content: bytes) -> _Tokens | None:
    if b'"usage"' not in content:
        return None
    try:
        answer = _decoder.decode(content)
    except (ValueError, RecursionError):
        return None
    if answer.usage is None and answer.response is not None:
        return answer.response.usage
    return answer.usage


def _in_stream(content: bytes) -> _Tokens | None:
    """The last event that has one. Some vendors give input and output in different events; the last one counts."""
    end = len(content)
    while (at := content.rfind(b'"usage"', 0, end)) >= 0:
        start = content.rfind(b"\n", 0, at) + 1
        stop = content.find(b"\n", at)
        line = content[start : stop if stop >= 0 else len(content)]
        if line.startswith(b"data:") and (found := _in_json(line[5:])) is not None:
            return found
        end = start
    return None


def _priced(tokens: _Tokens, price: Price | None) -> Usage | None:
    used_in = tokens.prompt_tokens if tokens.prompt_tokens is not None else tokens.input_tokens
    used_out = tokens.completion_tokens if tokens.completion_tokens is not None else tokens.output_tokens
    if used_in is None and used_out is None and tokens.cost is None:
        return None
    used_in, used_out = max(used_in or 0, 0), max(used_out or 0, 0)
    cost = tokens.cost if tokens.cost is not None and tokens.cost >= 0 else None
    if cost is None and price is not None:
        cost = (used_in * price.input + used_out * price.output) / 1e6
    return Usage(used_in, used_out, cost)
