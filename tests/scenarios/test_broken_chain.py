"""What a hostile reader of the chain found, one test a bug: money counted wrong, runs that could not end, files that lied."""

from __future__ import annotations

import codecs
import contextlib
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from controller import approval
from controller.clients.datasets import Datasets
from controller.clients.git import Repository
from controller.clients.git_remote import Remote
from controller.errors import Permanent, RemoteDown
from controller.health import health_of
from controller.judgement.judge import TEMPLATES, questions
from controller.kind import Past
from controller.rehearsal import copy, seeds
from controller.testing.doubles import Faults
from controller.testing.openrouter_api.answers import Call, Reply
from controller.testing.openrouter_api.rules import Rules
from controller.testing.simulation import ADA, BOB, ENVIRONMENT, Killed, Simulation
from controller.testing.trainings import TrainingJobs


def _module(name: str) -> ModuleType:
    """Tests are no package: the worlds of two other files."""
    spec = importlib.util.spec_from_file_location(f"broken_chain_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


runs = _module("test_training_runs")
chain = _module("test_chain")
HOUR = 3600.0


# -- money -----------------------------------------------------------------------------------------------------------


def counted(sim: Any, month: str = "2026-11") -> tuple[float, dict[str, Any]]:
    """What the budget says was spent, and what it keeps reserved."""
    found = sim.folded().get(f"money/{month}", {})
    return sum(usd for usd, _ in found.get("spent", {}).values()), found.get("reserved", {})


def train_through(folder: Path, kill_at: int, outcomes: list[str], away: float) -> Any:
    """One training; its controller is killed at a border crossing, and the next one comes `away` seconds later."""
    world = runs.World(folder)
    world.jobs.minutes, world.jobs.outcomes, world.sim.faults.kill_at = 2.0, list(outcomes), kill_at
    world.sim.commit(runs.training(), "Train docs")
    for _ in range(6):
        flow = world.sim.controller("m")
        try:
            world.sim.settle(flow, horizon=2 * HOUR)
        except Killed:
            flow.cache.close()
            world.sim.advance(away)
            continue
        if world.state().get("ended"):
            break
        world.sim.advance(70)
    return world


@pytest.mark.parametrize("outcomes", [[], ["preempted", "succeeded"]])
def test_a_step_that_was_interrupted_does_not_free_the_budget_of_the_run(tmp_path: Path, outcomes: list[str]) -> None:
    """The budget forgot what a run cost when a step of it was superseded, or its second attempt was adopted, after a crash."""
    count = train_through(tmp_path / "count", 0, outcomes, 0).sim.faults.count
    for kill_at in range(18, count + 1):
        world = train_through(tmp_path / str(kill_at), kill_at, outcomes, 200)
        assert world.ended()[0] == "completed"
        assert counted(world.sim) == (pytest.approx(world.jobs.spent(), abs=0.001), {}), world.sim.faults.trace[kill_at - 1]


def test_a_second_attempt_that_is_adopted_is_still_a_run_that_goes_on(tmp_path: Path) -> None:
    """Adopted, it counted as at rest until its next step: its money as settled, its spec as not frozen."""
    world = runs.World(tmp_path)
    world.jobs.outcomes = ["preempted", "runs"]
    world.sim.commit(runs.training(), "Train docs")
    flow = world.sim.controller("m")
    world.sim.settle(flow)
    world.jobs.lose_answers, world.jobs.lag_seconds = 1, 45.0
    world.sim.settle(flow, horizon=1500)
    world.sim.advance(120)
    world.sim.settle(flow)
    adopted = [
        e.data for e in world.sim.check_log() if e.type == "turnout.action.succeeded.v1" and "/attempt-2" in e.data["intent"]
    ]
    assert [each["said"] for each in adopted] == ["found done after an interruption"]
    assert [each.get("running") for each in adopted] == [True]


@pytest.mark.parametrize("lag", [0.0, 45.0])
def test_a_lost_answer_after_a_refusal_is_looked_for_and_not_asked_again(tmp_path: Path, lag: float) -> None:
    """That the first call brought nothing about counted for the second one too, and it was paid for again."""
    world = runs.World(tmp_path)
    world.jobs.refuse, world.jobs.lose_answers, world.jobs.lag_seconds = 1, 1, lag
    world.sim.commit(runs.training(), "Train docs")
    flow = world.sim.controller("m")
    for _ in range(40):
        world.sim.settle(flow, horizon=5)
        world.sim.advance(5)
    assert len(world.jobs.jobs) == 1
    world.survive()
    assert (world.ended()[0], len(world.jobs.jobs)) == ("completed", 1)


def test_grace_counts_from_the_last_call_of_an_intent(tmp_path: Path) -> None:
    """Killed before its call, called after the grace period, and the answer lost: the old start made the new job `absent`."""
    trace: list[str] = []
    number = next(number for number in range(1, 50) if _is_before_the_start(tmp_path / f"count{number}", number, trace))
    world = runs.World(tmp_path / "world")
    world.sim.faults.kill_at = number
    world.sim.commit(runs.training(), "Train docs")
    with pytest.raises(Killed):
        world.sim.settle(world.sim.controller("m"))
    assert world.jobs.jobs == []
    world.sim.advance(61)
    world.jobs.lose_answers, world.jobs.lag_seconds = 1, 45.0
    flow = world.sim.controller("m")
    for _ in range(20):
        world.sim.settle(flow, horizon=5)
        world.sim.advance(5)
    assert len(world.jobs.jobs) == 1


def _is_before_the_start(folder: Path, number: int, trace: list[str]) -> bool:
    """Whether this crossing is the one just before the job is made."""
    if not trace:
        world = runs.World(folder)
        world.sim.commit(runs.training(), "Train docs")
        world.sim.settle(world.sim.controller("m"))
        trace += world.sim.faults.trace
    return trace[number - 1] == "start"


def test_who_changed_the_data_may_not_approve_it_alone(tmp_path: Path) -> None:
    """Ada asks; Bob replaces the rows, which changes what is approved, and approves that himself: nobody else has seen them."""
    world = chain.World(tmp_path, environment="  rules: {approvalAboveUsd: 1}\n")
    world.sim.commit(chain.CHAIN, "The chain", by=ADA)
    rows = "".join(f'{{"inputs": {{"task": "other {n}"}}, "outputs": {{"code": "x = {n}"}}}}\n' for n in range(60))
    world.sim.advance(60)
    world.sim.commit({"train.jsonl": rows}, "Other rows", by=BOB)
    plan = world.sim.settle(world.sim.controller("m")).plan
    asked = [change for change in plan.changes if change.address == "TrainingRequest/docs-v2"]
    world.sim.commit({}, "Fine", trailer=approval.line(asked[0]), by=BOB)
    world.go(2)
    assert world.jobs.jobs == []


# -- git never lies ----------------------------------------------------------------------------------------------------


def test_a_chain_that_is_removed_takes_no_route_with_it(tmp_path: Path) -> None:
    """Asked for before it was planned, its binding was `not there` for the rest of the pass, and its route was taken away."""
    world = chain.World(tmp_path)
    world.sim.commit(chain.CHAIN, "The chain")
    for _ in range(60):
        world.sim.survive(horizon=20)
        if world.judge.work:
            break
    assert world.judge.work
    world.sim.commit(dict.fromkeys(chain.CHAIN), "No chain")
    world.sim.survive()
    assert world.ended("Evaluation/docs-v2") == "cancelled"
    assert [e.data["reason"] for e in world.of("Gateway/main", "started") if "no more" in e.data["reason"]] == []
    assert world.sim.gateway.versions("docs") == {"v1": 100.0}


# -- rehearsals --------------------------------------------------------------------------------------------------------


def answered(rules: Rules, model: str, messages: list[dict[str, str]]) -> str:
    found = rules(Call(model, {"messages": messages}))
    assert isinstance(found, Reply)
    return "".join(found.pieces)


def test_a_rehearsed_judge_may_be_the_model_that_is_bound(tmp_path: Path) -> None:
    """What is bound gave a judge's JSON to every question, was wrong on all of them, and `--candidate worse` won."""
    row = {"inputs": {"task": "What is 1 + 1?"}, "outputs": {"answer": "2"}}
    rules = Rules.model_validate_json(seeds.answers([row], ["outputs.answer"], ["acme/m"], ["acme/m"], "worse"))
    told = answered(rules, "acme/m", [{"role": "user", "content": "What is 1 + 1?"}])
    assert told in ("2", "I do not know.")
    asked = questions(TEMPLATES["pairwise-1"], question="What is 1 + 1?", reference="2", first="2", second="3")
    assert '"winner": "tie"' in answered(rules, "acme/m", asked)


def test_a_rehearsed_baseline_that_is_written_answers_as_what_is_used_now() -> None:
    """It answered as the candidate does, so `worse` came to no difference instead of a rejection."""
    specs = {
        "ModelBinding": [{"model": "acme/v1"}, {"model": "acme/v2"}],
        "Evaluation": [{"candidate": {"model": "acme/v2"}, "baseline": {"model": "acme/v0"}}, {"candidate": {"training": "x"}}],
    }
    assert copy.baselines(specs) == {"acme/v0", "acme/v1"}


def test_a_rehearsed_endpoint_is_given_no_secret() -> None:
    """A laptop without production's secrets waited for them until the endpoint's boot was over."""
    own = {"region": "us-east-1", "instanceType": "nvidia-l4", "secrets": {"KEY": "env:PROD_KEY"}}
    found = copy.environment({"endpoints": {"own": {"inferenceEndpoint": own}}}, lambda: 1, False)
    assert found["endpoints"]["own"] == {"inferenceEndpoint": {"region": "us-east-1", "instanceType": "nvidia-l4"}}


# -- what people read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ended", "health"), [("completed", "Healthy"), ("cancelled", "Healthy"), ("failed", "Degraded")])
def test_a_run_that_has_ended_is_not_unknown(ended: str, health: str) -> None:
    """Nobody looks at it any more, and `status` said of every finished training `Unknown: not looked at`."""
    past = Past(exists=True, after={"phase": ended}, ended=ended)
    assert health_of(past, None, declared=False) == (health, ended)


def test_a_remote_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The last line of git's advice was shown: `cannot fetch main from origin: and the repository exists.`"""
    sim = Simulation(tmp_path)
    with pytest.raises(RemoteDown, match=r"nowhere.*does not appear to be a git repository"):
        Remote(Repository(sim.folder / "repo.git"), str(tmp_path / "nowhere.git")).fetch("main")


# -- data sets ---------------------------------------------------------------------------------------------------------


def read_rows(folder: Path, content: bytes) -> Any:
    return Datasets(folder, runs._nobody, runs._nobody, lambda path, found: content).read(None, {"data.jsonl": "1"}).rows


def test_rows_end_where_json_lines_end(tmp_path: Path) -> None:
    """Text with U+2028 or U+0085 in it, which JSON allows, was cut there and called `not JSON`; so was a file with a BOM."""
    row = {"inputs": {"task": "a\u2028b\u0085c"}, "outputs": {"code": "x"}}
    line = json.dumps(row, ensure_ascii=False).encode()
    assert read_rows(tmp_path, codecs.BOM_UTF8 + line + b"\r\n" + line) == (row, row)


def test_a_data_set_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    """Its letters were replaced by U+FFFD without a word, and that would have been trained on."""
    with pytest.raises(Permanent, match=r"data.jsonl:2: is not UTF-8 \(byte 0xe9 at column 6\)"):
        read_rows(tmp_path, b'{"a": 1}\n{"a":\xe9}')


# -- still open --------------------------------------------------------------------------------------------------------


def test_a_local_training_of_a_machine_that_is_gone_can_be_cancelled(tmp_path: Path) -> None:
    """Nobody can reach it, and after its time-out it has ended by itself."""
    here = _module("test_training_here").Here(tmp_path)
    commit = here.train("slow")
    flow = here.sim.controller("m")
    here.sim.settle(flow, horizon=20)
    groups = here.pids()
    try:
        assert here.past()["running"]
        here.local.processes.machine = "another"
        here.sim.revert(commit)
        for _ in range(3):  # longer than the time-out of an attempt, after which its program has ended by itself
            here.sim.settle(flow, horizon=60)
            here.sim.advance(4 * HOUR)
        assert here.past()["ended"] == "cancelled"
    finally:
        for each in groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(each, signal.SIGKILL)


def test_a_lost_answer_is_looked_for_where_it_was_asked_whatever_the_environment_says_now(tmp_path: Path) -> None:
    """The request names no backend; the environment's default moves while the answer of the first is lost."""
    runs = _module("test_training_runs")
    world = runs.World(tmp_path)
    world.sim.doors["training"]._backends["local"] = TrainingJobs(Faults())
    text = runs.training()["state/trainings/docs-v1.yaml"].replace("  backend: hf_jobs\n", "")
    world.sim.doors["training"].default = "hf_jobs"
    with_default(world, "hf_jobs")
    world.jobs.lose_answers, world.jobs.lag_seconds = 1, 40.0
    world.sim.commit({"state/trainings/docs-v1.yaml": text}, "Train docs")
    flow = world.sim.controller("m")
    world.sim.settle(flow)
    assert len(world.jobs.jobs) == 1
    world.sim.doors["training"].default = "local"
    with_default(world, "local")
    world.sim.advance(90)
    world.sim.settle(flow, horizon=HOUR)
    assert world.ended()[0] == "completed"
    assert len(world.jobs.jobs) == 1
    assert world.sim.doors["training"]._backends["local"].jobs == []


def with_default(world: Any, backend: str) -> None:
    files = {"environments/local/environment.yaml": f"{ENVIRONMENT}  training: {{backend: {backend}}}\n"}
    world.sim.commit(files, f"Train on {backend}")
