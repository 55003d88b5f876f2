"""What a hostile reader of the chain found, one test a bug: money counted wrong, runs that could not end, files that lied."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from controller.testing.simulation import Killed


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
