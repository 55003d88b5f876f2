"""Each resource's own history, folded and bounded: what `Past` is made of. Also the inventory: what this controller made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from controller.events import Event, parse_time
from controller.kind import Intent, Past
from controller.projections import Projection, States
from controller.resource import digest

BAD_KEPT = 50
HEALTHY_KEPT = 20
STICKY = frozenset({"Quarantined", "FrozenEdit", "Held"})
"""Conditions that a started action does not end by itself."""


def _on_subject(step: Callable[[dict[str, Any], Event], None]) -> Callable[[States, Event], str]:
    def fold(states: States, event: Event) -> str:
        step(states[event.subject], event)
        return event.subject

    return fold


def _started_and_judged(states: States, event: Event) -> tuple[str, ...]:
    """A judgement is remembered by everyone whom it concerns."""
    _started(states[event.subject], event)
    judged = event.data.get("bad") or {}
    for address, what in judged.items():
        known = states[address].get("bad", ())
        states[address]["bad"] = [*(old for old in known if old != what), what][-BAD_KEPT:]
    return (event.subject, *judged)


def _started(state: dict[str, Any], event: Event) -> None:
    data = event.data
    key = data["intent"]
    if "spec" in data:
        state["spec"], state["spec_digest"] = data["spec"], data.get("spec_digest", "")
    intents = state.setdefault("intents", {})
    if key not in intents:
        intents[key] = {
            "action": data["action"],
            "spec_digest": data.get("spec_digest", ""),
            "at": event.time,
            "careful": data.get("careful", False),
            "after": data.get("after") if data["action"] in ("run", "step") else None,
        }
    elif data.get("careful"):  # called again: that an earlier call brought nothing about says nothing of this one
        intents[key]["at"] = event.time
        intents[key].pop("failed", None)
    if data["action"] == "run":
        state["started_at"], state["started_commit"] = event.time, event.statecommit
        state["frozen"] = data.get("frozen")
    _clear(state, [code for code in state.get("conditions", ()) if code not in STICKY])


def _succeeded(state: dict[str, Any], event: Event) -> None:
    data = event.data
    state.get("intents", {}).pop(data["intent"], None)
    state["after"] = data.get("after")
    state["exists"] = state["after"] is not None
    state["since"], state["attempts"] = event.time, 0
    state["commit"], state["event"] = event.statecommit, event.id
    for gone in ("retry_at", "failed", "failed_digest"):
        state.pop(gone, None)
    if data.get("healthy"):
        left = state.get("healthy")
        if left is not None and left != state["after"]:  # one that was healthy and was left: the way back leads there
            known = digest(left)
            state["been_healthy"] = [*(old for old in state.get("been_healthy", ()) if old != known), known][-HEALTHY_KEPT:]
        state["healthy"] = state["after"]
    if data.get("handle"):
        state["handle"] = data["handle"]
    state["running"] = bool(data.get("running"))
    if data.get("ends"):
        state["ended"] = data["ends"]
    if not state["running"]:
        state["generation"] = state.get("generation", 0) + 1
        if data["action"] == "delete":
            state.pop("handle", None)
            if state.get("ended"):  # the file is gone: whatever it still had to write is settled
                state["written"] = True


def _failed(state: dict[str, Any], event: Event) -> None:
    data = event.data
    if data.get("temporary"):
        state["attempts"] = data.get("attempts", state.get("attempts", 0) + 1)
        state["failed_digest"] = data.get("failed_digest", "")
        if data["intent"] in state.get("intents", {}):
            state["intents"][data["intent"]]["failed"] = True
        state["retry_at"] = data.get("retry_at", event.time)
        return
    state.get("intents", {}).pop(data["intent"], None)
    state["failed"], state["failed_digest"] = data.get("error", "failed"), data.get("failed_digest", "")
    state["generation"] = state.get("generation", 0) + 1
    state["attempts"] = 0
    state.pop("retry_at", None)


def _superseded(state: dict[str, Any], event: Event) -> None:
    if state.get("intents", {}).pop(event.data["intent"], None) is not None:
        state["generation"] = state.get("generation", 0) + 1
    state["attempts"] = 0
    state.pop("retry_at", None)


def _raised(state: dict[str, Any], event: Event) -> None:
    state.setdefault("conditions", {})[event.data["code"]] = event.data.get("cause", "")
    state.setdefault("told", {})[event.data["code"]] = event.data.get("reason", "")


def _cleared(state: dict[str, Any], event: Event) -> None:
    if event.data["code"] == "Failed":
        _retry(state, event)
    _clear(state, (event.data["code"],))


def _clear(state: dict[str, Any], codes: Iterable[str]) -> None:
    for code in codes:
        state.get("conditions", {}).pop(code, None)
        state.get("told", {}).pop(code, None)


def _writing(state: dict[str, Any], event: Event) -> None:
    state["writing"] = event.data["intent"]


def _written(state: dict[str, Any], event: Event) -> None:
    state["written"] = True
    state.pop("writing", None)
    _clear(state, ("Held",))


def _retry(state: dict[str, Any], event: Event) -> None:
    for gone in ("retry_at", "failed", "failed_digest"):
        state.pop(gone, None)
    state["attempts"] = 0


_STEPS = {
    "turnout.action.succeeded.v1": _succeeded,
    "turnout.action.failed.v1": _failed,
    "turnout.action.superseded.v1": _superseded,
    "turnout.condition.raised.v1": _raised,
    "turnout.condition.cleared.v1": _cleared,
    "turnout.edits.started.v1": _writing,
    "turnout.edits.written.v1": _written,
    "turnout.retry.requested.v1": _retry,
}


def _mark(state: Mapping[str, Any]) -> str:
    """Two letters that tell keys apart without reading their states.

    `1` in the inventory: made by this controller and not removed, or perhaps made (an open intent counts). `2`: not there, but
    with a condition or a failure. `0`: nothing to do. Then `w` while a write-back is under way, else `-`.
    """
    writing = "w" if state.get("writing") else "-"
    if state.get("exists") or state.get("intents"):
        return f"1{writing}"
    return f"2{writing}" if state.get("conditions") or state.get("failed") else f"0{writing}"


PAST = Projection(
    "past",
    {"turnout.action.started.v1": _started_and_judged, **{name: _on_subject(step) for name, step in _STEPS.items()}},
    version=4,
    mark=_mark,
)


fold = PAST.fold


def to_past(state: Mapping[str, Any]) -> Past:
    """The record that planning sees."""
    if not state:
        return Past()
    intents = tuple(
        Intent(
            key,
            each["action"],
            each["spec_digest"],
            parse_time(each["at"]),
            each.get("careful", False),
            each.get("failed", False),
            each.get("after"),
        )
        for key, each in state.get("intents", {}).items()
    )
    return Past(
        generation=state.get("generation", 0),
        exists=state.get("exists", False),
        after=state.get("after"),
        spec=state.get("spec"),
        spec_digest=state.get("spec_digest", ""),
        frozen=state.get("frozen"),
        running=state.get("running", False),
        ended=state.get("ended", ""),
        since=_time(state, "since"),
        started_at=_time(state, "started_at"),
        started_commit=state.get("started_commit", ""),
        attempts=state.get("attempts", 0),
        retry_at=_time(state, "retry_at"),
        failed=state.get("failed", ""),
        failed_digest=state.get("failed_digest", ""),
        intents=intents,
        handle=state.get("handle", ""),
        healthy=state.get("healthy"),
        been_healthy=tuple(state.get("been_healthy", ())),
        bad=tuple(state.get("bad", ())),
        written=state.get("written", False),
        writing=state.get("writing", ""),
        event=state.get("event", ""),
        conditions=state.get("conditions", {}),
    )


def _time(state: Mapping[str, Any], key: str) -> Any:
    return parse_time(state[key]) if state.get(key) else None
