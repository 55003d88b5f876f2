"""What a model of OpenRouter's double is asked and what it says: the interface that rules, callables and other servers fill."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

CHARACTERS_A_TOKEN = 4


@dataclass(frozen=True)
class Call:
    """One request for a model's answer; `body` is what was sent, validated."""

    model: str
    body: Mapping[str, Any]

    @property
    def prompt(self) -> str:
        """The text of the last message of the user."""
        said = [one for one in self.body["messages"] if one["role"] == "user"]
        return text_of(said[-1]) if said else ""

    @property
    def streams(self) -> bool:
        return self.body.get("stream") is True

    @property
    def input_tokens(self) -> int:
        return sum(tokens(text_of(one)) for one in self.body["messages"])


@dataclass
class Reply:
    """`pieces` is the text as it comes; tokens are counted where they are None. A forwarded reply fills them in at its end."""

    pieces: Iterable[str]
    finish_reason: str = "stop"
    input_tokens: int | None = None
    output_tokens: int | None = None
    delay: float = 0.0
    breaks_after: int | None = None
    """The provider fails in the middle, after so many pieces."""

    @classmethod
    def of(cls, text: str) -> Reply:
        return cls(pieces_of(text))


class ProviderFailed(Exception):
    """The provider behind OpenRouter says no; nothing is billed."""

    def __init__(self, message: str, status: int = 502, provider: str = "Double") -> None:
        super().__init__(message)
        self.message, self.status, self.provider = message, status, provider


Answers = Callable[[Call], str | Reply]
"""Raises ProviderFailed."""


def text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def tokens(text: str) -> int:
    return -(-len(text) // CHARACTERS_A_TOKEN)


def pieces_of(text: str) -> list[str]:
    """A text as a model streams it: word by word."""
    return re.findall(r"\s*\S+|\s+$", text)


def plain(call: Call) -> str:
    """What a model says for which nobody wrote an answer."""
    return f"Simulated answer of {call.model}."
