"""What an evaluation leaves behind, as data: examples, answers, what judges said. All of it can be an event or a blob and come
back.

Place in the flow: the provider of evaluations fills these; `scores` reads them. `msgspec.to_builtins` and `msgspec.convert` are
the way out and in. Why the raw answers are kept: a verdict must be made again, years later, from the log alone.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

Side = Literal["candidate", "baseline"]
SIDES: tuple[Side, Side] = ("candidate", "baseline")
CRITERIA = ("accuracy", "completeness", "integration")  # what a judge marks
MEASURE = re.compile(r"[a-z][a-z0-9_]{0,39}")
WEIGHTS: dict[str, float] = {"accuracy": 30, "completeness": 25, "efficiency": 20, "latency": 15, "integration": 10}


class Example(msgspec.Struct, frozen=True, omit_defaults=True):
    """One question. `inputs`, `outputs` and `metadata` are those of the data set's row."""

    id: str
    inputs: dict[str, Any]
    outputs: dict[str, Any] = {}
    metadata: dict[str, Any] = {}


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call. `error` says why there is no answer; `seconds`, `cost_usd` and tokens are None where nobody knows them.

    `scores` holds 0..1 by evaluator name; an evaluator that could not measure is not in it.
    """

    example: str
    side: Side
    repetition: int = 0
    text: str = ""
    error: str = ""
    seconds: float | None = None
    cost_usd: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    scores: dict[str, float] = {}


class Judged(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a judge said about one pair, asked twice with the order swapped (`judge.both`).

    `winner` is a tie where both orders disagree. `preferred_place` is the place ("first", "second") it chose both times in that
    case. `candidate` and `baseline` hold 0..1 by criterion, the mean of both orders.
    """

    example: str
    winner: Literal["candidate", "baseline", "tie"]
    agreed: bool = True
    repetition: int = 0
    preferred_place: Literal["", "first", "second"] = ""
    candidate: dict[str, float] = {}
    baseline: dict[str, float] = {}
    reasons: tuple[str, ...] = ()
    error: str = ""
    cost_usd: float = 0.0


class Scoring(msgspec.Struct, frozen=True, omit_defaults=True):
    """How measures become one score. Weights are percent and sum to 100.

    `measures` maps an evaluator to the dimension it feeds; `judge.<criterion>` and `judge.preference` may be named like
    evaluators. One that is not named feeds the dimension of its own name, or accuracy. A `reference` (seconds, USD) is the value
    that scores 0.5; None takes the median of both sides together.
    """

    weights: dict[str, float] = msgspec.field(default_factory=WEIGHTS.copy)
    measures: dict[str, str] = {}
    latency_reference: float | None = None
    cost_reference: float | None = None

    def __post_init__(self) -> None:
        named("weights", self.weights)
        bad = [name for name, weight in self.weights.items() if not (math.isfinite(weight) and 0 <= weight <= 100)]
        if bad:
            raise ValueError(f"weights: {', '.join(sorted(bad))} must be a percentage from 0 to 100")
        total = sum(self.weights.values())
        if not math.isclose(total, 100, abs_tol=1e-6):
            raise ValueError(
                f"weights: they sum to {total:g}: allowed is 100; change {', '.join(sorted(self.weights))} so that they do"
            )
        for name in ("latency_reference", "cost_reference"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is {value}: allowed is a finite number above 0, or nothing for the median of both sides")
        unknown = sorted(set(self.measures.values()) - set(self.weights))
        if unknown:
            raise ValueError(f"measures: no weight for {', '.join(unknown)}: allowed are {', '.join(sorted(self.weights))}")


def named(field: str, names: Iterable[str]) -> None:
    """Measures appear in tables, sentences and plots: their names are plain. Raises ValueError."""
    bad = sorted(name for name in names if not MEASURE.fullmatch(name))
    if bad:
        raise ValueError(
            f"{field}: {bad[0][:80]!r} is no name of a measure: allowed are a-z, 0-9 and _, first a letter, at most 40 characters"
        )


class Pair(msgspec.Struct, frozen=True):
    """One example with at least one call on both sides."""

    example: str
    candidate: tuple[Answer, ...]
    baseline: tuple[Answer, ...]
    judged: tuple[Judged, ...] = ()

    def of(self, side: Side) -> tuple[Answer, ...]:
        return self.candidate if side == "candidate" else self.baseline


def paired(answers: Iterable[Answer], judged: Iterable[Judged] = ()) -> tuple[list[Pair], list[str]]:
    """Pairs in the order of their example's name, and the examples that only one side was asked. The same call twice counts
    once, the last.
    """
    calls: dict[str, dict[tuple[Side, int], Answer]] = {}
    for answer in answers:
        calls.setdefault(answer.example, {})[answer.side, answer.repetition] = answer
    said: dict[str, dict[int, Judged]] = {}
    for one in judged:
        said.setdefault(one.example, {})[one.repetition] = one
    pairs, alone = [], []
    for example in sorted(calls):
        sides = {side: tuple(calls[example][key] for key in sorted(calls[example]) if key[0] == side) for side in SIDES}
        if all(sides.values()):
            heard = said.get(example, {})
            pairs.append(Pair(example, sides["candidate"], sides["baseline"], tuple(heard[key] for key in sorted(heard))))
        else:
            alone.append(example)
    return pairs, alone


def usable(value: float | None) -> float | None:
    """A measure that can be counted with: finite and not negative; anything else is as good as not measured."""
    return value if value is not None and math.isfinite(value) and value >= 0 else None


def as_score(scores: Mapping[str, float], name: str) -> float | None:
    """0..1 or None: an evaluator that answers NaN or 7 has not measured."""
    value = scores.get(name)
    return float(value) if value is not None and math.isfinite(value) and 0 <= value <= 1 else None
