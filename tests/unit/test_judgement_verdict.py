"""Every rule of the verdict, its guarantee in reduced form, and data that nobody should have sent."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import msgspec
import pytest

from controller.judgement.results import Answer, Judged, Scoring
from controller.judgement.rules import Rules
from controller.judgement.verdict import Verdict, evaluated

QUICK = Rules(draws=300)
TESTS = Rules(draws=300, gains={"accuracy": 0.02}, keep={"success_rate": 0.05}, watch={})


def runs(n: int, candidate: Any = None, baseline: Any = None) -> list[Answer]:
    """`n` examples; each side is a function of the example's number that gives fields of an answer."""
    plain = lambda number: {"scores": {"tests": float(number % 4 > 0)}}  # noqa: E731
    made = []
    for number in range(n):
        for side, fields in (("baseline", baseline or plain), ("candidate", candidate or plain)):
            made.append(Answer(f"e{number:04d}", side, **fields(number)))  # type: ignore[arg-type]
    return made


def verdict(
    answers: list[Answer], rules: Rules = TESTS, judged: tuple[Judged, ...] = (), scoring: Scoring | None = None
) -> Verdict:
    return evaluated(answers, judged, scoring or Scoring(), rules, seed=1)


def passing(*, every: int) -> Any:
    """Fails each `every`-th example."""
    return lambda number: {"scores": {"tests": float(number % every > 0)}}


def test_no_data_is_not_enough_and_says_how_many() -> None:
    found = verdict([])
    assert (found.verdict, found.rule, found.needed, found.candidate_score) == ("not_enough_data", "too_few", 30, None)
    assert "at least 30 are needed" in found.reasons[0]


def test_too_few_examples_are_never_a_pass_however_good() -> None:
    found = verdict(runs(29, passing(every=10_000), passing(every=2)))
    assert (found.verdict, found.rule) == ("not_enough_data", "too_few")
    assert found.needed is not None
    assert found.needed >= 30


def test_a_gain_that_nothing_measured_is_named() -> None:
    found = verdict(runs(50), Rules(draws=300, gains={"completeness": 0.02}))
    assert (found.verdict, found.rule) == ("not_enough_data", "too_few")
    assert "Nothing measured completeness" in found.reasons[0]


def test_clearly_better_and_nothing_worse_is_deployed() -> None:
    found = verdict(runs(300, passing(every=10), passing(every=3)))
    assert (found.verdict, found.rule) == ("deploy", "better")
    gain = found.evidence[0]
    assert (gain.measure, gain.state, gain.gained, gain.lost, gain.test) == ("accuracy", "better", 90, 20, "exact McNemar")
    assert gain.low is not None
    assert gain.low > 0
    assert any("success rate" in reason for reason in found.reasons)


def test_better_with_an_open_guard_goes_to_a_canary_and_says_what_would_settle_it() -> None:
    rules = msgspec.structs.replace(TESTS, keep={"success_rate": 0.005})
    found = verdict(runs(300, passing(every=10), passing(every=3)), rules)
    assert (found.verdict, found.rule) == ("deploy_canary", "probably_better")
    assert "Success rate may be worse than its limit" in found.reasons[1]
    assert found.needed == 736  # 0.025^(1/736) = 0.995: nothing seen among so many rules half a point out


def test_a_real_gain_that_is_smaller_than_asked_goes_to_a_canary() -> None:
    rules = msgspec.structs.replace(TESTS, gains={"accuracy": 0.2})
    found = verdict(runs(1000, passing(every=10), passing(every=5)), rules)
    assert (found.verdict, found.rule) == ("deploy_canary", "probably_better")
    assert "smaller than the 20 points in accuracy" in found.reasons[1]


def test_what_must_be_kept_and_was_not_measured_keeps_it_to_a_canary() -> None:
    rules = msgspec.structs.replace(TESTS, keep={"integration": 0.05}, watch={"latency_p95": 0.2, "completeness": 0.1})
    found = verdict(runs(300, passing(every=10), passing(every=3)), rules)
    assert (found.verdict, found.rule) == ("deploy_canary", "probably_better")
    assert "Nothing measured integration, which must not get worse" in found.reasons[1]
    assert "Not measured, and so not watched: completeness and latency p95." in found.notes


def test_worse_than_what_must_be_kept_is_rejected_whatever_else_is_better() -> None:
    rules = Rules(draws=300, gains={"latency": 0.02}, keep={"accuracy": 0.03}, watch={})
    quick = lambda number: {"scores": {"tests": float(number % 3 > 0)}, "seconds": 0.5}  # noqa: E731
    slow = lambda number: {"scores": {"tests": float(number % 10 > 0)}, "seconds": 2.0}  # noqa: E731
    found = verdict(runs(300, quick, slow), rules)
    assert (found.verdict, found.rule) == ("reject", "worse_than_kept")
    assert "Accuracy is worse: -23.3 points" in found.reasons[0]


def test_better_but_slower_is_a_trade_for_a_person() -> None:
    rules = msgspec.structs.replace(TESTS, watch={"latency_p95": 0.2})
    better = lambda number: {**passing(every=10)(number), "seconds": 3 + number / 1000}  # noqa: E731
    plain = lambda number: {**passing(every=3)(number), "seconds": 1 + number / 1000}  # noqa: E731
    found = verdict(runs(300, better, plain), rules)
    assert (found.verdict, found.rule) == ("needs_review", "trade")
    assert "Latency p95 is worse" in found.reasons[1]


def test_worse_is_rejected() -> None:
    found = verdict(runs(300, passing(every=3), passing(every=10)))
    assert (found.verdict, found.rule) == ("reject", "worse")
    assert "worse beyond chance" in found.reasons[0]


def test_a_gain_that_is_ruled_out_is_rejected() -> None:
    found = verdict(runs(400))  # identical answers: at most 1 - 0.025^(1/400) = 0.9 points can hide
    assert (found.verdict, found.rule) == ("reject", "no_gain")
    assert "2 points in accuracy or more is ruled out" in found.reasons[-1]


def test_too_noisy_says_how_many_examples_would_be_enough() -> None:
    found = verdict(runs(100, lambda n: {"scores": {"tests": float(n % 7 > 1)}}, lambda n: {"scores": {"tests": float(n % 5 > 0)}}))
    assert (found.verdict, found.rule) == ("not_enough_data", "open")
    assert found.needed is not None
    assert found.needed > 100
    assert f"about {found.needed:,} examples would be enough; there are 100" in found.reasons[-1]


def test_enough_examples_and_a_gain_between_nothing_and_worthwhile_is_a_persons_call() -> None:
    rules = msgspec.structs.replace(TESTS, gains={"accuracy": 0.1})
    better = lambda n: {"scores": {"tests": float(n % 20 not in (0, 1))}}  # noqa: E731
    plain = lambda n: {"scores": {"tests": float(n % 20 not in (2, 3, 4))}}  # noqa: E731
    found = verdict(runs(260, better, plain), rules)
    assert (found.verdict, found.rule) == ("needs_review", "between")


def test_an_agent_that_costs_something_against_one_that_costs_nothing_is_worse_without_bound() -> None:
    rules = msgspec.structs.replace(TESTS, watch={"cost_per_request": 0.1})
    paid = lambda n: {**passing(every=10)(n), "cost_usd": 0.01, "tokens_out": 5}  # noqa: E731
    free = lambda n: {**passing(every=3)(n), "cost_usd": 0.0, "tokens_out": 5}  # noqa: E731
    found = verdict(runs(300, paid, free), rules)
    assert (found.verdict, found.rule) == ("needs_review", "trade")
    assert "worse without bound" in found.reasons[1]
    assert verdict(runs(300, free, paid), rules).verdict == "reject"  # cheaper, but passes less


# -- doubts ------------------------------------------------------------------------------------------------------------


def judged(n: int, *, unsteady: int = 0, contradicts: int = 0, place: Any = "first") -> tuple[Judged, ...]:
    """Follows the tests of `passing(every=10)` against `passing(every=3)`, but for the first so many."""
    said = []
    for number in range(n):
        mine, theirs = number % 10 > 0, number % 3 > 0
        winner = "tie" if mine == theirs else "candidate" if mine else "baseline"
        if number < contradicts and winner != "tie":
            winner = "baseline" if winner == "candidate" else "candidate"
        shaken = number < unsteady
        marks = {"candidate": {"completeness": 0.8 - 0.01 * (number % 7)}, "baseline": {"completeness": 0.5}}
        name = f"e{number:04d}"
        said.append(
            Judged(name, "tie" if shaken else winner, agreed=not shaken, preferred_place=place if shaken else "", **marks)  # type: ignore[arg-type]
        )
    return tuple(said)


def test_a_judge_that_turns_with_the_order_deploys_nothing() -> None:
    answers = runs(300, passing(every=10), passing(every=3))
    found = verdict(answers, QUICK, judged(300, unsteady=120))
    assert (found.verdict, found.rule) == ("needs_review", "doubtful")
    assert [flag.code for flag in found.flags] == ["JudgeDisagreesWithItself"]
    assert "120 of 300 pairs" in found.reasons[0]
    assert "shown first both times" in found.reasons[0]
    assert verdict(answers, QUICK, judged(300)).verdict == "deploy"


def test_a_judge_that_contradicts_the_tests_deploys_nothing() -> None:
    found = verdict(runs(300, passing(every=10), passing(every=3)), QUICK, judged(300, contradicts=300))
    assert (found.verdict, found.rule) == ("needs_review", "doubtful")
    assert found.flags[0].code == "JudgeContradictsChecks"


def test_a_judge_that_feeds_nothing_that_counts_is_only_told() -> None:
    found = verdict(runs(300, passing(every=10), passing(every=3)), TESTS, judged(300, unsteady=200))
    assert found.verdict == "deploy"
    assert (found.flags[0].code, found.flags[0].blocks) == ("JudgeDisagreesWithItself", False)


def test_a_judge_without_usable_replies_is_flagged() -> None:
    said = tuple(msgspec.structs.replace(one, error="no JSON") if number < 60 else one for number, one in enumerate(judged(300)))
    found = verdict(runs(300, passing(every=10), passing(every=3)), QUICK, said)
    assert [flag.code for flag in found.flags if flag.blocks] == ["JudgeFailed"]


def test_half_an_evaluation_deploys_nothing() -> None:
    answers = runs(300, passing(every=10), passing(every=3))
    found = verdict([answer for answer in answers if answer.side == "candidate" or answer.example > "e0030"])
    assert (found.verdict, found.rule, found.flags[0].code) == ("needs_review", "doubtful", "PairsMissing")


def test_a_baseline_in_an_outage_is_no_comparison() -> None:
    broken = lambda n: {"error": "503"} if n % 5 == 0 else passing(every=3)(n)  # noqa: E731
    found = verdict(runs(300, passing(every=10), broken))
    assert (found.verdict, found.flags[0].code) == ("needs_review", "BaselineFailing")


def test_measures_that_are_no_numbers_are_left_out_and_flagged() -> None:
    bad = lambda n: {**passing(every=10)(n), "seconds": math.nan, "cost_usd": -1.0}  # noqa: E731
    found = verdict(runs(300, bad, passing(every=3)))
    assert (found.verdict, found.flags[0].code) == ("needs_review", "MeasuresUnusable")
    assert all(e.measure != "latency" for e in found.evidence)


# -- the guarantee -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [30, 80])
def test_where_nothing_differs_deployments_stay_within_the_promise(n: int) -> None:
    """150 evaluations at alpha 2.5 %: 4 expected at most, over 10 has a chance of 1 in 500. The benchmark does thousands."""
    found: Counter[str] = Counter()
    for seed in range(150):
        source = random.Random(f"{n}-{seed}")
        level = [source.random() for _ in range(n)]

        def side(number: int, source: random.Random = source, level: list[float] = level) -> dict[str, Any]:
            tests = float(level[number] + source.gauss(0, 0.3) > 0.3)
            return {
                "scores": {"tests": tests},
                "seconds": source.lognormvariate(0, 0.5),
                "cost_usd": source.lognormvariate(-5, 0.5),
            }

        found[evaluated(runs(n, side, side), (), Scoring(), Rules(draws=200), seed=seed).verdict] += 1
    assert found["deploy"] + found["deploy_canary"] <= 10
    assert found["reject"] < 120


def test_with_several_gains_the_chance_of_a_false_one_is_shared() -> None:
    rules = msgspec.structs.replace(TESTS, gains={"accuracy": 0.02, "integration": 0.02})
    fields = lambda n: {"scores": {"tests": float(n % 10 > 0), "integration": 0.5}}  # noqa: E731
    other = lambda n: {"scores": {"tests": float(n % 7 > 0), "integration": 0.5}}  # noqa: E731
    found = {e.measure: e for e in verdict(runs(200, fields, other), rules).evidence}
    assert found["accuracy"].p is not None
    assert found["accuracy"].p_corrected == pytest.approx(2 * found["accuracy"].p)


def test_a_verdict_is_the_same_again_and_survives_the_log() -> None:
    answers = runs(120, passing(every=10), passing(every=3))
    first = verdict(answers, QUICK, judged(120, unsteady=10))
    assert first == verdict(list(reversed(answers)), QUICK, tuple(reversed(judged(120, unsteady=10))))
    assert msgspec.json.decode(msgspec.json.encode(first), type=Verdict) == first
    assert first.improvement_pct is not None
    assert first.improvement_pct > 0


def test_swapping_the_sides_turns_every_difference_round() -> None:
    source = random.Random(9)
    fields = {
        (side, n): {"scores": {"tests": float(source.random() < 0.7)}, "seconds": source.random() + 0.1}
        for side in "ab"
        for n in range(60)
    }
    one = verdict(runs(60, lambda n: fields["a", n], lambda n: fields["b", n]), QUICK)
    two = verdict(runs(60, lambda n: fields["b", n], lambda n: fields["a", n]), QUICK)
    for mine, theirs in zip(one.evidence, two.evidence, strict=True):
        assert mine.measure == theirs.measure
        assert mine.p == theirs.p
        if not mine.relative:
            assert mine.difference == pytest.approx(-(theirs.difference or 0))
        assert {mine.state, theirs.state} != {"better"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"alpha": 0.5}, "alpha is 0.5"),
        ({"alpha": math.nan}, "alpha is nan"),
        ({"gains": {}}, "gains is empty"),
        ({"gains": {"score": 0}}, "smallest gain worth"),
        ({"gains": {"latency_p95": 0.1}}, "a ratio cannot be a gain"),
        ({"keep": {"accuracy": 0.1}, "watch": {"accuracy": 0.1}}, "accuracy is in keep and in watch"),
        ({"minimum_examples": 3}, "minimum_examples is 3"),
        ({"draws": 10}, "draws is 10"),
        ({"watch": {"x y": 0.1}}, "is no name"),
        ({"missing": 2}, "missing is 2"),
    ],
)
def test_rules_that_make_no_sense_are_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Rules(**fields)
