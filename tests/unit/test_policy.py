"""Rules, approvals, budget and the brake."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from controller.address import Address
from controller.change import Action, Approval, Budget, Change, Cost
from controller.policy import brake, check

NOW = datetime(2026, 11, 1, tzinfo=UTC)
CHANGE = Change(Action.CREATE, "makes it", address=Address("ModelBinding/docs"), spec_digest="d")


def codes(
    change: Change, rules: dict[str, Any] | None = None, budget: Budget | None = None, approvals: tuple[Approval, ...] = ()
) -> list[str]:
    return [wait.code for wait in check(change, rules or {}, [budget or Budget()], approvals, NOW).waits]


def test_nothing_special_goes() -> None:
    assert codes(CHANGE) == []


def test_deny_by_pattern_and_action() -> None:
    rules = {"deny": [{"match": "ModelBinding/*", "actions": ["create"], "reason": "frozen"}]}
    assert codes(CHANGE, rules) == ["Denied"]
    assert codes(replace(CHANGE, action=Action.UPDATE), rules) == []
    assert codes(replace(CHANGE, urgent=True), rules) == []


@pytest.mark.parametrize(("cost", "expected"), [(9.99, []), (10.0, []), (10.01, ["Approval"])])
def test_money_above_the_limit_needs_a_person(cost: float, expected: list[str]) -> None:
    assert codes(replace(CHANGE, cost=Cost(1.0, cost))) == expected


def test_an_approval_holds_for_the_same_digest_up_to_its_ceiling() -> None:
    change = replace(CHANGE, cost=Cost(5.0, 20.0))
    yes = Approval(change.address, change.digest, 20.0, "ada")
    assert codes(change, approvals=(yes,)) == []
    assert codes(replace(change, reason="other words", again=NOW), approvals=(yes,)) == []
    assert codes(replace(change, cost=Cost(5.0, 20.5)), approvals=(yes,)) == ["Approval"]
    assert codes(replace(change, spec_digest="another"), approvals=(yes,)) == ["Approval"]


def test_irreversible_needs_a_person() -> None:
    assert codes(replace(CHANGE, irreversible="data is gone")) == ["Approval"]


def test_a_budget_is_arithmetic() -> None:
    change = replace(CHANGE, cost=Cost(1.0, 3.0))
    assert codes(change, budget=Budget(10.0, 4.0, 3.0)) == []
    assert codes(change, budget=Budget(10.0, 4.0, 3.5)) == ["Budget"]


@pytest.mark.parametrize(
    ("removals", "population", "empty", "allowed", "expected"),
    [
        (0, 100, False, False, None),
        (3, 9, False, False, None),
        (3, 10, False, False, None),
        (4, 10, False, False, "removals"),
        (1, 1, True, False, "empty"),
        (9, 10, False, True, None),
    ],
)
def test_the_brake(removals: int, population: int, empty: bool, allowed: bool, expected: str | None) -> None:
    wait = brake(removals, population, {}, empty=empty, allowed=allowed)
    assert (wait.on if wait else None) == expected
