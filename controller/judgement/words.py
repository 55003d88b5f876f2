"""Figures and names for people: the same in a verdict's sentences, in Markdown and on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

LABELS = {
    "score": "weighted score",
    "success_rate": "success rate",
    "latency": "latency score",
    "efficiency": "efficiency score",
    "latency_p50": "latency p50",
    "latency_p95": "latency p95",
    "cost_per_request": "cost per request",
    "cost_per_1k_tokens": "cost per 1,000 tokens",
}
UNITS = {"latency_p50": "s", "latency_p95": "s", "cost_per_request": "USD", "cost_per_1k_tokens": "USD"}


def label(measure: str) -> str:
    return LABELS.get(measure, measure.replace("_", " "))


def figure(value: float | None) -> str:
    """Thousands with commas, small numbers with three significant digits."""
    if value is None or not math.isfinite(value):
        return "not known"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) >= 1e-4 else f"{value:.2e}"


def share(value: float) -> str:
    """0.5 is 50.0 (of 100 points)."""
    return f"{100 * value:.1f}"


def change(value: float | None, relative: bool) -> str:
    """`+6.0 points`, or `+12.0 %` for a ratio."""
    if value is None or not math.isfinite(value):
        return "not known"
    shown = f"{100 * value:+.1f}"
    return f"{'+0.0' if shown == '-0.0' else shown} {'%' if relative else 'points'}"


def span(low: float | None, high: float | None, relative: bool) -> str:
    """`-1.0 to +6.0 points`, or nothing."""
    if low is None or high is None:
        return ""
    return f"{change(low, relative).split()[0]} to {change(high, relative)}"


def measured_as(measure: str, value: float) -> str:
    """A side's figure with its unit."""
    unit = UNITS.get(measure)
    return f"{figure(value)} {unit}" if unit else share(value)


def p_value(p: float | None) -> str:
    if p is None:
        return "no p"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def listed(names: Sequence[str], word: str = "and") -> str:
    """`a`, `a and b`, `a, b and c`."""
    return f"{', '.join(names[:-1])} {word} {names[-1]}" if len(names) > 1 else "".join(names)
