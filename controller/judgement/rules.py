"""By which rules an evaluation is judged, as data that a spec carries: the gains that count, what must not get worse, and how
sure to be.

Place in the flow: written by a user (or the defaults), read by `evidence`, `flags` and `verdict`, told again in the report.
"""

from __future__ import annotations

import math

import msgspec

from controller.judgement.results import named

RELATIVE = ("latency_p50", "latency_p95", "cost_per_request", "cost_per_1k_tokens")  # lower is better, compared as a ratio
GAINS: dict[str, float] = {"score": 0.02}
KEEP: dict[str, float] = {"accuracy": 0.03, "success_rate": 0.02}
WATCH: dict[str, float] = {"completeness": 0.05, "integration": 0.05, "latency_p95": 0.2, "cost_per_request": 0.1}


class Rules(msgspec.Struct, frozen=True, omit_defaults=True):
    """Shares are 0..1: 0.02 is two points of a score, or two percent of a ratio.

    `alpha`: how often a candidate that is no different may be deployed, at most. Intervals are two-sided at 1 - 2 alpha, tests at
    2 alpha. `gains`: measures of which one must be better, with the smallest gain worth a deployment. `keep`: measures that
    reject the candidate when they are worse by more than this. `watch`: measures that then ask a person. Names are dimensions,
    `score`, `success_rate` or one of `RELATIVE`. `power` is for the number of examples that would be enough. `draws`: resamples;
    more cost time and steady the last digit.
    """

    alpha: float = 0.025
    power: float = 0.8
    minimum_examples: int = 30
    gains: dict[str, float] = msgspec.field(default_factory=GAINS.copy)
    keep: dict[str, float] = msgspec.field(default_factory=KEEP.copy)
    watch: dict[str, float] = msgspec.field(default_factory=WATCH.copy)
    judge_disagrees: float = 0.25
    judge_contradicts: float = 0.25
    missing: float = 0.05
    failing: float = 0.1
    draws: int = 2000

    def __post_init__(self) -> None:
        _share("alpha", self.alpha, 0.0001, 0.25)
        _share("power", self.power, 0.5, 0.999)
        for name in ("judge_disagrees", "judge_contradicts", "missing", "failing"):
            _share(name, getattr(self, name), 0, 1)
        for field in ("gains", "keep", "watch"):
            named(field, getattr(self, field))
            for name, value in getattr(self, field).items():
                _share(f"{field}.{name}", value, 0, 10)
        if not self.gains:
            raise ValueError("gains is empty: name at least one measure that must get better, such as score: 0.02")
        for name, value in self.gains.items():
            if name in RELATIVE:
                raise ValueError(f"gains.{name}: a ratio cannot be a gain; use latency or efficiency, or watch it")
            if value == 0:
                raise ValueError(f"gains.{name} is 0: allowed is the smallest gain worth a deployment, above 0, such as 0.02")
        twice = sorted(set(self.keep) & set(self.watch))
        if twice:
            raise ValueError(f"{', '.join(twice)} is in keep and in watch: allowed is one of them")
        if self.minimum_examples < 10:
            raise ValueError(
                f"minimum_examples is {self.minimum_examples}: allowed is 10 or more; below that no interval holds its level"
            )
        if not 200 <= self.draws <= 100_000:
            raise ValueError(f"draws is {self.draws}: allowed is 200 to 100000")

    @property
    def confidence(self) -> float:
        return 1 - 2 * self.alpha

    def tolerance(self, name: str) -> float | None:
        return self.keep.get(name, self.watch.get(name))


def _share(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} is {value}: allowed is a number from {low:g} to {high:g}")
