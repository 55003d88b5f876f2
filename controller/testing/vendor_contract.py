"""Holds what a double was asked and what it answered against the vendor's published OpenAPI description.

The double validates by itself; this proves that both it and the client keep to what the vendor wrote down. Needs jsonschema.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from .vendor_double import Seen
from .vendor_http import Asked


class Published:
    """One description. `prefixes` are tried before a path: the vendor's SDK may leave them out."""

    def __init__(self, path: Path, prefixes: tuple[str, ...] = ("",)) -> None:
        from jsonschema import Draft202012Validator, FormatChecker

        self._document = json.loads(path.read_text())
        self._prefixes = prefixes
        self._validator = Draft202012Validator
        self._formats = FormatChecker()
        self._formats.checks("date-time", raises=ValueError)(_is_moment)

    def problems(self, seen: Iterable[Seen]) -> list[str]:
        """Everything that does not fit; requests that a fault hit are judged by their request alone."""
        return [f"{one.asked.method} {one.asked.path}: {problem}" for one in seen for problem in self._of(one)]

    def _of(self, seen: Seen) -> list[str]:
        operation = self._operation(seen.asked)
        if operation is None:
            return ["is not in the published description"]
        # A request that was refused as wrong is wrong; that its answer keeps to the description is still to be seen.
        found = [] if seen.status in (400, 413, 415, 422) else self._query(operation, seen.asked) + self._body(operation, seen)
        return found if seen.fault else found + self._answer(operation, seen)

    def _operation(self, asked: Asked) -> dict[str, Any] | None:
        for prefix in self._prefixes:
            for path, methods in self._document["paths"].items():
                pattern = re.sub(r"\\\{[^/]+?\\\}", "[^/]+", re.escape(path))
                if asked.method.lower() in methods and re.fullmatch(pattern, prefix + asked.path):
                    operation: dict[str, Any] = methods[asked.method.lower()]
                    return operation
        return None

    def _query(self, operation: dict[str, Any], asked: Asked) -> list[str]:
        known = {one["name"]: one for one in operation.get("parameters", ()) if one["in"] == "query"}
        found = [f"parameter {name} is missing" for name, one in known.items() if one.get("required") and name not in asked.query]
        for name, values in asked.query.items():
            if name not in known:
                found.append(f"parameter {name} is not known")
            elif not any(self._fits(known[name]["schema"], value) for value in _readings(values)):
                found.append(f"parameter {name} may not be {values}")
        return found

    def _body(self, operation: dict[str, Any], seen: Seen) -> list[str]:
        content = operation.get("requestBody", {}).get("content", {})
        kind = seen.asked.headers.get("content-type", "").partition(";")[0]
        if not seen.asked.body:
            return []
        if kind not in content:
            return [f"a body of type {kind!r}; known are {sorted(content)}"]
        return self._faults("body", content[kind]["schema"], json.loads(seen.asked.body)) if kind == "application/json" else []

    def _answer(self, operation: dict[str, Any], seen: Seen) -> list[str]:
        published = operation["responses"].get(str(seen.status))
        if published is None:
            # FastAPI's descriptions name only 200 and 422; refusals of every route (401, 404, 409) stand nowhere.
            return [] if seen.status in (400, 401, 404, 409) else [f"answer {seen.status} is not known"]
        schema = published.get("content", {}).get("application/json", {}).get("schema")
        return self._faults("answer", schema, seen.content) if schema is not None and seen.content is not None else []

    def events(self, path: str, method: str, events: Iterable[Any]) -> list[str]:
        """Problems of the events of a stream, by the schema of the operation's `text/event-stream`."""
        operation = self._document["paths"][path][method]
        schema = operation["responses"]["200"]["content"]["text/event-stream"]["schema"]
        return [problem for event in events for problem in self._faults("event", schema, {"data": event})]

    def _fits(self, schema: Any, value: Any) -> bool:
        return not self._faults("", schema, value)

    def _faults(self, what: str, schema: Any, value: Any) -> list[str]:
        whole = {**schema, "components": self._document["components"]}
        errors = self._validator(whole, format_checker=self._formats).iter_errors(value)
        return [f"{what} {one.json_path}: {one.message[:300]}" for one in errors]


def _readings(values: list[str]) -> list[Any]:
    """What the text of a parameter can mean: a list, a text, a number, a truth value."""
    found: list[Any] = [values, values[-1]]
    if values[-1].lower() in ("true", "false"):
        found.append(values[-1].lower() == "true")
    with contextlib.suppress(ValueError):
        found.append(json.loads(values[-1]))
    return found


def _is_moment(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value) is not None
