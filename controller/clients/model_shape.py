"""Structured answers: a pydantic model as the json_schema that is asked for, and an answer's text as that model again."""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError

from controller.clients.model_records import T

_FENCE = re.compile(r"^\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*$", re.DOTALL)
_LOOSE = ("title", "default", "examples")


def response_format(shape: type[T]) -> dict[str, Any]:
    """In the strict form: every field is required and no other is allowed."""
    name = re.sub(r"[^A-Za-z0-9_-]", "_", shape.__name__)[:64]
    return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": _strict(shape.model_json_schema())}}


def _strict(schema: Any, names: bool = False) -> Any:
    """`names`: the keys of this object are fields or definitions, whatever they are called."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if names:
        return {key: _strict(value) for key, value in schema.items()}
    made = {key: _strict(value, key in ("properties", "$defs")) for key, value in schema.items() if key not in _LOOSE}
    if made.get("type") == "object" and "properties" in made:
        made |= {"additionalProperties": False, "required": list(made["properties"])}
    return made


def read(text: str, shape: type[T]) -> tuple[T | None, str]:
    """The value, or what is wrong with it, for the model to read. A fence around the JSON is passed over."""
    fenced = _FENCE.match(text)
    try:
        return shape.model_validate_json(fenced[1] if fenced else text), ""
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return None, "; ".join(f"{'.'.join(map(str, one['loc'])) or 'the whole'}: {one['msg']}" for one in found)[:1000]
