"""Reads one YAML file into plain data with the line of every value; the lowest layer, below resources and kinds.

This is the only place that reads YAML. The event stream of the parser is walked without recursion and without
composing, so that size, depth and aliases are bounded before anything is built. Scalars follow the YAML 1.2 core
schema, and a number keeps the text that the user wrote. `document_edit` changes and writes files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

Path = tuple[str | int, ...]

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 64
MAX_NODES = 20_000
MAX_DIGITS = 300  # what still fits a finite float

BOM = "\ufeff"
# What no value may hold, however it is written: C0 and C1 but tab and line breaks, DEL, surrogates.
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
# What may be written as an escape only: YAML 1.1 takes U+2028 for a line break, 1.2 does not; the others are no text.
ESCAPED_ONLY = re.compile("[\u2028\u2029\ufeff\ufffe\uffff]")

_UNSAFE = re.compile(CONTROL.pattern[:-1] + ESCAPED_ONLY.pattern[1:])
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = "\x00<<"  # stands for the merge key; no key of a user can hold a NUL
_TAG = "tag:yaml.org,2002:"
_CONSTANTS: Mapping[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_NUMERIC_START = frozenset("0123456789+-.")
_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_NON_FINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


class DocumentError(ValueError):
    """The file cannot be read; one line that quotes what was found and says what is allowed."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message, line, column)
        self.message = message
        self.line = line
        self.column = column

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.message}"


class Integer(int):
    """An int that knows how it was written: `010` is 10 with the text "010"."""

    text: str

    def __new__(cls, value: int, text: str) -> Integer:
        number = super().__new__(cls, value)
        number.text = text
        return number

    def __getnewargs__(self) -> tuple[int, str]:  # type: ignore[override]  # what copy and pickle pass to __new__
        return int(self), self.text


class Number(float):
    """A float that knows how it was written: `3.10` is 3.1 with the text "3.10"."""

    text: str

    def __new__(cls, value: float, text: str) -> Number:
        number = super().__new__(cls, value)
        number.text = text
        return number

    def __getnewargs__(self) -> tuple[float, str]:  # type: ignore[override]
        return float(self), self.text


@dataclass(frozen=True)
class Document:
    """The data of a file, and the 1-based line of each path in it (of an entry of a mapping: the key's line)."""

    data: Any
    lines: Mapping[Path, int]

    def line(self, path: Path) -> int:
        """The line of a path, or of the nearest thing around it that is in the file."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def parse(text: bytes) -> Document:
    """Reads one document; raises DocumentError, and nothing else, for any bytes."""
    return _Builder(decode(text)).build()


def decode(text: bytes) -> str:
    """The characters of a file without its byte order mark; refuses what no YAML file of ours may hold."""
    if len(text) > MAX_BYTES:
        raise DocumentError(f"found {len(text)} bytes; a file may have at most {MAX_BYTES}", 1, 1)
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        before = text[: error.start].decode("utf-8")
        found = f"found the byte 0x{text[error.start]:02x}; a file must be UTF-8"
        raise DocumentError(found, *_position(before, len(before))) from None
    decoded = decoded.removeprefix(BOM)
    if found_at := _UNSAFE.search(decoded):
        _refuse_character(found_at.group(), *_position(decoded, found_at.start()))
    return decoded


def events(text: str) -> Iterator[Any]:
    """The parser's events, with its errors as DocumentError; marks count characters of `text`."""
    try:
        yield from yaml.parse(text, Loader=_LOADER)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the pure parser leaks what chr() raises
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        rows = re.split("\r\n|\r|\n", text)
        row = rows[min(line, len(rows)) - 1].strip()
        problem = getattr(error, "problem", None) or "it cannot be read"
        context = getattr(error, "context", None)
        message = f"found {quote(row)}, which is not YAML: {problem}" + (f" ({context})" if context else "")
        raise DocumentError(message, line, column) from None


def plain(data: Any) -> Any:
    """The same data of exact int, float, str, bool, None, dict and list."""
    if isinstance(data, Mapping):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    if isinstance(data, Integer):
        return int(data)
    return float(data) if isinstance(data, Number) else data


def quote(found: str) -> str:
    """Somebody's text for a one-line message: short, in quotes, without anything a terminal would obey."""
    shown = found if len(found) <= 60 else found[:57] + "..."
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
    return f'"{"".join(escaped)}"'


def resolve(text: str) -> Any:
    """What an unquoted scalar means in the YAML 1.2 core schema; ValueError where that is no finite number."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text[0] not in _NUMERIC_START:
        return text
    if _INTEGER.fullmatch(text):
        if len(text) > MAX_DIGITS:
            raise ValueError("a number must be finite and have at most 300 digits; quote it if it is text")
        return Integer(int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)), text)
    if _FLOAT.fullmatch(text):
        if math.isfinite(value := float(text)):
            return Number(value, text)
    elif not _NON_FINITE.fullmatch(text):
        return text
    raise ValueError("a number must be finite; quote it if it is text")


class _Node:
    """A collection that is being read, or anything that carries an anchor."""

    __slots__ = ("closed", "key", "path", "value")

    def __init__(self, path: Path, value: Any, closed: bool = False) -> None:
        self.path = path
        self.value = value
        self.key: str | None = None  # of a mapping: the key whose value comes next
        self.closed = closed


class _Builder:
    """Turns events into data. Every method below takes one event, in the order of the file."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.root: Any = None
        self.lines: dict[Path, int] = {}
        self.open: list[_Node] = []
        self.anchors: dict[str, _Node] = {}
        self.documents = self.nodes = self.copied = 0
        self.merged = False

    def build(self) -> Document:
        for event in events(self.text):
            kind = event.__class__
            if kind is ScalarEvent:
                self.scalar(event)
            elif kind is MappingStartEvent or kind is SequenceStartEvent:
                self.start(event, {} if kind is MappingStartEvent else [])
            elif kind is MappingEndEvent or kind is SequenceEndEvent:
                self.end(event)
            elif kind is AliasEvent:
                self.alias(event)
            elif kind is DocumentStartEvent:
                self.document(event)
        if self.merged:
            self.lines = {path: line for path, line in self.lines.items() if _MERGE not in path}
        return Document(self.root, self.lines)

    def document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            _refuse('found a second document after "---"; a file holds exactly one', event)
        if event.version and tuple(event.version) != (1, 2):
            _refuse(f'found "%YAML {event.version[0]}.{event.version[1]}"; files are read as YAML 1.2', event)

    def scalar(self, event: Any) -> None:
        self.count(event)
        top = self.open[-1] if self.open else None
        if event.style == '"' and (found := CONTROL.search(event.value)):
            _refuse_character(found.group(), event.start_mark.line + 1, event.start_mark.column + 1)
        if top is not None and top.key is None and top.value.__class__ is dict:
            self.key(top, event)
            return
        value = self.value(event)
        path = self.add(value, event)
        if event.anchor is not None:
            self.anchors[event.anchor] = _Node(path, value, closed=True)

    def key(self, top: _Node, event: Any) -> None:
        key: str = event.value
        if event.tag is not None and event.tag != _TAG + "str":
            _refuse(f"found the tag {quote(event.tag)} on the key {quote(key)}; a key is text", event)
        if key == "<<" and event.implicit[0]:
            key, self.merged = _MERGE, True
        path = (*top.path, key)
        if key in top.value:
            _refuse(f"found the key {quote(event.value)} twice, first on line {self.lines[path]}; "
                    "a key may occur once", event)  # fmt: skip
        if event.anchor is not None:
            self.anchors[event.anchor] = _Node(path, event.value, closed=True)
        top.key = key
        self.lines[path] = event.start_mark.line + 1

    def value(self, event: Any) -> Any:
        text: str = event.value
        if event.tag is None and not event.implicit[0]:
            return text  # quoted, or a block scalar
        tag = (event.tag or "").removeprefix(_TAG)
        if tag in ("str", "!"):
            return text
        try:
            value = resolve(text)
        except ValueError as error:
            _refuse(f"found {quote(text)}; {error}", event)
        if not tag:
            return value
        if tag == "float" and isinstance(value, Integer):
            return Number(float(value), text)
        allowed = {"null": type(None), "bool": bool, "int": Integer, "float": Number}
        if tag not in allowed:
            _refuse(f"found the tag {quote(event.tag)}; allowed are !!str !!int !!float !!bool !!null", event)
        if not isinstance(value, allowed[tag]):
            _refuse(f"found {quote(text)} with the tag !!{tag}; it must be what the tag says", event)
        return value

    def start(self, event: Any, value: dict[str, Any] | list[Any]) -> None:
        self.count(event)
        top = self.open[-1] if self.open else None
        name = "map" if value.__class__ is dict else "seq"
        if top is not None and top.key is None and top.value.__class__ is dict:
            _refuse(f"found {quote(self.source(event))} as a key; a key is text (quote a template)", event)
        if event.tag is not None and event.tag not in (_TAG + name, "!"):
            _refuse(f"found the tag {quote(event.tag)}; allowed here is !!{name}", event)
        if len(self.open) >= MAX_DEPTH:
            _refuse(f"found {quote(self.source(event))} nested deeper than {MAX_DEPTH}, the most allowed", event)
        node = _Node(self.add(value, event), value)
        self.open.append(node)
        if event.anchor is not None:
            self.anchors[event.anchor] = node

    def end(self, event: Any) -> None:
        node = self.open.pop()
        if node.value.__class__ is dict and _MERGE in node.value:
            self.merge(node, event)
        node.closed = True

    def alias(self, event: Any) -> None:
        self.count(event)
        top = self.open[-1] if self.open else None
        if top is not None and top.key is None and top.value.__class__ is dict:
            _refuse(f"found the alias {quote('*' + event.anchor)} as a key; a key is text", event)
        target = self.anchors.get(event.anchor)
        if target is None:
            _refuse(f"found the alias {quote('*' + event.anchor)}; no anchor {quote('&' + event.anchor)} "
                    "comes before it", event)  # fmt: skip
        if not target.closed:
            _refuse(f"found the alias {quote('*' + event.anchor)} inside what it names; no alias may be cyclic", event)
        path = self.add(None, event)
        self.replace_last(path, self.copy(target.value, target.path, path, event))

    def add(self, value: Any, event: Any) -> Path:
        """Puts a value where the file has it, and returns its path."""
        if not self.open:
            self.root = value
            self.lines[()] = event.start_mark.line + 1
            return ()
        top = self.open[-1]
        if top.key is not None:
            path = (*top.path, top.key)
            top.value[top.key] = value
            top.key = None
            return path
        path = (*top.path, len(top.value))
        top.value.append(value)
        self.lines[path] = event.start_mark.line + 1
        return path

    def replace_last(self, path: Path, value: Any) -> None:
        self.open[-1].value[path[-1]] = value

    def copy(self, value: Any, source: Path, target: Path, event: Any) -> Any:
        """What an alias expands to, with the lines of what it names; counted, so that it stays bounded."""
        top: Any = [None]
        todo: list[tuple[Any, Any, Any, Path, Path]] = [(top, 0, value, source, target)]
        while todo:
            holder, key, old, source, target = todo.pop()
            self.count(event)
            self.copied += len(old) if old.__class__ is str else sum(map(len, old)) if old.__class__ is dict else 0
            if self.copied > MAX_BYTES:
                _refuse(f"found aliases that expand to over {MAX_BYTES} characters, the most allowed", event)
            if old.__class__ is not dict and old.__class__ is not list:
                holder[key] = old
                continue
            if len(target) >= MAX_DEPTH:
                _refuse(f"found an alias that nests deeper than {MAX_DEPTH}, the most allowed", event)
            new: Any = dict.fromkeys(old) if old.__class__ is dict else [None] * len(old)
            holder[key] = new
            for inner in old if old.__class__ is dict else range(len(old)):
                here, there = (*source, inner), (*target, inner)
                self.lines[there] = self.lines[here]
                todo.append((new, inner, old[inner], here, there))
        return top[0]

    def merge(self, node: _Node, event: Any) -> None:
        """Gives a mapping what its `<<` names: explicit keys win, then the earlier source."""
        given = node.value.pop(_MERGE)
        path = (*node.path, _MERGE)
        sources = {path: given} if isinstance(given, dict) else {}
        if isinstance(given, list):
            sources = {(*path, index): each for index, each in enumerate(given)}
        if not isinstance(given, dict | list) or any(not isinstance(each, dict) for each in sources.values()):
            raise DocumentError(
                f'found "<<" with {quote(str(given))}; it takes a mapping or a list of mappings', self.lines[path], 1
            )
        for source, mapping in sources.items():
            for key, child in mapping.items():
                if key not in node.value:
                    here = (*node.path, key)
                    self.lines[here] = self.lines[(*source, key)]
                    node.value[key] = self.copy(child, (*source, key), here, event)

    def count(self, event: Any) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            _refuse(f"found more than {MAX_NODES} values (aliases counted with what they expand to), "
                    "the most allowed", event)  # fmt: skip

    def source(self, event: Any) -> str:
        """What the file has at an event, up to the end of the line."""
        return re.split("[\r\n]", self.text[event.start_mark.index : event.start_mark.index + 80])[0].strip()


def _refuse(message: str, event: Any) -> NoReturn:
    raise DocumentError(message, event.start_mark.line + 1, event.start_mark.column + 1)


def _refuse_character(character: str, line: int, column: int) -> NoReturn:
    allowed = "write it as an escape in double quotes" if ESCAPED_ONLY.match(character) else "text must be printable"
    raise DocumentError(f"found the character U+{ord(character):04X}; {allowed}", line, column)


def _position(text: str, index: int) -> tuple[int, int]:
    rows = re.split("\r\n|\r|\n", text[:index])
    return len(rows), len(rows[-1]) + 1
