"""Actions as runs of a trace: a pure fold from events to `Traced`, which `controller/tracing.py` offers to LangSmith.

Every outcome is one finished run: an attempt that failed for now is one too, so that what is tried again and again can be
seen; `intent` in the metadata joins the attempts. The id follows from the outcome's event, so sending twice is one run. What an
address does while it has a run (steps, a write-back, the cancelling) is below the run's own start.

An event says what git and the log may show anyway (secrets are references there). Before it leaves the house, values of secret
names, what has the form of a known key and user information of addresses are hidden all the same, and everything is bounded.
A secret of no known form that a provider repeats in an error cannot be told from other text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.clients.langsmith_trace import Traced
from controller.datasets.sensitive import SIGNS
from controller.events import Event, format_time, parse_time
from controller.resource import encode_json

RUNS_KEPT = 500
"""Runs whose start is remembered, for what is done below them."""
LONGEST_NAME = 128
"""Of a run in LangSmith."""
LONGEST_TEXT = 2_000
SHORTEST_KEY = 20
LONGEST_LIST = 50
DEEPEST = 8
MOST_BYTES = 16 * 1024
"""Of inputs and of outputs, as JSON."""

_SECRET_NAME = re.compile(r"(?i)(secret|token|password|passwd|api_?key|credential|authorization)s?$")
_REFERENCE = re.compile(r"^(env|file|output):")
_KEY = re.compile("|".join(f"(?:{sign.pattern.pattern})" for sign in SIGNS if sign.severity == "stop"))
_USER_INFO = re.compile(r"(?<=://)[^/@\s]+@")
_OUTCOMES = {
    "turnout.action.succeeded.v1": "succeeded",
    "turnout.action.failed.v1": "failed",
    "turnout.action.superseded.v1": "superseded",
    "turnout.edits.written.v1": "written",
}
_STARTS = ("turnout.action.started.v1", "turnout.edits.started.v1")


@dataclass
class Traces:
    """What the fold has to remember: intents that are open (by subject and intent) and where runs have started."""

    opened: dict[str, Event] = field(default_factory=dict)
    runs: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    """Subject -> id of the event, name and start (RFC 3339) of the run's own start."""

    def fold(self, event: Event) -> Traced | None:
        """One event, in the order of the log; the finished run that it is the outcome of, if it is one."""
        key = f"{event.subject} {event.data.get('intent')}"
        if event.type in _STARTS:
            self.opened[key] = event  # of several attempts the last
            return None
        how = _OUTCOMES.get(event.type)
        if how is None:
            return None
        open_ = how == "failed" and event.data.get("temporary")
        started = self.opened.get(key) if open_ else self.opened.pop(key, None)
        begins = event.data.get("action") == "run" and how == "succeeded"
        traced = as_traced(started, event, None if event.data.get("action") == "run" else self._parent(event.subject))
        if begins:
            self.runs.pop(event.subject, None)
            self.runs[event.subject] = (traced.id, traced.name, format_time(traced.started))
            for old in list(self.runs)[:-RUNS_KEPT]:
                del self.runs[old]
        return traced

    def _parent(self, subject: str) -> Traced | None:
        found = self.runs.get(subject)
        if found is None:
            return None
        moment = parse_time(found[2])
        return Traced(found[0], found[1], moment, moment)


def as_traced(started: Event | None, outcome: Event, parent: Traced | None = None) -> Traced:
    """One action with its outcome. Without the start (appended before tracing began) it has no length and no inputs."""
    begun = started.data if started else {}
    data, subject = outcome.data, outcome.subject
    action = "write" if outcome.type.startswith("turnout.edits.") else str(data.get("action", ""))
    end = outcome.at
    start = min(started.at, end) if started else end
    if parent is not None and start < parent.started:  # a clock that was set back
        start, end = parent.started, max(end, parent.started)
    agent = _agent(subject, begun, data)
    metadata = {
        "address": subject,
        "intent": data.get("intent"),
        "commit": outcome.statecommit,
        "sequence": outcome.sequence,
        "started_sequence": started.sequence if started else None,
        "correlation": outcome.correlationid,
        "environment": _environment(outcome),
        "agent": agent,
        "generation": data.get("generation"),
        "attempts": data.get("attempts"),
        "cost_usd": (begun.get("cost") or {}).get("usd"),
        "cost_ceiling_usd": (begun.get("cost") or {}).get("ceiling"),
        "spent_usd": _plain(data.get("after")).get("cost_usd"),
    }
    return Traced(
        id=outcome.id,
        name=f"{action} {subject}"[:LONGEST_NAME],
        started=start,
        ended=end,
        inputs=bounded({name: begun.get(name) for name in ("reason", "spec", "before", "diff", "edits")}),
        outputs=None if _error(outcome) else bounded({name: data.get(name) for name in _OUTPUTS}),
        error=_error(outcome),
        metadata={name: value for name, value in metadata.items() if value not in (None, "")},
        tags=tuple(tag for tag in (subject.partition("/")[0], action, _environment(outcome)) if tag),
        parent=parent,
    )


_OUTPUTS = ("after", "notes", "said", "ends", "running", "commit", "by")


def _error(outcome: Event) -> str | None:
    how = _OUTCOMES[outcome.type]
    if how == "superseded":
        return "superseded before it was done"
    if how != "failed":
        return None
    again = " (is tried again)" if outcome.data.get("temporary") else ""
    return str(shown(str(outcome.data.get("error") or "failed"))) + again


def _environment(event: Event) -> str:
    """Of a source `turnout/<environment>/<machine>`."""
    parts = event.source.split("/")
    return parts[1] if len(parts) > 1 else ""


def _agent(subject: str, *said: Mapping[str, Any]) -> str:
    """What the state or the spec names, else the binding itself."""
    for data in said:
        for part in ("after", "before", "spec"):
            values = _plain(data.get(part))
            if named := values.get("agent") or values.get("binding"):
                return str(named)
    kind, _, name = subject.partition("/")
    return name if kind == "ModelBinding" else ""


def _plain(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


# -- what may leave --------------------------------------------------------------------------------------------------


def bounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """What is there of the values, hidden and cut; a value that is too large as a whole is named by its size alone."""
    out: dict[str, Any] = {}
    left = MOST_BYTES
    for name, value in values.items():
        if value is None or value in ("", {}, []):
            continue
        kept = shown(value, name)
        size = len(encode_json(kept))
        if size > left:
            kept = f"(left out: {size} bytes; the log has it)"
            size = len(kept)
        out[name] = kept
        left -= size
    return out


def shown(value: Any, name: str = "", depth: int = 0) -> Any:
    """A value without secrets and without end."""
    if depth > DEEPEST:
        return "(deeper)"
    if isinstance(value, Mapping):
        if isinstance(value.get("field"), str):  # a difference of one field: its values are those of that name
            return {
                key: shown(each, value["field"] if key in ("old", "new") else str(key), depth + 1) for key, each in value.items()
            }
        pairs = list(value.items())
        cut = {"(more)": len(pairs) - LONGEST_LIST} if len(pairs) > LONGEST_LIST else {}
        return {str(key): shown(each, str(key), depth + 1) for key, each in pairs[:LONGEST_LIST]} | cut
    if isinstance(value, list | tuple):
        more = [f"({len(value) - LONGEST_LIST} more)"] if len(value) > LONGEST_LIST else []
        return [shown(each, name, depth + 1) for each in value[:LONGEST_LIST]] + more
    if isinstance(value, str):
        if value and _SECRET_NAME.search(name.rpartition(".")[2]) and not _REFERENCE.match(value):
            return "(hidden)"
        text = _USER_INFO.sub("(hidden)@", value[: 4 * LONGEST_TEXT])
        if len(text) >= SHORTEST_KEY:
            text = _KEY.sub("(hidden)", text)
        return text if len(value) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} (... {len(value) - LONGEST_TEXT} more characters)"
    return value
