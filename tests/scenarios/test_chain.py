"""Train -> evaluate -> canary -> promote by one commit: once whatever dies, paid within its limits, stopped by a revert."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from controller import approval
from controller.change import Action
from controller.clients.datasets import Datasets
from controller.clients.training import Backends
from controller.environment import TrainingDefaults
from controller.testing.doubles import Faults
from controller.testing.evaluations import CALLS, EvaluationsDouble
from controller.testing.simulation import ADA, BOB, ENVIRONMENT, Simulation, binding
from controller.testing.trainings import TrainingJobs

PROMOTED = "Promote docs to v2.0.0"
CHAIN: dict[str, str | None] = {
    "state/trainings/docs-v2.yaml": """\
apiVersion: turnout/v1
kind: TrainingRequest
metadata: {name: docs-v2}
spec:
  agent: docs
  version: v2.0.0
  method: sft
  mode: demo
  dataset: {files: [train.jsonl]}
  baseModel: acme/small-1B
  backend: hf_jobs
  repository: acme/docs-v2
""",
    "state/evaluations/docs-v2.yaml": """\
apiVersion: turnout/v1
kind: Evaluation
metadata: {name: docs-v2}
spec:
  agent: docs
  candidate: {training: docs-v2, endpoint: huggingface}
  dataset: {files: [judge.jsonl]}
  evaluators: [{name: accuracy, kind: exact, field: outputs.answer}]
  budgetUsd: 2
""",
    "state/rollouts/docs-v2.yaml": """\
apiVersion: turnout/v1
kind: Rollout
metadata: {name: docs-v2}
spec:
  binding: docs
  evaluation: docs-v2
  strategy: {canary: [{weight: 50, hold: 60s}]}
  analysis: {errorRate: {worseBy: 1%}, minimumSamples: 20}
""",
}


def _nobody() -> Any:
    raise AssertionError("nobody asks it here")


class World:
    """A fleet of one agent, a vendor that trains and one that answers, under one clock."""

    def __init__(self, folder: Path, verdict: str = "deploy", environment: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.jobs = TrainingJobs(Faults())
        self.jobs.minutes = 3.0
        datasets = Datasets(folder / "rows", _nobody, _nobody, lambda path, found: self.sim.repository.read(found))
        training = Backends({"hf_jobs": self.jobs}, TrainingDefaults())
        self.sim = Simulation(folder, doors={"training": training, "datasets": datasets})
        self.jobs.faults, self.jobs.now = self.sim.faults, lambda: self.sim.time
        self.judge = EvaluationsDouble(lambda: self.sim.time.timestamp(), self.sim.faults, {"docs-v2": verdict})
        self.sim.doors["evaluations"] = self.judge
        rows = "".join(f'{{"inputs": {{"task": "task {n}"}}, "outputs": {{"code": "x = {n}"}}}}\n' for n in range(60))
        files = {**binding("docs", "v1"), "train.jsonl": rows, "judge.jsonl": "{}\n"}
        if environment:
            files["environments/local/environment.yaml"] = ENVIRONMENT + environment
        self.sim.commit(files, "Begin")
        self.sim.survive()
        self.sim.faults.count = 0

    def go(self, minutes: int = 12) -> None:
        """Time passes, agents work; a controller that dies is started again."""
        for _ in range(2 * minutes):
            self.sim.survive(horizon=30)
            self.sim.advance(1)
            if self.sim.gateway.versions("docs").get("v2.0.0"):
                self.sim.gateway.traffic("docs", 100)
            if PROMOTED in self.sim.subjects():
                self.sim.survive(horizon=5)
                return

    def of(self, address: str, name: str = "") -> list[Any]:
        return [event for event in self.sim.check_log() if event.subject == address and name in event.type]

    def ended(self, address: str) -> str:
        return next((e.data["ends"] for e in reversed(self.of(address, "succeeded")) if e.data.get("ends")), "")

    def waits(self, address: str) -> list[str]:
        result = self.sim.settle(self.sim.controller("m"))
        return [wait.code for change in result.plan.changes if change.address == address for wait in change.waits]


def check_promoted(world: World) -> None:
    """What one commit came to, whatever happened on the way."""
    assert world.sim.subjects().count(PROMOTED) == 1
    assert world.sim.gateway.versions("docs") == {"v2.0.0": 100.0}
    text = world.sim.read("state/bindings/docs.yaml") or ""
    assert "model: acme/docs-v2\n" in text.replace("  # keep me", "")
    assert len(world.jobs.jobs) == 1
    assert len(world.judge.work) == 1
    assert len(world.judge.paid) == len(set(world.judge.paid)) == CALLS
    assert [world.ended(f"{kind}/docs-v2") for kind in ("TrainingRequest", "Evaluation")] == ["completed", "completed"]
    candidate = world.of("Evaluation/docs-v2", "succeeded")[-1].data["after"]["candidate"]
    assert candidate == {"model": "acme/docs-v2", "endpoint": "huggingface", "version": "v2.0.0"}


def test_one_commit_trains_evaluates_rolls_out_and_promotes(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.sim.commit(CHAIN, "Train, evaluate and roll out docs v2")
    world.go()
    check_promoted(world)
    events = len(world.sim.check_log())
    for _ in range(3):
        world.sim.advance(3600)
        world.sim.survive()
    assert len(world.sim.check_log()) == events


def test_the_plan_of_the_whole_chain_can_be_read_before_it_starts(tmp_path: Path) -> None:
    world = World(tmp_path, environment="  rules: {approvalAboveUsd: 1}\n")
    world.sim.commit(CHAIN, "The chain")
    result = world.sim.settle(world.sim.controller("m"))
    told = {str(change.address): change for change in result.plan.changes if not change.is_noop}
    assert list(told) == ["TrainingRequest/docs-v2", "Evaluation/docs-v2", "Rollout/docs-v2"]
    assert [change.action for change in told.values()] == [Action.RUN] * 3
    assert [change.cost.ceiling for change in told.values()] == [1.8, 2.0, 0.0]
    assert [[wait.code for wait in change.waits] for change in told.values()] == [
        ["Approval"],
        ["Reference", "Approval"],
        ["Reference"],
    ]


def test_the_whole_chain_is_approved_at_once_and_steps_need_no_more(tmp_path: Path) -> None:
    world = World(tmp_path, environment="  rules: {approvalAboveUsd: 1}\n")
    world.sim.commit(CHAIN, "The chain", by=ADA)
    world.go(3)
    assert world.jobs.jobs == []
    result = world.sim.settle(world.sim.controller("m"))
    asked = [change for change in result.plan.changes if any(wait.code == "Approval" for wait in change.waits)]
    lines = "\n".join(approval.line(change) for change in asked)
    world.sim.commit({}, "Me again", trailer=lines, by=ADA)
    world.go(3)
    assert world.jobs.jobs == []
    world.sim.commit({}, "Fine", trailer=lines, by=BOB)
    world.go()
    check_promoted(world)


def test_a_budget_that_is_too_small_holds_the_chain_and_a_larger_one_lets_it_go(tmp_path: Path) -> None:
    world = World(tmp_path, environment="  budget: {monthlyUsd: 1}\n")
    world.sim.commit(CHAIN, "The chain")
    world.go(3)
    assert world.jobs.jobs == []
    assert "Budget" in world.waits("TrainingRequest/docs-v2")
    world.sim.commit({"environments/local/environment.yaml": ENVIRONMENT + "  budget: {monthlyUsd: 10}\n"}, "More")
    world.go()
    check_promoted(world)


@pytest.mark.parametrize("verdict", ["reject", "not_enough_data"])
def test_a_worse_candidate_is_never_rolled_out(tmp_path: Path, verdict: str) -> None:
    world = World(tmp_path, verdict)
    world.sim.commit(CHAIN, "The chain")
    world.go()
    assert world.ended("Evaluation/docs-v2") == "completed"
    assert world.sim.gateway.versions("docs") == {"v1": 100.0}
    assert world.of("Rollout/docs-v2", "action") == []


def test_a_training_that_fails_for_good_holds_what_follows_and_says_so(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.jobs.outcomes = ["diverged"]
    world.sim.commit(CHAIN, "The chain")
    world.go(6)
    assert world.ended("TrainingRequest/docs-v2") == "failed"
    assert world.judge.work == {}
    raised = [event.data["reason"] for event in world.of("Evaluation/docs-v2", "condition.raised")]
    assert "failed" in raised[-1]


def test_a_revert_while_it_trains_stops_the_job_and_says_what_was_spent(tmp_path: Path) -> None:
    world = World(tmp_path)
    commit = world.sim.commit(CHAIN, "The chain")
    world.sim.survive(horizon=120)
    assert world.jobs.live() == 1
    world.sim.revert(commit)
    world.go(8)
    assert world.jobs.live() == 0
    assert world.ended("TrainingRequest/docs-v2") == "cancelled"
    ends = [e for e in world.of("TrainingRequest/docs-v2", "started") if "cancelled: its file is gone" in e.data["reason"]]
    assert "USD were spent" in ends[0].data["reason"]
    assert world.judge.work == {}
    assert world.sim.gateway.versions("docs") == {"v1": 100.0}


def test_a_revert_while_it_evaluates_stops_the_bill_and_keeps_what_was_trained(tmp_path: Path) -> None:
    world = World(tmp_path)
    commit = world.sim.commit(CHAIN, "The chain")
    for _ in range(20):
        world.sim.survive(horizon=20)
        if world.judge.work:
            break
    world.sim.revert(commit)
    world.go(5)
    paid = len(world.judge.paid)
    assert paid < CALLS
    world.go(3)
    assert len(world.judge.paid) == paid
    assert world.ended("TrainingRequest/docs-v2") == "completed"
    assert world.ended("Evaluation/docs-v2") == "cancelled"
    archived = [e.data["reason"] for e in world.of("TrainingRequest/docs-v2", "started") if e.data["action"] == "delete"]
    assert archived == ["archived (completed); acme/docs-v2 stays"]


def test_a_revert_while_it_rolls_out_goes_back_at_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    commit = world.sim.commit(CHAIN, "The chain")
    for _ in range(30):
        world.sim.survive(horizon=20)
        if world.sim.gateway.versions("docs").get("v2.0.0"):
            break
    assert world.sim.gateway.versions("docs") == {"v1": 50.0, "v2.0.0": 50.0}
    world.sim.revert(commit)
    world.sim.survive()
    assert world.sim.gateway.versions("docs") == {"v1": 100.0}


def test_killed_on_the_way_it_is_the_same_chain(tmp_path: Path) -> None:
    """At every third border crossing: `kill -9`, and a new controller goes on."""
    world = World(tmp_path / "count")
    world.sim.commit(CHAIN, "The chain")
    world.go()
    total = world.sim.faults.count
    assert total > 30
    for kill_at in range(1, total + 1, 3):
        world = World(tmp_path / str(kill_at))
        world.sim.faults.kill_at = kill_at
        world.sim.commit(CHAIN, "The chain")
        world.go(20)
        check_promoted(world)
