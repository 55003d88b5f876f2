"""How runs come into LangSmith's double: multipart (zstd, gzip or plain), batches and single runs, by the vendor's rules.

Within one request all is taken or nothing. A payload that was received already counts once: a request that brings nothing new
is answered 409, and in a mixed one the known part is ignored, also where its content differs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..vendor_double import Route
from ..vendor_http import Answer, Asked, Refused
from . import bodies, sessions
from .bodies import body, text, uuid_of
from .feedback import record
from .multipart import Part, bad, parts

if TYPE_CHECKING:
    from .api import LangSmithApi

FIELDS = ("inputs", "outputs", "events", "error", "extra", "serialized")
"""What may come as a part of its own."""

LONGEST_NAME = 128
"""Of a run, as the vendor's refusals said it."""

_SEGMENT = re.compile(r"(\d{8}T\d{6}\d{6}Z)([0-9a-f-]{36})")


@dataclass(frozen=True)
class Operation:
    """One `post` or `patch` of a run."""

    verb: str
    run: bodies.RunBody
    given: frozenset[str]


def checked(verb: str, value: dict[str, Any]) -> Operation:
    """Raises Refused: 422 for a wrong form, 400 for a run that does not say where in its trace it stands."""
    run = body(bodies.RunBody, value)
    places = [_segment(part) for part in run.dotted_order.split(".")]
    ids = [run_id for _, run_id in places]
    if ids[-1] != str(run.id):
        raise bad(f"dotted_order must end with the id of run {run.id}")
    if ids[0] != str(run.trace_id):
        raise bad(f"trace_id {run.trace_id} must be the first id of dotted_order")
    moments = [moment for moment, _ in places]
    if moments != sorted(moments):  # langchain-ai/langsmith-sdk issue 2236
        raise bad(f"dotted_order of run {run.id} has a timestamp earlier than parent timestamp")
    if verb == "post":
        parent = ids[-2] if len(ids) > 1 else None
        if (str(run.parent_run_id) if run.parent_run_id else None) != parent:
            raise bad(f"parent_run_id must be the id before the last in dotted_order, {parent}")
        if run.name is not None and len(run.name) > LONGEST_NAME:
            raise bad(f"the name of run {run.id} is longer than {LONGEST_NAME} characters", 422)
        missing = [name for name in ("name", "run_type", "start_time") if getattr(run, name) is None]
        if missing:
            raise bad(f"run {run.id} lacks {', '.join(missing)}", 422)
    return Operation(verb, run, frozenset(value))


def _segment(part: str) -> tuple[str, str]:
    """Time (which sorts as text) and id. Raises Refused (400)."""
    found = _SEGMENT.fullmatch(part)
    if not found:
        raise bad(f"dotted_order has the part {part!r}; each is a time (%Y%m%dT%H%M%S%fZ) and a run's id")
    return found[1], found[2]


def _keep(api: LangSmithApi, operations: list[Operation], feedback: list[bodies.FeedbackCreate]) -> Answer:
    fresh = [one for one in operations if api.tables.get("received", _payload(one)) is None]
    if operations and not fresh and not feedback:
        raise Refused(Answer(409, {"error": "Conflict: payloads already received"}))
    for one in fresh:
        _apply(api, one)
        api.tables.put("received", _payload(one), {})
    for given in feedback:
        record(api, given)
    return Answer(202, {"message": "Runs batch ingested"})


def _payload(one: Operation) -> str:
    return f"{one.verb} {one.run.id}"


def _apply(api: LangSmithApi, one: Operation) -> None:
    run_id = str(one.run.id)
    before = api.tables.get("runs", run_id) or _empty(run_id)
    values = one.run.model_dump(mode="json", include=set(one.given), exclude={"session_name", "id"})
    for name in ("start_time", "end_time"):
        if isinstance(moment := getattr(one.run, name), datetime):
            values[name] = text(moment)
    new = {name: value for name, value in values.items() if value is not None}
    session_id = before["session_id"] or _session_of(api, one.run)
    run = {**before, **new, "session_id": session_id}
    status = "error" if run["error"] is not None else "success" if run["end_time"] else "pending"
    api.tables.put("runs", run_id, {**run, "status": status, **_usage(run)})


def _session_of(api: LangSmithApi, run: bodies.RunBody) -> str:
    """A project that is not there is made by its first run; an id must be known."""
    if run.session_id is not None:
        return str(sessions.find(api, str(run.session_id))["id"])
    name = run.session_name or "default"
    found = sessions.named(api, name) or sessions.make(api, bodies.SessionCreate(name=name))
    return str(found["id"])


def _usage(run: dict[str, Any]) -> dict[str, Any]:
    """Tokens and cost as the vendor reads them from `extra.metadata.usage_metadata`."""
    usage = ((run["extra"] or {}).get("metadata") or {}).get("usage_metadata") or {}
    cost = usage.get("total_cost")
    return {
        "prompt_tokens": int(usage.get("input_tokens") or 0),
        "completion_tokens": int(usage.get("output_tokens") or 0),
        "total_tokens": int(usage.get("total_tokens") or 0),
        "total_cost": None if cost is None else str(cost),
    }


def _empty(run_id: str) -> dict[str, Any]:
    none = ("name", "run_type", "start_time", "end_time", "inputs", "outputs", "error", "extra", "serialized", "events")
    refs = ("tags", "parent_run_id", "reference_example_id", "session_id", "trace_id", "dotted_order")
    return {"id": run_id, **dict.fromkeys((*none, *refs))}


def _multipart(api: LangSmithApi, asked: Asked) -> Answer:
    runs: dict[tuple[str, str], dict[str, Any]] = {}
    feedback: list[bodies.FeedbackCreate] = []
    for part in parts(asked, lengths=True, largest=api.largest):
        event, _, rest = part.name.partition(".")
        if event in ("post", "patch"):
            _gather(runs, event, rest, part)
        elif event == "feedback":
            value = part.json()
            if not isinstance(value, dict) or not value.get("trace_id"):
                raise bad(f"part {part.name!r} is feedback without a trace_id", 422)
            feedback.append(body(bodies.FeedbackCreate, value))
        elif event != "attachment":
            raise bad(f"part {part.name!r} is none of post, patch, feedback, attachment", 422)
    return _keep(api, [checked(verb, value) for (verb, _), value in runs.items()], feedback)


def _gather(runs: dict[tuple[str, str], dict[str, Any]], verb: str, rest: str, part: Part) -> None:
    run_id, _, field = rest.partition(".")
    key = (verb, uuid_of(run_id, "run_id"))
    if not field:
        value = part.json()
        if not isinstance(value, dict) or str(value.get("id")) != key[1]:
            raise bad(f"part {part.name!r} is not the object of run {key[1]}", 422)
        runs[key] = value
        return
    if field not in FIELDS:
        raise bad(f"part {part.name!r}: {field!r} is none of {', '.join(FIELDS)}", 422)
    if key not in runs:
        raise bad(f"part {part.name!r} comes before the run that it belongs to", 422)
    runs[key][field] = part.json()


def _batch(api: LangSmithApi, asked: Asked) -> Answer:
    value = asked.json()
    if not isinstance(value, dict) or not (value.get("post") or value.get("patch")):
        raise bad("the body has neither post nor patch", 422)
    return _keep(api, [checked(verb, one) for verb in ("post", "patch") for one in value.get(verb) or ()], [])


def _post(api: LangSmithApi, asked: Asked) -> Answer:
    return _keep(api, [checked("post", _in_trace(asked.json()))], [])


def _patch(api: LangSmithApi, asked: Asked, run_id: str) -> Answer:
    known = api.tables.get("runs", uuid_of(run_id, "run_id"))
    if known is None:
        raise bodies.not_found("Run")
    place = {name: known[name] for name in ("trace_id", "dotted_order")}
    return _keep(api, [checked("patch", {**place, **asked.json(), "id": known["id"]})], [])


def _in_trace(value: Any) -> Any:
    """A single run may leave out its place: it is then a trace of its own."""
    if isinstance(value, dict) and not value.get("dotted_order") and isinstance(value.get("start_time"), str):
        start = datetime.fromisoformat(value["start_time"]).strftime("%Y%m%dT%H%M%S%fZ")
        return {**value, "trace_id": value.get("id"), "dotted_order": f"{start}{value.get('id')}"}
    return value


ROUTES = (
    Route("POST", "/runs/multipart", _multipart),
    Route("POST", "/runs/batch", _batch),
    Route("POST", "/runs", _post),
    Route("PATCH", "/runs/{run_id}", _patch),
)
