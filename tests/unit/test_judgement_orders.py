"""The order of calls: complete, balanced, mixed, fixed by its seed for ever."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.judgement.orders import Call, interleaved

NAMES = st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=25)


@given(NAMES, st.integers(1, 3), st.integers())
@settings(deadline=None)
def test_every_call_is_made_once_and_both_sides_stand_together(names: list[str], repetitions: int, seed: int) -> None:
    calls = interleaved(names, repetitions=repetitions, seed=seed)
    assert len(calls) == len(set(calls)) == 2 * repetitions * len(names)
    for one, two in zip(calls[::2], calls[1::2], strict=True):
        assert (one.example, one.repetition) == (two.example, two.repetition)
        assert {one.side, two.side} == {"candidate", "baseline"}


@given(NAMES, st.integers(1, 3), st.integers())
@settings(deadline=None)
def test_each_side_begins_as_often_as_the_other(names: list[str], repetitions: int, seed: int) -> None:
    first = [call.side for call in interleaved(names, repetitions=repetitions, seed=seed)[::2]]
    assert abs(first.count("candidate") - first.count("baseline")) <= 1


@given(NAMES, st.integers())
@settings(deadline=None)
def test_the_order_of_the_file_does_not_matter(names: list[str], seed: int) -> None:
    assert interleaved(names, seed=seed) == interleaved(list(reversed(names)), seed=seed)


def test_the_order_is_mixed_and_depends_on_the_seed() -> None:
    names = [f"e{number:03d}" for number in range(50)]
    one, two = ([call.example for call in interleaved(names, seed=seed)[::2]] for seed in (1, 2))
    assert one != sorted(one)
    assert one != two
    first = [call.side for call in interleaved(names, seed=1)[::2]]
    assert first != ["candidate", "baseline"] * 25


def test_a_resumed_evaluation_finds_the_same_order_after_any_upgrade() -> None:
    assert interleaved(["a", "b", "c"], seed=7) == [
        Call("a", "baseline", 0),
        Call("a", "candidate", 0),
        Call("c", "candidate", 0),
        Call("c", "baseline", 0),
        Call("b", "candidate", 0),
        Call("b", "baseline", 0),
    ]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="repetitions is 0"):
        interleaved(["a"], repetitions=0)
    with pytest.raises(ValueError, match="more than once: a"):
        interleaved(["a", "b", "a"])
    assert interleaved([]) == []
