"""Train, evaluate, canary, promote by one commit: what registry, lineage, why and budget say of it afterwards, from the log."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller import approval
from controller.address import Address
from controller.clients.datasets import Datasets
from controller.clients.training import Backends
from controller.clients.training.backend import Found, Hardware, Order, Prices, Sight, Verified
from controller.environment import BudgetSpec, TrainingDefaults
from controller.judgement.record import Record
from controller.judgement.results import Answer, Example, Scoring
from controller.judgement.rules import Rules
from controller.judgement.verdict import evaluated
from controller.projections.lineage import run_events
from controller.projections.lineage_tree import Graph
from controller.projections.money import budget, spending
from controller.projections.version_views import aliases, compared, per_agent, version_of, whole
from controller.projections.why import chain
from controller.registry_file import PerAgent
from controller.testing import evaluations
from controller.testing.evaluations import EvaluationsDouble
from controller.testing.simulation import BOB, ENVIRONMENT, Simulation, binding, incremental

FILES = {
    "data.jsonl": "".join(f'{{"inputs": {{"task": "t{n}"}}, "outputs": {{"code": "x = {n}"}}}}\n' for n in range(200)),
    "datasets/docs.jsonl": '{"inputs": {"task": "1"}, "outputs": {"answer": "1"}}\n',
    "state/trainings/docs-v2.yaml": """\
apiVersion: turnout/v1
kind: TrainingRequest
metadata: {name: docs-v2}
spec:
  agent: docs
  version: v2.0.0
  method: sft
  dataset: {files: [data.jsonl]}
  baseModel: acme/small-1B
  mode: demo
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
  dataset: {files: [datasets/docs.jsonl]}
  evaluators: [{name: accuracy, kind: exact, field: outputs.answer}]
""",
    "state/rollouts/docs-v2.yaml": """\
apiVersion: turnout/v1
kind: Rollout
metadata: {name: docs-v2}
spec:
  binding: docs
  candidate: {model: acme/docs-v2, endpoint: huggingface, version: v2.0.0}
  evaluation: docs-v2
  strategy: {canary: [{weight: 50, hold: 60s}]}
  analysis: {errorRate: {worseBy: 1%}, minimumSamples: 20}
""",
}


class Vendor:
    """Jobs that succeed after 20 minutes of 1.20 USD an hour."""

    def __init__(self) -> None:
        self.jobs: dict[str, Order] = {}
        self.looks = 0

    def start(self, order: Order) -> str:
        self.jobs[f"job-{len(self.jobs) + 1}"] = order
        return f"job-{len(self.jobs)}"

    def find(self, intent: str) -> Found | None:
        return next((Found(handle, order.record) for handle, order in self.jobs.items() if order.intent == intent), None)

    def look(self, handles: Sequence[str]) -> Mapping[str, Sight | Exception]:
        self.looks += 1
        stage = "running" if self.looks < 3 else "succeeded"
        return {handle: Sight(stage, cost_usd=0.1 if self.looks < 3 else 0.4) for handle in handles}  # type: ignore[arg-type]

    def verify(self, handle: str, repo: str, intent: str) -> Verified:
        return Verified((), 3, 1000, "d1", "c" * 40, {"before": {"loss": 2.0}, "after": {"loss": 1.0}})

    def cancel(self, handle: str) -> None:
        raise AssertionError("nobody cancels")

    def prices(self) -> Prices:
        return Prices("2026-11-01", True, {"a10g-small": Hardware(1.2, "A10G", 1)})


def report_of(order: Mapping[str, Any], verdicts: Mapping[str, str]) -> dict[str, Any]:
    """A real verdict over made-up answers: the candidate is right on 90 of 100, the baseline on 60."""
    questions = [Example(f"q{number:03d}", {"task": str(number)}) for number in range(100)]
    answers = [
        Answer(each.id, side, seconds=seconds, cost_usd=0.001, tokens_in=50, tokens_out=50, scores={"accuracy": float(right)})
        for number, each in enumerate(questions)
        for side, seconds, right in (("candidate", 0.5, number % 10 != 0), ("baseline", 1.0, number % 5 not in (1, 2)))
    ]
    verdict = evaluated(answers, [], Scoring(), Rules(), seed=1)
    record = Record(
        name=order["name"],
        agent=order["agent"],
        candidate="c",
        baseline="b",
        dataset="datasets/docs.jsonl",
        examples=tuple(questions),
        answers=tuple(answers),
        judged=(),
        scoring=Scoring(),
        verdict=verdict,
        seed=1,
        cost_usd=0.2,
    )
    return {
        "cost_usd": 0.2,
        "links": {},
        "report": msgspec.to_builtins(record),
        "verdict": {
            "verdict": verdict.verdict,
            "reasons": list(verdict.reasons),
            "examples": verdict.examples,
            "needed": verdict.needed,
            "candidate_score": verdict.candidate_score,
            "baseline_score": verdict.baseline_score,
        },
    }


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Simulation:
    """The chain, carried out to the promotion."""
    monkeypatch.setattr(evaluations, "result_of", report_of)
    datasets = Datasets(tmp_path / "rows", _nobody, _nobody, _content)
    doors: dict[str, Any] = {"training": Backends({"hf_jobs": Vendor()}, TrainingDefaults()), "datasets": datasets}
    sim = Simulation(tmp_path, doors=doors)
    sim.doors["evaluations"] = EvaluationsDouble(lambda: sim.time.timestamp(), sim.faults)
    rules = '  rules: {approve: [{match: "TrainingRequest/*", actions: [run], reason: it is paid for}]}\n'
    sim.commit({**binding("docs", "v1.0.0"), "environments/local/environment.yaml": ENVIRONMENT + rules}, "Bind docs")
    sim.survive()
    sim.commit(FILES, "Train, prove and try v2.0.0")
    flow = sim.survive()
    change = next(each for each in sim.settle(flow).plan.changes if each.address == "TrainingRequest/docs-v2")
    sim.commit({}, "Fine by me", trailer=approval.line(change), by=BOB)
    for _ in range(12):
        sim.survive(horizon=300)
        sim.gateway.traffic("docs", 400)
        sim.advance(70)
    assert sim.gateway.versions("docs") == {"v2.0.0": 100.0}
    return sim


def _content(path: str, found: str) -> bytes:
    """Of a file, by path and object."""
    return FILES[path].encode()


def _nobody() -> Any:
    raise AssertionError("nobody asks it here")


def agent_of(sim: Simulation) -> dict[str, Any]:
    found: dict[str, Any] = sim.folded()["registry/docs"]
    return found


def test_the_registry_tells_one_version_from_the_data_to_the_traffic(told: Simulation) -> None:
    state = agent_of(told)
    assert aliases(state) == {"champion": "v2.0.0", "previous": "v1.0.0"}
    new = whole(state, version_of("docs", state, "champion"))
    assert (new["base_model"], new["training_method"], new["training"]) == ("acme/small-1B", "sft", "docs-v2")
    assert (new["hub_repo"], new["hub_revision"], new["result"]) == ("acme/docs-v2", "c" * 40, "d1")
    assert new["training_dataset"] == f"data.jsonl@{new['dataset']['revision']}"
    assert new["dataset"]["rows"] == 200
    assert new["metrics"]["after"] == {"loss": 1.0}
    assert (new["evaluation"], new["verdict"], new["compared_with"]) == ("docs-v2", "deploy_canary", "acme/model v1.0.0")
    accuracy = new["scores"]["accuracy"]
    assert (accuracy["candidate"], accuracy["baseline"]) == (0.9, 0.6)
    assert accuracy["low"] < accuracy["difference"] < accuracy["high"]
    assert new["eval_scores"]["avg_latency_ms"] == 500
    assert new["eval_scores"]["cost_per_1k"] == pytest.approx(0.01)
    assert new["eval_scores"]["baseline_improvement"].startswith("+")
    assert new["costs"] == {"TrainingRequest/docs-v2": 0.4, "Evaluation/docs-v2": 0.2}
    assert new["cost_usd"] == pytest.approx(0.6)
    (deployment,) = new["deployments"]
    assert (deployment["endpoint"], deployment["rollout"]) == ("huggingface", "docs-v2")
    assert [each["phase"] for each in new["rollouts"]] == ["promoted"]
    old = whole(state, version_of("docs", state, "v1.0.0"))
    assert (old["status"], old["deployments"][0]["ended"], old["deployments"][0]["to"]) == ("retired", "retired", "v2.0.0")


def test_a_revert_is_a_rollback_in_the_history(told: Simulation) -> None:
    promotion = told.tip()
    assert promotion is not None
    told.revert(promotion)
    told.survive(horizon=60)
    state = agent_of(told)
    assert aliases(state) == {"champion": "v1.0.0", "previous": "v2.0.0"}
    left = whole(state, version_of("docs", state, "v2.0.0"))
    assert (left["status"], left["rollbacks"], left["deployments"][0]["ended"]) == ("rolled_back", 1, "rolled_back")
    back = whole(state, version_of("docs", state, "v1.0.0"))
    assert len(back["deployments"]) == 2
    assert "until" not in back["deployments"][1]
    both = compared("docs", state, version_of("docs", state, "v1.0.0"), version_of("docs", state, "v2.0.0"))
    assert {"base_model", "cost_usd", "status", "scores"} <= set(both["differ"])


def test_the_budget_counts_what_both_runs_really_cost(told: Simulation) -> None:
    month = told.folded()["money/2026-11"]
    assert budget(month, "m", None).spent == pytest.approx(0.6)
    assert budget(month, "m", None).reserved == 0
    document = spending("2026-11", month, BudgetSpec.model_validate({"monthlyUsd": 10.0, "agents": {"docs": 1.0}}))
    assert document["left"] == pytest.approx(9.4)
    assert document["agents"]["docs"]["left"] == pytest.approx(0.4)
    assert {kind: round(row["spent"], 6) for kind, row in document["kinds"].items()} == {"Evaluation": 0.2, "TrainingRequest": 0.4}
    assert document["days"] == {"2026-11-01": {"docs": {"Evaluation": 0.2, "TrainingRequest": 0.4}}}


def test_folding_step_by_step_is_folding_at_once(told: Simulation) -> None:
    flow = told.survive()
    assert {key: value for key, value in incremental(flow).items() if key.startswith(("registry/", "money/"))} == {
        key: value for key, value in told.folded().items() if key.startswith(("registry/", "money/"))
    }


def test_why_tells_the_verdict_the_training_and_who_approved(told: Simulation) -> None:
    head = told.tip() or ""
    links = chain(Address("ModelBinding/docs"), told.check_log(), told.repository, ("state/bindings/docs.yaml",), head)
    of = {what: text for what, text, _, _ in reversed(links)}
    assert of["evaluation"].startswith("docs-v2: deploy_canary, score ")
    assert "datasets/docs.jsonl" in of["evaluation"]
    told_training = r"docs-v2: sft of acme/small-1B on data.jsonl@\w{2,12}, 0.40 USD, result d1 at acme/docs-v2@cccccccccccc"
    assert re.fullmatch(told_training, of["training"])
    assert of["rollout"].startswith("docs-v2: promoted")
    approvals = [text for what, text, _, _ in links if what == "approval"]
    assert approvals == ["TrainingRequest/docs-v2: approved up to 1.80 USD by Bob <bob@example.org>"]


def test_lineage_leads_from_the_binding_to_the_rows_and_back(told: Simulation) -> None:
    graph = Graph(run_events(told.check_log(), "local"))
    start = graph.newest("ModelBinding/docs")
    assert start is not None
    up = [line.text.partition(":")[0] for line in graph.upstream(start) if line.what == "run"]
    assert up[:4] == ["ModelBinding/docs", "Rollout/docs-v2", "Evaluation/docs-v2", "TrainingRequest/docs-v2"]
    data = {line.text for line in graph.upstream(start) if line.what == "data"}
    assert {"https://huggingface.co/acme/small-1B", "git:datasets/docs.jsonl"} <= data
    assert any(re.fullmatch(r"git:data.jsonl@\w{2,12}", each) for each in data)
    assert "https://huggingface.co/acme/docs-v2@cccccccccccc" in data
    training = graph.newest("TrainingRequest/docs-v2")
    assert training is not None
    down = [line.text.partition(":")[0] for line in graph.downstream(training) if line.what == "run"]
    assert set(down) == {"Evaluation/docs-v2", "Rollout/docs-v2", "ModelBinding/docs"}


def test_the_export_is_what_other_tools_read(told: Simulation) -> None:
    document = per_agent({"docs": agent_of(told)})["docs"]
    assert document["current"]["model"] == "acme/docs-v2"
    new = document["history"][-1]
    assert new["deployment_status"] == "deployed"
    assert new["eval_scores"].keys() == {"accuracy", "baseline_improvement", "avg_latency_ms", "cost_per_1k"}
    assert new["eval_dataset"] == "datasets/docs.jsonl"
    PerAgent.model_validate({"docs": document})
