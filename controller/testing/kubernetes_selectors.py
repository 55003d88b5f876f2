"""Label and field selectors of Kubernetes lists, for the double of its API server. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Test = Callable[[Mapping[str, str]], bool]
_SET = re.compile(r"\s*(?P<key>[^\s!=,()]+)\s+(?P<how>in|notin)\s*\((?P<values>[^)]*)\)\s*")
_EQUAL = re.compile(r"\s*(?P<key>[^\s!=,()]+)\s*(?P<how>==|=|!=)\s*(?P<value>[^\s!=,()]*)\s*")
_THERE = re.compile(r"\s*(?P<not>!)?\s*(?P<key>[^\s!=,()]+)\s*")


class BadSelector(ValueError):
    """A selector that cannot be read; the text is the server's."""


def chosen(objects: Mapping[str, Mapping[str, Any]], labels: str, fields: str) -> list[str]:
    """Names of those that both selectors take."""
    tests, wanted = list(_tests(labels)), _fields(fields)
    return [
        name
        for name, each in objects.items()
        if all(test(each["metadata"].get("labels", {})) for test in tests)
        and all((each["metadata"].get(key, "") == value) is same for key, value, same in wanted)
    ]


def _tests(text: str) -> Iterable[Test]:
    at = 0
    while at < len(text):
        found = _SET.match(text, at) or _EQUAL.match(text, at) or _THERE.match(text, at)
        if found is None:
            raise BadSelector(f"found '{text[at]}', expected: !, identifier, or 'end of string'")
        yield _test(found)
        at = found.end()
        if at < len(text):
            if text[at] != ",":
                raise BadSelector(f"found '{text[at]}', expected: ',' or 'end of string'")
            at += 1


def _test(found: re.Match[str]) -> Test:
    groups, key = found.groupdict(), found["key"]
    if "values" in groups:
        values = {value.strip() for value in groups["values"].split(",")}
        return (
            (lambda labels: labels.get(key) in values) if groups["how"] == "in" else (lambda labels: labels.get(key) not in values)
        )
    if "value" in groups:
        if groups["how"] == "!=":
            return lambda labels: labels.get(key) != groups["value"]
        return lambda labels: labels.get(key) == groups["value"]
    return (lambda labels: key not in labels) if groups["not"] else (lambda labels: key in labels)


def _fields(text: str) -> list[tuple[str, str, bool]]:
    """(field of metadata, value, equal or not)."""
    out = []
    for part in filter(None, text.split(",")):
        found = re.fullmatch(r"metadata\.(name|namespace)(!=|==|=)(.*)", part)
        if found is None:
            raise BadSelector(f"field label not supported: {part.partition('=')[0]}")
        out.append((found[1], found[3], found[2] != "!="))
    return out
