"""Evaluation, then rollout, by one commit: one run whatever dies, no rollout without its verdict, a revert stops the bill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controller.testing.doubles import Killed
from controller.testing.evaluations import CALLS, EvaluationsDouble
from controller.testing.simulation import Simulation, binding, rollout

STATE = "state/evaluations/docs-v2.yaml"


def evaluation(model: str = "acme/next", version: str = "v2", seed: int = 0) -> dict[str, str | None]:
    return {
        STATE: f"""\
apiVersion: turnout/v1
kind: Evaluation
metadata: {{name: docs-v2}}
spec:
  agent: docs
  candidate: {{model: {model}, endpoint: huggingface, version: {version}}}
  dataset: {{files: [datasets/docs.jsonl]}}
  evaluators: [{{name: accuracy, kind: exact, field: outputs.answer}}]
  seed: {seed}
"""
    }


def proven(name: str = "docs-v2") -> dict[str, str | None]:
    """A rollout of v2 that refers to the evaluation."""
    (path, text), *_ = rollout(name, "docs", "v2").items()
    return {path: text.replace("  strategy:", "  evaluation: docs-v2\n  strategy:")}


def start(folder: Path, verdict: str = "deploy") -> tuple[Simulation, EvaluationsDouble]:
    sim = Simulation(folder)
    double = EvaluationsDouble(lambda: sim.time.timestamp(), sim.faults, {"docs-v2": verdict})
    sim.doors["evaluations"] = double
    sim.commit({**binding("docs", "v1"), "datasets/docs.jsonl": "{}\n"}, "Bind docs")
    sim.survive()
    return sim, double


def of(sim: Simulation, address: str, name: str = "") -> list[Any]:
    """Events of an address, of those whose name has these words."""
    return [event for event in sim.check_log() if event.subject == address and name in event.type]


def test_the_rollout_goes_when_the_verdict_is_there(tmp_path: Path) -> None:
    sim, double = start(tmp_path)
    sim.commit({**evaluation(), **proven()}, "Prove v2, then try it")
    sim.survive(horizon=10)
    assert sim.gateway.versions("docs") == {"v1": 100.0}
    sim.survive(horizon=200)
    assert sim.gateway.versions("docs") == {"v1": 50.0, "v2": 50.0}
    assert len(double.work) == 1
    assert len(double.paid) == len(set(double.paid)) == CALLS
    ended = [event for event in of(sim, "Evaluation/docs-v2", "succeeded") if event.data.get("ends")]
    assert [event.data["after"]["verdict"] for event in ended] == ["deploy"]
    assert ended[0].data["notes"] == {"cost_usd": 1.0}
    evidence = [event.data["evidence"] for event in of(sim, "Evaluation/docs-v2", "started") if "evidence" in event.data]
    assert evidence == [{"report": {"name": "docs-v2"}}]


@pytest.mark.parametrize("verdict", ["reject", "needs_review", "not_enough_data"])
def test_no_rollout_without_the_verdict(tmp_path: Path, verdict: str) -> None:
    sim, _ = start(tmp_path, verdict)
    sim.commit({**evaluation(), **proven()}, "Prove v2, then try it")
    flow = sim.survive(horizon=600)
    assert sim.gateway.versions("docs") == {"v1": 100.0}
    assert of(sim, "Rollout/docs-v2", "action") == []
    raised = of(sim, "Rollout/docs-v2", "condition.raised")
    assert any(verdict in event.data["reason"] for event in raised)
    before = len(sim.check_log())
    for _ in range(20):
        sim.advance(60)
        sim.settle(flow)
    assert len(sim.check_log()) == before


def later(sim: Simulation, seconds: float) -> None:
    """As the loop of a controller: looks again at what is due, and every minute anyway."""
    for _ in range(int(seconds / 60)):
        sim.survive(horizon=60)
        sim.advance(60)


def crossings(folder: Path) -> int:
    sim, _ = start(folder)
    sim.faults.count = 0
    sim.commit({**evaluation(), **proven()}, "Prove v2, then try it")
    sim.survive(horizon=200)
    return sim.faults.count


def test_killed_at_every_border_crossing_it_is_one_run(tmp_path: Path) -> None:
    total = crossings(tmp_path / "count")
    assert total >= 10
    for kill_at in range(1, total + 1):
        sim, double = start(tmp_path / f"at{kill_at}")
        sim.faults.count, sim.faults.kill_at = 0, kill_at
        sim.commit({**evaluation(), **proven()}, "Prove v2, then try it")
        later(sim, 300)
        assert len(double.work) == 1, f"killed at {kill_at}: {sim.faults.trace}"
        assert len(double.paid) == len(set(double.paid)) == CALLS
        ended = [event for event in of(sim, "Evaluation/docs-v2", "succeeded") if event.data.get("ends")]
        assert len(ended) == 1
        assert sim.gateway.versions("docs") == {"v1": 50.0, "v2": 50.0}, f"killed at {kill_at}"


@pytest.mark.parametrize("machine", ["m", ""])
def test_a_child_that_dies_is_started_again(tmp_path: Path, machine: str) -> None:
    sim, double = start(tmp_path)
    sim.commit(evaluation(), "Prove v2")
    sim.survive("m", horizon=20)
    (intent,) = double.work
    double.kill(f"here/{intent}")
    assert 0 < double.work[intent]["done"] < CALLS
    sim.survive(machine or "other", horizon=300)
    assert len(double.paid) == len(set(double.paid)) == CALLS
    steps = [event.data["reason"] for event in of(sim, "Evaluation/docs-v2", "started") if event.data["action"] == "step"]
    assert steps[0].startswith("goes on after it stopped;")
    assert len(steps) == 2


def test_a_revert_stops_the_bill_and_says_what_was_spent(tmp_path: Path) -> None:
    sim, double = start(tmp_path)
    commit = sim.commit({**evaluation(), **proven()}, "Prove v2, then try it")
    sim.survive(horizon=30)
    sim.revert(commit)
    sim.survive(horizon=10)
    spent = len(double.paid)
    sim.survive(horizon=600)
    assert 0 < len(double.paid) == spent < CALLS
    said = [event.data.get("said") for event in of(sim, "Evaluation/docs-v2", "succeeded")]
    assert said[-2:] == [f"stopped after {spent} of {CALLS} calls", None]  # and archived
    assert sim.folded()["money/2026-11"]["spent"]["Evaluation/docs-v2"][0] == pytest.approx(spent * 0.01)
    sim.commit(evaluation(), "Once more under the same name")
    sim.survive(horizon=600)
    assert len(double.paid) == spent


def test_an_edit_while_it_runs_does_not_count(tmp_path: Path) -> None:
    sim, double = start(tmp_path)
    sim.commit(evaluation(), "Prove v2")
    sim.survive(horizon=20)
    sim.commit(evaluation(seed=7), "Another seed")
    sim.survive(horizon=300)
    assert len(double.work) == 1
    assert any(event.data["code"] == "FrozenEdit" for event in of(sim, "Evaluation/docs-v2", "condition.raised"))


def test_an_edit_between_the_call_and_its_outcome_adopts_what_runs(tmp_path: Path) -> None:
    sim, double = start(tmp_path)
    sim.commit(evaluation(), "Prove v2")
    flow = sim.controller("m")
    real = double.start

    def die(intent: str, order: Any) -> str:
        real(intent, order)
        raise Killed("after the call")

    double.start = die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        sim.settle(flow)
    flow.cache.close()
    double.start = real  # type: ignore[method-assign]
    sim.commit(evaluation(seed=7), "Another seed")
    later(sim, 300)
    assert len(double.work) == 1
    assert len(double.paid) == CALLS
