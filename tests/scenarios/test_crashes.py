"""kill -9 between any two steps, from one seed: what was begun is finished once, whoever comes next."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller import writeback
from controller.testing.doubles import Killed
from controller.testing.simulation import Simulation, binding, rollout


def start(folder: Path) -> Simulation:
    sim = Simulation(folder)
    sim.commit(binding("docs", "v1", comment="keep me"), "Bind docs")
    sim.survive()
    return sim


def patch_land(sim: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moving the branch is a border crossing too."""
    real = writeback.follow

    def follow(*args: object) -> None:
        sim.faults.point("land")
        real(*args)  # type: ignore[arg-type]
        sim.faults.point("landed")

    monkeypatch.setattr(writeback, "follow", follow)


def crossings(folder: Path, monkeypatch: pytest.MonkeyPatch, errors: float) -> int:
    sim = start(folder)
    patch_land(sim, monkeypatch)
    sim.faults.count = 0
    go(sim, errors)
    return sim.faults.count


def go(sim: Simulation, errors: float) -> None:
    """A rollout from its commit to the commit that ends it."""
    sim.commit(rollout("docs-v2", "docs", "v2"), "Try v2")
    sim.survive()
    sim.gateway.traffic("docs", 200, {"v2": errors})
    sim.survive(horizon=120)


@pytest.mark.parametrize("errors", [0.0, 0.2])
def test_killed_at_every_border_crossing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, errors: float) -> None:
    total = crossings(tmp_path / "count", monkeypatch, errors)
    assert total >= 12
    for kill_at in range(1, total + 1):
        sim = start(tmp_path / f"at{kill_at}")
        patch_land(sim, monkeypatch)
        sim.faults.count, sim.faults.kill_at = 0, kill_at
        go(sim, errors)
        sim.survive(horizon=60)
        ended = [subject for subject in sim.subjects() if subject.startswith(("Promote", "Revert"))]
        assert ended == (["Promote docs to v2"] if not errors else ['Revert "Try v2"']), (
            f"killed at {sim.faults.trace[kill_at - 1]}"
        )
        expected = "v2" if not errors else "v1"
        assert sim.gateway.versions("docs") == {expected: 100.0}
        text = sim.read("state/bindings/docs.yaml") or ""
        assert f"version: {expected}" in text
        assert "# keep me" in text
        assert sim.read("state/rollouts/docs-v2.yaml") is None
        sim.check_log()


def test_a_person_reverts_while_no_controller_is_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The promotion landed, its outcome was lost, a person reverts it, and then a controller starts: no second promotion."""
    sim = start(tmp_path)
    patch_land(sim, monkeypatch)
    sim.commit(rollout("docs-v2", "docs", "v2"), "Try v2")
    sim.survive()
    sim.gateway.traffic("docs", 200)
    real = sim.faults.point

    def die_after_landing(name: str) -> None:
        real(name)
        if name == "landed":
            raise Killed(name)

    monkeypatch.setattr(sim.faults, "point", die_after_landing)
    with pytest.raises(Killed):
        sim.settle(sim.controller("m"), horizon=120)
    monkeypatch.setattr(sim.faults, "point", real)
    promoted = sim.tip()
    assert promoted
    assert sim.subjects()[0] == "Promote docs to v2"
    sim.revert(promoted)
    puts = sim.gateway.puts
    for _ in range(100):
        sim.survive()
    assert sim.subjects()[0] == 'Revert "Promote docs to v2"'
    assert sim.gateway.versions("docs") == {"v1": 100.0}
    assert sim.gateway.puts == puts + 1
    sim.check_log()


def test_the_log_folds_the_same_from_zero(tmp_path: Path) -> None:
    from controller.testing.simulation import incremental

    sim = start(tmp_path)
    go(sim, 0.0)
    flow = sim.survive()
    assert incremental(flow) == sim.folded()
