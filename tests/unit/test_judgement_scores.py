"""From raw measures to 0..1: weights, references, failures, and what cannot be used."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.judgement.results import Answer, Judged, Scoring, paired
from controller.judgement.scores import SCORE, SUCCESS, measure


def both(example: str, candidate: dict[str, Any], baseline: dict[str, Any]) -> list[Answer]:
    return [Answer(example, "candidate", **candidate), Answer(example, "baseline", **baseline)]


def values(
    answers: list[Answer], name: str, scoring: Scoring | None = None, judged: tuple[Judged, ...] = ()
) -> list[tuple[float, float]]:
    column = measure(answers, judged, scoring or Scoring()).columns[name]
    return list(zip(column.candidate, column.baseline, strict=True))


def test_the_default_weights_are_those_that_users_have() -> None:
    assert Scoring().weights == {"accuracy": 30, "completeness": 25, "efficiency": 20, "latency": 15, "integration": 10}


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"accuracy": 60, "latency": 30}, "sum to 90"),
        ({"accuracy": math.nan, "latency": 50}, "accuracy must be a percentage"),
        ({"accuracy": 120, "latency": -20}, "accuracy, latency must be"),
        ({"accuracy<script>": 100}, "is no name"),
        ({}, "sum to 0"),
    ],
)
def test_weights_must_sum_to_100_and_be_numbers(weights: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Scoring(weights=weights)


def test_a_reference_is_a_positive_number_and_a_dimension_has_a_weight() -> None:
    with pytest.raises(ValueError, match="latency_reference is nan"):
        Scoring(latency_reference=math.nan)
    with pytest.raises(ValueError, match="no weight for beauty"):
        Scoring(measures={"tests": "beauty"})


def test_the_score_is_the_weighted_sum() -> None:
    scores = {"accuracy": 1.0, "completeness": 0.5, "integration": 0.0}
    answers = both("a", {"seconds": 1.0, "cost_usd": 1.0, "scores": scores}, {"seconds": 3.0, "cost_usd": 3.0, "scores": scores})
    (mine, theirs) = values(answers, SCORE)[0]
    assert mine == pytest.approx(0.30 * 1 + 0.25 * 0.5 + 0.20 * (2 / 3) + 0.15 * (2 / 3))  # the median of 1 and 3 is 2
    assert theirs == pytest.approx(0.30 * 1 + 0.25 * 0.5 + 0.20 * (2 / 5) + 0.15 * (2 / 5))


def test_a_dimension_nobody_measures_gives_its_weight_to_the_others() -> None:
    measured = measure(both("a", {"scores": {"tests": 1.0}}, {"scores": {"tests": 0.0}}), (), Scoring())
    assert measured.weights == {"accuracy": 100}
    assert "Nothing measured completeness, efficiency, integration, latency" in measured.notes[0]


def test_seconds_and_dollars_are_half_at_their_reference_and_the_reference_is_of_both_sides() -> None:
    answers = both("a", {"seconds": 2.0}, {"seconds": 2.0}) + both("b", {"seconds": 1.0}, {"seconds": 4.0})
    assert values(answers, "latency") == [(0.5, 0.5), (pytest.approx(2 / 3), pytest.approx(1 / 3))]
    assert values(answers, "latency", Scoring(latency_reference=4.0))[1] == (pytest.approx(0.8), 0.5)


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100), st.booleans(), st.booleans()), min_size=1, max_size=8))
@settings(deadline=None)
def test_swapping_the_sides_swaps_the_scores_and_nothing_else(rows: list[tuple[float, float, bool, bool]]) -> None:
    def made(swapped: bool) -> list[tuple[float, float]]:
        answers = []
        for number, row in enumerate(rows):
            sides = [{"seconds": row[k], "cost_usd": row[1 - k], "scores": {"tests": float(row[2 + k])}} for k in (0, 1)]
            answers += both(f"{number}", *(reversed(sides) if swapped else sides))
        return values(answers, SCORE)

    assert made(True) == [(theirs, mine) for mine, theirs in made(False)]
    assert all(0 <= value <= 1 for pair in made(False) for value in pair)


def test_free_models_are_equally_cheap() -> None:
    assert values(both("a", {"cost_usd": 0.0}, {"cost_usd": 0.0}), "efficiency") == [(0.5, 0.5)]
    mine, theirs = values(both("a", {"cost_usd": 0.0}, {"cost_usd": 0.2}), "efficiency")[0]
    assert mine > theirs


def test_without_a_price_on_one_side_tokens_stand_in_and_it_is_said() -> None:
    answers = both("a", {"cost_usd": 1.0, "tokens_out": 10}, {"tokens_out": 30})
    measured = measure(answers, (), Scoring())
    assert measured.efficiency_by == "output tokens"
    assert any("judged by output tokens" in note for note in measured.notes)
    assert measured.columns["efficiency"].candidate[0] > measured.columns["efficiency"].baseline[0]


def test_an_error_is_neither_fast_nor_cheap_nor_right() -> None:
    answers = both(
        "a", {"error": "503", "seconds": 0.01, "cost_usd": 0.0}, {"seconds": 5.0, "cost_usd": 1.0, "scores": {"tests": 1.0}}
    )
    answers += both(
        "b",
        {"seconds": 5.0, "cost_usd": 1.0, "scores": {"tests": 1.0}},
        {"seconds": 5.0, "cost_usd": 1.0, "scores": {"tests": 1.0}},
    )
    for name in ("latency", "efficiency", "accuracy"):
        assert values(answers, name)[0][0] == 0
        assert values(answers, name)[0][1] > 0
    assert values(answers, SUCCESS) == [(0.0, 1.0), (1.0, 1.0)]


def test_repetitions_are_averaged_and_the_same_call_counts_once() -> None:
    answers = [
        Answer("a", side, again, scores={"tests": float(again == 0)}) for side in ("candidate", "baseline") for again in (0, 1, 1)
    ]  # type: ignore[arg-type]
    assert values(answers, "accuracy") == [(0.5, 0.5)]
    pairs, _ = paired(answers)
    assert len(pairs[0].candidate) == 2


def test_several_checks_of_a_dimension_are_averaged_and_mapped() -> None:
    scoring = Scoring(measures={"style": "integration"})
    answers = both(
        "a", {"scores": {"tests": 1.0, "exact": 0.0, "style": 0.2}}, {"scores": {"tests": 1.0, "exact": 1.0, "style": 0.2}}
    )
    assert values(answers, "accuracy", scoring) == [(0.5, 1.0)]
    assert values(answers, "integration", scoring) == [(0.2, 0.2)]


def test_a_judge_feeds_what_it_marks_and_its_preference_where_asked() -> None:
    said = (Judged("a", "candidate", candidate={"completeness": 1.0}, baseline={"completeness": 0.25}),)
    answers = both("a", {"scores": {"tests": 1.0}}, {"scores": {"tests": 1.0}})
    measured = measure(answers, said, Scoring(measures={"judge.preference": "integration"}))
    assert measured.columns["completeness"].judged
    assert measured.columns["completeness"].differences == [0.75]
    assert measured.columns["integration"].differences == [1.0]
    assert not measured.columns["accuracy"].judged


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_what_is_no_measure_is_left_out_and_counted(bad: float) -> None:
    answers = both("a", {"seconds": bad, "cost_usd": bad, "scores": {"tests": bad}}, {"seconds": 1.0, "scores": {"tests": 1.0}})
    measured = measure(answers, (), Scoring())
    assert measured.unusable == 3
    assert set(measured.columns) == {SUCCESS}


def test_nothing_at_all() -> None:
    measured = measure([], (), Scoring())
    assert (measured.columns, measured.pairs, measured.alone, measured.notes) == ({}, (), (), ())


def test_examples_of_one_side_only_are_named() -> None:
    measured = measure([Answer("a", "candidate"), *both("b", {}, {})], (), Scoring())
    assert measured.alone == ("a",)
    assert [pair.example for pair in measured.pairs] == ["b"]
