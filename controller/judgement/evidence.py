"""What is known about each measure: both figures, the difference, its interval, p, corrected p, and how many examples would be
enough.

Place in the flow: between `scores` and `verdict`. One resample of the examples serves all measures that have the same examples.
Two families are corrected apart (Holm): the gains, of which one may deploy, and all the others, which only inform; mixing them
would take power from the decision for figures that cannot decide it.
"""

from __future__ import annotations

import math
import zlib
from statistics import fmean, stdev
from typing import Literal

import msgspec

from controller.judgement.bootstrap import bca_interval, means_of, resample
from controller.judgement.ratios import Ratio, ratios
from controller.judgement.rules import RELATIVE, Rules
from controller.judgement.scores import Column, Measured
from controller.judgement.statistics import (
    MOST,
    Interval,
    examples_for_mcnemar,
    examples_for_mean,
    holm,
    mcnemar,
    newcombe_paired,
    normal,
    sign_flip,
)

State = Literal["better", "worse", "unclear", "within", "beyond", "shown"]
Role = Literal["gain", "keep", "watch", "shown"]


class Evidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """One measure. `difference`, `low` and `high`: candidate minus baseline (0..1), or the relative change (0.2 = 20 % more).

    `state` of a gain: better, worse or unclear, after correction. Of a guard (keep, watch): within (worsening beyond `limit` is
    ruled out), beyond (it is shown) or unclear. None stands for a figure that does not exist, such as a change relative to
    nothing. `needed`: examples with which the question this measure is here for would be answered with the wanted power.
    """

    measure: str
    role: Role
    n: int
    candidate: float
    baseline: float
    state: State
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_corrected: float | None = None
    limit: float | None = None
    needed: int | None = None
    gained: int | None = None
    lost: int | None = None
    interval: str = ""
    test: str = ""
    judged: bool = False

    @property
    def relative(self) -> bool:
        return self.measure in RELATIVE

    @property
    def worsening(self) -> float:
        """How much worse the candidate looks, by the estimate; negative where it is better."""
        if self.difference is None:
            return math.inf if self.state == "beyond" else 0.0
        return self.difference if self.relative else -self.difference


def gather(measured: Measured, rules: Rules, *, seed: int) -> list[Evidence]:
    """Evidence of every measure: gains first, then guards, then what is only shown; by name within."""
    found = [
        *_columns(measured, rules, seed),
        *(_of_ratio(each, rules) for each in ratios(measured, rules, seed=_seed(seed, "ratios"))),
    ]
    corrected: dict[str, float] = {}
    for family in ([e for e in found if e.role == "gain"], [e for e in found if e.role != "gain"]):
        corrected |= holm({e.measure: e.p for e in family if e.p is not None})
    found = [_stated(msgspec.structs.replace(e, p_corrected=corrected.get(e.measure)), rules) for e in found]
    order: dict[Role, int] = {"gain": 0, "keep": 1, "watch": 2, "shown": 3}
    return sorted(found, key=lambda e: (order[e.role], e.measure))


def role_of(name: str, rules: Rules) -> Role:
    return "gain" if name in rules.gains else "keep" if name in rules.keep else "watch" if name in rules.watch else "shown"


def _stated(evidence: Evidence, rules: Rules) -> Evidence:
    low, high, limit = evidence.low, evidence.high, evidence.limit
    if low is None or high is None:
        return evidence
    if evidence.role == "gain":
        sure = evidence.p_corrected is not None and evidence.p_corrected <= 2 * rules.alpha
        state: State = "better" if sure and low > 0 else "worse" if sure and high < 0 else "unclear"
        return msgspec.structs.replace(evidence, state=state)
    if limit is None:
        return evidence
    least, most = (low, high) if evidence.relative else (-high, -low)  # of the worsening
    return msgspec.structs.replace(evidence, state="beyond" if least > limit else "within" if most <= limit else "unclear")


# -- measures of 0..1 --------------------------------------------------------------------------------------------------


def _columns(measured: Measured, rules: Rules, seed: int) -> list[Evidence]:
    groups: dict[tuple[str, ...], list[Column]] = {}
    for column in measured.columns.values():
        groups.setdefault(column.examples, []).append(column)
    found = []
    for columns in groups.values():
        graded = [column for column in columns if not column.pass_fail]
        count = len(columns[0].examples)
        drawn: dict[str, list[float]] = {}
        if graded and count >= 2:
            means = resample(count, means_of([c.differences for c in graded]), draws=rules.draws, seed=_seed(seed, "means"))
            drawn = dict(zip((column.name for column in graded), means, strict=True))
        found += [_of_column(column, drawn.get(column.name), rules, seed) for column in columns]
    return found


def _of_column(column: Column, drawn: list[float] | None, rules: Rules, seed: int) -> Evidence:
    differences = column.differences
    plain = Evidence(
        measure=column.name,
        role=role_of(column.name, rules),
        n=len(differences),
        candidate=fmean(column.candidate),
        baseline=fmean(column.baseline),
        state="unclear" if role_of(column.name, rules) != "shown" else "shown",
        difference=fmean(differences),
        limit=rules.gains.get(column.name, rules.tolerance(column.name)),
        judged=column.judged,
    )
    if column.pass_fail:
        gained, lost = differences.count(1.0), differences.count(-1.0)
        both = sum(1 for mine, theirs in zip(column.candidate, column.baseline, strict=True) if mine and theirs)
        interval = newcombe_paired(both, gained, lost, len(differences) - both - gained - lost, rules.confidence)
        plain = msgspec.structs.replace(
            plain, gained=gained, lost=lost, p=mcnemar(gained, lost), interval="Newcombe, paired", test="exact McNemar"
        )
    elif drawn:
        interval = bca_interval(differences, drawn, rules.confidence)
        p = sign_flip(differences, draws=rules.draws, seed=_seed(seed, column.name))
        plain = msgspec.structs.replace(plain, p=p, interval="bootstrap, BCa", test="sign flips")
    else:
        return plain
    low, high = max(-1.0, interval.low), min(1.0, interval.high)
    return msgspec.structs.replace(plain, low=low, high=high, needed=_needed(column, plain, Interval(low, high), rules))


def _needed(column: Column, evidence: Evidence, interval: Interval, rules: Rules) -> int | None:
    """For a gain: to find the smallest worthwhile one. For a guard: to rule out worsening beyond its limit, if both sides are
    alike.
    """
    if evidence.limit is None:
        return None
    if evidence.role != "gain":
        if not any(column.differences) and 0 < evidence.limit < 1:
            return examples_for_mean(0, evidence.limit, alpha=rules.alpha)
        return _to_rule_out(evidence.limit, interval, evidence.n, rules)
    alpha = rules.alpha / len(rules.gains)
    if not column.pass_fail:
        return examples_for_mean(stdev(column.differences), evidence.limit, alpha=alpha, power=rules.power)
    apart = ((evidence.gained or 0) + (evidence.lost or 0)) / evidence.n
    if apart == 0:
        return examples_for_mean(0, evidence.limit, alpha=alpha)
    effect = min(evidence.limit, 1.0)
    apart = max(apart, effect)
    return examples_for_mcnemar((apart + effect) / 2, (apart - effect) / 2, alpha=alpha, power=rules.power)


def _to_rule_out(limit: float, interval: Interval, n: int, rules: Rules) -> int | None:
    """Half widths shrink with the root of n: n ((z_a + z_b) / z_a x half / limit)^2 (normal approximation)."""
    half = (interval.high - interval.low) / 2
    if limit <= 0 or not math.isfinite(half):
        return None
    z = normal(1 - rules.alpha)
    return min(MOST, math.ceil(n * ((z + normal(rules.power)) / z * half / limit) ** 2))


def _of_ratio(ratio: Ratio, rules: Rules) -> Evidence:
    role = role_of(ratio.measure, rules)
    mine, theirs = ratio.candidate, ratio.baseline
    state: State = "shown"
    if role != "shown":  # nothing against nothing is no worsening; something against nothing is one without bounds
        state = "unclear" if mine > 0 and theirs > 0 else "beyond" if mine > theirs else "within"
    evidence = Evidence(
        measure=ratio.measure,
        role=role,
        n=ratio.n,
        candidate=mine,
        baseline=theirs,
        state=state,
        difference=mine / theirs - 1 if theirs else 0.0 if mine == 0 else None,
        limit=rules.tolerance(ratio.measure),
    )
    if ratio.logs is None:
        return evidence
    low, high = (math.expm1(value) if value < 50 else math.inf for value in ratio.logs)
    known = math.isfinite(high)
    return msgspec.structs.replace(
        evidence,
        low=low if known else None,
        high=high if known else None,
        p=ratio.p,
        needed=_to_rule_out(math.log1p(evidence.limit), ratio.logs, ratio.n, rules) if evidence.limit else None,
        interval="bootstrap, percentiles",
        test="side swaps",
    )


def _seed(seed: int, name: str) -> int:
    """Every measure its own stream, so that adding one leaves the others' digits alone."""
    return (seed << 32) ^ zlib.crc32(name.encode())
