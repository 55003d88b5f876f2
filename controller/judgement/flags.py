"""Doubts about the measuring itself: a judge that contradicts itself or the tests, calls that are missing or failed.

Place in the flow: beside `evidence`; a flag that blocks makes `verdict` ask a person instead of deploying on figures nobody
should trust. Why a share and not a test: the question is whether the instrument is good enough to use, not whether its noise is
chance.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import NamedTuple

import msgspec

from controller.judgement.results import SIDES, Answer, Judged, Pair, as_score
from controller.judgement.rules import Rules
from controller.judgement.scores import Measured
from controller.judgement.statistics import wilson

FEWEST = 10  # pairs below which a share of a judge says nothing


class Flag(msgspec.Struct, frozen=True):
    """`code` is stable, for scripts. `blocks`: at most needs_review. `examples`: some to look at."""

    code: str
    message: str
    blocks: bool
    examples: tuple[str, ...] = ()


class Judging(NamedTuple):
    """Counts of a judge's work over pairs that it was asked about in both orders."""

    asked: int
    failed: int
    disagreed: tuple[str, ...]
    first: int  # disagreements where it chose the answer shown first both times
    second: int
    comparable: int  # clear preferences where deterministic checks differ too
    contradicted: tuple[str, ...]


def raise_flags(measured: Measured, rules: Rules) -> list[Flag]:
    """Every doubt that the data give, worst first. A judge only blocks where it feeds a gain or a guard."""
    flags = _calls(measured, rules)
    counted = judging(measured.pairs)
    if counted.asked:
        matters = any(
            column.judged and (name in rules.gains or rules.tolerance(name) is not None)
            for name, column in measured.columns.items()
        )
        flags += _judge(counted, rules, matters)
    return sorted(flags, key=lambda flag: (not flag.blocks, flag.code))


def judging(pairs: Iterable[Pair]) -> Judging:
    """How often the judge disagreed with itself, and with deterministic checks, example by example."""
    asked = failed = first = second = comparable = 0
    disagreed, contradicted = [], []
    for pair in pairs:
        checked = _checked(pair.candidate) - _checked(pair.baseline)
        for one in pair.judged:
            asked += 1
            failed += bool(one.error)
            if one.error:
                continue
            if not one.agreed:
                disagreed.append(pair.example)
                first += one.preferred_place == "first"
                second += one.preferred_place == "second"
            elif one.winner != "tie" and abs(checked) > 1e-9:
                comparable += 1
                if (one.winner == "candidate") != (checked > 0):
                    contradicted.append(pair.example)
    return Judging(asked, failed, tuple(disagreed), first, second, comparable, tuple(contradicted))


def _checked(answers: Iterable[Answer]) -> float:
    """Mean of the deterministic scores of one side; a failed call is 0."""
    marks: list[float] = []
    for answer in answers:
        scores = [value for name in answer.scores if (value := as_score(answer.scores, name)) is not None]
        marks += [0.0] if answer.error else scores
    return fmean(marks) if marks else 0.0


def _judge(counted: Judging, rules: Rules, matters: bool) -> list[Flag]:
    flags = []
    heard = counted.asked - counted.failed
    if counted.failed > rules.missing * counted.asked:
        flags.append(
            Flag("JudgeFailed", f"The judge gave no usable answer for {counted.failed} of {counted.asked} pairs.", matters)
        )
    apart = len(counted.disagreed)
    if heard >= FEWEST and apart > rules.judge_disagrees * heard:
        low, high = wilson(apart, heard, rules.confidence)
        place = ""
        if counted.first + counted.second:
            name, most = ("first", counted.first) if counted.first >= counted.second else ("second", counted.second)
            place = f" In {most} of these it chose the answer shown {name} both times."
        flags.append(
            Flag(
                "JudgeDisagreesWithItself",
                f"With the order of the answers swapped the judge changed its mind on {apart} of {heard} pairs"
                f" ({100 * apart / heard:.0f} %, interval {100 * low:.0f} to {100 * high:.0f} %;"
                f" allowed {100 * rules.judge_disagrees:.0f} %).{place}",
                matters,
                counted.disagreed[:5],
            )
        )
    wrong = len(counted.contradicted)
    if counted.comparable >= FEWEST and wrong > rules.judge_contradicts * counted.comparable:
        flags.append(
            Flag(
                "JudgeContradictsChecks",
                f"On {wrong} of {counted.comparable} pairs the judge preferred the answer that deterministic checks score lower"
                f" ({100 * wrong / counted.comparable:.0f} %; allowed {100 * rules.judge_contradicts:.0f} %).",
                matters,
                counted.contradicted[:5],
            )
        )
    return flags


def _calls(measured: Measured, rules: Rules) -> list[Flag]:
    flags = []
    total = len(measured.pairs) + len(measured.alone)
    if len(measured.alone) > rules.missing * total:
        flags.append(
            Flag(
                "PairsMissing",
                f"{len(measured.alone)} of {total} examples have answers of one side only and are left out; resume the evaluation.",
                True,
                measured.alone[:5],
            )
        )
    calls = sum(len(pair.of(side)) for pair in measured.pairs for side in SIDES)
    if measured.unusable > rules.missing * max(calls, 1):
        message = f"{measured.unusable} measures of {calls} calls are left out: NaN, infinite, negative or outside 0..1."
        flags.append(Flag("MeasuresUnusable", message, True))
    failed = [pair.example for pair in measured.pairs if any(answer.error for answer in pair.baseline)]
    share = fmean(bool(a.error) for pair in measured.pairs for a in pair.baseline) if measured.pairs else 0.0
    if share > rules.failing:
        message = (
            f"The baseline failed {100 * share:.0f} % of its calls (allowed {100 * rules.failing:.0f} %): that compares nothing."
        )
        flags.append(Flag("BaselineFailing", message, True, tuple(failed[:5])))
    return flags


def disputed(judged: Iterable[Judged]) -> set[str]:
    """Examples where both orders disagreed."""
    return {one.example for one in judged if not one.agreed and not one.error}
