"""What a training's events come to: the newest step, and a loss curve of bounded size."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from controller.change import Action, Budget, Change, Cost
from controller.clients.training.progress import CURVE_POINTS, events_of, sight_of, thinned
from controller.policy import check

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def step(number: int, loss: Any = 1.0, steps: int = 1000) -> dict[str, Any]:
    return {"event": "step", "step": number, "steps": steps, "loss": loss, "eta_seconds": 5}


def losses(*events: dict[str, Any]) -> list[list[float]]:
    sight = sight_of(events, "running", seconds=1.0, cost_usd=0.0)
    found: list[list[float]] = sight.progress.get("losses", [])
    return found


def test_the_curve_is_bounded_and_keeps_its_ends() -> None:
    found = losses(*(step(number, 1000 / number) for number in range(1, 1001)))
    assert len(found) == CURVE_POINTS
    assert (found[0], found[-1]) == ([1, 1000.0], [1000, 1.0])
    assert [each[0] for each in found] == sorted({each[0] for each in found})
    assert len(json.dumps(found)) < 2000
    assert thinned([[1, 2.0], [2, 1.0]]) == [[1, 2.0], [2, 1.0]]


def test_steps_that_are_told_again_count_once() -> None:
    found = losses(step(1, 3.0), step(2, 2.5), step(3, 2.0), {"event": "started", "request": {}}, step(2, 2.4), step(3, 1.9))
    assert found == [[1, 3.0], [2, 2.4], [3, 1.9]]


def test_what_is_no_loss_is_left_out() -> None:
    assert losses(step(1, None), step(2, float("nan")), step(3, float("inf")), step(4, 1)) == [[4, 1]]
    assert losses({"event": "step", "loss": 1.0}) == []
    assert losses() == []


def test_a_new_attempt_begins_from_nothing() -> None:
    events = [step(60), {"event": "started", "request": {"batch": 2}}]
    sight = sight_of(events, "running", seconds=1.0, cost_usd=0.0)
    assert "step" not in sight.progress
    assert sight.progress["losses"] == [[60, 1.0]]
    assert events_of(['{"event": "st']) == []


def test_no_policy_asks_about_a_step_of_what_runs() -> None:
    change = Change(Action.STEP, "step 30 of 120", cost=Cost(5.0, 5.0), running=True)
    rules = {"approvalAboveUsd": 0.0, "approve": [{"match": "*", "reason": "everything"}]}
    assert check(change, rules, [Budget(0.0, 9.0, 9.0)], [], NOW).waits == ()
    start = Change(Action.RUN, "trains", cost=Cost(5.0, 5.0))
    assert [wait.code for wait in check(start, rules, [Budget(0.0)], [], NOW).waits] == ["Approval", "Budget"]
