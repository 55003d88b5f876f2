"""How runs are read back from LangSmith's double. The query language of filters is not here: it is refused, never ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..vendor_double import Route
from ..vendor_http import Answer, Asked, Refused
from . import bodies
from .bodies import body, not_found, text, uuid_of
from .identity import TENANT
from .sessions import summary

if TYPE_CHECKING:
    from .api import LangSmithApi


def shown(api: LangSmithApi, run: dict[str, Any]) -> dict[str, Any]:
    mine = [one for one in api.tables.all("feedback") if one["run_id"] == run["id"]]
    return {
        **run,
        "app_path": f"/o/{TENANT}/projects/p/{run['session_id']}/r/{run['id']}",
        "feedback_stats": summary(mine),
        "parent_run_ids": [part.split("Z", 1)[1] for part in run["dotted_order"].split(".")[:-1]],
    }


def _matches(run: dict[str, Any], wanted: bodies.RunsQuery) -> bool:
    def among(values: list[Any] | None, name: str) -> bool:
        return values is None or run[name] in {str(one) for one in values}

    return (
        among(wanted.id, "id")
        and among(wanted.session, "session_id")
        and among(wanted.reference_example, "reference_example_id")
        and (wanted.trace is None or run["trace_id"] == str(wanted.trace))
        and (wanted.parent_run is None or run["parent_run_id"] == str(wanted.parent_run))
        and (wanted.run_type is None or run["run_type"] == wanted.run_type)
        and (wanted.is_root is None or (run["parent_run_id"] is None) == wanted.is_root)
        and (wanted.error is None or (run["error"] is not None) == wanted.error)
        and (wanted.start_time is None or run["start_time"] >= str(text(wanted.start_time)))
        and (wanted.end_time is None or run["start_time"] <= str(text(wanted.end_time)))
    )


def _query(api: LangSmithApi, asked: Asked) -> Answer:
    wanted = body(bodies.RunsQuery, asked.json())
    if wanted.filter is not None:
        raise Refused(Answer(400, {"detail": "The double does not know filters of runs"}))
    if not (wanted.id or wanted.trace or wanted.session or wanted.parent_run or wanted.reference_example):
        detail = "At least one of 'session', 'id', 'parent_run', 'trace' or 'reference_example' must be specified"
        raise Refused(Answer(400, {"detail": detail}))
    found = [one for one in api.tables.all("runs") if one["start_time"] and _matches(one, wanted)]
    found.sort(key=lambda one: (one["start_time"], one["id"]), reverse=True)
    start = int(wanted.cursor or 0)
    page = [shown(api, one) for one in found[start : start + wanted.limit]]
    following = start + wanted.limit
    cursors = {"next": str(following) if following < len(found) else None, "prev": None}
    return Answer(200, {"runs": [_selected(one, wanted.select) for one in page], "cursors": cursors})


def _selected(run: dict[str, Any], select: list[str] | None) -> dict[str, Any]:
    always = {"id", "trace_id", "dotted_order", "session_id", "status", "run_type", "name", "start_time", "app_path"}
    return run if select is None else {name: value for name, value in run.items() if name in always or name in select}


def _read(api: LangSmithApi, asked: Asked, run_id: str) -> Answer:
    found = api.tables.get("runs", uuid_of(run_id, "run_id"))
    if found is None:
        raise not_found("Run")
    return Answer(200, shown(api, found))


ROUTES = (
    Route("POST", "/runs/query", _query),
    Route("GET", "/runs/{run_id}", _read),
)
