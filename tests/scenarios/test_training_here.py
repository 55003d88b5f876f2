"""A whole controller trains on this machine: a real process that outlives it, found again by its intent, ended by a revert."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.clients.datasets import Datasets
from controller.clients.local_process import interpreter_there
from controller.clients.training import Backends
from controller.clients.training.local import LocalTraining
from controller.environment import TrainingDefaults
from controller.errors import Permanent
from controller.testing.doubles import Killed
from controller.testing.simulation import Simulation

PROGRAM = Path(__file__).parents[1] / "contracts" / "training_program_of_tests.py"
LINES = b"".join(b'{"inputs": {"task": "task %d"}, "outputs": {"code": "x = %d"}}\n' % (n, n) for n in range(60))


class Here:
    """A simulation whose trainings are processes of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        datasets = Datasets(folder / "rows", _nobody, _nobody, lambda path, found: LINES)
        self.local = LocalTraining(folder / "training", PROGRAM, hub=_nobody)
        self.sim = Simulation(folder, doors={"training": Backends({"local": self.local}, TrainingDefaults()), "datasets": datasets})
        self.sim.commit({"a.jsonl": "{}\n"}, "Rows")

    def train(self, agent: str) -> str:
        text = f"""\
apiVersion: turnout/v1
kind: TrainingRequest
metadata: {{name: run}}
spec: {{agent: {agent}, version: v1.0.0, method: sft, mode: demo, baseModel: tiny, dataset: {{files: [a.jsonl]}}}}
"""
        return self.sim.commit({"state/trainings/run.yaml": text}, "Train")

    def past(self) -> dict[str, Any]:
        found: dict[str, Any] = self.sim.folded().get("past/TrainingRequest/run") or {}
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
        return [int(path.read_text().split()[0]) for path in self.folder.glob("training/*/process-*")]


def _nobody() -> Any:
    raise AssertionError("nobody asks it here")


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    found = Here(tmp_path)
    yield found
    for pid in found.pids():
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_it_trains_and_what_it_left_is_looked_at(here: Here) -> None:
    here.train("docs")
    state = here.until(here.sim.controller("m"), ended="completed")
    assert (state["phase"], state["files"], state["bytes"], state["cost_usd"]) == ("succeeded", 1, 7, 0.0)
    assert state["metrics"]["tokens_per_second"] == 250.0
    assert len(here.pids()) == 1


def test_a_controller_that_dies_leaves_the_process_to_the_next_one(here: Here) -> None:
    here.train("slow")
    flow = here.sim.controller("m")
    here.sim.faults.kill_at = 8
    with pytest.raises(Killed):
        here.until(flow, phase="never")
    flow = here.sim.controller("m")
    state = here.until(flow, phase="running")
    assert len(here.pids()) == 1
    assert here.local.look([state["job"]])[state["job"]].stage == "running"  # type: ignore[union-attr]


def test_a_revert_stops_the_process(here: Here) -> None:
    commit = here.train("slow")
    flow = here.sim.controller("m")
    state = here.until(flow, phase="running")
    here.sim.revert(commit)
    here.until(flow, ended="cancelled")
    for _ in range(500):
        sight: Any = here.local.look([state["job"]])[state["job"]]
        if sight.stage != "running":
            break
        time.sleep(0.02)
    assert (sight.stage, sight.code) == ("failed", "preempted")


def test_a_process_that_was_killed_goes_on_as_another_attempt(here: Here) -> None:
    here.train("slow")
    flow = here.sim.controller("m")
    here.until(flow, phase="running")
    os.killpg(here.pids()[0], signal.SIGKILL)
    state = here.until(flow, attempt=2, phase="running")
    assert state["job"].endswith(":2")
    assert len(here.pids()) == 2


def test_a_python_without_the_packages_starts_nothing_and_says_what_to_do(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text('# /// script\n# dependencies = ["pytest>=1", "no-such-package>=1.0,<2"]\n# ///\nraise SystemExit(1)\n')
    with pytest.raises(Permanent, match=r"lacks no-such-package; pip install -r requirements-training.txt .*TRAINING_PYTHON"):
        interpreter_there(sys.executable, "training", program)
    program.write_text(program.read_text().replace(', "no-such-package>=1.0,<2"', ""))
    interpreter_there(sys.executable, "training", program)
