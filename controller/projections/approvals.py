"""Who said yes to what: approvals by address, from the events that commits and reviews caused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controller.address import Address
from controller.change import Approval
from controller.events import Event
from controller.projections import Projection, States

KEPT = 50


def _granted(states: States, event: Event) -> str:
    data = event.data
    given = states[event.subject].setdefault("given", [])
    given.append([data["digest"], data["ceiling"], data["by"], data["commit"]])
    del given[:-KEPT]
    return event.subject


def _refused(states: States, event: Event) -> str:
    refused = states[event.subject].setdefault("refused", [])
    refused.append(event.data["commit"])
    del refused[:-KEPT]
    return event.subject


APPROVALS = Projection("approvals", {"turnout.approval.granted.v1": _granted, "turnout.approval.refused.v1": _refused})


def approvals(address: Address, state: Mapping[str, Any]) -> tuple[Approval, ...]:
    """The approvals of one address."""
    return tuple(Approval(address, digest, ceiling, by) for digest, ceiling, by, _ in state.get("given", ()))


def seen(state: Mapping[str, Any]) -> frozenset[str]:
    """Commits whose approval of this address the log has."""
    return frozenset([*(each[3] for each in state.get("given", ())), *state.get("refused", ())])
