"""What was spent and what running work has reserved, by month, agent and resource: the budget, from events alone.

An action that may cost something reserves its ceiling when it starts. What it cost in the end is what its outcome says
(`version_facts.cost_of`), else its estimate; it counts for the month, and the day, in which it started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, timedelta
from typing import Any

from controller.change import Budget
from controller.environment import BudgetSpec
from controller.events import Event
from controller.projections import Projection, States
from controller.projections.version_facts import cost_of

OPEN = "open"
"""The key of the state that knows in which month what is still running has started."""
RESOURCES_KEPT = 500  # of one month, each by its name
OTHERS = "(others)"
KINDS_KEPT = 20


def _started(states: States, event: Event) -> tuple[str, ...]:
    cost = event.data.get("cost")
    if not cost:
        return ()
    month, open_ = event.time[:7], states[OPEN]
    if event.subject in open_:  # another attempt of the same work
        return ()
    agent = (event.data.get("after") or {}).get("agent", "")
    open_[event.subject] = month
    reserved = [cost.get("ceiling", 0.0), cost.get("usd", 0.0), agent, event.time[:10]]
    states[month].setdefault("reserved", {})[event.subject] = reserved
    return OPEN, month


def _succeeded(states: States, event: Event) -> tuple[str, ...]:
    month = states[OPEN].get(event.subject)
    if month is None or event.data.get("running"):
        return ()
    usd = cost_of(event.data)
    return _settle(states, event, month, states[month]["reserved"][event.subject][1] if usd is None else usd)


def _failed(states: States, event: Event) -> tuple[str, ...]:
    month = states[OPEN].get(event.subject)
    if month is None or event.data.get("temporary") or _of_a_run(event):
        return ()
    return _settle(states, event, month, event.data.get("cost_usd", 0.0))


def _superseded(states: States, event: Event) -> tuple[str, ...]:
    month = states[OPEN].get(event.subject)
    return () if month is None or _of_a_run(event) else _settle(states, event, month, 0.0)


def _of_a_run(event: Event) -> bool:
    """A step that came to nothing ends no run: what it has cost so far is told when it ends, and may be more until then."""
    return event.data.get("action") == "step"


def _settle(states: States, event: Event, month: str, usd: float) -> tuple[str, ...]:
    """The reservation becomes what was really spent."""
    state = states[month]
    _, _, agent, day = state["reserved"].pop(event.subject)
    del states[OPEN][event.subject]
    spent = state.setdefault("spent", {})
    before = spent.get(event.subject, [0.0, agent])
    spent[event.subject] = [before[0] + float(usd), agent]
    if len(spent) > 2 * RESOURCES_KEPT:
        _merge(spent)
    kinds = state.setdefault("days", {}).setdefault(day, {}).setdefault(agent, {})
    kind = event.subject.partition("/")[0]
    kind = kind if kind in kinds or len(kinds) < KINDS_KEPT else OTHERS
    kinds[kind] = kinds.get(kind, 0.0) + float(usd)
    return OPEN, month


def _merge(spent: dict[str, Any]) -> None:
    """The smallest sums of each kind and agent become one, so that a month stays bounded and its sums stay exact."""
    small = sorted((address for address in spent if not address.endswith(OTHERS)), key=lambda each: (float(spent[each][0]), each))
    for address in small[:RESOURCES_KEPT]:
        usd, agent = spent.pop(address)
        name = f"{address.partition('/')[0]}/{agent} {OTHERS}"
        spent[name] = [spent.get(name, [0.0])[0] + usd, agent]


MONEY = Projection(
    "money",
    {
        "turnout.action.started.v1": _started,
        "turnout.action.succeeded.v1": _succeeded,
        "turnout.action.failed.v1": _failed,
        "turnout.action.superseded.v1": _superseded,
    },
    version=3,
)


def budget(state: Mapping[str, Any], name: str, limit: float | None, agent: str | None = None) -> Budget:
    """Of one month's state: everything, or what is one agent's."""
    spent = sum(usd for usd, whose in state.get("spent", {}).values() if agent in (None, whose))
    reserved = sum(ceiling for ceiling, _, whose, _ in state.get("reserved", {}).values() if agent in (None, whose))
    return Budget(limit, spent, reserved, name)


def spending(month: str, state: Mapping[str, Any], limits: BudgetSpec) -> dict[str, Any]:
    """One month as a document: by resource, by agent, by kind, by day, and in all. US dollars."""
    rows = [
        {"address": address, "agent": agent, "spent": usd, "reserved": 0.0, "running": False}
        for address, (usd, agent) in state.get("spent", {}).items()
    ]
    rows += [
        {"address": address, "agent": agent, "spent": 0.0, "reserved": ceiling, "running": True}
        for address, (ceiling, _, agent, _) in state.get("reserved", {}).items()
    ]
    names = sorted({row["agent"] for row in rows} | set(limits.agents))
    total = budget(state, "the month", limits.monthly_usd)
    return {
        "month": month,
        **_sums(total),
        "agents": {name: _sums(budget(state, name, limits.agents.get(name), name)) for name in names},
        "kinds": _by(rows, lambda row: row["address"].partition("/")[0]),
        "days": dict(sorted(state.get("days", {}).items())),
        "resources": sorted(rows, key=lambda row: row["address"]),
    }


def _sums(of: Budget) -> dict[str, float | None]:
    left = None if of.limit is None else of.limit - of.spent - of.reserved
    return {"spent": of.spent, "reserved": of.reserved, "limit": of.limit, "left": left}


def _by(rows: Iterable[Mapping[str, Any]], name: Callable[[Mapping[str, Any]], str]) -> dict[str, dict[str, float]]:
    out: dict[str, dict[str, float]] = {}
    for row in rows:
        found = out.setdefault(name(row), {"spent": 0.0, "reserved": 0.0})
        found["spent"] += row["spent"]
        found["reserved"] += row["reserved"]
    return dict(sorted(out.items()))


Row = tuple[str, Mapping[str, float]]
"""A day, a month or a resource, and what was spent on it by group."""


def series(months: Iterable[Mapping[str, Any]], by: str) -> list[Row]:
    """What to plot, from documents of `spending`, oldest month first. `by` resource: one row each, by agent; else by agent or by
    kind over the days, or over the months where there are more than three. Days without spending are there too.
    """
    documents = list(months)
    if by == "resource":
        total: dict[str, dict[str, float]] = {}
        for row in (row for document in documents for row in document["resources"] if row["spent"]):
            groups = total.setdefault(row["address"], {})
            groups[row["agent"]] = groups.get(row["agent"], 0.0) + row["spent"]
        return [(address, groups) for address, groups in sorted(total.items(), key=lambda each: -sum(each[1].values()))]
    if len(documents) > 3:
        return [(document["month"], _grouped(document["days"].values(), by)) for document in documents]
    days = {day: _grouped([agents], by) for document in documents for day, agents in document["days"].items()}
    if not days:
        return []
    first, last = date.fromisoformat(min(days)), date.fromisoformat(max(days))
    every = [(first + timedelta(days=number)).isoformat() for number in range((last - first).days + 1)]
    return [(day, days.get(day, {})) for day in every]


def _grouped(days: Iterable[Mapping[str, Mapping[str, float]]], by: str) -> dict[str, float]:
    out: dict[str, float] = {}
    for agents in days:
        for agent, kinds in agents.items():
            for kind, usd in kinds.items():
                name = agent if by == "agent" else kind
                out[name] = out.get(name, 0.0) + usd
    return out


def groups_of(rows: Iterable[Row]) -> list[str]:
    """Names of the groups, the dearest first."""
    total: dict[str, float] = {}
    for _, groups in rows:
        for name, usd in groups.items():
            total[name] = total.get(name, 0.0) + usd
    return sorted(total, key=lambda name: (-total[name], name))


def months_until(month: str, count: int) -> list[str]:
    """`count` months that end with this one (`YYYY-MM`), oldest first. Raises ValueError."""
    last = date.fromisoformat(f"{month}-01")
    number = last.year * 12 + last.month - 1
    return [f"{each // 12:04d}-{each % 12 + 1:02d}" for each in range(number - count + 1, number + 1) if each >= 12]
