"""Proportions, tests and sample sizes: published values, laws, and simulation with fixed seeds."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.judgement.statistics import (
    MOST,
    examples_for_mcnemar,
    examples_for_mean,
    holm,
    mcnemar,
    mcnemar_power,
    newcombe,
    newcombe_paired,
    sign_flip,
    swap,
    unseen,
    wilson,
)

COUNT = st.integers(0, 60)


@pytest.mark.parametrize(
    ("passed", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_values_of_newcombe_1998_table_1(passed: int, total: int, low: float, high: float) -> None:
    assert wilson(passed, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [((56, 70, 48, 80), 0.0524, 0.3339), ((9, 10, 3, 10), 0.1705, 0.8090), ((5, 56, 0, 29), -0.0381, 0.1926)],
)
def test_newcombe_gives_the_values_of_his_second_paper(counts: tuple[int, int, int, int], low: float, high: float) -> None:
    assert newcombe(*counts) == pytest.approx((low, high), abs=5e-5)


def test_the_paired_interval_gives_the_value_of_newcombes_third_paper() -> None:
    assert newcombe_paired(20, 12, 2, 16) == pytest.approx((0.0562, 0.3292), abs=5e-5)


@given(COUNT, COUNT)
@settings(deadline=None)
def test_wilson_holds_the_estimate_and_mirrors(passed: int, failed: int) -> None:
    interval, mirrored = wilson(passed, passed + failed), wilson(failed, passed + failed)
    assert 0 <= interval.low <= interval.high <= 1
    assert interval.low == pytest.approx(1 - mirrored.high)
    if passed + failed:
        assert interval.low <= passed / (passed + failed) <= interval.high


@given(COUNT, COUNT, COUNT, COUNT)
@settings(deadline=None)
def test_the_paired_interval_holds_the_estimate_and_changes_sign_with_the_sides(
    both: int, gained: int, lost: int, neither: int
) -> None:
    n = both + gained + lost + neither
    interval, other = newcombe_paired(both, gained, lost, neither), newcombe_paired(both, lost, gained, neither)
    assert -1 <= interval.low <= interval.high <= 1
    assert interval.low == pytest.approx(-other.high)
    if n:
        assert interval.low - 1e-12 <= (gained - lost) / n <= interval.high + 1e-12
        assert interval.high > interval.low  # nothing that was seen leaves no doubt at all


def test_no_difference_seen_is_no_proof_of_none() -> None:
    low, high = newcombe_paired(90, 0, 0, 10)
    assert (low, high) == pytest.approx((-0.0362, 0.0362), abs=5e-5)
    assert unseen(100, 0.05) == pytest.approx(0.0295, abs=5e-5)  # the rule of three says 3 / 100


def test_mcnemar_is_the_binomial() -> None:
    assert mcnemar(10, 2) == pytest.approx(2 * (1 + 12 + 66) / 4096)
    assert mcnemar(0, 0) == mcnemar(7, 7) == 1.0
    assert mcnemar(500, 499) == 1.0
    exact = 2 * sum(math.comb(1200, k) for k in range(551)) / 2**1200
    assert mcnemar(650, 550) == pytest.approx(exact, rel=1e-9)  # above 1,000 in logarithms, the same value
    assert 0 < mcnemar(30_000, 28_800) < 0.001


@given(COUNT, COUNT)
@settings(deadline=None)
def test_mcnemar_is_a_p_value_and_symmetric(gained: int, lost: int) -> None:
    assert 0 < mcnemar(gained, lost) <= 1
    assert mcnemar(gained, lost) == mcnemar(lost, gained)
    if gained > lost:
        assert mcnemar(gained + 1, lost) <= mcnemar(gained, lost)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), max_size=12))
@settings(max_examples=30, deadline=None)
def test_sign_flips_of_pass_and_fail_agree_with_mcnemar(differences: list[float]) -> None:
    exact = mcnemar(differences.count(1.0), differences.count(-1.0))
    assert sign_flip(differences, draws=4000, seed=1) == pytest.approx(exact, abs=0.05)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_sign_flips_do_not_care_which_side_is_which(differences: list[float], seed: int) -> None:
    p = sign_flip(differences, draws=199, seed=seed)
    assert 1 / 200 <= p <= 1
    assert p == sign_flip([-value for value in differences], draws=199, seed=seed)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_sign_flips_refuse_what_is_no_number(bad: float) -> None:
    with pytest.raises(ValueError, match="drop examples"):
        sign_flip([0.1, bad], draws=100, seed=1)


def test_tests_keep_their_level_where_nothing_differs() -> None:
    source, fired = random.Random(11), {"mcnemar": 0, "flips": 0, "mean": 0}
    for number in range(400):
        differences = source.choices((1.0, -1.0, 0.0), (0.15, 0.15, 0.7), k=60)
        fired["mcnemar"] += mcnemar(differences.count(1.0), differences.count(-1.0)) <= 0.05
        graded = [source.gauss(0, 0.3) for _ in range(40)]
        fired["flips"] += sign_flip(graded, draws=199, seed=number) <= 0.05
        fired["mean"] += sum(differences) > 0
    assert fired["mcnemar"] <= 20  # at most 5 % of 400; exact tests stay below
    assert 8 <= fired["flips"] <= 34
    assert fired["mean"] > 150  # and this is what "the higher mean wins" does


def test_swapping_sides_is_the_sign_flip_for_a_mean() -> None:
    source = random.Random(3)
    mine = [source.gauss(0.1, 0.3) for _ in range(50)]
    theirs = [source.gauss(0, 0.3) for _ in range(50)]
    (p,) = swap(mine, theirs, lambda a, b: [sum(a) - sum(b)], draws=2000, seed=1)
    assert p == pytest.approx(sign_flip([a - b for a, b in zip(mine, theirs, strict=True)], draws=2000, seed=2), abs=0.04)


def test_swapping_equal_sides_shows_nothing() -> None:
    assert swap([1.0] * 20, [1.0] * 20, lambda a, b: [sum(a) - sum(b), math.inf * 0], draws=50, seed=1)[0] == 1.0


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({}) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
@settings(deadline=None)
def test_holm_never_lowers_keeps_the_order_and_is_within_bonferroni(p_values: dict[str, float]) -> None:
    corrected = holm(p_values)
    assert corrected.keys() == p_values.keys()
    for name, p in p_values.items():
        assert p <= corrected[name] <= min(1.0, len(p_values) * p) + 1e-12
        assert all(corrected[name] <= corrected[other] for other, q in p_values.items() if p < q)


def test_examples_for_a_mean() -> None:
    assert examples_for_mean(1, 0.5) == 34  # the exact paired t test needs 34
    assert examples_for_mean(0.5, 1e-9) == MOST
    assert examples_for_mean(0, 0.02) == 183  # nothing differs: the rule of three
    for deviation, effect in ((1, 0), (1, math.nan), (-1, 1), (math.inf, 1)):
        with pytest.raises(ValueError, match="allowed are an effect above 0"):
            examples_for_mean(deviation, effect)


@pytest.mark.parametrize(("gained", "lost"), [(0.16, 0.10), (0.05, 0.03), (0.3, 0.1), (0.02, 0.0)])
def test_examples_for_mcnemar_have_the_power_and_hardly_more(gained: float, lost: float) -> None:
    n = examples_for_mcnemar(gained, lost)
    assert mcnemar_power(n, gained, lost) >= 0.8
    assert mcnemar_power(round(0.85 * n), gained, lost) < 0.8
    assert n == examples_for_mcnemar(lost, gained)


def test_power_is_what_simulation_gives() -> None:
    source, found = random.Random(5), 0
    for _ in range(1500):
        drawn = source.choices("gl-", (0.13, 0.07, 0.8), k=200)
        gained, lost = drawn.count("g"), drawn.count("l")
        found += gained > lost and mcnemar(gained, lost) <= 0.05
    assert found / 1500 == pytest.approx(mcnemar_power(200, 0.13, 0.07), abs=0.035)


@pytest.mark.parametrize("shares", [(0.1, 0.1), (0.8, 0.3), (-0.1, 0.2)])
def test_impossible_shares_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="must differ"):
        examples_for_mcnemar(*shares)


@pytest.mark.parametrize("confidence", [0, 1, 1.5, math.nan])
def test_a_confidence_is_between_0_and_1(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"such as 0\.95"):
        wilson(1, 2, confidence)


def test_counts_are_not_negative() -> None:
    with pytest.raises(ValueError, match="lost is -1"):
        mcnemar(1, -1)
