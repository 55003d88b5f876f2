"""Who may act, and what the log is called: small facts of the whole environment, folded into one state."""

from __future__ import annotations

from collections.abc import Iterable

from controller.events import Event
from controller.projections import Projection, States

KEY = "environment"


def fold(states: States, event: Event) -> Iterable[str] | None:
    state = states[KEY] if event.sequence == 1 or event.type in _TYPES else None
    if state is None:
        return None
    if event.sequence == 1:
        state["log_id"] = event.id
    if event.type == "turnout.plan.made.v1":
        state["planned"] = event.statecommit
    elif event.type == "turnout.lease.released.v1":
        if state.get("epoch") == event.data.get("epoch"):
            state["expires"] = ""
    elif event.type in _TYPES:
        state.update(holder=event.data["holder"], epoch=event.data["epoch"], expires=event.data["expires"])
    return (KEY,)


_TYPES = frozenset({
    "turnout.plan.made.v1", "turnout.lease.taken.v1", "turnout.lease.renewed.v1", "turnout.lease.released.v1",
})

LEASE = Projection("lease", fold)
