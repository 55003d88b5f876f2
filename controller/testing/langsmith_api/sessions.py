"""Projects (the vendor's API says sessions) and experiments of LangSmith's double, and comparisons between experiments."""

from __future__ import annotations

import math
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING, Any

from ..vendor_double import Route
from ..vendor_http import Answer, Asked, Refused
from . import bodies, datasets
from .bodies import body, conflict, not_found, query, text, uuid_of
from .identity import TENANT

if TYPE_CHECKING:
    from .api import LangSmithApi


def find(api: LangSmithApi, session_id: str) -> dict[str, Any]:
    """Raises Refused (404, 422)."""
    found = api.tables.get("sessions", uuid_of(session_id, "session_id"))
    if found is None:
        raise not_found("Session")
    return found


def named(api: LangSmithApi, name: str) -> dict[str, Any] | None:
    return next((one for one in api.tables.all("sessions") if one["name"] == name), None)


def make(api: LangSmithApi, given: bodies.SessionCreate) -> dict[str, Any]:
    """Raises Refused when the dataset is not there or the id is taken."""
    dataset_id = datasets.find(api, str(given.reference_dataset_id))["id"] if given.reference_dataset_id else None
    session_id = str(given.id or api.identify("session", given.name))
    if api.tables.get("sessions", session_id):
        raise conflict("Session with this id already exists.")
    session = {
        "id": session_id,
        "tenant_id": TENANT,
        "name": given.name,
        "start_time": text(given.start_time) or api.stamp(),
        "end_time": text(given.end_time),
        "description": given.description,
        "extra": given.extra,
        "default_dataset_id": str(given.default_dataset_id) if given.default_dataset_id else None,
        "reference_dataset_id": dataset_id,
        "trace_tier": given.trace_tier or "longlived",
        "last_run_start_time_live": None,
    }
    api.tables.put("sessions", session_id, session)
    return session


def _create(api: LangSmithApi, asked: Asked) -> Answer:
    given, upsert = body(bodies.SessionCreate, asked.json()), query(bodies.Upsert, asked).upsert
    existing = named(api, given.name)
    if existing is None:
        return Answer(200, make(api, given))
    if not upsert:
        raise conflict("Session with this name already exists.")
    new = {name: value for name in ("description", "extra") if (value := getattr(given, name)) is not None}
    api.tables.put("sessions", existing["id"], {**existing, **new})
    return Answer(200, find(api, existing["id"]))


def _update(api: LangSmithApi, asked: Asked, session_id: str) -> Answer:
    session, given = find(api, session_id), body(bodies.SessionUpdate, asked.json())
    other = named(api, given.name) if given.name else None
    if other is not None and other["id"] != session["id"]:
        raise conflict("Session with this name already exists.")
    new = given.model_dump(mode="json", exclude_none=True)
    if given.end_time is not None:
        new["end_time"] = text(given.end_time)
    api.tables.put("sessions", session["id"], {**session, **new})
    return Answer(200, find(api, session["id"]))


def _list(api: LangSmithApi, asked: Asked) -> Answer:
    wanted = query(bodies.SessionQuery, asked)
    ids, references = {str(one) for one in wanted.id}, {str(one) for one in wanted.reference_dataset}
    found = [
        one
        for one in reversed(api.tables.all("sessions"))
        if (not ids or one["id"] in ids)
        and (wanted.name is None or one["name"] == wanted.name)
        and (wanted.name_contains is None or wanted.name_contains.lower() in one["name"].lower())
        and (not references or one["reference_dataset_id"] in references)
        and (wanted.reference_free is None or (one["reference_dataset_id"] is None) == wanted.reference_free)
        and datasets.holds((one["extra"] or {}).get("metadata"), wanted.metadata)
    ]
    page = found[wanted.offset : wanted.offset + wanted.limit]
    return Answer(200, [_shown(api, one, wanted.include_stats) for one in page])


def _read(api: LangSmithApi, asked: Asked, session_id: str) -> Answer:
    wanted = query(bodies.SessionQuery, asked)
    return Answer(200, _shown(api, find(api, session_id), wanted.include_stats))


def _delete(api: LangSmithApi, asked: Asked, session_id: str) -> Answer:
    session = find(api, session_id)
    api.tables.drop("sessions", session["id"])
    for run in [one for one in api.tables.all("runs") if one["session_id"] == session["id"]]:
        api.tables.drop("runs", run["id"])
    return Answer(200, None)


def _shown(api: LangSmithApi, session: dict[str, Any], stats: bool) -> dict[str, Any]:
    return {**session, **_stats(api, session)} if stats else session


def _stats(api: LangSmithApi, session: dict[str, Any]) -> dict[str, Any]:
    """Of the root runs, as the vendor's project page shows them."""
    runs = [one for one in api.tables.all("runs") if one["session_id"] == session["id"] and not one["parent_run_id"]]
    taken = sorted(_seconds(one) for one in runs if one["end_time"])
    mine = [one for one in api.tables.all("feedback") if one["session_id"] == session["id"]]
    return {
        "run_count": len(runs),
        "latency_p50": median(taken) if taken else None,
        "latency_p99": taken[math.ceil(0.99 * len(taken)) - 1] if taken else None,
        "error_rate": sum(one["error"] is not None for one in runs) / len(runs) if runs else None,
        "total_tokens": sum(one["total_tokens"] for one in runs),
        "last_run_start_time": max((one["start_time"] for one in runs), default=None),
        "feedback_stats": summary([one for one in mine if one["run_id"]]),
        "session_feedback_stats": summary([one for one in mine if not one["run_id"]]),
    }


def _seconds(run: dict[str, Any]) -> float:
    return (datetime.fromisoformat(run["end_time"]) - datetime.fromisoformat(run["start_time"])).total_seconds()


def summary(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Key -> how many and their mean score."""
    out: dict[str, dict[str, Any]] = {}
    for key in sorted({one["key"] for one in found}):
        scores = [float(one["score"]) for one in found if one["key"] == key and one["score"] is not None]
        out[key] = {"n": sum(one["key"] == key for one in found), "avg": sum(scores) / len(scores) if scores else None}
    return out


def _compare(api: LangSmithApi, asked: Asked) -> Answer:
    given = body(bodies.ComparativeCreate, asked.json())
    compared = [find(api, str(one)) for one in given.experiment_ids]
    dataset_id = str(given.reference_dataset_id or compared[0]["reference_dataset_id"])
    if any(one["reference_dataset_id"] != datasets.find(api, dataset_id)["id"] for one in compared):
        raise Refused(Answer(400, {"detail": "Experiments of a comparison must have its reference dataset"}))
    stamp = api.stamp()
    comparison_id = str(given.id or api.identify("comparison", dataset_id))
    if api.tables.get("comparisons", comparison_id):
        raise conflict("Comparative experiment with this id already exists.")
    comparison = {
        "id": comparison_id,
        "tenant_id": TENANT,
        "name": given.name,
        "description": given.description,
        "created_at": text(given.created_at) or stamp,
        "modified_at": stamp,
        "reference_dataset_id": dataset_id,
        "extra": given.extra,
        "experiments_info": [{"id": one["id"], "name": one["name"]} for one in compared],
    }
    api.tables.put("comparisons", comparison_id, comparison)
    return Answer(200, comparison)


def _comparisons(api: LangSmithApi, asked: Asked, dataset_id: str) -> Answer:
    dataset, wanted = datasets.find(api, dataset_id), query(bodies.ComparativeQuery, asked)
    ids = {str(one) for one in wanted.id}
    found = [
        {**one, "feedback_stats": summary(_preferences(api, one["id"]))}
        for one in api.tables.all("comparisons")
        if one["reference_dataset_id"] == dataset["id"]
        and (wanted.name is None or one["name"] == wanted.name)
        and (not ids or one["id"] in ids)
    ]
    return Answer(200, found[wanted.offset : wanted.offset + wanted.limit])


def _preferences(api: LangSmithApi, comparison_id: str) -> list[dict[str, Any]]:
    return [one for one in api.tables.all("feedback") if one["comparative_experiment_id"] == comparison_id]


ROUTES = (
    Route("GET", "/sessions", _list),
    Route("POST", "/sessions", _create),
    Route("GET", "/sessions/{session_id}", _read),
    Route("PATCH", "/sessions/{session_id}", _update),
    Route("DELETE", "/sessions/{session_id}", _delete),
    Route("POST", "/datasets/comparative", _compare),
    Route("GET", "/datasets/{dataset_id}/comparative", _comparisons),
)
