"""JSON Schemas for people's editors and other tools, generated from the models: one a kind, the environment, the event, the plan.

`schemas/` holds them; a test fails when they are stale.
"""

from __future__ import annotations

import json
from typing import Any

from controller.address import NAME
from controller.environment import EnvironmentFile
from controller.events import TYPES
from controller.kind import Kind
from controller.kinds import find
from controller.model import Spec
from controller.tree import Metadata

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def all_schemas() -> dict[str, dict[str, Any]]:
    """File name -> schema."""
    found = {f"{kind.name}.json": kind_schema(kind) for kind in find().values()}
    found["Environment.json"] = {"$schema": DIALECT, **_of(EnvironmentFile), "title": "Environment"}
    found["event.json"] = event_schema()
    found["plan.json"] = plan_schema()
    return found


def kind_schema(kind: Kind[Any, Any]) -> dict[str, Any]:
    """The whole file of a kind: envelope and spec. An overlay may leave fields out, so nothing below spec is required there."""
    spec = _of(kind.spec)
    definitions = {**spec.pop("$defs", {})}
    metadata = _of(Metadata)
    definitions.update(metadata.pop("$defs", {}))
    return {
        "$schema": DIALECT,
        "title": kind.name,
        "description": kind.summary,
        "type": "object",
        "additionalProperties": False,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": {
                "const": "turnout/v1",
                "title": "Version",
                "description": "Always turnout/v1.",
                "examples": ["turnout/v1"],
            },
            "kind": {"const": kind.name, "title": "Kind", "description": "What it is.", "examples": [kind.name]},
            "metadata": {**metadata, "title": "Metadata", "description": "Name and labels.", "examples": [{"name": "feature_dev"}]},
            "spec": {**spec, "title": "Spec", "description": kind.summary},
        },
        "$defs": definitions,
    }


def _of(model: type[Spec]) -> dict[str, Any]:
    tidy: dict[str, Any] = _tidy(model.model_json_schema(by_alias=True, mode="validation"))
    return tidy


def _tidy(schema: Any) -> Any:
    """Constants get no title of their own; pydantic's `default: null` says nothing."""
    if isinstance(schema, dict):
        for name, field in schema.get("properties", {}).items():
            if isinstance(field, dict):
                field.setdefault("title", name)  # pydantic leaves out a title that equals that of the model
        return {key: _tidy(value) for key, value in schema.items() if not (key == "default" and value is None)}
    if isinstance(schema, list):
        return [_tidy(value) for value in schema]
    return schema


def event_schema() -> dict[str, Any]:
    """CloudEvents 1.0 with Turnout's extensions. Unknown types are allowed: readers keep them."""
    text = {"type": "string"}
    return {
        "$schema": DIALECT,
        "title": "Event",
        "description": "One line of a segment of the event log: CloudEvents 1.0 in JSON with Turnout's extensions.",
        "type": "object",
        "required": ["specversion", "id", "source", "type", "time", "sequence"],
        "properties": {
            "specversion": {"const": "1.0"},
            "id": {**text, "description": "UUID version 7."},
            "source": {**text, "description": "turnout/<environment>/<controller>"},
            "type": {**text, "description": "Past tense and versioned.", "examples": [kind.full for kind in TYPES]},
            "subject": {**text, "description": "Address of the resource, or a path."},
            "time": {"type": "string", "format": "date-time", "description": "For display; `sequence` is order."},
            "sequence": {"type": "integer", "minimum": 1, "description": "Contiguous."},
            "causationid": {**text, "description": "The event that caused this one."},
            "correlationid": {**text, "description": "Shared by all events of one pass."},
            "statecommit": {**text, "description": "Commit of the desired state."},
            "actor": {**text, "description": "Who acted."},
            "epoch": {"type": "integer", "description": "Tenure of the lease."},
            "reportedlate": {"type": "boolean", "description": "Appended after the fact."},
            "data": {"type": "object", "description": "By type; see docs/events.md."},
        },
        "$defs": {
            kind.full: {
                "description": kind.doc,
                "type": "object",
                "properties": {name: {"description": meaning} for name, meaning in kind.fields.items()},
            }
            for kind in TYPES
        },
    }


def plan_schema() -> dict[str, Any]:
    """What `turnout plan --json` prints."""
    wait = {
        "type": "object",
        "required": ["code", "on", "reason"],
        "properties": {"code": {"type": "string"}, "on": {"type": "string"}, "reason": {"type": "string"}},
    }
    change = {
        "type": "object",
        "required": ["address", "action", "reason"],
        "properties": {
            "address": {"type": "string", "pattern": "^[A-Za-z]+/" + NAME.pattern.lstrip("^")},
            "action": {"enum": ["create", "update", "replace", "delete", "run", "step", "noop"]},
            "reason": {"type": "string", "description": "For people; never decides."},
            "before": {"type": ["object", "null"]},
            "after": {"type": ["object", "null"]},
            "diff": {"type": "array", "items": {"type": "object", "required": ["field"]}},
            "cost": {"type": "object", "properties": {"usd": {"type": "number"}, "ceiling": {"type": "number"}}},
            "irreversible": {"type": "string", "description": "Why a revert will not undo it; empty = reversible."},
            "risk": {"type": "string"},
            "waits": {"type": "array", "items": wait},
            "conditions": {"type": "array", "items": wait, "description": "Worth knowing; they hold nothing up."},
            "edits": {"type": "object", "description": "Desired state to write; null removes the file."},
            "digest": {"type": "string", "description": "What an approval names."},
        },
    }
    return {
        "$schema": DIALECT,
        "title": "Plan",
        "description": "What `turnout plan --json` prints.",
        "type": "object",
        "required": ["environment", "commit", "digest", "changes", "summary"],
        "properties": {
            "environment": {"type": "string"},
            "commit": {"type": "string"},
            "digest": {"type": "string", "description": "Of the set of changes."},
            "summary": {"type": "object", "description": "Number of changes by action."},
            "kept": {"type": "integer", "description": "Resources that are unchanged and were not planned again."},
            "problems": {"type": "array", "items": {"type": "object"}},
            "changes": {"type": "array", "items": {"$ref": "#/$defs/change"}},
        },
        "$defs": {"change": change},
    }


def plan_as_json(plan: Any) -> dict[str, Any]:
    """A Plan as plan.json describes it."""
    return {
        "environment": plan.environment,
        "commit": plan.commit,
        "digest": plan.digest,
        "summary": plan.counts(),
        "kept": plan.kept,
        "problems": [
            {"path": p.path, "line": p.line, "field": p.field, "message": p.message, "code": p.code} for p in plan.problems
        ],
        "changes": [
            {
                "address": str(change.address),
                "action": change.action.value,
                "reason": change.reason,
                "before": change.before,
                "after": change.after,
                "diff": [each.as_json() for each in change.diffs],
                "cost": {"usd": change.cost.usd, "ceiling": change.cost.ceiling},
                "irreversible": change.irreversible,
                "risk": change.risk,
                "digest": change.digest,
                "waits": [{"code": wait.code, "on": str(wait.on), "reason": wait.reason} for wait in change.waits],
                "conditions": [{"code": each.code, "on": str(each.on), "reason": each.reason} for each in change.conditions],
                "edits": {str(address): fields for address, fields in change.edits.items()},
            }
            for change in plan.changes
        ],
    }


def text_of(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
