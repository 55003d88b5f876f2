"""Writes YAML: changes single values in a file that a person wrote (write-back), or writes a new file.

Above `document`, which reads; below everything that edits desired state. A change is a splice of the characters
between the marks of a value, so comments, layout, quotes, line ends and the byte order mark around it stay as they
are. The result is read again: it is the old data with exactly these changes, or CannotEdit is raised.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from controller.document import (
    BOM,
    CONTROL,
    ESCAPED_ONLY,
    MAX_DEPTH,
    DocumentError,
    Integer,
    Number,
    Path,
    decode,
    events,
    parse,
    plain,
    quote,
    resolve,
)


class Deletion(Enum):
    DELETE = "delete"


DELETE: Final = Deletion.DELETE  # as the new value of a path: remove the key

_BREAK = re.compile("\r\n|\n|\r")
_TRAILING_COMMA = re.compile(r"(?:\s|#[^\r\n]*+)*+,")
_COLON = re.compile(r"\s*+:")
# What other tools, which read YAML 1.1, take for something else than text (`resolve` knows what 1.2 does).
_YAML_1_1 = re.compile(
    r"(?i:y|n|yes|no|on|off|true|false|null|[-+]?\.(?:inf|nan))|<<|="
    r"|[-+]?\.?[0-9][0-9_,]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|[-+]?0[xXoObB][0-9a-fA-F_]+"
    r"|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt \t].*)?"
)
_INDICATORS = frozenset("-?:,[]{}#&*!|>'\"%@`= ")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MAX_KEY = 900  # YAML reads keys of up to 1024 characters, quotes and escapes included


class CannotEdit(ValueError):
    """The change is left to a person; one line that says why, and the line of the file that it is about."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message, line)
        self.message = message
        self.line = line

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


def edit(text: bytes, changes: Mapping[Path, Any]) -> bytes:
    """The file with a new value at each path; what is already so, stays as it is written."""
    document = parse(text)
    chars, expected = decode(text), plain(document.data)
    for path, value in changes.items():
        line = document.line(path)
        if any(path == other[: len(path)] for other in changes if other != path) or not path:
            raise CannotEdit(f"{_name(path)} holds another path that is to be changed, or is the whole file", line)
        if value is not DELETE and _same(_get(document.data, path), value):
            continue
        try:
            chars = _change(chars, path, value)
            expected = _with(expected, path, value)
        except CannotEdit:
            raise
        except (ValueError, TypeError) as error:
            raise CannotEdit(f"{_name(path)} cannot be written: {error}", line) from None
    edited = (BOM if text.startswith(BOM.encode()) else "").encode() + chars.encode()
    line = min((document.line(path) for path in changes), default=1)
    try:
        after = parse(edited)
    except DocumentError as error:
        raise CannotEdit(f"the file could not be read after the edit ({error})", line) from None
    if not _same(after.data, expected):
        raise CannotEdit("the edit would change something else too", line)
    return edited


def dump(data: Any) -> bytes:
    """A new file: block style, keys in the order given; ValueError for what no file may hold."""
    if isinstance(data, Mapping | list | tuple) and data:
        return ("\n".join(_block(data, 0)) + "\n").encode()
    return (render(data) + "\n").encode()


def _block(data: Any, depth: int) -> Iterator[str]:
    if depth >= MAX_DEPTH:
        raise ValueError(f"it nests deeper than {MAX_DEPTH}, which is the most allowed")
    indent = "  " * depth
    pairs = data.items() if isinstance(data, Mapping) else ((None, item) for item in data)
    for key, value in pairs:
        head = "-" if key is None and not isinstance(data, Mapping) else _key(key, False) + ":"
        if isinstance(value, Mapping | list | tuple) and value:
            rows = list(_block(value, depth + 1))
            if head == "-":
                rows[0] = indent + "- " + rows[0].lstrip(" ")
            else:
                yield indent + head
            yield from rows
        else:
            written = _literal(value, indent + "  ", "\n") if isinstance(value, str) else None
            yield f"{indent}{head} {written or render(value)}"


def render(value: Any, flow: bool = False, style: str = "", depth: int = 0) -> str:
    """A value on one line. `flow`: inside brackets; `style`: the quotes that text had there before."""
    if isinstance(value, str):
        return _text(str(value), flow, style)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Integer | Number) and type(resolve(value.text)) is type(value):
        return value.text
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"found {value}; a number must be finite")
        mantissa, e, exponent = repr(float(value)).partition("e")
        return mantissa + (".0" if e and "." not in mantissa else "") + e + exponent
    if depth >= MAX_DEPTH:
        raise ValueError(f"it nests deeper than {MAX_DEPTH}, which is the most allowed")
    if isinstance(value, Mapping):
        pairs = (f"{_key(key, True)}: {render(item, True, '', depth + 1)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(render(item, True, "", depth + 1) for item in value) + "]"
    raise TypeError(f"found a {type(value).__name__}; allowed are text, numbers, true, false, null, lists and mappings")


def _key(key: Any, flow: bool) -> str:
    if not isinstance(key, str):
        raise TypeError(f"found the key {key!r}; a key is text")
    written = _text(key, flow, "")
    if len(written) > _MAX_KEY:
        raise ValueError(f"found the key {quote(key)}; a key may have {_MAX_KEY} characters")
    return written


def _text(text: str, flow: bool, style: str) -> str:
    if found := CONTROL.search(text):
        raise ValueError(f"found the character U+{ord(found.group()):04X}; text must be printable")
    if style == "'" and not _BREAK.search(text) and "\t" not in text and not ESCAPED_ONLY.search(text):
        return "'" + text.replace("'", "''") + "'"
    if style not in ("'", '"') and _may_be_plain(text, flow):
        return text
    escaped = "".join(_ESCAPES.get(c, c) for c in text)
    return '"' + ESCAPED_ONLY.sub(lambda found: f"\\u{ord(found.group()):04x}", escaped) + '"'


def _may_be_plain(text: str, flow: bool) -> bool:
    if not text or text[0] in _INDICATORS or text[-1] in " :" or not text.isprintable():
        return False
    if ": " in text or " #" in text or text.startswith("...") or (flow and re.search(r"[,\[\]{}]", text)):
        return False
    try:
        return isinstance(resolve(text), str) and not _YAML_1_1.fullmatch(text)
    except ValueError:
        return False


def _literal(text: str, indent: str, newline: str) -> str | None:
    """Text of several lines as a block scalar without its last line end; None where quotes are the safer way."""
    rows = text.split("\n")
    chomp = "" if rows[-1] == "" else "-"
    rows = rows if chomp else rows[:-1]
    usual = all(not row or (row.replace("\t", "\0").isprintable() and row.strip()) for row in rows)
    if len(text.split("\n")) < 2 or not rows[0] or rows[0][0] in " \t" or not rows[-1] or "\t" in text or not usual:
        return None
    return newline.join([f"|{chomp}", *(indent + row if row else "" for row in rows)])


@dataclass(slots=True)
class _Node:
    """A value with the characters it is written in. Of a mapping, keys[i] goes with values[i]."""

    kind: str  # scalar, mapping, list, alias
    start: int
    end: int
    line: int
    text: str = ""
    style: str = ""
    flow: bool = False
    locked: str = ""  # why it is not spliced
    keys: list[_Node] = field(default_factory=list)
    values: list[_Node] = field(default_factory=list)


def _tree(chars: str) -> _Node | None:
    """The nodes of a document that `parse` has accepted; None where there is no document at all."""
    top = _Node("list", 0, 0, 1)
    stack = [top]
    for event in events(chars):
        kind = type(event).__name__.removesuffix("Event")
        if kind in ("MappingEnd", "SequenceEnd"):
            stack.pop().end = event.end_mark.index
        elif kind in ("Scalar", "Alias", "MappingStart", "SequenceStart"):
            name = {"MappingStart": "mapping", "SequenceStart": "list"}.get(kind, kind.lower())
            node = _Node(name, event.start_mark.index, event.end_mark.index, event.start_mark.line + 1)
            if kind == "Alias" or event.anchor or event.tag:
                node.locked = "an alias" if kind == "Alias" else "an anchor" if event.anchor else "a tag"
            if kind == "Scalar":
                node.text, node.style = event.value, event.style or ""
            node.flow = kind.endswith("Start") and bool(event.flow_style)
            parent = stack[-1]
            is_key = parent.kind == "mapping" and len(parent.keys) == len(parent.values)
            (parent.keys if is_key else parent.values).append(node)
            if kind.endswith("Start"):
                stack.append(node)
    return top.values[0] if top.values else None


def _change(chars: str, path: Path, value: Any) -> str:
    """One change: walks to its place and splices there."""
    node, parent, index = _tree(chars), None, 0
    if node is None or (node.kind == "scalar" and node.start == node.end):  # an empty file, or one of `---` alone
        at = len(chars) if node is None else _after_line(chars, node.start)
        return chars if value is DELETE else _append(chars, at, "", _pair(path, value, False))
    for depth, step in enumerate(path):
        if node.locked:
            raise CannotEdit(f"{_name(path)} is behind {node.locked}, which a person has to change", node.line)
        if node.kind == "mapping":
            names = [key.text for key in node.keys]
            if step not in names:
                if any(key.text == "<<" and not key.style for key in node.keys):
                    _refuse_merged(chars, path, depth, node.line)
                return chars if value is DELETE else _insert(chars, node, path[depth:], value)
            if value is DELETE and depth == len(path) - 1:
                return _delete(chars, node, names.index(str(step)), parent, index)
            parent, index = node, names.index(str(step))
        elif node.kind == "list":
            if not isinstance(step, int) or not 0 <= step < len(node.values):
                raise CannotEdit(f"{_name(path)} is not there; the list at {_name(path[:depth])} has "
                                 f"{len(node.values)} items", node.line)  # fmt: skip
            if value is DELETE and depth == len(path) - 1:
                raise CannotEdit(f"{_name(path)} is an item of a list; give the whole list", node.line)
            parent, index = node, step
        elif not node.style and resolve(node.text) is None:
            return chars if value is DELETE else _replace(chars, node, parent, index, _nested(path[depth:], value))
        else:
            raise CannotEdit(f"{_name(path[:depth])} is {quote(node.text)}, which has no fields", node.line)
        node = parent.values[index]
    if node.locked:
        raise CannotEdit(f"{_name(path)} is behind {node.locked}, which a person has to change", node.line)
    return _replace(chars, node, parent, index, value)


def _replace(chars: str, node: _Node, parent: _Node | None, index: int, value: Any) -> str:
    flow = parent is not None and parent.flow
    if node.style in ("|", ">"):
        return _replace_block_scalar(chars, node, value)
    written = render(value, flow, node.style)
    if node.kind == "scalar" or node.flow:
        if node.start == node.end:
            written = _glue(chars, node, parent, index) + written
        return chars[: node.start] + written + chars[node.end :]
    start, end = _line_start(chars, node.start), _content_end(chars, node)
    if parent is None or chars[start : node.start].strip():
        return chars[: node.start] + written + chars[end:]  # begins on the line of its key or dash
    colon = _COLON.match(chars, parent.keys[index].end) if parent.kind == "mapping" else None
    if colon is None:
        raise CannotEdit("a list or mapping that begins below its dash or `?` is left to a person", node.line)
    return chars[: colon.end()] + " " + written + chars[colon.end() : start] + chars[_after_line(chars, end) :]


def _glue(chars: str, node: _Node, parent: _Node | None, index: int) -> str:
    """What has to stand before a value that was empty so far."""
    if parent is not None and parent.kind == "mapping" and ":" not in chars[parent.keys[index].end : node.start]:
        return ": "
    return "" if node.start == 0 or chars[node.start - 1] in " \r\n" else " "


def _replace_block_scalar(chars: str, node: _Node, value: Any) -> str:
    header, *rows = _BREAK.split(chars[node.start : node.end])
    if "#" in header:
        raise CannotEdit("a block scalar with a comment in its first line is left to a person", node.line)
    first = next((row for row in rows if row.strip()), "")
    indent = first[: len(first) - len(first.lstrip(" "))]
    literal = None
    if isinstance(value, str) and node.style == "|" and indent and not re.search("[0-9]", header):
        literal = _literal(value, indent, _newline(chars))
    end = node.start + len(chars[node.start : node.end].rstrip())
    return chars[: node.start] + (literal or render(value)) + chars[end:]


def _insert(chars: str, node: _Node, path: Path, value: Any) -> str:
    pair = _pair(path, value, node.flow)
    if node.flow and not node.keys:
        return chars[: node.start + 1] + pair + chars[node.start + 1 :]
    end = _content_end(chars, node.values[-1])
    if node.flow:
        comma = _TRAILING_COMMA.match(chars, end, node.end)
        at = comma.end() if comma else end
        return f"{chars[:at]}{' ' if comma else ', '}{pair}{chars[at:]}"
    start = _line_start(chars, node.keys[-1].start)
    return _append(chars, _after_line(chars, end), " " * (node.keys[-1].start - start), pair)


def _append(chars: str, at: int, indent: str, pair: str) -> str:
    newline = _newline(chars)
    if at and chars[at - 1] not in "\r\n":
        return chars[:at] + newline + indent + pair + chars[at:]  # the file has no final newline, and keeps none
    return chars[:at] + indent + pair + newline + chars[at:]


def _delete(chars: str, node: _Node, at: int, parent: _Node | None, index: int) -> str:
    if len(node.keys) == 1:
        return _replace(chars, node, parent, index, {})
    key, end = node.keys[at], _content_end(chars, node.values[at])
    if not node.flow:
        start = _line_start(chars, key.start)
        if chars[start : key.start].strip():
            raise CannotEdit(f"{quote(key.text)} shares its line; a person has to remove it", key.line)
        after = _after_line(chars, end)
        if node.values[at].kind in ("mapping", "list") and not node.values[at].flow:
            inner = re.compile(rf"(?: {{{key.start - start + 1},}}+#[^\r\n]*+(?:\r\n|\r|\n|$))*+")
            after = found.end() if (found := inner.match(chars, after)) else after  # comments that end the value
        return chars[:start] + chars[after:]
    last = at == len(node.keys) - 1
    start = _content_end(chars, node.values[at - 1]) if last else key.start
    end = end if last else node.keys[at + 1].start
    if "#" in chars[start : key.start] or "#" in chars[_content_end(chars, node.values[at]) : end]:
        raise CannotEdit(f"a comment stands beside {quote(key.text)}; a person has to remove it", key.line)
    return chars[:start] + chars[end:]


def _content_end(chars: str, node: _Node) -> int:
    """Where a value ends: the end mark of a block lies behind the comments and blank lines after it."""
    while node.kind in ("mapping", "list") and not node.flow and node.values:
        node = node.values[-1]
    if node.style in ("|", ">") and "+" not in _BREAK.split(chars[node.start : node.end])[0]:
        return node.start + len(chars[node.start : node.end].rstrip())
    return node.end


def _line_start(chars: str, at: int) -> int:
    return max(chars.rfind("\n", 0, at), chars.rfind("\r", 0, at)) + 1


def _after_line(chars: str, at: int) -> int:
    if at and chars[at - 1] in "\r\n":
        return at
    found = _BREAK.search(chars, at)
    return found.end() if found else len(chars)


def _newline(chars: str) -> str:
    found = _BREAK.search(chars)
    return found.group() if found else "\n"


def _nested(path: Path, value: Any) -> Any:
    for step in reversed(path):
        if not isinstance(step, str):
            raise TypeError(f"found the key {step!r} in the path; a list has to be there already")
        value = {step: value}
    return value


def _pair(path: Path, value: Any, flow: bool) -> str:
    ((key, inner),) = _nested(path, value).items()
    return f"{_key(key, flow)}: {render(inner, flow)}"


def _get(data: Any, path: Path) -> Any:
    """The value at a path; DELETE where there is none."""
    for step in path:
        inside = isinstance(data, list) and isinstance(step, int) and 0 <= step < len(data)
        if not inside and not (isinstance(data, dict) and step in data):
            return DELETE
        data = data[step]
    return data


def _with(data: Any, path: Path, value: Any) -> Any:
    """Plain data (changed in place) with a new value at a path."""
    if value is DELETE and _get(data, path) is DELETE:
        return data
    if not path:
        return plain(value)
    if data is None:
        data = {}
    if value is DELETE and len(path) == 1:
        data.pop(path[0])
    else:
        data[path[0]] = _with(data[path[0]] if _get(data, path[:1]) is not DELETE else None, path[1:], value)
    return data


def _same(one: Any, other: Any) -> bool:
    """Equal in type too: 1 is not true, and 1 is not 1.0."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(plain(one)) is type(plain(other)) and bool(one == other)


def _refuse_merged(chars: str, path: Path, depth: int, line: int) -> None:
    if _get(parse(chars.encode()).data, path[: depth + 1]) is not DELETE:
        raise CannotEdit(f"{_name(path)} comes from a merge key, which a person has to change", line)


def _name(path: Sequence[str | int]) -> str:
    return quote(".".join(str(step) for step in path))
