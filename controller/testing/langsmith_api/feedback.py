"""Scores on runs, on whole experiments and within comparisons. The same id twice is one feedback, the later one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..vendor_double import Route
from ..vendor_http import Answer, Asked, Refused
from . import bodies
from .bodies import body, not_found, query, text, uuid_of

if TYPE_CHECKING:
    from .api import LangSmithApi


def record(api: LangSmithApi, given: bodies.FeedbackCreate) -> dict[str, Any]:
    """Raises Refused (422) without anything that the feedback is about. A run may come later than its feedback."""
    if given.run_id is None and given.session_id is None:
        detail = [{"type": "missing", "loc": ["body", "run_id"], "msg": "One of run_id or session_id is required"}]
        raise Refused(Answer(422, {"detail": detail}))
    comparison = given.comparative_experiment_id
    if comparison is not None and api.tables.get("comparisons", str(comparison)) is None:
        raise not_found("Comparative experiment")
    stamp = api.stamp()
    feedback_id = str(given.id or api.identify("feedback", given.key))
    before = api.tables.get("feedback", feedback_id)
    run = api.tables.get("runs", str(given.run_id)) if given.run_id else None
    session_id = str(given.session_id) if given.session_id else run and run["session_id"]
    kept = {
        **given.model_dump(mode="json", exclude={"error", "feedback_config"}),
        "id": feedback_id,
        "session_id": session_id,
        "start_time": text(given.start_time),
        "created_at": before["created_at"] if before else stamp,
        "modified_at": stamp,
    }
    api.tables.put("feedback", feedback_id, kept)
    return kept


def _create(api: LangSmithApi, asked: Asked) -> Answer:
    given = body(bodies.FeedbackCreate, asked.json())
    if given.run_id is not None and api.tables.get("runs", str(given.run_id)) is None:
        raise not_found("Run")
    return Answer(200, record(api, given))


def _list(api: LangSmithApi, asked: Asked) -> Answer:
    wanted = query(bodies.FeedbackQuery, asked)
    runs, about = {str(one) for one in wanted.run}, {str(one) for one in wanted.session}
    comparison = wanted.comparative_experiment_id
    found = [
        one
        for one in api.tables.all("feedback")
        if (not runs or one["run_id"] in runs)
        and (not about or one["session_id"] in about)
        and (not wanted.key or one["key"] in wanted.key)
        and (comparison is None or one["comparative_experiment_id"] == str(comparison))
    ]
    return Answer(200, found[wanted.offset : wanted.offset + wanted.limit])


def _read(api: LangSmithApi, asked: Asked, feedback_id: str) -> Answer:
    found = api.tables.get("feedback", uuid_of(feedback_id, "feedback_id"))
    if found is None:
        raise not_found("Feedback")
    return Answer(200, found)


ROUTES = (
    Route("GET", "/feedback", _list),
    Route("POST", "/feedback", _create),
    Route("GET", "/feedback/{feedback_id}", _read),
)
