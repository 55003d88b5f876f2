"""A double of the door to evaluations, for the simulation: work that takes virtual time and a vendor's ledger of what was paid.

Like the real one it outlives the controller, is claimed by its intent, and goes on from its answers when it is started again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from controller.errors import Permanent
from controller.testing.doubles import Faults

CALLS = 100
SECONDS_A_CALL = 1.0


class EvaluationsDouble:
    """`now` is the virtual clock (Unix seconds). `verdicts` maps names to what they will find; the default is deploy."""

    def __init__(self, now: Callable[[], float], faults: Faults, verdicts: Mapping[str, str] | None = None) -> None:
        self.now, self.faults, self.verdicts = now, faults, dict(verdicts or {})
        self.work: dict[str, dict[str, Any]] = {}
        self.paid: list[tuple[str, int]] = []  # (intent, number of the call), as a vendor's ledger has it

    def start(self, intent: str, order: Mapping[str, Any]) -> str:
        self.faults.point("start")
        if intent not in self.work:
            self.work[intent] = {"order": order, "done": 0, "since": self.now(), "cancelled": False, "at": self.now()}
        self.faults.point("started")
        return f"here/{intent}"

    def resume(self, handle: str, order: Mapping[str, Any]) -> None:
        self.faults.point("resume")
        work = self._of(handle)
        if work["since"] is None and not work["cancelled"]:
            work["since"] = self.now()
        self.faults.point("resumed")

    def find(self, intent: str) -> dict[str, Any] | None:
        found = self.work.get(intent)
        return {"handle": f"here/{intent}", "state": found["order"]["state"]} if found else None

    def look(self, handle: str) -> dict[str, Any]:
        work = self._of(handle)
        self._pass_time(handle, work)
        found = {
            "done": work["done"],
            "total": CALLS,
            "cost_usd": work["done"] * 0.01,
            "at": datetime.fromtimestamp(work["at"], UTC).isoformat(),
            "reason": "",
        }
        if work["done"] == CALLS:
            return {**found, "phase": "ended", "result": result_of(work["order"], self.verdicts)}
        return {**found, "phase": "stopped" if work["since"] is None else "running"}

    def lists(self, asked: Sequence[tuple[str, str | None]], bound: bool) -> dict[str, Any]:
        """Nobody lists anything, as where no list can be read."""
        return {}

    def release(self, handle: str, serving: Sequence[str]) -> str:
        self.faults.point("release")
        return ""

    def cancel(self, handle: str, serving: Sequence[str] = ()) -> dict[str, Any]:
        self.faults.point("cancel")
        work = self._of(handle)
        self._pass_time(handle, work)
        work.update(cancelled=True, since=None)
        self.faults.point("cancelled")
        return {"cost_usd": work["done"] * 0.01, "said": f"stopped after {work['done']} of {CALLS} calls"}

    def kill(self, handle: str) -> None:
        """As `kill -9` of the child."""
        work = self._of(handle)
        self._pass_time(handle, work)
        work["since"] = None

    def _of(self, handle: str) -> dict[str, Any]:
        intent = handle.rpartition("/")[2]
        if intent not in self.work:
            raise Permanent(f"there is no work under {handle}")
        return self.work[intent]

    def _pass_time(self, handle: str, work: dict[str, Any]) -> None:
        if work["since"] is None:
            return
        count = min(CALLS - work["done"], int((self.now() - work["since"]) / SECONDS_A_CALL))
        self.paid += [(handle, work["done"] + each) for each in range(count)]
        work["done"] += count
        work["at"] = self.now()
        work["since"] += count * SECONDS_A_CALL


def result_of(order: Mapping[str, Any], verdicts: Mapping[str, str]) -> dict[str, Any]:
    """What the child hands back, as far as a plan reads it."""
    verdict = verdicts.get(order["name"], "deploy")
    return {
        "cost_usd": CALLS * 0.01,
        "links": {},
        "report": {"name": order["name"]},
        "verdict": {
            "verdict": verdict,
            "reasons": [f"The double says {verdict}."],
            "examples": CALLS // 2,
            "needed": None,
            "candidate_score": 0.9,
            "baseline_score": 0.7,
        },
    }
