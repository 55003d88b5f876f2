"""Signals of running rollouts: what the proxies of this environment have measured in the current step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from controller.address import Address
from controller.change import Change
from controller.errors import Temporary
from controller.kind import Clients, Known, Observed, Outcome, Report, Unknown
from controller.kinds.rollout.spec import RolloutSpec, RolloutState
from controller.pool import side_by_side
from controller.proxy.stats import percentile

CALL_SECONDS = 8.0


class RolloutProvider:
    """Brings signals only: a rollout is declared, nothing of it is applied here."""

    def __init__(self, clients: Clients) -> None:
        self.gateways, self.haproxies = clients.open("gateway"), clients.open("haproxy")

    def observe(self, known: Sequence[Known[RolloutSpec]]) -> Mapping[Address, Observed[RolloutState] | Unknown]:
        doors = (self.gateways, self.haproxies)
        answers = side_by_side([partial(door.stats, name) for door in doors for name in door.names()], CALL_SECONDS)
        figures = [answer for answer in answers if not isinstance(answer, BaseException)]
        faults = [str(answer) for answer in answers if isinstance(answer, BaseException)]
        if not figures:
            raise Temporary("; ".join(faults) or "this environment has no proxy")
        seen: dict[Address, Observed[RolloutState] | Unknown] = {}
        for one in known:
            after = one.past.after
            if after is not None:
                seen[one.address] = Observed(None, signals(after, figures, complete=not faults))
        return seen

    def apply(self, change: Change, report: Report) -> Outcome:
        raise AssertionError("a declared kind is never applied")


def signals(after: Mapping[str, Any], figures: Sequence[Mapping[str, Any]], *, complete: bool = True) -> dict[str, Any]:
    """Sums of all proxies that have routes: `seconds` in the step (the least; None unless all serve it), `tripped`, figures.

    `before` is what the stable version did without any rollout, where the proxies know that of this very version.
    """
    agent, step, stable = after["binding"], after["step_id"], after["stable"].get("version")
    figures = [found for found in figures if found.get("agents")]
    mine = [found["agents"][agent] for found in figures if agent in found["agents"]]
    served = [each for each in mine if each.get("step") == step]
    cells: dict[str, list[Mapping[str, Any]]] = {}
    for each in mine:
        for variant, cell in each.get("steps", {}).get(step, {}).items():
            cells.setdefault(variant, []).append(cell)
    before = [cell for each in mine for cell in (each.get("steps", {}).get("", {}).get("stable"),) if cell]
    before = [cell for cell in before if cell.get("version") == stable]
    trips = [each["tripped"] for each in mine if each.get("tripped") and each["tripped"].get("step") == step]
    complete = complete and bool(served) and len(served) == len(figures)
    return {
        "step": step,
        "seconds": min(each["step_seconds"] for each in served) if complete else None,
        "tripped": trips[0] if trips else None,
        "variants": {variant: summed(found) for variant, found in sorted(cells.items())},
        "before": summed(before) if before else None,
    }


def summed(cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Requests, errors, error rate (percent), p95 latency (seconds), mean cost (USD; None = unknown), and the histogram."""
    latency: dict[int, int] = {}
    for cell in cells:
        for bucket, count in cell.get("latency", {}).items():
            latency[int(bucket)] = latency.get(int(bucket), 0) + count
    requests = sum(cell["requests"] for cell in cells)
    errors = sum(cell["errors"] for cell in cells)
    costed = sum(cell["costed"] for cell in cells)
    return {
        "requests": requests,
        "errors": errors,
        "errorRate": 100.0 * errors / requests if requests else 0.0,
        "p95": percentile(latency, 0.95),
        "latency": latency,
        "costed": costed,
        "costPerRequest": sum(cell["cost_usd"] for cell in cells) / costed if costed else None,
    }
