"""What is watched, as a whole; and a rollout: where it is, how both sides do, what it waits for. Other runs: `watch_runs.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from controller.cli import watch_runs
from controller.cli.text import HEALTH_STYLE, clean, spoken, styled
from controller.events import sentence

if TYPE_CHECKING:
    from rich.text import Text

    from controller.address import Address
    from controller.cli.watch import Look
    from controller.events import Event
    from controller.health import Status

COLUMNS = (("requests", 9), ("errors", 9), ("p95", 11), ("USD/request", 12))


def paragraphs(
    look: Look, story: Sequence[Event], ceilings: Mapping[Address, float | None], *, ascii_only: bool = False
) -> list[Text]:
    """The whole view. `ceilings` = what each run may cost at most (USD)."""
    out: list[Text] = []
    for status in look.runs:
        if status.address.kind == "Rollout":
            out += _rollout(status)
        else:
            out += watch_runs.paragraph(status, ceilings.get(status.address), ascii_only=ascii_only)
    if not look.runs and not look.ended:
        out.append(styled("nothing runs; waiting for a run (Ctrl-C ends this)", "dim"))
    out += [styled(f"  {event.sequence:04d}  ", "dim") + styled(sentence(event)) for event in story]
    if look.ended:
        out.append(styled(f"{look.ended}: {look.verdict}", "bold"))
    return out


def _rollout(status: Status) -> list[Text]:
    after = status.past.after or {}
    if not after:
        head = styled(str(status.address), "bold") + styled("  waits to start")
        return [head, *(styled(f"  {code}: {clean(reason)}", "yellow") for code, reason in sorted(status.told.items()))]
    head = styled(status.address.name, "bold") + styled(f"  {moved(after)}  ")
    out = [head + styled(status.health, HEALTH_STYLE.get(status.health, "")), styled(f"  {place(status)}")]
    variants = (status.observed or {}).get("variants", {})
    if variants:
        out.append(styled("  " + " " * 24 + "".join(f"{title:>{width}}" for title, width in COLUMNS), "dim"))
    for name in ("stable", "candidate"):
        if name in variants:
            label = f"{name} {after.get(name, {}).get('version', '')}"
            figures = zip(cells(variants[name]), COLUMNS, strict=True)
            out.append(styled(f"  {label[:23]:24}" + "".join(f"{cell:>{width}}" for cell, (_, width) in figures)))
    tripped = (status.observed or {}).get("tripped")
    if tripped:
        out.append(styled(f"  the gateway's guard has tripped: {tripped}", "red"))
    out += [styled(f"  {code}: {clean(reason)}", "yellow") for code, reason in sorted(status.told.items())]
    return out


def moved(after: Mapping[str, Any]) -> str:
    stable, candidate = after.get("stable") or {}, after.get("candidate") or {}
    return f"{after.get('binding', '?')}: {stable.get('version', 'nothing')} -> {candidate.get('version', '?')}"


def place(status: Status) -> str:
    """`step 1 of 3, 20 %, for 12 s, progressing`"""
    after, seen = status.past.after or {}, status.observed or {}
    if not after:
        return status.summary
    held = f", for {spoken(seen['seconds'])}" if seen.get("seconds") is not None else ""
    shadow = f", copies of {after['shadow']:g} %" if after.get("shadow") else ""
    if not status.past.running:
        return f"{after.get('phase')}: {after.get('verdict') or status.past.ended}"
    return f"step {after['step'] + 1} of {after['steps']}, {after['weight']:g} %{shadow}{held}, {after['phase']}"


def cells(figures: Mapping[str, Any]) -> tuple[str, str, str, str]:
    p95, cost = figures.get("p95"), figures.get("costPerRequest")
    latency = "-" if p95 is None else f"{p95:.2f} s" if p95 >= 1 else f"{1000 * p95:.3g} ms"
    return (str(figures["requests"]), f"{figures['errorRate']:.1f} %", latency, "-" if cost is None else f"{cost:.5f}")


def one_line(status: Status, ceiling: float | None) -> str:
    """A run for a pipe."""
    if status.address.kind != "Rollout":
        return watch_runs.one_line(status, ceiling)
    after = status.past.after or {}
    if not after:
        told = [f"{code}: {reason}" for code, reason in sorted(status.told.items())]
        return "; ".join([f"{status.address}: waits to start", *told]).replace("\n", " ")
    sides = []
    for name, figures in sorted((status.observed or {}).get("variants", {}).items(), reverse=True):
        requests, errors, p95, cost = cells(figures)
        sides.append(f"{name} {requests} requests, {errors} errors, p95 {p95}, {cost} USD a request")
    told = [f"{code}: {reason}" for code, reason in sorted(status.told.items())]
    return "; ".join([f"{status.address.name}: {moved(after)}", place(status), *sides, *told]).replace("\n", " ")
