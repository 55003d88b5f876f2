"""Inference Endpoints that an evaluation created for its sides: their names, what the journal says of them, and their end.

Place in the flow: the child (`evaluating/serving.py`) creates and uses them; the door ends them where the child is dead. Lines of
calls.jsonl, each on disk before what it announces:

    {"asked": side, "at": time}                     it is about to be created or started again
    {"made": side, "since": time}                   it is there, and paid for from then on
    {"serves": side, "at": time}                    it answers
    {"what": ..., "ended": side, "until": time, "usd": ...}     it is gone, or stopped, and what it cost
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from controller.clients.evaluation_work import Journal, Order, Work
from controller.clients.hugging_face_endpoints import Endpoint, billed_usd, endpoint_name
from controller.clients.huggingface import Hub
from controller.errors import Permanent

MARKS = ("asked", "made", "serves")
"""Lines that are only about endpoints, and cost nothing by themselves."""


@dataclass
class Period:
    """One that may be paid for now. `since` is None until it is known to be there; `seen` = last sign that somebody used it."""

    asked: datetime
    since: datetime | None = None
    serves: bool = False
    seen: datetime | None = None


def key_of(intent: str, side: str) -> str:
    """The key under which a side's endpoint is created, and found again."""
    return f"{intent}/{side}"


def name_of(intent: str, side: str) -> str:
    """Its name at the vendor: known from the intent alone, on every machine."""
    return endpoint_name(key_of(intent, side))


def told(side: str) -> str:
    """What it is called in the purse and in sentences."""
    return f"endpoint of the {side}"


def periods(work: Work) -> dict[str, Period]:
    """Those that nobody has ended yet, by side, as the journal tells."""
    found: dict[str, Period] = {}
    for line in work.lines("calls.jsonl"):
        if "asked" in line:
            at = datetime.fromisoformat(line["at"])
            found.setdefault(line["asked"], Period(at)).asked = at
        elif "made" in line and line["made"] in found:
            found[line["made"]].since = datetime.fromisoformat(line["since"])
        elif "serves" in line and line["serves"] in found:
            found[line["serves"]].serves = True
        elif "ended" in line:
            found.pop(line["ended"], None)
    progress = work.read("progress.json") or {}
    for each in found.values():
        each.seen = datetime.fromisoformat(progress["at"]) if progress.get("at") else None
    return found


def usd_of(period: Period, there: Endpoint | None, rules: Mapping[str, Any], now: datetime) -> float:
    """What a period has cost until now, in USD; `there` is the endpoint as it is (None = gone). Never too little.

    One that stopped by itself did so at the latest when nobody had used it for `scaleToZero`; while it boots that does not count.
    """
    since = period.since or (min(period.asked, there.created) if there else None)
    if since is None:
        return 0.0  # it was never there
    until = now
    if there is None or not there.billed:
        used = max(period.seen or period.asked, period.asked, since)
        idle = rules["scaleToZero"] + (0.0 if period.serves else rules["boot"])
        until = min(now, used + timedelta(seconds=idle))
    return billed_usd(since, until, rules["usdPerHour"] or 0.0)


def ended(journal: Journal, side: str, usd: float, now: datetime) -> None:
    """Notes that a period is over."""
    journal.append({"what": told(side), "ended": side, "until": now.isoformat(), "usd": usd})


def spent(work: Work) -> float | None:
    """USD that the journal tells of, calls and endpoints together; None where something's price nobody knows."""
    lines = [line for line in work.lines("calls.jsonl") if "what" in line]
    return None if any(line.get("usd") is None for line in lines) else sum(line["usd"] for line in lines)


def end_all(work: Work, order: Order, hub: Hub, now: datetime) -> None:
    """Deletes what the journal left open and notes what it cost. For whoever holds the folder's lock.

    Raises Temporary, Permanent; what was deleted by then is noted.
    """
    serving, now_open = order.state.get("serving", {}), periods(work)
    journal = Journal(work.path("calls.jsonl"))
    try:
        for side, period in now_open.items():
            there = stopped(hub, name_of(order.intent, side))
            ended(journal, side, usd_of(period, there, serving[side], now), now)
    finally:
        journal.close()


def stopped(hub: Hub, name: str) -> Endpoint | None:
    """Deletes an endpoint; returns it as it was before, None when it was gone already. Raises Temporary, Permanent.

    One that may not be deleted is at least scaled to zero, so that it costs nothing while nobody asks it.
    """
    there = hub.endpoints.get(name)
    if there is None:
        return None
    try:
        hub.endpoints.delete(name)
    except Permanent:
        if there.billed:
            hub.endpoints.scale_to_zero(name)
        raise
    return there


def delete_all(intent: str, sides: Iterable[str], hub: Hub) -> None:
    """By their names alone, where nothing else is known of them. Raises Temporary, Permanent."""
    for side in sides:
        hub.endpoints.delete(name_of(intent, side))
