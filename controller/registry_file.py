"""registry.json as other tools of a fleet write and read it: its two forms as strict models, and reading a file of either.

flat        {"models": [{agent, model_id, version, deployed_at, evaluation_score, training_job_id}]}
per-agent   {agent: {current: {version, model, endpoint, deployed_at}, history: [{version, model, base_model, ...}]}}

Place in the flow: below everything. `app.py` reads a file with it and makes one event of what it says; the projection folds that
event; what the projection exports follows the same models. Versions are kept as they are written, `v2-finetuned` too.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, NoReturn

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, ValidationError

from controller.errors import InvalidState, Problem
from controller.model import Name

MOST_BYTES = 8 * 1024 * 1024
MOST_VERSIONS = 200
"""Of one agent: as many as the registry's history keeps."""
Form = Literal["flat", "per-agent"]


def _moment(text: str) -> str:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time; write ISO 8601, like 2025-12-09T10:00:00Z or 2025-12-09") from None
    return text


def _share(text: str) -> str:
    if not re.fullmatch(r"[+-]?\d+(\.\d+)?\s*%", text):
        raise ValueError(f"{text!r} is not a change in percent; write it like +12% or -3.5%")
    return text


Label = Annotated[str, Field(min_length=1, max_length=128)]
Words = Annotated[str, Field(min_length=1, max_length=2048)]
Moment = Annotated[str, AfterValidator(_moment)]
Change = Annotated[str, AfterValidator(_share)]


class _Part(BaseModel):
    """Strict: a number as text, an unknown field or a NaN is a mistake that somebody should see."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class FlatModel(_Part):
    agent: Name
    model_id: Annotated[str, Field(min_length=1, max_length=2048)]
    version: Label
    deployed_at: Moment | None = None
    evaluation_score: float | None = None
    training_job_id: Words | None = None


class Flat(_Part):
    models: list[FlatModel]


class EvalScores(_Part):
    """`accuracy` 0..1, milliseconds, USD per 1,000 tokens."""

    accuracy: float | None = None
    baseline_improvement: Change | None = None
    avg_latency_ms: float | None = None
    cost_per_1k: float | None = None


class Current(_Part):
    version: Label
    model: Words | None = None
    endpoint: Words | None = None
    deployed_at: Moment | None = None


class Version(_Part):
    """One of the history. `endpoint`, `deployed_at` and `commit` are what Turnout adds to the form."""

    version: Label
    model: Words | None = None
    base_model: Words | None = None
    training_method: Words | None = None
    training_dataset: Words | None = None
    eval_dataset: Words | None = None
    eval_scores: EvalScores | None = None
    trained_at: Moment | None = None
    hub_repo: Words | None = None
    deployment_status: Words | None = None
    endpoint: Words | None = None
    deployed_at: Moment | None = None
    commit: Words | None = None


class AgentModels(_Part):
    current: Current | None = None
    history: list[Version] = []


class PerAgent(RootModel[dict[Name, AgentModels]]):
    pass


Document = Flat | PerAgent


@dataclass(frozen=True, slots=True)
class RegistryFile:
    """What a file says. `digest` is the sha256 of its bytes."""

    form: Form
    document: Document
    digest: str

    @property
    def agents(self) -> dict[str, dict[str, Any]]:
        """By agent `{history: [...], current: {...}}` in the fields of the registry: what the event carries."""
        return _of_flat(self.document) if isinstance(self.document, Flat) else _of_agents(self.document)


def read(content: bytes, path: str) -> RegistryFile:
    """Either form. Raises InvalidState with every problem and its JSON path."""
    if len(content) > MOST_BYTES:
        raise InvalidState(
            [Problem(path, f"it has {len(content):,} bytes; allowed are {MOST_BYTES:,}")], "split it by agent and import the parts"
        )
    found = _parsed(content, path)
    form: Form = "flat" if isinstance(found, dict) and isinstance(found.get("models"), list) else "per-agent"
    try:
        document: Document = Flat.model_validate(found) if form == "flat" else PerAgent.model_validate(found)
    except ValidationError as error:
        raise InvalidState(_problems(error, path), _HINT) from None
    problems = list(_doubled(document, path))
    if problems:
        raise InvalidState(problems, "nothing was imported")
    return RegistryFile(form, document, hashlib.sha256(content).hexdigest())


_HINT = 'nothing was imported; the forms are {"models": [...]} and {agent: {current: {...}, history: [...]}}, see docs/registry.md'


def dump(document: Document | Mapping[str, Any]) -> bytes:
    """As a file: UTF-8, indented, a newline at the end."""
    plain = document.model_dump(mode="json") if isinstance(document, BaseModel) else document
    return (json.dumps(plain, ensure_ascii=False, indent=2) + "\n").encode()


# -- reading ---------------------------------------------------------------------------------------------------------


def _parsed(content: bytes, path: str) -> Any:
    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is not a number in JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice in one object")
        return out

    try:
        return json.loads(content, parse_constant=refuse, object_pairs_hook=unique, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 0
        told = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise InvalidState([Problem(path, f"it is not JSON: {told}", line)], _HINT) from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large a number")
    return value


def _problems(error: ValidationError, path: str) -> list[Problem]:
    out = []
    for each in error.errors(include_url=False):
        found = each["input"]
        shown = "" if isinstance(found, dict | list) else f", found {json.dumps(found, ensure_ascii=False, default=str)[:80]}"
        message = each["msg"].removeprefix("Value error, ")
        missing = each["type"] in ("missing", "value_error")
        out.append(Problem(path, message if missing else message + shown, field=_json_path(each["loc"])))
    return out


def _json_path(parts: Iterable[int | str]) -> str:
    """`$.models[3].deployed_at`"""
    out = "$"
    for part in parts:
        if isinstance(part, int):
            out += f"[{part}]"
        elif part == "[key]":
            out += " (key)"
        else:
            out += f".{part}" if re.fullmatch(r"\w+", part) else f"[{json.dumps(part)}]"
    return out


def _doubled(document: Document, path: str) -> Iterable[Problem]:
    """The same version of an agent twice, and more of them than are kept."""
    seen: dict[tuple[str, str, str], str] = {}
    counts: dict[str, int] = {}
    for agent, version, model, place in _places(document):
        first = seen.setdefault((agent, version, model), place)
        counts[agent] = counts.get(agent, 0) + 1
        if first != place:
            yield Problem(path, f"version {version!r} of {agent} is there twice, first at {first}", field=place)
    for agent, count in counts.items():
        if count > MOST_VERSIONS:
            yield Problem(path, f"{agent} has {count} versions; at most {MOST_VERSIONS} are kept, leave out the oldest")


def _places(document: Document) -> Iterable[tuple[str, str, str, str]]:
    if isinstance(document, Flat):
        for number, one in enumerate(document.models):
            yield one.agent, one.version, one.model_id, f"$.models[{number}]"
        return
    for agent, told in document.root.items():
        for number, each in enumerate(told.history):
            yield agent, each.version, each.model or "", _json_path((agent, "history", number))


# -- as the event has it ---------------------------------------------------------------------------------------------


def _of_flat(document: Flat) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for each in document.models:
        told = each.model_dump(exclude_none=True, exclude={"agent", "model_id"})
        out.setdefault(each.agent, {"history": []})["history"].append({**told, "model": each.model_id, "flat": True})
    for agent in out.values():
        newest = max(agent["history"], key=lambda told: told.get("deployed_at") or "")
        agent["current"] = {key: newest[key] for key in ("version", "model", "deployed_at") if key in newest}
    return out


def _of_agents(document: PerAgent) -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for agent, told in document.root.items():
        history = [each.model_dump(exclude_none=True) for each in told.history]
        current = told.current.model_dump(exclude_none=True) if told.current else None
        if current and not any(_same(each, current) for each in history):
            history.append({**current, "only_current": True})
        out[agent] = {"history": history, **({"current": current} if current else {})}
    return out


def _same(version: Mapping[str, Any], current: Mapping[str, Any]) -> bool:
    models = {version.get("model"), version.get("hub_repo")}
    return version["version"] == current["version"] and (current.get("model") is None or current["model"] in models)
