"""Seconds and dollars of both sides as people name them: p50, p95, cost per request and per 1,000 tokens, compared as ratios.

Place in the flow: `evidence` adds these to the measures of 0..1. They guard and inform; gains come from the latency and
efficiency dimensions, which are means and have an exact test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

from controller.judgement.bootstrap import Pick, percentile_interval, quantile, resample
from controller.judgement.rules import Rules
from controller.judgement.scores import Measured, Usage
from controller.judgement.statistics import Interval, swap

SWAPS = 1000

_COLUMNS = itemgetter(0), itemgetter(1), itemgetter(2)

Rows = Sequence[Any]
Figures = Callable[[Rows], Sequence[float]]


class Ratio(NamedTuple):
    """Figures of both sides; `logs` and `p` of the logarithm of their ratio, where there is one (neither side is 0 or unknown)."""

    measure: str
    n: int
    candidate: float
    baseline: float
    logs: Interval | None
    p: float | None


def ratios(measured: Measured, rules: Rules, *, seed: int) -> list[Ratio]:
    """All ratios that the examples give. Intervals by the percentile bootstrap, p by swapping sides."""
    timed, priced = measured.timed, measured.priced
    found = []
    if timed.examples:
        sides = [[usage.seconds for usage in side] for side in (timed.candidate, timed.baseline)]
        found += _compared(("latency_p50", "latency_p95"), percentiles, sides, rules, seed)
    if priced.examples:
        sides = [[_priced(usage) for usage in side] for side in (priced.candidate, priced.baseline)]
        found += _compared(("cost_per_request", "cost_per_1k_tokens"), costs, sides, rules, seed + 1)
    return found


def percentiles(rows: Rows) -> Sequence[float]:
    """p50 and p95 of seconds; a row is an example's repetitions."""
    ordered = sorted(chain.from_iterable(rows))
    return quantile(ordered, 0.5), quantile(ordered, 0.95)


def costs(rows: Rows) -> Sequence[float]:
    """Dollars per request and per 1,000 tokens: all dollars over all tokens, since a mean of ratios would let short answers
    weigh most.
    """
    dollars, calls, tokens = (sum(map(column, rows)) for column in _COLUMNS)
    return dollars / calls, 1000 * dollars / tokens if tokens else math.nan


def _priced(usage: Usage) -> tuple[float, int, int]:
    return usage.cost_usd, usage.calls, usage.tokens


def _compared(names: Sequence[str], figures: Figures, sides: Sequence[Rows], rules: Rules, seed: int) -> list[Ratio]:
    mine, theirs = (figures(side) for side in sides)
    known = [place for place in range(len(names)) if math.isfinite(mine[place]) and math.isfinite(theirs[place])]
    n = len(sides[0])
    if n < 2 or not all(mine[place] > 0 and theirs[place] > 0 for place in known):
        return [Ratio(names[place], n, mine[place], theirs[place], None, None) for place in known]

    def logs(candidate: Rows, baseline: Rows) -> list[float]:
        return [_log(over, under) for over, under in zip(figures(candidate), figures(baseline), strict=True)]

    def drawn(pick: Pick) -> list[float]:
        return logs(pick(sides[0]), pick(sides[1]))

    draws = resample(n, drawn, draws=rules.draws, seed=seed)
    p_values = swap(sides[0], sides[1], logs, draws=min(SWAPS, rules.draws), seed=seed)
    return [
        Ratio(names[place], n, mine[place], theirs[place], percentile_interval(draws[place], rules.confidence), p_values[place])
        for place in known
    ]


def _log(over: float, under: float) -> float:
    """0 for nothing against nothing, infinite for something against nothing."""
    if over > 0 and under > 0:
        return math.log(over / under)
    return 0.0 if not over > under and not under > over else math.copysign(math.inf, over - under)
