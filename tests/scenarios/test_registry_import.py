"""An import beside controllers that work: nothing is lost, nothing is there twice, no lease is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controller import reconcile
from controller.errors import InvalidState, LostRace
from controller.loading import Flow
from controller.registry_import import TRIES, import_registry
from controller.testing.simulation import Simulation, binding, incremental


def content(version: str = "v0.9") -> bytes:
    return json.dumps({"models": [{"agent": "docs", "model_id": "acme/old", "version": version}]}).encode()


@pytest.fixture
def sim(tmp_path: Path) -> Simulation:
    sim = Simulation(tmp_path)
    sim.commit(binding("docs", "v1"), "Bind docs")
    sim.survive()
    return sim


def meanwhile(monkeypatch: pytest.MonkeyPatch, do: Callable[[int], Any]) -> None:
    """Something happens between the look at the log and the append, each time."""
    real, count = reconcile.open_writer, [0]

    def racing(flow: Flow, commit: str, **more: Any) -> Any:
        writer = real(flow, commit, **more)
        count[0] += 1
        monkeypatch.setattr(reconcile, "open_writer", real)
        do(count[0])
        monkeypatch.setattr(reconcile, "open_writer", racing)
        return writer

    monkeypatch.setattr(reconcile, "open_writer", racing)


def imports(sim: Simulation) -> list[str]:
    return [event.data["source"] for event in sim.check_log() if event.type == "turnout.registry.imported.v1"]


def test_an_import_that_loses_a_race_looks_again(sim: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = sim.controller("mine"), sim.controller("other")
    meanwhile(monkeypatch, lambda number: import_registry(other, content("v0.8"), "theirs", "Bob") if number == 1 else None)
    done = import_registry(mine, content(), "mine", "Ada")
    assert (done.already, imports(sim)) == (False, ["theirs", "mine"])
    found = sim.folded()["registry/docs"]["versions"]
    assert sorted(each["status"] for each in found.values()) == ["deployed", "imported", "imported"]
    assert incremental(mine)["registry/docs"] == sim.folded()["registry/docs"]


def test_two_imports_of_the_same_file_at_once_are_one(sim: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = sim.controller("mine"), sim.controller("other")
    meanwhile(monkeypatch, lambda number: import_registry(other, content(), "theirs", "Bob") if number == 1 else None)
    done = import_registry(mine, content(), "mine", "Ada")
    assert (done.already, imports(sim)) == (True, ["theirs"])


def test_an_import_that_always_loses_says_so(sim: Simulation, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = sim.controller("mine"), sim.controller("other")
    meanwhile(monkeypatch, lambda number: import_registry(other, content(f"v0.{number}"), f"theirs {number}", "Bob"))
    with pytest.raises(LostRace):
        import_registry(mine, content(), "mine", "Ada")
    assert len(imports(sim)) == TRIES


def test_an_import_is_the_first_thing_in_a_log(tmp_path: Path) -> None:
    sim = Simulation(tmp_path)
    done = import_registry(sim.controller("m"), content(), "old.json", "Ada")
    events = sim.check_log()
    assert [event.type for event in events] == ["turnout.log.opened.v1", "turnout.registry.imported.v1"]
    assert done.sequence == 2
    assert import_registry(sim.controller("n"), content(), "again.json", "Bob").sequence == 2


def test_a_broken_file_touches_no_log(sim: Simulation) -> None:
    before = len(sim.check_log())
    with pytest.raises(InvalidState):
        import_registry(sim.controller("m"), b'{"models": [{}]}', "old.json", "Ada")
    assert len(sim.check_log()) == before
