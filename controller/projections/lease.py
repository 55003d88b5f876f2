"""Who may act, and what the log is called: small facts of the whole environment, folded into one state."""

from __future__ import annotations

from controller.events import Event
from controller.projections import Projection, States

KEY = "environment"


def _opened(states: States, event: Event) -> str:
    states[KEY].setdefault("log_id", event.id)
    return KEY


def _planned(states: States, event: Event) -> str:
    states[KEY]["planned"] = event.statecommit
    return KEY


def _held(states: States, event: Event) -> str:
    states[KEY].update(holder=event.data["holder"], epoch=event.data["epoch"], expires=event.data["expires"])
    return KEY


def _released(states: States, event: Event) -> str:
    if states[KEY].get("epoch") == event.data.get("epoch"):
        states[KEY]["expires"] = ""
    return KEY


LEASE = Projection(
    "lease",
    {
        "turnout.log.opened.v1": _opened,
        "turnout.plan.made.v1": _planned,
        "turnout.lease.taken.v1": _held,
        "turnout.lease.renewed.v1": _held,
        "turnout.lease.released.v1": _released,
    },
)
