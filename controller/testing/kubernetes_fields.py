"""Who owns which field of a Kubernetes object: field sets, server-side apply and what an update takes over. Pure.

The arithmetic under `kubernetes_api.py`. A schema is a small dialect of OpenAPI: `properties` make a struct, `values` a map of
anything, `items` a list; a list is `atomic` unless `list` says `set` or `map` (with `keys`). A path is a tuple of elements as
FieldsV1 writes them: `f:name`, `k:{"name":"c"}`, `v:"x"`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

Schema = Mapping[str, Any]
Path = tuple[str, ...]
Fields = frozenset[Path]

LEAF = object()
SYSTEM = frozenset(
    (
        "name",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "selfLink",
    )
)
"""Of metadata: what nobody owns."""


class Undeclared(Exception):
    """A field that the schema does not have, as a dotted path."""


@dataclass(frozen=True)
class Manager:
    """One entry of managedFields."""

    name: str
    operation: str
    version: str
    time: str
    fields: Fields
    subresource: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.name, self.operation, self.version, self.subresource


@dataclass(frozen=True)
class Conflict:
    """A field that another manager owns and that an apply would change."""

    manager: Manager
    path: Path

    @property
    def who(self) -> str:
        using = "" if self.manager.operation == "Apply" else f" using {self.manager.version}"
        return f'conflict with "{self.manager.name}"{using}'


# -- FieldsV1 --------------------------------------------------------------------------------------------------------


def written(fields: Fields) -> dict[str, Any]:
    """A set as FieldsV1."""
    out: dict[str, Any] = {}
    for path in sorted(fields):
        node = out
        for element in path:
            node = node.setdefault(element, {})
        if any(other[: len(path)] == path and other != path for other in fields):
            node["."] = {}
    return _sorted(out)


def _sorted(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _sorted(node[key]) for key in sorted(node)}


def dotted(path: Path) -> str:
    """As the server writes it in messages: `.data.a`, `.spec.containers[name="c"]`."""
    out = ""
    for element in path:
        if element.startswith("f:"):
            out += f".{element[2:]}"
        elif element.startswith("k:"):
            out += "[" + ",".join(f"{key}={json.dumps(value)}" for key, value in json.loads(element[2:]).items()) + "]"
        else:
            out += f"[={element[2:]}]" if element.startswith("v:") else element
    return out


# -- walking ---------------------------------------------------------------------------------------------------------


def declared(value: Any, schema: Schema, path: Path = ()) -> None:
    """Raises Undeclared for the first field that the schema does not have."""
    for element, child, inner in _children(value, schema, into_atomic=True):
        if inner is None:
            raise Undeclared(dotted((*path, element)))
        declared(child, inner, (*path, element))


def known(value: Any, schema: Schema, at: str = "") -> tuple[Any, list[str]]:
    """The value without undeclared fields, and where those were (`spec.zz`)."""
    unknown: list[str] = []
    if isinstance(value, Mapping) and "properties" in schema:
        out = {}
        for key, child in value.items():
            place = f"{at}.{key}" if at else key
            if key not in schema["properties"]:
                unknown.append(place)
                continue
            out[key], more = known(child, schema["properties"][key], place)
            unknown += more
        return out, unknown
    if isinstance(value, Mapping) and "values" in schema:
        found = {key: known(child, schema["values"], f"{at}.{key}") for key, child in value.items()}
        return {key: each[0] for key, each in found.items()}, [text for each in found.values() for text in each[1]]
    if isinstance(value, list) and "items" in schema:
        items = [known(child, schema["items"], f"{at}[{i}]") for i, child in enumerate(value)]
        return [each[0] for each in items], [text for each in items for text in each[1]]
    return value, unknown


def _children(value: Any, schema: Schema, *, into_atomic: bool = False) -> Iterator[tuple[str, Any, Schema | None]]:
    """(element, child, schema of it; None = undeclared). Atomic values have none unless they are asked into."""
    if isinstance(value, Mapping) and not (schema.get("atomic") and not into_atomic):
        for key, child in value.items():
            if "properties" in schema:
                yield f"f:{key}", child, schema["properties"].get(key)
            elif "values" in schema:
                yield f"f:{key}", child, schema["values"]
    if isinstance(value, list) and "items" in schema and (into_atomic or schema.get("list") in ("set", "map")):
        for i, child in enumerate(value):
            yield (_item(child, schema) if schema.get("list") else f"[{i}]"), child, schema["items"]


def _item(child: Any, schema: Schema) -> str:
    if schema["list"] == "set":
        return "v:" + json.dumps(child, separators=(",", ":"))
    keys = {key: child[key] for key in sorted(schema["keys"]) if key in child}
    return "k:" + json.dumps(keys, separators=(",", ":"))


def applied(value: Any, schema: Schema, path: Path = ()) -> Iterator[Path]:
    """The set that an apply of this value claims: leaves, empty maps, list items, and whole atomic values."""
    children = list(_children(value, schema))
    if not children and path not in ((), ("f:metadata",)):
        yield path
    for element, child, inner in children:
        here = (*path, element)
        if here == ("f:apiVersion",) or here == ("f:kind",) or (path == ("f:metadata",) and element[2:] in SYSTEM):
            continue
        if element[:2] in ("k:", "v:"):
            yield here
        yield from applied(child, inner or {}, here)


def _everything(value: Any, schema: Schema, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every path with its value; of what has children LEAF in its place."""
    children = list(_children(value, schema))
    if path:
        yield path, LEAF if children or value == {} else value
    for element, child, inner in children:
        here = (*path, element)
        if not (len(here) == 1 and element in ("f:apiVersion", "f:kind")) and not (
            path == ("f:metadata",) and element[2:] in SYSTEM
        ):
            yield from _everything(child, inner or {}, here)


def changes(old: Any, new: Any, schema: Schema) -> tuple[Fields, Fields]:
    """(added or modified, removed) from one object to another."""
    before, after = dict(_everything(old, schema)), dict(_everything(new, schema))
    changed = {path for path, value in after.items() if path not in before or before[path] != value}
    return frozenset(changed), frozenset(set(before) - set(after))


# -- the two ways to write -------------------------------------------------------------------------------------------


def update(managers: Iterable[Manager], who: Manager, old: Any, new: Any, schema: Schema) -> list[Manager]:
    """After a write that was no apply: what it changed is its own now, and nobody's any more what it removed."""
    changed, removed = changes(old, new, schema)
    out = [replace(each, fields=each.fields - removed - (changed if each.key != who.key else frozenset())) for each in managers]
    mine = next((each for each in out if each.key == who.key), None)
    if changed or removed:
        others = [each for each in out if each.key != who.key]
        out = [*others, replace(who, fields=(mine.fields if mine else frozenset()) | changed)]
    return ordered(out)


def apply(
    managers: Iterable[Manager], who: Manager, live: Any, config: Any, schema: Schema, *, force: bool
) -> tuple[Any, list[Manager], list[Conflict]]:
    """(merged object, managers, conflicts). With conflicts and without force nothing else of it counts."""
    there = list(managers)
    claimed = frozenset(applied(config, schema))
    merged = merge(live, config, schema)
    changed, _ = changes(live, merged, schema)
    others = [each for each in there if each.key != who.key]
    conflicts = [Conflict(each, path) for each in others for path in sorted(each.fields & changed & claimed)]
    if conflicts and not force:
        return live, there, conflicts
    taken = {(conflict.manager.key, conflict.path) for conflict in conflicts}
    others = [replace(each, fields=frozenset(p for p in each.fields if (each.key, p) not in taken)) for each in others]
    before = next((each for each in there if each.key == who.key), None)
    kept = frozenset(path for each in others for path in each.fields) | claimed
    for path in sorted((before.fields if before else frozenset()) - kept, key=len, reverse=True):
        if not any(other[: len(path)] == path for other in kept):
            merged = _without(merged, path, schema)
    same = before is not None and before.fields == claimed and merged == live and not conflicts
    mine = before if same and before else replace(who, fields=claimed)
    return merged, ordered([*others, mine]), []


def ordered(managers: Iterable[Manager]) -> list[Manager]:
    """As the server lists them; who owns nothing is forgotten."""
    return sorted(
        (each for each in managers if each.fields), key=lambda each: (each.operation, each.time, each.name, each.subresource)
    )


def merge(live: Any, config: Any, schema: Schema) -> Any:
    """`config` over `live`: structs and maps by key, lists as their kind says."""
    if isinstance(live, Mapping) and isinstance(config, Mapping) and not schema.get("atomic"):
        inner: Callable[[str], Schema] = lambda key: schema.get("properties", {}).get(key) or schema.get("values") or {}  # noqa: E731
        both = {**live, **{key: merge(live.get(key), value, inner(key)) for key, value in config.items()}}
        return {key: value for key, value in both.items() if value is not None}
    if isinstance(live, list) and isinstance(config, list) and schema.get("list") in ("set", "map"):
        found = {_item(child, schema): child for child in live}
        for child in config:
            name = _item(child, schema)
            found[name] = merge(found.get(name), child, schema["items"])
        return list(found.values())
    return copy.deepcopy(config)


def _without(value: Any, path: Path, schema: Schema) -> Any:
    """The value without what is at this path."""
    head, rest = path[0], path[1:]
    if isinstance(value, Mapping):
        key = head[2:]
        if key not in value:
            return value
        if not rest:
            return {name: child for name, child in value.items() if name != key}
        inner = schema.get("properties", {}).get(key) or schema.get("values") or {}
        return {**value, key: _without(value[key], rest, inner)}
    if isinstance(value, list) and schema.get("list"):
        if not rest:
            return [child for child in value if _item(child, schema) != head]
        return [_without(child, rest, schema["items"]) if _item(child, schema) == head else child for child in value]
    return value
