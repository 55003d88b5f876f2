"""The split is decided by each row alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.datasets.rows import Row, read
from controller.datasets.split import divided, side

SHARES = {"train": 0.8, "evaluation": 0.2}
TASKS = st.lists(st.text(alphabet="abcdef ", min_size=1, max_size=8).filter(str.strip), max_size=30)


def rows(tasks: list[str]) -> list[Row]:
    return read([{"inputs": {"task": task}, "outputs": {"code": "c"}} for task in tasks])[0]


@given(TASKS, TASKS)
@settings(deadline=None)
def test_adding_rows_moves_none(tasks: list[str], more: list[str]) -> None:
    before, after = divided(rows(tasks), SHARES), divided(rows([*tasks, *more]), SHARES)
    for name in SHARES:
        assert {row.number for row in before[name]} <= {row.number for row in after[name]}
        assert [row.number for row in before[name]] == [row.number for row in after[name] if row.number <= len(tasks)]


@given(TASKS)
@settings(deadline=None)
def test_every_row_is_in_one_split_and_near_duplicates_in_the_same(tasks: list[str]) -> None:
    made = rows([*tasks, *(f" {task.upper()}!" for task in tasks)])
    parts = divided(made, SHARES)
    assert sum(map(len, parts.values())) == len(made)
    where = {row.number: name for name, part in parts.items() for row in part}
    assert all(where[number] == where[number + len(tasks)] for number in range(1, len(tasks) + 1))


@given(st.text(max_size=20), st.floats(0.1, 0.8))
@settings(deadline=None)
def test_a_larger_first_share_moves_nothing_out_of_it(key: str, share: float) -> None:
    if side(key, {"train": share, "evaluation": 1 - share}) == "train":
        assert side(key, {"train": share + 0.1, "evaluation": 0.9 - share}) == "train"


def test_shares_come_out_about_right_and_a_salt_gives_another_split() -> None:
    made = rows([f"task number {number}" for number in range(2000)])
    parts = divided(made, SHARES)
    assert 1530 <= len(parts["train"]) <= 1670
    other = divided(made, SHARES, salt="again")
    assert {row.number for row in parts["evaluation"]} != {row.number for row in other["evaluation"]}


def test_the_split_is_the_same_for_ever() -> None:
    parts = divided(rows([f"task {number}" for number in range(12)]), SHARES)
    assert [row.number for row in parts["evaluation"]] == [3, 5, 9, 11]


@pytest.mark.parametrize(
    "shares",
    [
        {},
        {"train": 0.5},
        {"train": 0.9, "evaluation": 0.2},
        {"train": math.nan},
        {"train": 1.5, "evaluation": -0.5},
        {"train": math.inf},
    ],
)
def test_shares_that_are_none_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        side("x", shares)


def test_an_empty_split_gets_nothing() -> None:
    assert all(side(f"{number}", {"train": 1.0, "evaluation": 0.0}) == "train" for number in range(200))
