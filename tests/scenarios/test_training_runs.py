"""Trainings by whole controllers in the simulation: killed anywhere, answers lost, lists that lag; and never a second job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controller import loading
from controller.address import Address
from controller.clients.datasets import Datasets
from controller.clients.training import Backends
from controller.environment import TrainingDefaults
from controller.kind import Past
from controller.testing.doubles import Faults
from controller.testing.simulation import Simulation
from controller.testing.trainings import TrainingJobs

HOUR = 3600.0


class World:
    """A simulation with the vendor and a data set of so many rows."""

    def __init__(self, folder: Path, rows: int = 200) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.jobs = TrainingJobs(Faults())
        datasets = Datasets(folder / "rows", _nobody, _nobody, lambda path, found: self.sim.repository.read(found))
        datasets.fresh_seconds = -1.0
        backends = Backends({"hf_jobs": self.jobs}, TrainingDefaults())
        self.sim = Simulation(folder, doors={"training": backends, "datasets": datasets})
        self.jobs.faults, self.jobs.now = self.sim.faults, lambda: self.sim.time
        self.collect(rows)

    def collect(self, rows: int) -> None:
        """The data set has so many rows from this commit on."""
        self.sim.commit({"data.jsonl": "".join(_line(number) for number in range(rows))}, f"{rows} rows")

    def state(self) -> dict[str, Any]:
        """Of the run, as the log says."""
        found = self.sim.folded().get("past/TrainingRequest/docs-v1")
        assert found is not None
        return found

    def survive(self, machine: str = "m") -> None:
        """Until it is over; what could not be known at first is looked at again when the vendor's list has caught up."""
        for _ in range(3):
            self.sim.survive(machine, horizon=2 * HOUR)
            if self.state().get("ended"):
                return
            self.sim.advance(70)

    def ended(self) -> tuple[str, dict[str, Any]]:
        state = self.state()
        return state.get("ended", ""), state.get("after") or {}

    def conditions(self) -> list[str]:
        return [e.data["code"] for e in self.sim.check_log() if e.type == "turnout.condition.raised.v1"]


def _line(number: int) -> str:
    return f'{{"inputs": {{"task": "task {number}"}}, "outputs": {{"code": "x = {number}"}}}}\n'


def _nobody() -> Any:
    raise AssertionError("nobody asks it here")


def training(more: str = "", name: str = "docs-v1") -> dict[str, str]:
    """A file of desired state: at most 1.80 USD (30 min x 1.20 USD/h x 3)."""
    return {
        f"state/trainings/{name}.yaml": f"""\
apiVersion: turnout/v1
kind: TrainingRequest
metadata: {{name: {name}}}
spec:
  agent: docs
  version: v1.0.0
  method: sft
  dataset: {{files: [data.jsonl]}}
  baseModel: acme/small-1B
  mode: demo
  backend: hf_jobs
  repository: acme/docs-v1
{more}"""
    }


def test_one_commit_trains_once_and_the_run_says_what_came_of_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.sim.commit(training(), "Train docs")
    flow = world.sim.survive(horizon=HOUR)
    ended, after = world.ended()
    assert ended == "completed"
    assert (after["phase"], after["job"], after["repo"], after["revision"]) == ("succeeded", "job-1", "acme/docs-v1", "c" * 40)
    assert after["cost_usd"] == pytest.approx(world.jobs.spent(), abs=0.001)
    assert after["dataset"]["rows"] == 200
    assert len(world.jobs.jobs) == 1
    events = len(world.sim.check_log())
    for _ in range(5):
        world.sim.advance(HOUR)
        world.sim.settle(flow)
    assert len(world.sim.check_log()) == events  # it is over for ever, and idle passes append nothing


def told_progress(world: World) -> list[int]:
    """The steps at which the log was told how far it is."""
    found = [e.data for e in world.sim.check_log() if e.type == "turnout.action.succeeded.v1" and "/progress-" in e.data["intent"]]
    return [each["after"]["progress"]["step"] for each in found]


def test_the_log_hears_of_every_fifth_and_of_nothing_between(tmp_path: Path) -> None:
    world = World(tmp_path)
    environment = world.sim.read("environments/local/environment.yaml")
    assert environment
    rules = "  rules: {approvalAboveUsd: 0.01, approve: [{match: TrainingRequest/*, actions: [step], reason: every step}]}\n"
    world.sim.commit(training(), "Train docs")
    flow = world.sim.controller("m")
    world.sim.settle(flow, horizon=100)
    assert len(world.jobs.jobs) == 1
    world.sim.commit({"environments/local/environment.yaml": environment + rules + "  budget: {monthlyUsd: 0.01}\n"}, "Be careful")
    world.sim.settle(flow, horizon=HOUR)
    assert world.ended()[0] == "completed"
    assert told_progress(world) == [4, 8, 12, 16]
    assert world.conditions() == ["DatasetWarning"]  # neither approval nor budget is asked about what goes on


def test_killed_while_the_log_is_told_of_progress_it_goes_on(tmp_path: Path) -> None:
    def trained(folder: Path, kill_at: int) -> World:
        world = World(folder)
        world.sim.commit(training(), "Train docs")
        flow = world.sim.controller("m")
        world.sim.settle(flow, horizon=240)
        world.sim.faults.count, world.sim.faults.kill_at = 0, kill_at
        flow.cache.close()
        return world

    counted = trained(tmp_path / "count", 0)
    counted.sim.survive(horizon=120)
    assert told_progress(counted) == [4]
    for number in range(1, counted.sim.faults.count + 1):
        world = trained(tmp_path / str(number), number)
        world.survive()
        assert (world.ended()[0], len(world.jobs.jobs)) == ("completed", 1)
        assert told_progress(world) == [4, 8, 12, 16]
        assert world.ended()[1]["cost_usd"] == pytest.approx(world.jobs.spent(), abs=0.001)


def crossings(folder: Path, prepare: Callable[[World], None] = lambda world: None) -> int:
    world = World(folder)
    world.jobs.minutes = 2.0
    prepare(world)
    world.sim.commit(training(), "Train docs")
    world.sim.survive(horizon=HOUR)
    return world.sim.faults.count


def test_killed_at_every_border_crossing_there_is_one_job(tmp_path: Path) -> None:
    for number in range(1, crossings(tmp_path / "count") + 1):
        world = World(tmp_path / str(number))
        world.sim.faults.kill_at, world.jobs.minutes = number, 2.0
        world.sim.commit(training(), "Train docs")
        world.survive()
        ended, after = world.ended()
        assert (ended, after["phase"], len(world.jobs.jobs)) == ("completed", "succeeded", 1), world.sim.faults.trace[number - 1]
        assert after["cost_usd"] == pytest.approx(world.jobs.spent(), abs=0.001)


def test_killed_on_another_machine_each_time_there_is_one_job(tmp_path: Path) -> None:
    world = World(tmp_path)
    trace: list[str] = []
    world.sim.commit(training(), "Train docs")
    world.sim.faults.kill_at = next(number for number in range(1, 50) if _is_started(tmp_path / str(number), number, trace))
    with pytest.raises(BaseException, match="started"):
        world.sim.settle(world.sim.controller("first"))
    world.sim.advance(120)
    world.survive("second")
    assert world.ended()[0] == "completed"
    assert len(world.jobs.jobs) == 1


def _is_started(folder: Path, number: int, trace: list[str]) -> bool:
    """Whether this crossing is the one just after the job was made."""
    if not trace:
        world = World(folder)
        world.sim.commit(training(), "Train docs")
        world.sim.settle(world.sim.controller("m"))
        trace += world.sim.faults.trace
    return trace[number - 1] == "started"


@pytest.mark.parametrize("lag", [0.0, 40.0])
def test_a_lost_answer_is_looked_for_and_never_asked_again(tmp_path: Path, lag: float) -> None:
    world = World(tmp_path)
    world.jobs.lose_answers, world.jobs.lag_seconds = 1, lag
    world.sim.commit(training(), "Train docs")
    flow = world.sim.controller("m")
    world.sim.settle(flow)
    world.sim.advance(30)
    world.sim.settle(flow)
    assert len(world.jobs.jobs) == 1
    if lag:
        assert "Unknown" in world.conditions()
        world.sim.advance(20)
    world.sim.settle(flow, horizon=HOUR)
    assert world.ended()[0] == "completed"
    assert len(world.jobs.jobs) == 1


def test_a_vendor_that_refuses_is_asked_again_under_the_same_intent(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.jobs.refuse = 3
    world.sim.commit(training(), "Train docs")
    world.sim.survive(horizon=HOUR)
    assert world.ended()[0] == "completed"
    assert len(world.jobs.jobs) == 1


def test_out_of_memory_twice_then_success_is_three_jobs_of_one_run(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.jobs.outcomes = ["out_of_memory", "out_of_memory", "succeeded"]
    world.sim.commit(training(), "Train docs")
    world.survive()
    ended, after = world.ended()
    assert (ended, after["attempt"], after["batch"], after["accumulation"]) == ("completed", 3, 1, 16)
    assert after["cost_usd"] == pytest.approx(world.jobs.spent(), abs=0.001)
    orders = [job["order"] for job in world.jobs.jobs]
    assert len({order.run for order in orders}) == 1
    assert len({order.intent for order in orders}) == 3
    assert [order.request["batch"] for order in orders] == [4, 2, 1]


def test_killed_at_every_border_crossing_of_a_second_attempt_there_are_two_jobs(tmp_path: Path) -> None:
    def prepare(world: World) -> None:
        world.jobs.outcomes = ["preempted", "succeeded"]

    count = crossings(tmp_path / "count", prepare)
    for number in range(9, count + 1):
        world = World(tmp_path / str(number))
        prepare(world)
        world.sim.faults.kill_at, world.jobs.minutes = number, 2.0
        world.sim.commit(training(), "Train docs")
        world.survive()
        ended, after = world.ended()
        assert (ended, len(world.jobs.jobs), after["attempt"]) == ("completed", 2, 2), world.sim.faults.trace[number - 1]
        assert len({job["order"].run for job in world.jobs.jobs}) == 1


def test_a_lost_answer_to_a_second_attempt_makes_no_third(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.jobs.outcomes = ["preempted", "succeeded"]
    world.sim.commit(training(), "Train docs")
    flow = world.sim.controller("m")
    world.sim.settle(flow)
    world.jobs.lose_answers, world.jobs.lag_seconds = 1, 45.0
    world.sim.settle(flow, horizon=3 * HOUR)
    world.sim.advance(120)
    world.sim.settle(flow, horizon=3 * HOUR)
    assert world.ended()[0] == "completed"
    assert len(world.jobs.jobs) == 2


def test_a_revert_cancels_what_runs_and_says_what_was_spent(tmp_path: Path) -> None:
    world = World(tmp_path)
    commit = world.sim.commit(training(), "Train docs")
    flow = world.sim.controller("m")
    world.sim.settle(flow, horizon=600)
    assert world.jobs.live() == 1
    world.sim.revert(commit)
    world.sim.settle(flow)
    assert world.jobs.live() == 0
    spent = world.jobs.spent()
    assert spent > 0
    said = [
        e.data for e in world.sim.check_log() if e.type == "turnout.action.started.v1" and e.data["reason"].startswith("cancelled")
    ]
    assert [each["after"]["cost_usd"] for each in said] == [pytest.approx(spent, abs=0.001)]
    assert f"{spent:.2f} USD were spent" in said[0]["reason"]
    assert world.ended()[0] == "cancelled"
    world.sim.commit(training(), "Bring it back")
    world.sim.settle(flow, horizon=HOUR)
    assert len(world.jobs.jobs) == 1


def test_a_revert_while_it_is_not_known_whether_it_started_cancels_it_when_it_is_found(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.jobs.lose_answers, world.jobs.lag_seconds = 1, 45.0
    commit = world.sim.commit(training(), "Train docs")
    flow = world.sim.controller("m")
    world.sim.settle(flow)
    world.sim.revert(commit)
    world.sim.settle(flow)
    assert world.jobs.live() == 1
    world.sim.advance(50)
    world.sim.settle(flow, horizon=60)
    assert (world.jobs.live(), len(world.jobs.jobs)) == (0, 1)
    assert world.ended()[0] == "cancelled"


def test_an_edit_while_it_is_not_known_whether_it_started_pays_for_nothing_twice(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.jobs.lose_answers, world.jobs.lag_seconds = 1, 45.0
    world.sim.commit(training(), "Train docs")
    flow = world.sim.controller("m")
    world.sim.settle(flow)
    world.sim.commit(training("  overrides: {epochs: 1}\n"), "Fewer epochs")
    world.sim.settle(flow)
    world.sim.advance(50)
    world.sim.settle(flow, horizon=HOUR)
    ended, after = world.ended()
    assert (ended, len(world.jobs.jobs), after["parameters"]["epochs"]) == ("completed", 1, 3.0)


def test_the_budget_is_never_exceeded(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.jobs.outcomes, world.jobs.minutes = ["preempted"] * 9, 9.9
    world.sim.commit(training("  budgetUsd: 0.61\n  retries: 9\n"), "Train docs")
    world.survive()
    ended, after = world.ended()
    assert ended == "failed"
    assert "budget of 0.61 USD is used up" in after["said"]
    assert [job["order"].timeout / 60 for job in world.jobs.jobs] == [30, 20, 10]  # each gets what those before it left
    assert world.jobs.spent() == pytest.approx(0.594)


def test_a_bad_data_set_pays_for_nothing_until_it_is_good(tmp_path: Path) -> None:
    world = World(tmp_path, rows=5)
    world.sim.commit(training(), "Train docs")
    flow = world.sim.controller("m")
    world.sim.settle(flow, horizon=HOUR)
    assert world.jobs.jobs == []
    raised = [e.data for e in world.sim.check_log() if e.type == "turnout.condition.raised.v1"]
    assert any(each["code"] == "Invalid" and "collect 15 more examples" in each["reason"] for each in raised)
    world.collect(60)
    world.sim.advance(60)
    world.sim.settle(flow, horizon=HOUR)
    assert world.ended()[0] == "completed"


def test_a_vendor_that_is_down_stops_nothing_and_the_deadline_holds(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.jobs.outcomes = ["runs"]
    world.sim.commit(training("  deadline: 25m\n"), "Train docs")
    flow = world.sim.controller("m")
    world.sim.settle(flow, horizon=300)
    world.jobs.down = True
    world.sim.settle(flow, horizon=600)
    assert "Blind" in world.conditions()
    assert world.jobs.live() == 1
    world.jobs.down = False
    world.sim.settle(flow, horizon=HOUR)
    ended, after = world.ended()
    assert (ended, world.jobs.live()) == ("failed", 0)
    assert "its deadline of 25m is over" in after["said"]


def test_what_started_keeps_the_defaults_of_its_day(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.jobs.outcomes = ["preempted", "succeeded"]
    world.sim.commit(training(), "Train docs")
    flow = world.sim.controller("m")
    world.sim.settle(flow, horizon=300)
    environment = world.sim.read("environments/local/environment.yaml")
    assert environment
    world.sim.commit({"environments/local/environment.yaml": environment + "  training: {hyperparameters: {epochs: 9}}\n"}, "9")
    world.sim.settle(flow, horizon=2 * HOUR)
    assert world.ended()[0] == "completed"
    assert [job["order"].request["epochs"] for job in world.jobs.jobs] == [3.0, 3.0]


# -- files that a spec names -------------------------------------------------------------------------------------------


def problem_of(world: World) -> str:
    flow = world.sim.controller("m")
    world.sim.settle(flow)
    raised = [e.data for e in world.sim.check_log() if e.type == "turnout.condition.raised.v1"]
    return next((each["reason"] for each in reversed(raised) if each["code"] == "Quarantined"), "")


def test_a_file_that_is_not_in_the_commit_is_told_with_its_line(tmp_path: Path) -> None:
    world = World(tmp_path)
    text = training()["state/trainings/docs-v1.yaml"]
    world.sim.commit({"state/trainings/docs-v1.yaml": text.replace("data.jsonl", "daat.jsonl")}, "Train docs")
    told = problem_of(world)
    assert "state/trainings/docs-v1.yaml:8: spec.dataset.files.0: names daat.jsonl, which is not in this commit" in told
    world.sim.commit({"daat.jsonl": "".join(_line(number) for number in range(60))}, "The rows")
    world.survive()
    assert world.ended()[0] == "completed"


def test_the_rows_are_those_of_the_commit_that_was_approved(tmp_path: Path) -> None:
    """The objects that a spec names are part of its digest: other rows are another intent, and another approval."""
    world = World(tmp_path)
    world.sim.commit(training(), "Train docs")
    flow = world.sim.controller("m")
    digests = []
    for rows in (200, 201):
        world.collect(rows)
        world.jobs.down = True  # so that it waits
        world.sim.settle(flow)
        loaded = loading.load(flow)
        entry = loaded.tree.entries[Address("TrainingRequest/docs-v1")]
        resource = entry.load(Past()).resource
        assert resource is not None
        assert resource.paths == {"data.jsonl": world.sim.repository.blob_at(loaded.commit, "data.jsonl")}
        digests.append(resource.spec_digest)
    assert digests[0] != digests[1]


def test_a_run_goes_on_with_what_it_began_with(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.sim.commit(training(), "Train docs")
    flow = world.sim.controller("m")
    world.sim.settle(flow, horizon=120)
    assert world.jobs.live() == 1
    world.sim.commit({"data.jsonl": None}, "Tidy up")
    world.sim.settle(flow, horizon=HOUR)
    ended, after = world.ended()
    assert (ended, after["dataset"]["rows"]) == ("completed", 200)
    assert "Quarantined" not in world.conditions()
    assert len(world.jobs.jobs) == 1


def test_an_ended_run_is_kept_whatever_its_files_become(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.sim.commit(training(), "Train docs")
    flow = world.sim.survive(horizon=HOUR)
    events = len(world.sim.check_log())
    for rows in (10, 20):
        world.collect(rows)
        world.sim.settle(flow)
    world.sim.commit({"data.jsonl": None}, "Tidy up")
    world.sim.settle(flow)
    assert len(world.sim.check_log()) == events
