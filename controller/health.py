"""How an address does, for people: what the log tells of it and what has just been seen, as one word and a sentence. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from controller.address import Address
from controller.kind import Observed, Past, Unknown


@dataclass(frozen=True)
class Status:
    """One address as the log and (now) reality tell it."""

    address: Address
    past: Past
    told: Mapping[str, str]
    health: str
    summary: str
    observed: Mapping[str, Any] | None = None


def health_of(past: Past, seen: Observed[Any] | Unknown | None, *, declared: bool) -> tuple[str, str]:
    """Healthy, Progressing, Suspended, Degraded, Missing or Unknown; and a sentence."""
    if isinstance(seen, Unknown):
        return "Unknown", seen.reason
    if past.failed:
        return "Degraded", past.failed
    if past.intents and not past.running:
        return "Progressing", f"{past.intents[0].action} in flight"
    if past.attempts:
        return "Degraded", f"tried {past.attempts} times"
    for code, health in (
        ("Quarantined", "Degraded"),
        ("Held", "Suspended"),
        ("Invalid", "Degraded"),
        ("Inconclusive", "Progressing"),
    ):
        if code in past.conditions:
            return health, code
    if past.running:
        return "Progressing", str((past.after or {}).get("phase", "running"))
    if past.conditions:
        return "Suspended", ", ".join(sorted(past.conditions))
    if past.ended and past.exists:
        told = (past.after or {}).get("said") or past.ended
        return "Degraded" if past.ended == "failed" else "Healthy", str(told)
    if not declared and past.exists and seen is None:
        return "Unknown", "not looked at"
    return ("Healthy", past.ended or "as git says") if past.exists else ("Missing", past.ended or "not there")
