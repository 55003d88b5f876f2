"""What runs in attempts at a backend have in common, whatever they make: steps, ends, money. Pure; a part of `plan.py` of kinds.

`state` is that of a run: phase, attempt, timeout and deadline (seconds), backend, cost_usd and spent_usd, started_at. `sight` is
what its backend says of the attempt that runs now: stage, seconds, cost_usd.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from controller.change import Action, Change, Wait
from controller.kind import Situation
from controller.model import spoken

State = Mapping[str, Any]
OVER = ("succeeded", "failed", "cancelled", "lost")
"""Stages after which nothing runs."""
OVERTIME_SECONDS = 300.0
"""A backend ends a job at its time-out by itself; this much later it is ended from here."""


def overdue(situation: Situation[Any, Any], state: State, sight: Mapping[str, Any]) -> str:
    """Why it has to stop although it runs; empty = it may go on. The deadline counts blind too."""
    started, stage = situation.past.started_at, sight.get("stage", "")
    if stage in OVER:
        return ""
    if state["deadline"] and started and situation.now >= started + timedelta(seconds=state["deadline"]):
        return f"its deadline of {spoken(state['deadline'])} is over"
    if (sight.get("seconds") or 0.0) > state["timeout"] + OVERTIME_SECONDS:
        return f"its time-out of {spoken(state['timeout'])} is over"
    return ""


def gone(situation: Situation[Any, Any], state: State) -> bool:
    """Whether work of a machine that cannot be reached has ended by itself by now: it has a time-out, and costs nothing."""
    since = situation.past.since
    over = since is not None and situation.now >= since + timedelta(seconds=state["timeout"] + OVERTIME_SECONDS)
    return over and state["backend"] == "local"


def ended(situation: Situation[Any, Any]) -> Change:
    """A noop for ever under its name; archived when its file is gone."""
    past, state = situation.past, situation.past.after
    if situation.desired is None:
        if state is None:
            return Change(Action.NOOP, f"ended ({past.ended})")
        kept = f"; {state['repo']} stays" if state.get("repo") and past.ended == "completed" else ""
        return Change(Action.DELETE, f"archived ({past.ended}){kept}", before=state, part="archive", urgent=True)
    again = "a run never starts again; use a new name"
    return Change(Action.NOOP, f"ended ({past.ended}): {again}", before=state, after=state)


def step(situation: Situation[Any, Any], after: dict[str, Any], told: str, sight: Mapping[str, Any]) -> Change:
    """It has moved on: queued, running, verifying, of one attempt."""
    state = {**after, "cost_usd": cost(after, sight), "started_at": after["started_at"] or situation.now.isoformat()}
    part = f"{after['phase']}-{after['attempt']}"
    return Change(Action.STEP, told, before=situation.past.after, after=state, running=True, part=part)


def stay(situation: Situation[Any, Any], state: State, told: str, seconds: float, conditions: tuple[Wait, ...] = ()) -> Change:
    """Nothing is to be done; looked at again after so many seconds."""
    again = situation.now + timedelta(seconds=seconds)
    return Change(Action.NOOP, told, before=state, after=state, again=again, conditions=conditions, running=True)


def cost(state: State, sight: Mapping[str, Any]) -> float:
    """All attempts so far. Where the job cannot be seen, what was known last."""
    now = sight.get("cost_usd")
    return float(state["cost_usd"]) if now is None else round(float(state["spent_usd"]) + float(now), 4)


def ceiling(usd_per_hour: float, timeout: float, attempts: int, budget: float | None) -> float:
    """What all attempts can cost at most (USD): the number that is approved. Every started minute is billed."""
    most = attempts * math.ceil(timeout / 60) * usd_per_hour / 60
    return round(most if budget is None else min(most, budget), 4)


def affordable(usd_per_hour: float, timeout: float, budget: float | None, spent: float) -> float:
    """The time-out (seconds, whole minutes) that the next attempt may have within the budget."""
    if budget is None or usd_per_hour <= 0:
        return timeout
    return min(timeout, math.floor(max(budget - spent, 0.0) / usd_per_hour * 60 + 1e-9) * 60.0)
