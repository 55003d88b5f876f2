"""A run as people follow it, whatever its kind: what it is, how far it is, how fast it goes, what it has cost. Pure.

Kinds tell their progress in signals: `progress {step, steps, ...}`, or `done` and `total`. Where nobody can look, the state that
the log told last has to do. `watch`, `status` and `cancel` speak of runs through this file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from controller.cli.text import spoken

if TYPE_CHECKING:
    from controller.health import Status

PARTS = 10
"""A line on a pipe whenever so many parts of the way are more."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How far a run is: `done` of `total` (0 = not known). Seconds, US dollars."""

    done: float = 0.0
    total: float = 0.0
    unit: str = "step"
    said: str = ""
    loss: float | None = None
    losses: Sequence[Sequence[float]] = ()
    speed: float | None = None  # tokens a second
    left: float | None = None
    cost: float | None = None

    @property
    def share(self) -> float | None:
        """0 to 1; None where it cannot be known."""
        return min(max(self.done / self.total, 0.0), 1.0) if self.total > 0 else None

    @property
    def part(self) -> int | None:
        """How many tenths are done."""
        return None if self.share is None else int(PARTS * self.share + 1e-9)


def pace(status: Status) -> Pace:
    """What signals tell, else what the log told last."""
    seen, after = status.observed or {}, status.past.after or {}
    told = [_mapping(each.get("progress")) for each in (seen, _mapping(seen.get("sight")), after)]
    found: Mapping[str, Any] = next((each for each in told if each.get("steps")), {})
    calls = not found and bool(seen.get("total"))
    if calls:
        found = {"step": seen.get("done"), "steps": seen["total"]}
    return Pace(
        done=_number(found.get("step")) or 0.0,
        total=_number(found.get("steps")) or 0.0,
        unit="call" if calls else "step",
        said=str(found.get("said") or ""),
        loss=_number(found.get("loss")),
        losses=found.get("losses") or (),
        speed=_number(found.get("tokens_per_second")),
        left=_number(found.get("eta_seconds")),
        cost=_cost(seen, after),
    )


def _cost(seen: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    """So far: what is seen now, on top of what earlier attempts cost; else what the log told last."""
    now = _number(_mapping(seen.get("sight")).get("cost_usd"))
    if now is not None:
        return now + (_number(after.get("spent_usd")) or 0.0)
    for found in (seen.get("cost_usd"), after.get("cost_usd"), after.get("cost")):
        if _number(found) is not None:
            return _number(found)
    return None


def state_key(status: Status) -> tuple[Any, ...]:
    """What has to change before a pipe gets another line: never a number that only moves."""
    past, after = status.past, status.past.after or {}
    if status.address.kind == "Rollout":
        return (after.get("phase"), after.get("step"), after.get("weight"), sorted(past.conditions))
    return (after.get("phase"), after.get("attempt"), pace(status).part, past.ended, past.failed, sorted(past.conditions))


# -- words -----------------------------------------------------------------------------------------------------------


def what(status: Status) -> str:
    """`docs v1.1.0: sft of tiny on this-machine`; nothing where the state does not say it."""
    after = status.past.after or {}
    if "base_model" in after:
        where = f" on {after['hardware']}" if after.get("hardware") else ""
        return f"{after.get('agent')} {after.get('version')}: {after.get('method')} of {after['base_model']}{where}"
    if "baseline" in after:
        sides = [
            side.get("version") or side.get("model") or "?" for side in (after.get("candidate") or {}, after["baseline"] or {})
        ]
        return f"{after.get('agent')}: {sides[0]} against {sides[1]} on {after.get('dataset')}"
    return " ".join(str(after[key]) for key in ("agent", "model", "version") if after.get(key))


def place(status: Status) -> str:
    """`running, attempt 1 of 3`; what an evaluation found; why something has failed."""
    past, after = status.past, status.past.after or {}
    if past.failed and not past.ended:
        return f"failed: {past.failed}"
    phase = str(after.get("phase") or ("waits" if past.conditions else status.summary))
    if past.ended:
        more = after.get("verdict") or after.get("said")
        return f"{past.ended}: {more}" if more else past.ended
    attempts = after.get("attempts") or 1
    return f"{phase}, attempt {after.get('attempt', 1)} of {attempts}" if attempts > 1 else phase


def going(found: Pace) -> str:
    """`step 54 of 120 (45 %), loss 1.23, 1,234 tokens/s, about 30 min left`"""
    out = []
    if found.share is not None:
        plural = "calls " if found.unit == "call" else ""
        head = f"{plural}{found.done:g} of {found.total:g}" if plural else f"step {found.done:g} of {found.total:g}"
        out.append(f"{head} ({100 * found.share:.0f} %)")
    if found.said:
        out.append(found.said)
    if found.loss is not None:
        out.append(f"loss {found.loss:.3g}")
    if found.speed is not None:
        out.append(f"{found.speed:,.0f} tokens/s" if found.speed >= 10 else f"{found.speed:.2g} tokens/s")
    if found.left is not None:
        out.append(f"about {spoken(found.left)} left")
    return ", ".join(out)


def money(found: Pace, ceiling: float | None) -> str:
    """`0.50 USD so far, at most 4.50`; nothing for what costs nothing."""
    if not found.cost and not ceiling:
        return ""
    so_far = "cost not known" if found.cost is None else f"{found.cost:.2f} USD so far"
    return f"{so_far}, at most {ceiling:.2f}" if ceiling else so_far


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
