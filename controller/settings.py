"""environments/<environment>/*.yaml of a commit -> Settings. Fails fast and names every missing or wrong key at once.

Only the repository, the name of the environment and the values behind secret references come from the process; everything
else is in git, is planned and diffed like any other file, and enters planning as `refs.environment`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from controller.document import Document, DocumentError, parse
from controller.environment import EnvironmentFile, EnvironmentSpec, wrong_fallbacks
from controller.errors import Problem, SettingsError, listed, nearest
from controller.model import Spec
from controller.resource import digest

_SECRET = re.compile(r"(?i)(secret|token|password|api_?key|credential|^keys$)")
"""Fields whose wrong value may be the secret itself."""


@dataclass(frozen=True)
class Settings:
    """One environment at one commit, and where this process keeps its data."""

    environment: str
    spec: EnvironmentSpec
    data: Path

    @cached_property
    def as_refs(self) -> dict[str, Any]:
        """What planning sees: plain, without anything of this process."""
        return {"name": self.environment, **self.spec.full()}

    @cached_property
    def digest(self) -> str:
        return digest(self.as_refs)


def load(environment: str, files: Mapping[str, bytes], data: Path, known: tuple[str, ...] = ()) -> Settings:
    """Merges the files of environments/<environment>/ (path -> content). Raises SettingsError with every problem."""
    folder = f"environments/{environment}"
    main = f"{folder}/environment.yaml"
    if main not in files:
        hint = f"environments here: {listed(known)}{nearest(environment, known)}; `turnout init` makes one"
        raise SettingsError([Problem(main, "is missing", code="Missing")], hint)
    problems: list[Problem] = []
    merged: dict[str, Any] = {}
    documents: dict[str, Document] = {}
    for path in sorted(files):
        document = _document(path, files[path], problems)
        if document is None:
            continue
        documents[path] = document
        part = _validated(environment, path, document, problems)
        for key, value in part.items():
            if isinstance(value, dict) and isinstance(merged.get(key), dict):
                merged[key] = {**merged[key], **value}
            elif key in merged:
                problems.append(Problem(path, "is set in another file of this folder already", field=f"spec.{key}"))
            else:
                merged[key] = value
    if problems:
        raise SettingsError(problems)
    spec = EnvironmentSpec.model_validate(merged, strict=False)
    if problems := _fallback_problems(spec, documents, main):
        raise SettingsError(problems)
    return Settings(environment, spec, data)


def _fallback_problems(spec: EnvironmentSpec, documents: Mapping[str, Document], main: str) -> list[Problem]:
    """An endpoint may fall back to one of another file of the folder, so this is seen when they are together."""
    out = []
    for name, wrong in wrong_fallbacks(spec.endpoints):
        place = ("spec", "endpoints", name, "fallback")
        path = next((path for path, each in documents.items() if place in each.lines), main)
        line = line_of(documents[path], place) if path in documents else 0
        out.append(Problem(path, wrong, line, ".".join(place)))
    return out


def _document(path: str, content: bytes, problems: list[Problem]) -> Document | None:
    try:
        return parse(content)
    except DocumentError as error:
        problems.append(Problem(path, error.message, error.line))
        return None


def _validated(environment: str, path: str, document: Document, problems: list[Problem]) -> dict[str, Any]:
    found: EnvironmentFile | None
    try:
        found = EnvironmentFile.model_validate(document.data)
    except ValidationError as error:
        problems.extend(spec_problems(path, document, error, EnvironmentFile))
        found = None
    data = document.data if isinstance(document.data, dict) else {}
    metadata = data.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if isinstance(name, str) and name != environment:
        line = document.lines.get(("metadata", "name"), 0)
        problems.append(Problem(path, f"is {name!r}, the folder says {environment!r}", line, "metadata.name"))
    return found.spec.written() if found else {}


def spec_problems(
    path: str, document: Document, error: ValidationError, model: type[Spec], prefix: tuple[str, ...] = ()
) -> list[Problem]:
    """pydantic's errors as Problems with line, what was found, what is allowed and the nearest name."""
    out = []
    for each in error.errors(include_url=False):
        loc = tuple(part for part in each["loc"] if not (isinstance(part, str) and "[" in part))
        place = (*prefix, *loc)
        out.append(Problem(path, _message(each, model, loc), line_of(document, place), ".".join(map(str, place))))
    return out


def line_of(document: Document, place: tuple[str | int, ...]) -> int:
    """Line of the nearest thing that is really there."""
    for size in range(len(place), -1, -1):
        if place[:size] in document.lines:
            return document.lines[place[:size]]
    return 1


def _message(each: Any, model: type[Spec], loc: tuple[Any, ...]) -> str:
    if each["type"] == "extra_forbidden":
        allowed = _fields_at(model, loc[:-1])
        return f"unknown field{nearest(str(loc[-1]), allowed)}; allowed: {listed(allowed, 20)}"
    if each["type"] == "missing":
        return "is required"
    found = each.get("input")
    shown = f", found {found!r}" if isinstance(found, str | int | float | bool) or found is None else ""
    if isinstance(found, str) and any(_SECRET.search(str(part)) for part in loc):
        shown = ", found something else (hidden: it may be a secret)"
    hint = nearest(found, _literals(each["ctx"]["expected"])) if each["type"] == "literal_error" and isinstance(found, str) else ""
    return f"{str(each['msg']).removeprefix('Value error, ')}{shown if 'Value error' not in each['msg'] else ''}{hint}"


def _literals(expected: str) -> list[str]:
    """`'least_load', 'round_robin' or 'least_latency'`, as pydantic writes it."""
    return re.findall(r"'([^']*)'", expected)


def _fields_at(model: Any, loc: tuple[Any, ...]) -> list[str]:
    """Names that may stand where an unknown one was found, through nested models, lists and maps."""
    current: list[Any] = [model]
    for part in loc:
        nxt: list[Any] = []
        for each in current:
            for name, field in getattr(each, "model_fields", {}).items():
                if part in (name, field.alias):
                    nxt.extend(_models_in(field.annotation))
        current = nxt or current
    return [field.alias or name for each in current for name, field in getattr(each, "model_fields", {}).items()]


def _models_in(annotation: Any) -> list[Any]:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    return [found for inner in getattr(annotation, "__args__", ()) for found in _models_in(inner)]
