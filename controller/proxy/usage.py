"""Reads tokens and cost from an answer that has already gone out; it looks at a bounded part and delays nothing."""

from __future__ import annotations

from collections import deque

import msgspec

from .table import Price

_WHOLE = 1 << 20  # a JSON answer is kept up to here
_HEAD = 1 << 12  # of a stream the beginning (Anthropic counts the input there) ...
_TAIL = 1 << 16  # ... and the end are kept
_BYTES_PER_TOKEN = 4
_MOST_TOKENS = 1 << 40  # who says more, or a cost beyond all means, says nothing: sums must stay numbers
_MOST_USD = 1e9


class _Tokens(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None  # Anthropic counts these beside input_tokens
    cache_read_input_tokens: int | None = None
    cost: float | None = None


class _Inner(msgspec.Struct):
    usage: _Tokens | None = None


class _Answer(msgspec.Struct):
    usage: _Tokens | None = None
    response: _Inner | None = None  # the last event of /v1/responses carries the whole answer
    message: _Inner | None = None  # the first event of /v1/messages


class Usage(msgspec.Struct, frozen=True):
    """What one answer used; `cost_usd` is None where nobody knows it. `estimated` = the answer did not say: four bytes of a
    prompt count as a token, and so does each event of a stream."""

    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    estimated: bool = False


_decoder = msgspec.json.Decoder(_Answer)


class Capture:
    """Collects the part of an answer in which the usage can stand, and counts the events of a stream."""

    __slots__ = ("_edge", "_head", "_parts", "_size", "_stream", "_whole", "events")

    def __init__(self, stream: bool, whole: bool = False) -> None:
        self._stream = stream
        self._whole = whole
        self._head = b""
        self._edge = b""
        self._parts: deque[bytes] | None = deque()
        self._size = 0
        self.events = 0

    def add(self, data: bytes) -> None:
        parts = self._parts
        if parts is None:
            return
        if self._stream:
            self.events += data.count(b"data:")
            if len(self._head) < _HEAD:
                self._head += data[: _HEAD - len(self._head)]
            if self._size and b"data:" in self._edge + data[:4]:
                self.events += 1
            self._edge = data[-4:] if len(data) >= 4 else (self._edge + data)[-4:]
        parts.append(data)
        self._size += len(data)
        if self._stream and not self._whole:
            while self._size - len(parts[0]) >= _TAIL:
                self._size -= len(parts.popleft())
        elif self._size > _WHOLE:
            self._parts = None

    def content(self) -> bytes:
        """What was kept of the answer."""
        return b"".join(self._parts or ())

    def usage(self, price: Price | None, asked_bytes: int) -> Usage | None:
        """What the answer says, or for a stream that says nothing an estimate; None where there was no answer."""
        content = self.content()
        if not content:
            return None
        found = _in_stream(self._head, content) if self._stream else _in_json(content)
        told = None if found is None else _priced(found, price)
        if told is None and self._stream:
            tokens = _Tokens(prompt_tokens=asked_bytes // _BYTES_PER_TOKEN, completion_tokens=self.events)
            told = _priced(tokens, price, estimated=True)
        return told


def _in_json(content: bytes) -> _Tokens | None:
    if b'"usage"' not in content:
        return None
    try:
        answer = _decoder.decode(content)
    except (ValueError, RecursionError):
        return None
    if answer.usage is not None:
        return answer.usage
    inner = answer.response or answer.message
    return inner.usage if inner is not None else None


def _in_stream(head: bytes, content: bytes) -> _Tokens | None:
    """The last event that has one; what it leaves open may stand in the first one."""
    last = _last(content)
    if last is None or last.output_tokens is None:
        return last
    first = _first(head)
    if first is not None:
        for field in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"):
            if getattr(last, field) is None:
                setattr(last, field, getattr(first, field))
    return last


def _last(content: bytes) -> _Tokens | None:
    end = len(content)
    while (at := content.rfind(b'"usage"', 0, end)) >= 0:
        start = content.rfind(b"\n", 0, at) + 1
        stop = content.find(b"\n", at)
        if (found := _in_line(content[start : stop if stop >= 0 else len(content)])) is not None:
            return found
        end = start
    return None


def _first(head: bytes) -> _Tokens | None:
    for line in head.split(b"\n", 4)[:4]:
        if (found := _in_line(line)) is not None:
            return found
    return None


def _in_line(line: bytes) -> _Tokens | None:
    return _in_json(line[5:]) if line.startswith(b"data:") else None


def _priced(tokens: _Tokens, price: Price | None, *, estimated: bool = False) -> Usage | None:
    used_in = tokens.prompt_tokens
    if used_in is None and tokens.input_tokens is not None:
        used_in = tokens.input_tokens + (tokens.cache_creation_input_tokens or 0) + (tokens.cache_read_input_tokens or 0)
    used_out = tokens.completion_tokens if tokens.completion_tokens is not None else tokens.output_tokens
    if used_in is None and used_out is None and tokens.cost is None:
        return None
    used_in, used_out = max(used_in or 0, 0), max(used_out or 0, 0)
    if max(used_in, used_out) > _MOST_TOKENS:
        return None
    cost = tokens.cost if tokens.cost is not None and 0 <= tokens.cost <= _MOST_USD else None
    if cost is None and price is not None:
        cost = (used_in * price.input + used_out * price.output) / 1e6
    return Usage(used_in, used_out, cost, estimated)
