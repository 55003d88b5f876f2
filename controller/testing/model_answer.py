"""What one request to a simulated model gets, before it has the form of an API (`model_openai.py`, `model_anthropic.py`)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any

import msgspec

from .model_http import Request

_SERIALS = count(1)


@lru_cache(maxsize=1024)
def _words(model: str, endpoint: str, tokens: int) -> tuple[str, ...]:
    words = f"Simulated answer of {model} at {endpoint}:".split()
    words += [f"word{i}" for i in range(1, tokens - len(words) + 1)]
    return tuple(words[:tokens])


class Answer:
    """A text of a given number of tokens (words) that names model and endpoint. `body` is what the request said.

    `said`: its tokens, where rules say what is answered.
    """

    def __init__(
        self, endpoint: str, request: Request, body: dict[str, Any], tokens: int, said: tuple[str, ...] | None = None
    ) -> None:
        self.endpoint, self._said = endpoint, said
        tokens = tokens if said is None else len(said)
        self.serial = next(_SERIALS)
        self.request = request
        self.body = body
        self.model: str = body["model"]
        self.created = int(time.time())
        asked = body.get("messages") or body.get("prompt") or body.get("input") or ""
        self.input_tokens = len(json.dumps(asked, ensure_ascii=False, default=str).split())
        allowed = _allowed(body)
        self.cut_short = allowed is not None and allowed < tokens
        self.output_tokens = allowed if allowed is not None and allowed < tokens else tokens

    @property
    def words(self) -> tuple[str, ...]:
        if self._said is not None:
            return self._said[: self.output_tokens]
        return _words(self.model, self.endpoint, self.output_tokens)

    @property
    def text(self) -> str:
        return ("" if self._said is not None else " ").join(self.words)

    def pieces(self) -> Iterator[str]:
        """The text, a token at a time."""
        for i, word in enumerate(self.words):
            yield word if i == 0 or self._said is not None else f" {word}"

    def name(self, prefix: str) -> str:
        """An identifier, unique in the process."""
        return f"{prefix}-{self.endpoint}-{self.serial}"


def _allowed(body: dict[str, Any]) -> int | None:
    """How many tokens the request allows, if it says so."""
    for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"):
        value = body.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
            return value
    return None


@dataclass(frozen=True)
class Stream:
    """The events of a streamed answer."""

    events: Iterator[bytes]
    count: int
    first: int  # the event that waits for the first token
    tokens: range  # the events that are tokens


@dataclass(frozen=True)
class Problem:
    """Why a request is refused, or fails."""

    status: int
    message: str
    code: str


@dataclass(frozen=True)
class Form:
    """One path of an API."""

    whole: Callable[[Answer], Any]  # bytes, or what becomes JSON
    stream: Callable[[Answer], Stream] | None
    error: Callable[[Problem], Any]
    broken: Callable[[Problem], bytes]  # the event that ends a stream which fails on its way
    check: Callable[[Request], Problem | None] = lambda request: None  # of the head
    read: Callable[[Request], dict[str, Any] | Problem] = lambda request: read_json(request)
    methods: tuple[str, ...] = ("POST",)
    writes: bool = True  # it has output tokens


def read_json(request: Request) -> dict[str, Any] | Problem:
    """The body of an ordinary request; it needs a `model`."""
    try:
        body = msgspec.json.decode(request.body)
    except ValueError:
        body = None
    if isinstance(body, dict) and isinstance(body.get("model"), str):
        return body
    return Problem(400, "The body needs a `model`", "invalid_body")


def encoded(content: Any) -> bytes:
    return content if isinstance(content, bytes) else msgspec.json.encode(content)


def event(content: Any, name: str = "") -> bytes:
    """One server-sent event."""
    head = b"event: %b\n" % name.encode() if name else b""
    return b"%bdata: %b\n\n" % (head, msgspec.json.encode(content))
