"""Conversions by whole controllers: killed anywhere, answers lost, a training before, a revert; and never a second job.

The vendor is a double under the virtual clock, or (`Chain`) processes of this machine that run the small programs of the contract
suites. test_conversions_for_real.py has the real program.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from controller.clients.conversions import Conversions
from controller.clients.conversions.backend import Order, Sight, Verified
from controller.clients.conversions.local import LocalConversions
from controller.clients.datasets import Read
from controller.clients.huggingface import OutcomeUnknown
from controller.clients.runs import Found, Hardware, Prices
from controller.clients.training import Backends
from controller.clients.training.local import LocalTraining
from controller.environment import TrainingDefaults
from controller.errors import Permanent, Temporary
from controller.testing.doubles import Faults, Killed
from controller.testing.simulation import Simulation

USD_PER_HOUR = 0.6
HOUR = 3600.0
PHASES = ("queued", "running", "verifying")  # of a training that goes on
CONTRACTS = Path(__file__).parents[1] / "contracts"


class Jobs:
    """A vendor of jobs with labels and without idempotency keys, under the virtual clock. `outcomes` are those of the attempts."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.now: Callable[[], datetime] = lambda: datetime.min
        self.jobs: list[dict[str, Any]] = []
        self.outcomes: list[str] = []
        self.lose_answers = 0
        self.lag_seconds = 0.0
        self.minutes = 5.0

    def start(self, order: Order) -> str:
        self.faults.point("start")
        outcome = self.outcomes[len(self.jobs)] if len(self.jobs) < len(self.outcomes) else "succeeded"
        handle = f"job-{len(self.jobs) + 1}"
        self.jobs.append({"id": handle, "order": order, "at": self.now(), "outcome": outcome, "cancelled": None})
        self.faults.point("started")
        if self.lose_answers:
            self.lose_answers -= 1
            raise OutcomeUnknown("the answer was lost")
        return handle

    def find(self, intent: str) -> Found | None:
        mine = [job for job in self.jobs if job["order"].intent == intent and self._age(job) >= self.lag_seconds]
        return Found(mine[0]["id"], mine[0]["order"].record) if mine else None

    def look(self, handles: Sequence[str]) -> Mapping[str, Sight | Exception]:
        return {handle: self._sight(handle) for handle in handles}

    def verify(self, handle: str, repo: str, intent: str, quantizations: Sequence[str]) -> Verified:
        whose = self._job(handle)["order"].run
        problems = () if whose == intent else (f"the result is that of intent {whose!r}, expected {intent!r}",)
        files = tuple({"name": f"a-{each}.gguf", "quantization": each, "bytes": 1000, "sha256": "aa"} for each in quantizations)
        return Verified(problems, files, "d1", "c" * 40, {"architecture": "llama"}, {"prompt": "p", "answers": {}})

    def cancel(self, handle: str) -> None:
        self.faults.point("cancel")
        job = self._job(handle)
        job["cancelled"] = job["cancelled"] or self.now()
        self.faults.point("cancelled")

    def prices(self) -> Prices:
        return Prices("2026-11-01", True, {"cpu-upgrade": Hardware(USD_PER_HOUR)})

    def spent(self) -> float:
        return sum(self._minutes(job) for job in self.jobs) * USD_PER_HOUR / 60

    def live(self) -> int:
        return sum(self._sight(job["id"]).stage in ("queued", "running") for job in self.jobs)

    def _job(self, handle: str) -> dict[str, Any]:
        found = next((job for job in self.jobs if job["id"] == handle), None)
        if found is None:
            raise Permanent(f"there is no job {handle!r}")
        return found

    def _age(self, job: Mapping[str, Any]) -> float:
        return (self.now() - job["at"]).total_seconds()

    def _minutes(self, job: Mapping[str, Any]) -> float:
        until = (job["cancelled"] - job["at"]).total_seconds() if job["cancelled"] else self._age(job)
        return min(max(until / 60 - 1, 0.0), HOUR if job["outcome"] == "runs" else self.minutes)

    def _sight(self, handle: str) -> Sight:
        job = self._job(handle)
        minutes = self._minutes(job)
        about: dict[str, Any] = {"cost_usd": minutes * USD_PER_HOUR / 60, "seconds": minutes * 60}
        if job["cancelled"]:
            return Sight("cancelled", **about)
        if self._age(job) < 60:
            return Sight("queued", cost_usd=0.0)
        if minutes < self.minutes or job["outcome"] == "runs":
            return Sight("running", progress={"step": 1, "steps": 4, "said": "made F16"}, **about)
        if job["outcome"] == "succeeded":
            return Sight("succeeded", **about)
        return Sight("failed", job["outcome"], "said by the job", since_end=self._age(job) - 60 - self.minutes * 60, **about)


class Hubless(Conversions):
    """The door without a Hub behind it: what a source is, is made up."""

    def source(self, repo: str, revision: str) -> dict[str, Any]:
        return {"repo": repo, "revision": "a" * 40, "bytes": 1_000_000_000}


class World:
    """A simulation with the vendor."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.jobs = Jobs(Faults())
        self.sim = Simulation(folder, doors={"conversions": Hubless({"hf_jobs": self.jobs}, "hf_jobs", _nobody)})
        self.jobs.faults, self.jobs.now = self.sim.faults, lambda: self.sim.time

    def survive(self, machine: str = "m") -> None:
        """Until it is over; what could not be known at first is looked at again when the vendor's list has caught up."""
        for _ in range(3):
            self.sim.survive(machine, horizon=HOUR)
            if self.ended()[0]:
                return
            self.sim.advance(70)

    def ended(self) -> tuple[str, dict[str, Any]]:
        state = self.sim.folded().get("past/Conversion/docs") or {}
        return state.get("ended", ""), state.get("after") or {}

    def conditions(self) -> list[str]:
        return [e.data["code"] for e in self.sim.check_log() if e.type == "turnout.condition.raised.v1"]


def _nobody() -> Any:
    raise AssertionError("nobody asks it here")


def conversion(more: str = "", source: str = "{repo: acme/small}", backend: str = "hf_jobs") -> dict[str, str]:
    return {
        "state/conversions/docs.yaml": f"""\
apiVersion: turnout/v1
kind: Conversion
metadata: {{name: docs}}
spec:
  agent: docs
  version: v1.0.0
  source: {source}
  quantizations: [Q4_K_M, q8_0]
  backend: {backend}
  repository: acme/docs-GGUF
{more}"""
    }


def test_one_commit_converts_once_and_the_run_says_what_came_of_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.sim.commit(conversion(), "Convert docs")
    flow = world.sim.survive(horizon=HOUR)
    ended, after = world.ended()
    assert (ended, after["phase"], after["job"], after["revision"]) == ("completed", "succeeded", "job-1", "c" * 40)
    assert [each["quantization"] for each in after["files"]] == ["Q4_K_M", "Q8_0"]
    assert after["source"] == {"repo": "acme/small", "revision": "a" * 40, "bytes": 1_000_000_000}
    assert after["cost_usd"] == pytest.approx(world.jobs.spent(), abs=0.001)
    (job,) = world.jobs.jobs
    assert job["order"].request["upload"] == {"repo": "acme/docs-GGUF", "private": True}
    events = len(world.sim.check_log())
    for _ in range(5):
        world.sim.advance(HOUR)
        world.sim.settle(flow)
    assert len(world.sim.check_log()) == events  # it is over for ever, and idle passes append nothing


@pytest.mark.parametrize("outcomes", [[], ["preempted"]], ids=["one attempt", "two attempts"])
def test_killed_at_every_border_crossing_there_is_no_job_too_many(tmp_path: Path, outcomes: list[str]) -> None:
    def world_of(folder: Path) -> World:
        world = World(folder)
        world.jobs.outcomes, world.jobs.minutes = list(outcomes), 2.0
        world.sim.commit(conversion(), "Convert docs")
        return world

    counted = world_of(tmp_path / "count")
    counted.survive()
    for number in range(1, counted.sim.faults.count + 1):
        world = world_of(tmp_path / str(number))
        world.sim.faults.kill_at = number
        world.survive()
        ended, after = world.ended()
        told = world.sim.faults.trace[number - 1]
        assert (ended, after["phase"], len(world.jobs.jobs)) == ("completed", "succeeded", 1 + len(outcomes)), told
        assert len({job["order"].run for job in world.jobs.jobs}) == 1
        assert after["cost_usd"] == pytest.approx(world.jobs.spent(), abs=0.001)


@pytest.mark.parametrize("lag", [0.0, 40.0])
def test_a_lost_answer_is_looked_for_and_never_asked_again(tmp_path: Path, lag: float) -> None:
    world = World(tmp_path)
    world.jobs.lose_answers, world.jobs.lag_seconds = 1, lag
    world.sim.commit(conversion(), "Convert docs")
    flow = world.sim.controller("m")
    world.sim.settle(flow)
    world.sim.advance(50)
    world.sim.settle(flow, horizon=HOUR)
    assert ("Unknown" in world.conditions()) is bool(lag)
    assert world.ended()[0] == "completed"
    assert len(world.jobs.jobs) == 1


def test_a_hub_that_is_down_is_tried_again_later_each_time(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.jobs.outcomes = ["hub_unreachable"] * 3
    world.sim.commit(conversion("  retries: 3\n"), "Convert docs")
    world.survive()
    assert world.ended()[0] == "completed"
    begun = [job["at"] for job in world.jobs.jobs]
    waited = [(later - earlier).total_seconds() - 60 - 300 for earlier, later in itertools.pairwise(begun)]
    assert waited[0] < 60 <= waited[1] < 300 <= waited[2]


def test_a_revert_cancels_what_runs_and_says_what_was_spent(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.jobs.outcomes = ["runs"]
    commit = world.sim.commit(conversion(), "Convert docs")
    flow = world.sim.controller("m")
    world.sim.settle(flow, horizon=600)
    assert world.jobs.live() == 1
    world.sim.revert(commit)
    world.sim.settle(flow)
    assert (world.jobs.live(), world.ended()[0]) == (0, "cancelled")
    said = [event.data["reason"] for event in world.sim.check_log() if event.type == "turnout.action.started.v1"]
    assert f"cancelled: its file is gone; {world.jobs.spent():.2f} USD were spent" in said
    world.sim.commit(conversion(), "Bring it back")
    world.sim.settle(flow, horizon=HOUR)
    assert len(world.jobs.jobs) == 1


def test_above_the_limit_it_waits_for_a_second_person(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.sim.commit(conversion("  timeout: 10h\n"), "Convert docs")  # 3 x 6 USD
    flow = world.sim.controller("m")
    world.sim.settle(flow, horizon=600)
    assert "Approval" in world.conditions()
    assert world.jobs.jobs == []


# -- a training before it, and processes of this machine -----------------------------------------------------------------


class Watched(LocalConversions):
    """Calls that start something are border crossings: the controller may die on either side."""

    faults: Faults

    def start(self, order: Order) -> str:
        self.faults.point("start")
        handle = super().start(order)
        self.faults.point("started")
        return handle


class Rows:
    """A data set that is fit, whatever is asked for."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "rows.jsonl"
        rows = [{"inputs": {"task": f"task {number}"}, "outputs": {"code": f"x = {number}"}} for number in range(60)]
        self.file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.rows = tuple(rows)

    def read(self, *_: Any) -> Read:
        return Read(name="a.jsonl", revision="r1", digest="d" * 40, rows=self.rows, path=self.file)

    def path(self, *_: Any) -> Path:
        return self.file


class Chain:
    """A simulation whose trainings and conversions are processes of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.training = LocalTraining(folder / "training", CONTRACTS / "training_program_of_tests.py", hub=_nobody)
        program = CONTRACTS / "conversion_program_of_tests.py"
        self.local = Watched(folder / "conversions", program, hub=_nobody, artefact=self.training.artefact)
        self.door = Conversions({"local": self.local}, "local", _nobody)
        trainings = Backends({"local": self.training}, TrainingDefaults())
        self.sim = Simulation(folder, doors={"training": trainings, "datasets": Rows(folder), "conversions": self.door})
        self.local.faults = self.sim.faults
        self.sim.commit({"a.jsonl": "{}\n"}, "Rows")

    def past(self, key: str = "Conversion/docs") -> dict[str, Any]:
        found: dict[str, Any] = self.sim.folded().get(f"past/{key}") or {}
        return found

    def until(self, flow: Any, **wanted: Any) -> dict[str, Any]:
        for _ in range(1000):
            self.sim.settle(flow)
            past = self.past()
            state = {**(past.get("after") or {}), "ended": past.get("ended", "")}
            if all(state.get(key) == value for key, value in wanted.items()):
                return state
            self.sim.advance(10)
            time.sleep(0.02)
        raise AssertionError(f"never {wanted}: {self.past()}")

    def pids(self) -> list[int]:
        return [int(path.read_text().split()[0]) for path in self.folder.glob("*/*/process-*")]


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    found = Chain(tmp_path)
    yield found
    for pid in found.pids():
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def training() -> dict[str, str]:
    text = """\
apiVersion: turnout/v1
kind: TrainingRequest
metadata: {name: docs}
spec: {agent: docs, version: v1.0.0, method: sft, mode: demo, baseModel: tiny, dataset: {files: [a.jsonl]}}
"""
    return {"state/trainings/docs.yaml": text}


def test_one_commit_trains_and_converts_what_was_trained(chain: Chain) -> None:
    chain.sim.commit({**training(), **conversion(source="{training: docs}", backend="local")}, "Train and convert")
    flow = chain.sim.controller("m")
    state = chain.until(flow, ended="completed")
    waits = [event.data["reason"] for event in chain.sim.check_log() if event.type == "turnout.condition.raised.v1"]
    assert any(f"waits for TrainingRequest/docs ({phase})" in each for each in waits for phase in PHASES), waits
    trained = chain.past("TrainingRequest/docs")["after"]
    assert state["source"] == {
        "training": "docs",
        "base_model": "tiny",
        "bytes": 7,
        "job": trained["job"],
        "digest": trained["result"],
    }
    assert [each["quantization"] for each in state["files"]] == ["Q4_K_M", "Q8_0"]
    assert (state["repo"], state["cost_usd"], state["said"].partition(" ")[0]) == ("", 0.0, "made")
    path = chain.door.download(state, "Q8_0", chain.folder / "models", lambda done, of: None)
    assert path.read_bytes().startswith(b"GGUF")
    assert len(chain.pids()) == 2


def test_a_training_whose_result_was_changed_is_not_converted(chain: Chain) -> None:
    chain.sim.commit(training(), "Train")
    flow = chain.sim.controller("m")
    for _ in range(500):
        chain.sim.settle(flow)
        if chain.past("TrainingRequest/docs").get("ended"):
            break
        chain.sim.advance(10)
        time.sleep(0.02)
    (result,) = chain.folder.glob("training/*/out/result.json")
    result.write_text(result.read_text().replace('"size": 7', '"size": 8'))
    chain.sim.commit(conversion(source="{training: docs}", backend="local"), "Convert")
    chain.sim.settle(flow)
    assert "somebody changed it" in chain.past()["failed"]
    assert len(chain.pids()) == 1


def test_a_controller_that_dies_after_the_start_leaves_the_process_to_the_next_one(chain: Chain) -> None:
    chain.sim.commit({**training(), **conversion(source="{training: docs}", backend="local")}, "Train and convert")
    flow = chain.sim.controller("m")
    points = chain.sim.faults
    chain.local.start = _dying(chain.local.start, points)  # type: ignore[method-assign]
    with pytest.raises(Killed):
        chain.until(flow, ended="completed")
    assert chain.past()["intents"]
    state = chain.until(chain.sim.controller("m"), ended="completed")
    assert state["attempt"] == 1
    assert len(list(chain.folder.glob("conversions/*/process-*"))) == 1
    assert [len(path.read_text().splitlines()) for path in chain.folder.glob("conversions/*/out/starts")] == [1]


def _dying(start: Callable[[Order], str], faults: Faults) -> Callable[[Order], str]:
    """The first call is the last thing that its controller does."""

    def once(order: Order) -> str:
        if faults.kill_at < 0:
            faults.kill_at = faults.count + 2
        return start(order)

    return once


def test_what_cannot_be_read_is_said_and_nothing_is_started(tmp_path: Path) -> None:
    class Down(Hubless):
        def source(self, repo: str, revision: str) -> dict[str, Any]:
            raise Temporary("the Hub does not answer")

    sim = Simulation(tmp_path, doors={"conversions": Down({"hf_jobs": Jobs(Faults())}, "hf_jobs", _nobody)})
    sim.commit(conversion(), "Convert docs")
    sim.settle(sim.controller("m"))
    raised = [event.data for event in sim.check_log() if event.type == "turnout.condition.raised.v1"]
    assert any(each["code"] == "Blind" and "the Hub does not answer" in each["reason"] for each in raised)
