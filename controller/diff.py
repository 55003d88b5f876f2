"""Field diffs: pure, small and reversible. Used by plans, by events and by whoever shows them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

Path = tuple[str, ...]
ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "ABSENT", "__bool__": lambda self: False})()


class FieldDiff(NamedTuple):
    """One field that differs: `old` or `new` is ABSENT where the field is not there."""

    path: Path
    old: Any
    new: Any

    @property
    def field(self) -> str:
        return ".".join(self.path) or "."

    def as_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"field": self.field}
        if self.old is not ABSENT:
            out["old"] = self.old
        if self.new is not ABSENT:
            out["new"] = self.new
        return out


def diff(before: Any, after: Any, path: Path = ()) -> tuple[FieldDiff, ...]:
    """Fields that differ between two JSON values; mappings are compared by key, everything else as a whole."""
    return tuple(_diff(before, after, path))


def _diff(before: Any, after: Any, path: Path) -> Iterator[FieldDiff]:
    if before is ABSENT or after is ABSENT or not (isinstance(before, Mapping) and isinstance(after, Mapping)):
        if before is ABSENT or after is ABSENT or before != after or type(before) is not type(after):
            yield FieldDiff(path, before, after)
        return
    for key in sorted({*before, *after}):
        old, new = before.get(key, ABSENT), after.get(key, ABSENT)
        if old is not new:
            yield from _diff(old, new, (*path, str(key)))


def flat(diffs: Iterable[FieldDiff]) -> tuple[FieldDiff, ...]:
    """For people: a mapping that appeared or went is told field by field. Not reversible any more."""
    return tuple(leaf for each in diffs for leaf in _leaves(each))


def _leaves(one: FieldDiff) -> Iterator[FieldDiff]:
    side = one.new if one.old is ABSENT else one.old
    if (one.old is ABSENT or one.new is ABSENT) and isinstance(side, Mapping) and side:
        for key in sorted(side):
            old = ABSENT if one.old is ABSENT else one.old[key]
            new = ABSENT if one.new is ABSENT else one.new[key]
            yield from _leaves(FieldDiff((*one.path, str(key)), old, new))
    else:
        yield one


def patched(value: Any, diffs: Iterable[FieldDiff]) -> Any:
    """`value` with the new side of every diff; `patched(after, reversed_(d))` gives `before` back."""
    root = {"": copy.deepcopy(value)}
    for one in diffs:
        spot: dict[str, Any] = root
        keys = ("", *one.path)
        for key in keys[:-1]:
            if not isinstance(spot.get(key), dict):
                spot[key] = {}
            spot = spot[key]
        if one.new is ABSENT:
            spot.pop(keys[-1], None)
        else:
            spot[keys[-1]] = copy.deepcopy(one.new)
    return root.get("")


def reversed_(diffs: Iterable[FieldDiff]) -> tuple[FieldDiff, ...]:
    """The way back."""
    return tuple(FieldDiff(one.path, one.new, one.old) for one in diffs)
