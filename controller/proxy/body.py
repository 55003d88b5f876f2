"""The request body on its way through: which agent it asks for, and the same bytes with the variant's model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec

_MODEL = re.compile(rb'"model"[ \t\r\n]*:[ \t\r\n]*("(?:[^"\\]|\\.)*")', re.DOTALL)
_SPACE = re.compile(r"[ \t\r\n]*")
# Values are skipped, not understood: as floats, so that no number is too long.
_decode: Any = json.JSONDecoder(strict=False, parse_int=float, parse_float=float)
_skip: Callable[[str, int], tuple[Any, int]] = _decode.scan_once


class Asked(msgspec.Struct):
    """The one field that the proxy has to know; everything else passes through unread."""

    model: str


_decoder = msgspec.json.Decoder(Asked)
_parts = msgspec.json.Decoder(dict[str, msgspec.Raw])
_string = msgspec.json.Decoder(str)
_LARGE = 4096


def understood(body: bytes) -> tuple[str, list[tuple[int, int]]]:
    """The top-level `model`, and where the values of the keys of that name are, quotes included.

    Raises ValueError with a sentence for the client. A large body is taken apart once instead of searched.
    """
    if len(body) > _LARGE:
        found = _taken_apart(body)
        if found is not None:
            return found
    return asked_model(body), model_spans(body)


def asked_model(body: bytes) -> str:
    """The top-level `model`, or ValueError with a sentence for the client."""
    try:
        return _decoder.decode(body).model
    except msgspec.ValidationError as error:
        raise ValueError(f"The body needs a `model` that is a string: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"The body is not valid JSON: {error}") from None


def model_spans(body: bytes) -> list[tuple[int, int]]:
    """Where the values of the top-level `model` keys are, quotes included. The body must have passed `asked_model`.

    A key can only be spelled otherwise with an escape of one of its letters, and these all begin with `\\u006`. Where
    the plain spelling occurs once and no such escape does, that occurrence is the key; everything else is scanned.
    """
    if body.count(b'"model"') == 1 and b"\\u006" not in body:
        match = _MODEL.search(body)
        if match is not None:
            return [match.span(1)]
    return _scan(body)


def _taken_apart(body: bytes) -> tuple[str, list[tuple[int, int]]] | None:
    """The model and its place, if the body is byte for byte what its keys and values make up: then no key is there twice."""
    try:
        values = _parts.decode(body)
        model = _string.decode(values["model"])
    except (KeyError, ValueError, RecursionError):
        return None
    start = len(next(iter(values))) + 4
    comma, colon = (b", ", b": ") if body[start : start + 1] == b" " else (b",", b":")
    pieces: list[bytes | msgspec.Raw] = []
    at, place, before = 0, (0, 0), b"{"
    for key, value in values.items():
        name = before + msgspec.json.encode(key) + colon
        at += len(name)
        if key == "model":
            place = (at, at + len(memoryview(value)))
        at += len(memoryview(value))
        pieces += (name, value)
        before = comma
    pieces.append(b"}")
    return (model, [place]) if b"".join(pieces) == body else None


def with_model(body: bytes, spans: list[tuple[int, int]], model: str) -> bytes:
    """The same bytes with another model. Duplicate keys get it too: who parses next may take the first or the last."""
    value = msgspec.json.encode(model)
    whole = memoryview(body)
    parts: list[bytes | memoryview] = []
    at = 0
    for start, end in spans:
        parts += (whole[at:start], value)
        at = end
    parts.append(whole[at:])
    return b"".join(parts)


def _scan(body: bytes) -> list[tuple[int, int]]:
    """Walks the top-level object; as Latin-1 a character is a byte, and the structure of JSON is ASCII."""
    text = body.decode("latin-1")
    spans: list[tuple[int, int]] = []
    try:
        at = _after_space(text, 0) + 1  # the brace
        while text[_after_space(text, at)] != "}":
            key, at = _skip(text, _after_space(text, at))
            start = _after_space(text, _after_space(text, at) + 1)  # over the colon
            _, at = _skip(text, start)
            if key == "model":
                spans.append((start, at))
            at = _after_space(text, at)
            if text[at] == ",":
                at += 1
    except (StopIteration, IndexError, ValueError, RecursionError):
        raise ValueError("The body is not valid JSON") from None
    return spans


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match is not None else at
