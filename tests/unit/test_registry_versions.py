"""The fold of the registry over events as the executor writes them: matching, histories, aliases, bounds, imports."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import pytest

from controller.errors import NotFound, TurnoutError
from controller.events import Event
from controller.kinds.evaluation.spec import EvaluationState
from controller.kinds.training.spec import TrainingState
from controller.projections.registry import HISTORY_KEPT, IMPORTS, REGISTRY, is_agent
from controller.projections.version_facts import improvement, summary
from controller.projections.version_views import (
    aliases,
    aliases_of,
    compared,
    cost_of,
    flat,
    per_agent,
    version_of,
    versions_of,
    whole,
)
from controller.registry_file import Flat, PerAgent, read

AGENT = "docs"


class Story:
    """A log that is folded as it grows; its states go through JSON each time, as the cache keeps them."""

    def __init__(self) -> None:
        self.states: dict[str, dict[str, Any]] = defaultdict(dict)
        self.events: list[Event] = []

    def add(self, kind: str, subject: str = "", **data: Any) -> Event:
        number = len(self.events) + 1
        time = f"2026-11-{1 + number // 1440 % 28:02d}T{number // 60 % 24:02d}:{number % 60:02d}:00.000000Z"
        event = Event(
            id=f"e{number}",
            source="t",
            type=f"turnout.{kind}.v1",
            subject=subject,
            time=time,
            sequence=number,
            statecommit=f"{number:040d}",
            data=data,
        )
        self.events.append(event)
        before = {key: json.dumps(state, sort_keys=True) for key, state in self.states.items()}
        changed = REGISTRY.fold(self.states, event)
        told = {changed} if isinstance(changed, str) else set(changed)
        after = {key: json.dumps(state, sort_keys=True) for key, state in self.states.items()}
        assert {key for key, text in after.items() if text != before.get(key, "{}")} <= told, "a change that the cache never sees"
        self.states = defaultdict(dict, {key: json.loads(text) for key, text in after.items()})
        return event

    def done(self, subject: str, after: Any, action: str = "step", **data: Any) -> Event:
        return self.add("action.succeeded", subject, action=action, intent=f"i-{subject}", after=after, **data)

    def bind(self, version: str, model: str = "acme/docs", endpoint: str = "huggingface", **more: Any) -> None:
        after = {"model": model, "endpoint": endpoint, "version": version, "fallbacks": [], **more}
        self.done(f"ModelBinding/{AGENT}", after, "update")

    def train(self, version: str, repo: str = "acme/docs", phase: str = "succeeded", name: str = "", cost: float = 1.0) -> None:
        state = TrainingState(
            phase=phase,
            agent=AGENT,
            version=version,
            method="dpo",
            base_model="acme/base-7B",
            base_revision="main",
            backend="hf_jobs",
            repo=repo,
            dataset={"source": "ls://rows", "revision": "r7", "digest": "d" * 64, "rows": 900, "name": "rows"},
            cost_usd=cost,
            result="f" * 32,
            revision="c" * 40,
            job="job-1",
            ended_at="2026-11-01T02:03:04+00:00",
        )
        self.done(f"TrainingRequest/{name or 't-' + version}", state.full(), running=phase == "running")

    def judge(self, version: str, verdict: str = "deploy", model: str = "acme/docs", name: str = "", report: Any = None) -> None:
        candidate = {"model": model, "endpoint": "huggingface", "version": version}
        state = EvaluationState(
            agent=AGENT,
            phase="completed",
            candidate=candidate,
            baseline={"model": "acme/docs", "endpoint": "huggingface", "version": "v1"},
            dataset="ls://questions",
            verdict=verdict,
            score={"candidate": 0.56, "baseline": 0.5},
            examples=120,
            cost=0.25,
        ).full()
        subject = f"Evaluation/{name or 'e-' + version}"
        evidence = {"evidence": {"report": report}} if report else {}
        self.add("action.started", subject, action="step", intent="i", after=state, **evidence)
        self.done(subject, state, ends="completed", notes={"cost_usd": 0.25})

    def roll(self, version: str, phase: str, model: str = "acme/docs", name: str = "", **more: Any) -> None:
        candidate = {"model": model, "endpoint": "huggingface", "version": version}
        after = {"binding": AGENT, "phase": phase, "candidate": candidate, "verdict": f"said {phase}", **more}
        self.done(f"Rollout/{name or 'r-' + version}", after)

    @property
    def state(self) -> dict[str, Any]:
        return self.states[AGENT]

    def version(self, name: str) -> dict[str, Any]:
        return whole(self.state, version_of(AGENT, self.state, name))

    def labels(self) -> list[tuple[str, str]]:
        return [(each["version"], each["status"]) for each in versions_of(self.state)]


def test_a_version_goes_from_training_to_traffic_and_back() -> None:
    story = Story()
    story.bind("v1")
    assert aliases(story.state) == {"champion": "v1"}
    story.train("v2", phase="running", cost=0.4)
    assert story.version("v2")["status"] == "training"
    story.train("v2", cost=1.5)
    assert (story.version("v2")["status"], aliases(story.state)) == ("trained", {"champion": "v1"})
    story.judge("v2", "deploy_canary")
    assert (story.version("v2")["status"], aliases(story.state)["candidate"]) == ("trained", "v2")
    story.roll("v2", "progressing")
    assert (story.version("v2")["status"], aliases(story.state)["candidate"]) == ("canary", "v2")
    story.roll("v2", "promoted")
    story.bind("v2")
    story.roll("v2", "promoted", settled=True)
    assert (story.version("v2")["status"], story.version("v1")["status"]) == ("deployed", "retired")
    assert aliases(story.state) == {"champion": "v2", "previous": "v1"}
    story.bind("v1")
    assert (story.version("v2")["status"], story.version("v2")["rollbacks"]) == ("rolled_back", 1)
    assert aliases(story.state) == {"champion": "v1", "previous": "v2"}
    left = story.version("v2")["deployments"]
    assert [(each["ended"], each["to"], each["rollout"]) for each in left] == [("rolled_back", "v1", "r-v2")]
    assert len(story.version("v1")["deployments"]) == 2
    assert story.version("v2")["costs"] == {"TrainingRequest/t-v2": 1.5, "Evaluation/e-v2": 0.25}
    assert len(versions_of(story.state)) == 2


def test_a_training_is_kept_with_all_that_it_was_made_from() -> None:
    story = Story()
    story.train("v2.0.0")
    found = story.version("v2.0.0")
    assert (found["base_model"], found["base_revision"], found["training_method"]) == ("acme/base-7B", "main", "dpo")
    assert found["dataset"] == {"name": "rows", "revision": "r7", "digest": "d" * 64, "rows": 900}
    assert found["training_dataset"] == "ls://rows@r7"
    assert (found["hub_repo"], found["hub_revision"], found["result"]) == ("acme/docs", "c" * 40, "f" * 32)
    assert (found["training"], found["training_job_id"]) == ("t-v2.0.0", "job-1")
    assert (found["trained_at"], found["cost_usd"]) == ("2026-11-01T02:03:04+00:00", 1.0)


@pytest.mark.parametrize("phase", ["failed", "cancelled"])
def test_a_training_that_failed_is_no_version_to_deploy_and_has_its_cost(phase: str) -> None:
    story = Story()
    story.train("v2", phase=phase, cost=0.7)
    story.judge("v3", "reject")
    assert (story.version("v2")["status"], story.version("v2")["cost_usd"]) == (phase, 0.7)
    assert "trained_at" not in story.version("v2")
    assert aliases(story.state) == {}
    story.train("v2", name="again", cost=1.0)
    assert (story.version("v2")["status"], story.version("v2")["cost_usd"]) == ("trained", 1.7)


@pytest.mark.parametrize("model", ["acme/served-under-another-name", "v2"])
def test_what_was_not_pushed_is_known_by_its_label(model: str) -> None:
    story = Story()
    story.train("v2", repo="")
    story.bind("v2", model=model, endpoint="pool")
    (found,) = versions_of(story.state)
    assert (found["status"], found["model"], found["training"]) == ("deployed", model, "t-v2")


def test_the_same_label_of_another_model_is_another_version() -> None:
    story = Story()
    story.train("v2", repo="acme/docs")
    story.bind("v2", model="openai/gpt-4o")
    assert sorted(story.labels()) == [("v2", "deployed"), ("v2", "trained")]
    with pytest.raises(TurnoutError, match="2 versions 'v2'") as raised:
        version_of(AGENT, story.state, "v2")
    assert "v2@acme/docs" in raised.value.hint
    assert version_of(AGENT, story.state, "v2@openai/gpt-4o")["status"] == "deployed"
    with pytest.raises(NotFound, match='did you mean "champion"'):
        version_of(AGENT, story.state, "champoin")


def test_an_endpoint_that_moves_is_a_deployment_and_no_rollback() -> None:
    story = Story()
    story.bind("v1", endpoint="openrouter")
    story.bind("v1", endpoint="huggingface")
    story.bind("v1", endpoint="huggingface", fallbacks=["cicd"])
    found = story.version("v1")
    assert [(each["endpoint"], each.get("ended")) for each in found["deployments"]] == [
        ("openrouter", "moved"),
        ("huggingface", None),
    ]
    assert (found["status"], found["rollbacks"], aliases(story.state)) == ("deployed", 0, {"champion": "v1"})


def test_a_binding_that_is_removed_leaves_nobody_answering() -> None:
    story = Story()
    story.bind("v1")
    story.done(f"ModelBinding/{AGENT}", None, "delete")
    assert story.labels() == [("v1", "retired")]
    assert per_agent({AGENT: story.state})[AGENT]["current"] is None
    assert flat({AGENT: story.state}) == {"models": []}


def test_aborted_cancelled_and_superseded_rollouts_are_history() -> None:
    story = Story()
    story.bind("v1")
    for version, phase in (("v2", "aborted"), ("v3", "superseded"), ("v4", "completed")):
        story.roll(version, "progressing")
        story.roll(version, phase)
        assert story.version(version)["status"] == phase
    story.roll("v5", "progressing")
    before = {
        "binding": AGENT,
        "phase": "progressing",
        "candidate": {"model": "acme/docs", "endpoint": "huggingface", "version": "v5"},
    }
    story.add("action.started", "Rollout/r-v5", action="delete", intent="x", before=before, after=None)
    story.done("Rollout/r-v5", None, "delete", ends="cancelled")
    assert story.version("v5")["status"] == "cancelled"
    assert [(each["name"], each["phase"]) for each in story.version("v2")["rollouts"]] == [("r-v2", "aborted")]
    assert story.version("v2")["rollbacks"] == 1
    assert aliases(story.state) == {"champion": "v1"}


def test_a_promotion_that_a_person_overtook_is_superseded() -> None:
    story = Story()
    story.bind("v1")
    story.roll("v2", "promoted")
    story.bind("v3")
    story.roll("v2", "promoted", settled=True)
    assert story.version("v2")["status"] == "superseded"
    assert aliases(story.state) == {"champion": "v3", "previous": "v1"}


def test_a_verdict_stays_when_the_version_is_not_deployed_and_the_newest_fit_one_is_the_candidate() -> None:
    story = Story()
    for version, verdict in (("v2", "deploy"), ("v3", "deploy_canary"), ("v4", "reject"), ("v5", "not_enough_data")):
        story.train(version)
        story.judge(version, verdict)
        assert story.version(version)["verdict"] == verdict
    assert aliases(story.state) == {"candidate": "v3"}
    story.judge("v9", "needs_review", model="other/x")
    assert story.version("v9")["status"] == "evaluated"
    assert aliases_of(story.state, version_of(AGENT, story.state, "candidate")) == ["candidate"]


def test_a_cancelled_evaluation_is_paid_for_by_its_candidate() -> None:
    story = Story()
    running = EvaluationState(
        agent=AGENT,
        phase="running",
        candidate={"model": "acme/docs", "endpoint": "h", "version": "v2"},
        baseline={},
        dataset="ls://q",
    ).full()
    story.done("Evaluation/e", running, "run", running=True)
    story.done("Evaluation/e", None, "delete", ends="cancelled", notes={"cost_usd": 0.11})
    assert story.version("v2")["cost_usd"] == 0.11
    assert "verdict" not in story.version("v2")


def test_conversions_are_found_by_training_and_by_repository() -> None:
    story = Story()
    story.train("v2", repo="acme/docs")
    files = [{"name": "docs-Q4_K_M.gguf", "quantization": "Q4_K_M", "bytes": 900, "sha256": "a" * 64, "more": {"later": 1}}]
    story.done("Conversion/one", {"phase": "running", "source": {"training": "t-v2"}}, running=True)
    assert "files" not in story.version("v2")
    story.done("Conversion/one", {"phase": "succeeded", "source": {"training": "t-v2"}, "files": files, "repo": "acme/docs-GGUF"})
    found = story.version("v2")
    assert found["files"] == [{"name": "docs-Q4_K_M.gguf", "quantization": "Q4_K_M", "bytes": 900, "sha256": "a" * 64}]
    story.done("Conversion/two", {"phase": "succeeded", "source": {"repo": "acme/docs", "revision": "main"}, "cost_usd": 0.5})
    assert (story.version("v2")["conversion"], story.version("v2")["costs"]["Conversion/two"]) == ("two", 0.5)
    other = {
        "agent": AGENT,
        "version": "v0.1.0",
        "source": {"repo": "Qwen/Coder", "revision": "r"},
        "files": files,
        "repo": "acme/q",
    }
    story.done("Conversion/other", {"phase": "queued", **other}, running=True)
    assert len(versions_of(story.state)) == 1
    story.done("Conversion/other", {"phase": "succeeded", **other})
    assert [(each["version"], each["status"]) for each in versions_of(story.state)][-1] == ("v0.1.0", "converted")
    story.done("Conversion/three", {"phase": "succeeded", "source": {"repo": "nobody/knows"}, "files": files})
    story.bind("v2", model="acme/docs-GGUF", endpoint="pool")
    assert sorted(story.labels()) == [("v0.1.0", "converted"), ("v2", "deployed")]
    story.bind("v0.1.0", model="acme/q", endpoint="pool")
    assert sorted(story.labels()) == [("v0.1.0", "deployed"), ("v2", "retired")]
    assert [key for key in story.states if is_agent(key)] == [AGENT]


def test_events_of_a_newer_writer_do_not_break_the_fold() -> None:
    story = Story()
    for subject in ("Rollout/r", "TrainingRequest/t", "Evaluation/e", "Conversion/c"):
        for after in (None, {}, {"phase": 7, "candidate": "x", "source": "y", "agent": None}):
            story.done(subject, after)
            story.add("action.started", subject, action="step", intent="i", after=after, evidence={"report": {"verdict": 3}})
    story.add("registry.imported", "", digest="d")
    assert [key for key in story.states if is_agent(key) and story.states[key]] == []


def test_the_history_is_bounded_and_keeps_what_answers() -> None:
    story = Story()
    story.bind("v0")
    for number in range(1, 3 * HISTORY_KEPT):
        story.roll(f"v0.{number}", "aborted")
    assert HISTORY_KEPT <= len(story.state["versions"]) <= 2 * HISTORY_KEPT
    assert aliases(story.state) == {"champion": "v0"}
    for number in range(100):
        story.bind(f"w{number % 2}")
    assert len(story.version("w0")["deployments"]) == 20
    assert len(json.dumps(story.state)) < 400_000


def test_the_figures_of_a_report() -> None:
    report = {
        "verdict": {
            "rules": {"alpha": 0.05},
            "evidence": [
                {"measure": "accuracy", "role": "gain", "n": 4, "candidate": 0.75, "baseline": 0.5, "difference": 0.25, "low": 0.1}
                | {"high": 0.4, "state": "better"},
                {"measure": "latency_p95", "role": "watch", "n": 4, "candidate": 2.0, "baseline": 1.0, "state": "shown"},
            ],
        },
        "answers": [
            {"example": "a", "side": "candidate", "seconds": 0.5, "cost_usd": 0.002, "tokens_in": 100, "tokens_out": 100},
            {"example": "b", "side": "candidate", "seconds": 1.5, "tokens_in": 100},
            {"example": "c", "side": "candidate", "seconds": 9.0, "error": "failed"},
            {"example": "a", "side": "baseline", "seconds": 7.0},
        ],
    }
    found = summary(report)
    assert found["scores"]["accuracy"] == {
        "n": 4,
        "candidate": 0.75,
        "baseline": 0.5,
        "difference": 0.25,
        "low": 0.1,
        "high": 0.4,
        "state": "better",
    }
    assert (found["confidence"], found["avg_latency_ms"], found["cost_per_1k"]) == (0.9, 1000.0, 0.01)
    assert summary({}) == {"scores": {}, "confidence": None, "avg_latency_ms": None, "cost_per_1k": None}
    story = Story()
    story.judge("v2", report=report)
    kept = story.version("v2")
    assert kept["eval_scores"] == {
        "accuracy": 0.75,
        "baseline_improvement": "+12%",
        "avg_latency_ms": 1000.0,
        "cost_per_1k": 0.01,
    }
    assert "reports" not in story.state or story.state["reports"] == {}


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [(0.56, 0.5, "+12%"), (0.5, 0.5, "+0%"), (0.4375, 0.5, "-12.5%"), (0.1, 0, None), (None, 1, None)],
)
def test_improvement_is_said_as_registries_say_it(mine: float | None, theirs: float, expected: str | None) -> None:
    assert improvement(mine, theirs) == expected


def test_two_versions_and_what_differs() -> None:
    story = Story()
    story.train("v1", cost=1.0)
    story.train("v2", cost=2.0)
    both = compared(AGENT, story.state, version_of(AGENT, story.state, "v1"), version_of(AGENT, story.state, "v2"))
    assert [each["version"] for each in both["versions"]] == ["v1", "v2"]
    assert set(both["differ"]) == {"version", "training", "costs", "cost_usd", "commit"}
    assert cost_of(version_of(AGENT, story.state, "v2")) == 2.0


# -- imports ---------------------------------------------------------------------------------------------------------

PER_AGENT = {
    AGENT: {
        "current": {"version": "v2-finetuned", "model": "acme/docs-v2", "endpoint": "huggingface", "deployed_at": "2025-12-09"},
        "history": [
            {"version": "v1.0.0", "model": "acme/docs-v1", "base_model": "base", "deployment_status": "retired"},
            {
                "version": "v2-finetuned",
                "model": "acme/docs-v2",
                "base_model": "Qwen/Qwen2.5-Coder-7B",
                "training_method": "sft",
                "training_dataset": "ls://rows",
                "eval_dataset": "ls://questions",
                "eval_scores": {"accuracy": 0.87, "baseline_improvement": "+12%", "avg_latency_ms": 450, "cost_per_1k": 0.003},
                "trained_at": "2025-12-08T10:00:00Z",
                "hub_repo": "acme/docs-v2",
                "deployment_status": "deployed",
            },
        ],
    }
}


def imported(story: Story, document: Any) -> None:
    found = read(json.dumps(document).encode(), "registry.json")
    story.add("registry.imported", "", source="registry.json", digest=found.digest, form=found.form, agents=found.agents)


def test_an_import_is_history_until_the_binding_says_otherwise() -> None:
    story = Story()
    imported(story, PER_AGENT)
    assert story.labels() == [("v1.0.0", "imported"), ("v2-finetuned", "imported")]
    assert aliases(story.state) == {}
    assert story.version("v2-finetuned")["imported_status"] == "deployed"
    assert per_agent({AGENT: story.state})[AGENT]["current"]["version"] == "v2-finetuned"
    story.bind("v2-finetuned", model="acme/docs-v2")
    found = story.version("champion")
    assert (found["status"], found["training_method"], found["eval_scores"]["accuracy"]) == ("deployed", "sft", 0.87)
    assert len(story.states[IMPORTS]) == 1


def test_an_import_fills_gaps_and_contradicts_no_event() -> None:
    story = Story()
    story.train("v2-finetuned", repo="acme/docs-v2")
    story.bind("v2-finetuned", model="acme/docs-v2", endpoint="pool")
    imported(story, PER_AGENT)
    found = story.version("v2-finetuned")
    assert (found["status"], found["training_method"], found["base_model"]) == ("deployed", "dpo", "acme/base-7B")
    assert (found["trained_at"], found["endpoint"]) == ("2026-11-01T02:03:04+00:00", "pool")
    assert found["eval_dataset"] == "ls://questions"
    assert per_agent({AGENT: story.state})[AGENT]["current"]["endpoint"] == "pool"


def test_a_newer_import_corrects_an_older_one() -> None:
    story = Story()
    imported(story, PER_AGENT)
    changed = json.loads(json.dumps(PER_AGENT))
    changed[AGENT]["history"][0]["base_model"] = "corrected"
    imported(story, changed)
    assert story.version("v1.0.0")["base_model"] == "corrected"


@pytest.mark.parametrize("document", [PER_AGENT, {"models": [{"agent": AGENT, "model_id": "m", "version": "v2-20251209"}]}])
def test_what_is_exported_follows_the_forms(document: Any) -> None:
    story = Story()
    imported(story, document)
    story.train("v3.0.0")
    story.judge("v3.0.0")
    story.bind("v3.0.0")
    Flat.model_validate(flat({AGENT: story.state}))
    PerAgent.model_validate(per_agent({AGENT: story.state}))
    assert flat({AGENT: story.state})["models"] == [
        {
            "agent": AGENT,
            "model_id": "acme/docs",
            "version": "v3.0.0",
            "deployed_at": story.events[-1].time,
            "evaluation_score": 0.56,
            "training_job_id": "job-1",
        }
    ]
