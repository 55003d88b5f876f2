"""A shadow's answer beside the one that the client got: the same or not, and how alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec


class _Text(msgspec.Struct):
    content: str | None = None
    text: str | None = None


class _Choice(msgspec.Struct):
    message: _Text | None = None
    delta: _Text | None = None
    text: str | None = None


class _Output(msgspec.Struct):
    content: list[_Text] = []


class _Body(msgspec.Struct):
    """Where each of the APIs has its text: chat and completions, messages, responses."""

    choices: list[_Choice] = []
    content: list[_Text] = []
    output: list[_Output] = []
    delta: _Text | str | None = None
    type: str = ""


_decoder = msgspec.json.Decoder(_Body)


def text_of(answer: bytes) -> str | None:
    """The text of an answer, whole or as a stream of events; None where it has none that can be read."""
    if answer.lstrip()[:1] == b"{":
        return _whole(answer)
    parts = [_piece(line[5:]) for line in answer.splitlines() if line.startswith(b"data:")]
    found = [part for part in parts if part is not None]
    return "".join(found) if found else None


def _whole(answer: bytes) -> str | None:
    body = _decoded(answer)
    if body is None:
        return None
    texts = [choice.message.content if choice.message is not None else choice.text for choice in body.choices]
    texts += [part.text for part in body.content]
    texts += [part.text for output in body.output for part in output.content]
    found = [text for text in texts if text is not None]
    return "\n".join(found) if found else None


def _piece(event: bytes) -> str | None:
    body = _decoded(event)
    if body is None:
        return None
    if isinstance(body.delta, str):
        return body.delta if body.type == "response.output_text.delta" else None
    if body.delta is not None:
        return body.delta.text
    for choice in body.choices:
        return choice.delta.content if choice.delta is not None else choice.text
    return None


def _decoded(content: bytes) -> _Body | None:
    try:
        return _decoder.decode(content)
    except (ValueError, RecursionError):
        return None


def likeness(one: str, other: str) -> float:
    """The Sorensen-Dice coefficient of the two multisets of words: 1 for the same words, 0 for none in common."""
    ours, theirs = Counter(one.split()), Counter(other.split())
    total = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / total if total else 1.0


class Pair:
    """The client's answer and the shadow's; when both are there, they are compared once."""

    __slots__ = ("_compared", "_texts")

    def __init__(self, compared: Callable[[bool, float], None]) -> None:
        self._compared = compared
        self._texts: list[str] = []

    def add(self, answer: bytes) -> None:
        text = text_of(answer)
        if text is None:
            return
        self._texts.append(text)
        if len(self._texts) == 2:
            one, other = self._texts
            self._compared(one == other, likeness(one, other))
