"""What was spent and what running work has reserved, by month, agent and resource: the budget, from events alone.

An action that may cost something reserves its ceiling when it starts. What it cost in the end is `cost_usd` of the state it
left, or of its provider's notes, else its estimate; it counts for the month in which it started.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controller.change import Budget
from controller.environment import BudgetSpec
from controller.events import Event
from controller.projections import Projection, States

OPEN = "open"
"""The key of the state that knows in which month what is still running has started."""


def _started(states: States, event: Event) -> tuple[str, ...]:
    cost = event.data.get("cost")
    if not cost:
        return ()
    month, open_ = event.time[:7], states[OPEN]
    if event.subject in open_:  # another attempt of the same work
        return ()
    agent = (event.data.get("after") or {}).get("agent", "")
    open_[event.subject] = month
    states[month].setdefault("reserved", {})[event.subject] = [cost.get("ceiling", 0.0), cost.get("usd", 0.0), agent]
    return OPEN, month


def _succeeded(states: States, event: Event) -> tuple[str, ...]:
    month = states[OPEN].get(event.subject)
    if month is None:
        return ()
    after = event.data.get("after") or {}
    reserved = states[month]["reserved"][event.subject]
    if event.data.get("running"):
        return ()
    told = after.get("cost_usd", (event.data.get("notes") or {}).get("cost_usd"))
    return _settle(states, event, month, reserved[1] if told is None else told)


def _failed(states: States, event: Event) -> tuple[str, ...]:
    month = states[OPEN].get(event.subject)
    if month is None or event.data.get("temporary"):
        return ()
    return _settle(states, event, month, event.data.get("cost_usd", 0.0))


def _superseded(states: States, event: Event) -> tuple[str, ...]:
    month = states[OPEN].get(event.subject)
    return () if month is None else _settle(states, event, month, 0.0)


def _settle(states: States, event: Event, month: str, usd: float) -> tuple[str, ...]:
    """The reservation becomes what was really spent."""
    state = states[month]
    _, _, agent = state["reserved"].pop(event.subject)
    del states[OPEN][event.subject]
    spent = state.setdefault("spent", {})
    before = spent.get(event.subject, [0.0, agent])
    spent[event.subject] = [before[0] + float(usd), agent]
    return OPEN, month


MONEY = Projection(
    "money",
    {
        "turnout.action.started.v1": _started,
        "turnout.action.succeeded.v1": _succeeded,
        "turnout.action.failed.v1": _failed,
        "turnout.action.superseded.v1": _superseded,
    },
)


def budget(state: Mapping[str, Any], name: str, limit: float | None, agent: str | None = None) -> Budget:
    """Of one month's state: everything, or what is one agent's."""
    spent = sum(usd for usd, whose in state.get("spent", {}).values() if agent in (None, whose))
    reserved = sum(ceiling for ceiling, _, whose in state.get("reserved", {}).values() if agent in (None, whose))
    return Budget(limit, spent, reserved, name)


def spending(month: str, state: Mapping[str, Any], limits: BudgetSpec) -> dict[str, Any]:
    """One month as a document: by resource, by agent, and in all."""
    rows = [
        {"address": address, "agent": agent, "spent": usd, "reserved": 0.0, "running": False}
        for address, (usd, agent) in state.get("spent", {}).items()
    ]
    rows += [
        {"address": address, "agent": agent, "spent": 0.0, "reserved": ceiling, "running": True}
        for address, (ceiling, _, agent) in state.get("reserved", {}).items()
    ]
    names = sorted({row["agent"] for row in rows} | set(limits.agents))
    agents = {}
    for name in names:
        of = budget(state, name, limits.agents.get(name), name)
        agents[name] = {"spent": of.spent, "reserved": of.reserved, "limit": of.limit}
    total = budget(state, "the month", limits.monthly_usd)
    return {
        "month": month,
        "spent": total.spent,
        "reserved": total.reserved,
        "limit": total.limit,
        "agents": agents,
        "resources": sorted(rows, key=lambda row: row["address"]),
    }
