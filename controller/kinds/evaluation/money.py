"""What an evaluation may cost: every token that may be used, and every minute that an endpoint of its own may run. Pure.

Prices written in environment.yaml come first, then those that the endpoint lists; both are USD per million tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from controller.change import Cost
from controller.kinds.evaluation.sides import Target, place
from controller.kinds.evaluation.spec import EvaluationSpec

JUDGE_FRAME_TOKENS = 800
"""What the judge's wording and the schema take besides question and answers."""
JUDGE_CALLS = 2 * 2
"""Both orders, and each may be sent back once because its form is wrong."""

Prices = Mapping[str, Any]
Serving = Mapping[str, Mapping[str, Any]]


def priced(
    spec: EvaluationSpec,
    prices: Prices,
    candidate: Target | None,
    baseline: Target | None,
    listed: Prices | None = None,
    serving: Serving | None = None,
) -> tuple[Cost, str, str]:
    """Estimate and ceiling in USD, how they come about, and why it is too much (or nothing).

    The ceiling is every question, on both sides and before the judge, with all the tokens that it may take, and the minutes of
    created endpoints to the deadline; a side that is paid by the minute costs nothing per token. Where no price is known it is
    the budget, which the work never exceeds. The estimate is half of the ceiling: questions are seldom full, and a judge is
    seldom sent back.
    """
    listed, serving = listed or {}, serving or {}
    worst = worst_calls(spec, prices, candidate, baseline, listed, serving)
    minutes = {name: _minutes_usd(each) for name, each in serving.items()}
    by_minute = sum(usd or 0.0 for usd in minutes.values())
    unknown = sorted({name for name, usd in {**worst, **{k: v for k, v in minutes.items() if v is None}}.items() if usd is None})
    over = ""
    if unknown:
        rest = f"no price is known for the {' and the '.join(unknown)}"
        told = f"at most {spec.budget_usd:.2f} USD (its budget: {rest}{_served(serving)})"
        ceiling = spec.budget_usd
        pairs = spec.examples * spec.repetitions
        known = pairs * sum(usd or 0.0 for usd in worst.values()) + by_minute
        if by_minute > spec.budget_usd:
            over = f"spec.budgetUsd is {spec.budget_usd:.2f}, and{_served(serving).lstrip(';')}; raise it, or shorten the deadline"
        elif known > spec.budget_usd:
            over = f"spec.budgetUsd is {spec.budget_usd:.2f}, and what has a price alone may cost {known:.2f} USD"
            over += "; raise it, or lower examples, repetitions, maxTokens or maxInputTokens"
    else:
        pairs = spec.examples * spec.repetitions
        usd = pairs * sum(usd or 0.0 for usd in worst.values()) + by_minute
        ceiling = math.ceil(round(usd * 10_000, 3)) / 10_000
        parts = " + ".join(f"{name} {usd:.4f}" for name, usd in worst.items() if usd is not None and name not in serving)
        tokens = f"{spec.examples} questions x {spec.repetitions} x ({parts})" if parts else ""
        told = f"at most {ceiling:.2f} USD ({(tokens + _served(serving) + _dated(listed)).removeprefix('; ')})"
        if ceiling > spec.budget_usd:
            less = "raise it, or lower examples, repetitions, maxTokens or maxInputTokens"
            less += ", or shorten the deadline" if serving else ""
            over = f"spec.budgetUsd is {spec.budget_usd:.2f}, and it may cost {told.removeprefix('at most ')}; {less}"
    return Cost(ceiling / 2, ceiling), told, over


def _minutes_usd(serving: Mapping[str, Any]) -> float | None:
    hourly = serving["usdPerHour"]
    return None if hourly is None else serving["minutes"] * hourly / 60


def _served(serving: Serving) -> str:
    """What is created, in words."""
    parts = []
    for name, each in serving.items():
        usd = _minutes_usd(each)
        if usd is not None:
            rate = f"{each['usdPerHour']:g} USD/h of {each['asOf']}"
            parts.append(f"; an endpoint for the {name} on {place(each)}, at most {each['minutes']} min at {rate} = {usd:.4f}")
    return "".join(parts)


def _dated(listed: Prices) -> str:
    if not listed:
        return ""
    return f"; the endpoint's own price of {min(each['asOf'] for each in listed.values())} for the {' and the '.join(listed)}"


def worst_calls(
    spec: EvaluationSpec,
    prices: Prices,
    candidate: Target | None,
    baseline: Target | None,
    listed: Prices | None = None,
    serving: Serving | None = None,
) -> dict[str, float | None]:
    """USD of one answer of each side and of one judged pair, at most; None where no price is known."""
    listed, serving = listed or {}, serving or {}
    system = (len(spec.system.encode()) + 3) // 4 if spec.system else 0
    tokens = spec.max_input_tokens + system
    worst: dict[str, float | None] = {}
    for name, target in (("candidate", candidate), ("baseline", baseline)):
        price = (prices.get(target["model"]) or listed.get(name)) if target else None
        worst[name] = 0.0 if name in serving else _usd(price, tokens, spec.max_tokens)
    if spec.judge:
        shown = JUDGE_FRAME_TOKENS + 2 * spec.max_input_tokens + 2 * spec.max_tokens + spec.judge.max_tokens
        one = _usd(prices.get(spec.judge.model) or listed.get("judge"), shown, spec.judge.max_tokens)
        worst["judge"] = None if one is None else JUDGE_CALLS * one
    return worst


def _usd(price: Mapping[str, float] | None, tokens_in: int, tokens_out: int) -> float | None:
    """Prices are per million tokens."""
    return (tokens_in * price["input"] + tokens_out * price["output"]) / 1_000_000 if price else None
