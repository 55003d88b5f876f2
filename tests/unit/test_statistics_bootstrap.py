"""Intervals by resampling: laws, coverage with fixed seeds, and what they refuse."""

from __future__ import annotations

import math
import random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.judgement.bootstrap import bca_interval, bootstrap_mean, means_of, percentile_interval, quantile, resample, student

VALUES = st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=10, max_size=40)


def test_the_same_seed_gives_the_same_interval() -> None:
    source = random.Random(1)
    values = [source.random() for _ in range(50)]
    assert bootstrap_mean(values, seed=4, draws=300) == bootstrap_mean(values, seed=4, draws=300)
    assert bootstrap_mean(values, seed=4, draws=300) != bootstrap_mean(values, seed=5, draws=300)


@given(VALUES, st.integers(-3, 3))
@settings(max_examples=40, deadline=None)
def test_an_interval_holds_the_mean_and_moves_with_the_values(values: list[float], shift: int) -> None:
    values = [round(value * 64) / 64 for value in values]  # exact sums: a tie must stay one when everything is moved
    low, high = bootstrap_mean(values, draws=200, seed=1)
    assert low <= high
    assert low - 1e-9 <= fmean(values) <= high + 1e-9
    if max(values) - min(values) > 1e-3:
        moved = bootstrap_mean([value + shift for value in values], draws=200, seed=1)
        assert moved == pytest.approx((low + shift, high + shift), abs=1e-6)


def test_more_examples_and_less_confidence_make_it_narrower() -> None:
    source = random.Random(2)
    few, many = ([source.gauss(0, 1) for _ in range(n)] for n in (40, 640))
    width = {name: high - low for name, (low, high) in {"few": bootstrap_mean(few), "many": bootstrap_mean(many)}.items()}
    assert width["many"] < width["few"] / 3
    low, high = bootstrap_mean(few, confidence=0.8)
    assert high - low < width["few"]


@pytest.mark.parametrize("shape", ["normal", "skewed", "lumpy"])
def test_the_interval_holds_the_truth_as_often_as_it_says(shape: str) -> None:
    source = random.Random(shape)
    lumpy = [0.0] * 7 + [0.25, -0.25, 0.5]
    draw, truth = {
        "normal": (lambda: source.gauss(0.1, 0.3), 0.1),
        "skewed": (lambda: source.expovariate(5), 0.2),
        "lumpy": (lambda: source.choice(lumpy), fmean(lumpy)),
    }[shape]
    held = 0
    for number in range(250):
        low, high = bootstrap_mean([draw() for _ in range(60)], draws=250, seed=number)
        held += low <= truth <= high
    assert 0.9 <= held / 250 <= 0.985


def test_equal_values_leave_the_doubt_of_what_was_not_seen() -> None:
    low, high = bootstrap_mean([0.0] * 100, draws=200)
    assert (low, high) == pytest.approx((-0.0362, 0.0362), abs=5e-5)


def test_a_resample_keeps_both_sides_of_an_example_together() -> None:
    mine, theirs = list(range(30)), [value + 5 for value in range(30)]
    (differences,) = resample(
        30, lambda pick: [fmean(b - a for a, b in zip(pick(mine), pick(theirs), strict=True))], draws=50, seed=1
    )
    assert set(differences) == {5.0}


def test_draws_are_those_of_the_means() -> None:
    first, second = resample(20, means_of([[0.0] * 20, [1.0] * 20]), draws=30, seed=3)
    assert (set(first), set(second)) == ({0.0}, {1.0})
    assert percentile_interval(sorted(range(1000)), 0.9) == (50, 950)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_one_example_is_not_resampled(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        bootstrap_mean(values)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean([0.1, 0.2, bad])


def test_draws_on_one_side_of_the_mean_fall_back_to_percentiles() -> None:
    assert bca_interval([0.0, 1.0, 0.5], [0.1, 0.2, 0.3]) == percentile_interval([0.1, 0.2, 0.3])


def test_quantiles_are_those_of_type_7() -> None:
    assert [quantile([1.0, 2.0, 3.0, 4.0], share) for share in (0, 0.5, 0.95, 1)] == pytest.approx([1, 2.5, 3.85, 4])
    assert quantile([7.0], 0.95) == 7.0


def test_students_quantile() -> None:
    assert student(1.959964, 10) == pytest.approx(2.228, abs=0.005)
    assert student(1.959964, 99) == pytest.approx(1.984, abs=0.001)
