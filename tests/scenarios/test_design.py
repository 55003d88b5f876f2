"""The five tests of the design that keep it honest (DESIGN.md section 10), each by name."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from controller import document, tree
from controller.address import Address
from controller.change import Change
from controller.kind import Kind, Situation
from controller.kinds import find
from controller.model import Spec
from controller.plan import intent_key
from controller.testing.paid import Jobs, JobSpec, JobState, Vendor, job, plan_job
from controller.testing.simulation import Simulation, binding, rollout


def raised(sim: Simulation, subject: str = "") -> list[Any]:
    return [e for e in sim.check_log() if e.type == "turnout.condition.raised.v1" and (not subject or e.subject == subject)]


# -- 1 ---------------------------------------------------------------------------------------------------------------


def test_1_a_broken_file_takes_nothing_else_down(tmp_path: Path) -> None:
    sim = Simulation(tmp_path)
    sim.commit({**binding("docs", "v1"), **binding("feature_dev", "v1")}, "Bind")
    flow = sim.survive()
    sim.commit({"state/bindings/docs.yaml": "kind: [broken", **binding("feature_dev", "v2")}, "Break docs, move feature_dev")
    for _ in range(5):
        sim.settle(flow)
    assert sim.gateway.versions("feature_dev") == {"v2": 100.0}
    assert sim.gateway.versions("docs") == {"v1": 100.0}
    events = sim.check_log()
    assert [e.data["code"] for e in raised(sim)] == ["Quarantined"]
    assert not [e for e in events if e.data.get("action") == "delete"]
    assert "state/bindings/docs.yaml:2" in raised(sim)[0].data["reason"]
    sim.commit(binding("docs", "v3"), "Mend it")
    sim.settle(flow)
    assert sim.gateway.versions("docs") == {"v3": 100.0}
    assert [e.data["code"] for e in sim.check_log() if e.type == "turnout.condition.cleared.v1"] == ["Quarantined"]


# -- 2 ---------------------------------------------------------------------------------------------------------------


class Counters:
    """Counts what a pass is not supposed to do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parses = self.validations = self.plans = 0
        real_parse = document.parse
        real_validate = Spec.model_validate.__func__  # type: ignore[attr-defined]

        def parse(text: bytes) -> document.Document:
            self.parses += 1
            return real_parse(text)

        def validate(cls: type[Spec], *args: Any, **kwargs: Any) -> Spec:
            self.validations += cls.__name__ == "BindingSpec"
            found: Spec = real_validate(cls, *args, **kwargs)
            return found

        monkeypatch.setattr(tree, "parse", parse)
        monkeypatch.setattr("controller.settings.parse", parse)
        monkeypatch.setattr(Spec, "model_validate", classmethod(validate))

    def kinds(self) -> dict[str, Kind[Any, Any]]:
        def counted(kind: Kind[Any, Any]) -> Kind[Any, Any]:
            def plan(situation: Situation[Any, Any]) -> Change:
                self.plans += 1
                return kind.plan(situation)

            return replace(kind, plan=plan)

        return {name: counted(kind) for name, kind in find().items()}

    def reset(self) -> None:
        self.parses = self.validations = self.plans = 0


@pytest.mark.parametrize("count", [300])
def test_2_an_unchanged_repository_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    counters = Counters(monkeypatch)
    sim = Simulation(tmp_path, kinds=counters.kinds())
    files: dict[str, str | None] = {}
    for number in range(count):
        files.update(binding(f"agent-{number}", "v1"))
    sim.commit(files, "Bind many")
    sim.settle(sim.controller("m"))
    sim.settle(sim.controller("m"))
    events = len(sim.check_log())

    counters.reset()
    result = sim.settle(sim.controller("m"))  # a cold process with a warm cache
    assert (counters.parses, counters.validations) == (0, 0)
    assert counters.plans <= 1
    assert result.plan.total == count + 1

    sim.commit(binding("agent-7", "v2"), "Change one")
    flow = sim.controller("m")
    counters.reset()
    from controller import reconcile

    reconcile.once(flow)
    assert (counters.parses, counters.plans) == (1, 2)
    sim.settle(flow)

    events = len(sim.check_log())
    later = replace(sim.controller("m"), release="a newer one")
    counters.reset()
    sim.settle(later)
    assert counters.plans >= count + 1
    assert len(sim.check_log()) == events


# -- 3 ---------------------------------------------------------------------------------------------------------------


def paid_world(tmp_path: Path) -> tuple[Simulation, Vendor]:
    vendor = Vendor()
    kind: Kind[Any, Any] = Kind("Job", "jobs", JobSpec, JobState, plan_job, lambda spec: (), lambda clients: Jobs(vendor))
    return Simulation(tmp_path, kinds={"Job": kind}), vendor


def test_3_three_keys_for_a_b_a_and_one_for_ten_failures(tmp_path: Path) -> None:
    sim, vendor = paid_world(tmp_path)
    sim.commit(job("one"), "A")
    vendor.lose_answer = True
    flow = sim.controller("m")
    sim.settle(flow)
    sim.advance(120)
    sim.commit(job("two"), "B")
    sim.settle(flow, horizon=300)
    sim.advance(120)
    sim.commit(job("one"), "A again")
    sim.settle(flow, horizon=300)
    keys = [e.data["intent"] for e in sim.check_log() if e.subject == "Job/a" and e.type == "turnout.action.started.v1"]
    assert len(keys) == len(set(keys)) == 3
    vendor.refuse = 10
    sim.commit(job("three"), "C, ten times refused")
    sim.settle(flow, horizon=3600)
    events = [e for e in sim.check_log() if e.subject == "Job/a" and e.data.get("intent") not in keys]
    failed = [e for e in events if e.type == "turnout.action.failed.v1"]
    assert len(failed) == 10
    assert len({e.data["intent"] for e in events if "intent" in e.data}) == 1
    assert [each["image"] for each in vendor.jobs].count("three") == 1


def test_3_a_lost_answer_is_adopted_and_not_paid_again(tmp_path: Path) -> None:
    sim, vendor = paid_world(tmp_path)
    sim.commit(job("one"), "A")
    vendor.lose_answer = True
    sim.settle(sim.controller("m"))
    for _ in range(5):
        sim.advance(30)
        sim.settle(sim.controller("m"), horizon=100)
    assert len(vendor.jobs) == 1
    assert sim.check_log()[-1].type != "turnout.action.failed.v1"
    assert any(e.data.get("said") == "found done after an interruption" for e in sim.check_log())


def test_3_the_spec_digest_leaves_defaults_out() -> None:
    kind = find()["ModelBinding"]
    one = kind.spec.model_validate({"model": "m", "endpoint": "e", "version": "v"}).written()
    assert "fallbacks" not in one
    assert intent_key("log", Address("A/b"), 1, "x") == intent_key("log", Address("A/b"), 1, "x")
    assert intent_key("log", Address("A/b"), 1, "x") != intent_key("log", Address("A/b"), 2, "x")


# -- 4 is test_crashes.py --------------------------------------------------------------------------------------------
# -- 5 ---------------------------------------------------------------------------------------------------------------


def test_5_a_thousand_passes_over_a_waiting_canary_are_one_event(tmp_path: Path) -> None:
    sim = Simulation(tmp_path)
    sim.commit(binding("docs", "v1"), "Bind")
    flow = sim.survive()
    sim.commit(rollout("docs-v2", "docs", "v2", "{canary: [{weight: 10, hold: 1s}]}", samples=100_000), "Try")
    sim.settle(flow)
    before = len(sim.check_log())
    from controller import reconcile

    for _ in range(1000):
        sim.advance(2)
        sim.gateway.traffic("docs", 20)
        reconcile.once(flow)
    events = sim.check_log()[before:]
    assert [e.data.get("code") for e in events] == ["Inconclusive"]


def test_a_newer_commit_wins_over_a_wait(tmp_path: Path) -> None:
    sim = Simulation(tmp_path)
    sim.commit(binding("docs", "v1"), "Bind")
    flow = sim.survive()
    sim.gateway.down = True
    sim.commit(binding("docs", "v2"), "v2")
    sim.settle(flow)
    sim.commit(binding("docs", "v3"), "v3")
    sim.gateway.down = False
    sim.advance(timedelta(minutes=2).total_seconds())
    sim.settle(flow)
    assert sim.gateway.versions("docs") == {"v3": 100.0}


def test_a_held_promotion_keeps_its_binding_from_the_next_rollout(tmp_path: Path) -> None:
    from controller.testing.simulation import ENVIRONMENT

    sim = Simulation(tmp_path)
    held = ENVIRONMENT + "  writeBack: hold\n"
    sim.commit({**binding("docs", "v1"), "environments/local/environment.yaml": held}, "Bind, and hold write-backs")
    flow = sim.survive()
    sim.commit(rollout("m-first", "docs", "v2"), "First")
    sim.settle(flow)
    sim.gateway.traffic("docs", 200)
    sim.settle(flow, horizon=120)
    assert sim.gateway.versions("docs") == {"v2": 100.0}
    for name in ("a-second", "z-third"):
        sim.commit(rollout(name, "docs", "v3"), name)
        sim.settle(flow)
        assert sim.gateway.versions("docs") == {"v2": 100.0}
        assert [e.data["code"] for e in raised(sim, f"Rollout/{name}")] == ["Exclusive"]
    assert raised(sim, "Rollout/m-first")[-1].data["code"] == "Held"
    sim.commit({"environments/local/environment.yaml": ENVIRONMENT}, "Write back again")
    sim.settle(flow)
    assert "Promote docs to v2" in sim.subjects()
    assert sim.gateway.versions("docs") == {"v2": 50.0, "v3": 50.0}


def test_an_edit_of_a_running_rollout_does_not_keep_it_from_going_back(tmp_path: Path) -> None:
    sim = Simulation(tmp_path)
    sim.commit(binding("docs", "v1"), "Bind")
    flow = sim.survive()
    sim.commit(rollout("docs-v2", "docs", "v2", "{canary: [{weight: 50, hold: 24h}]}"), "Try")
    sim.settle(flow)
    sim.commit(rollout("docs-v2", "docs", "v2", "{canary: [{weight: 90, hold: 24h}]}"), "Edit it")
    sim.settle(flow)
    assert [e.data["code"] for e in raised(sim, "Rollout/docs-v2")] == ["FrozenEdit"]
    sim.gateway.traffic("docs", 1000, {"v2": 0.3})
    sim.settle(flow, horizon=20)
    assert sim.gateway.versions("docs") == {"v1": 100.0}
    assert sim.subjects()[0].startswith("Revert")


def test_what_was_aborted_is_remembered_and_said(tmp_path: Path) -> None:
    sim = Simulation(tmp_path)
    sim.commit(binding("docs", "v1"), "Bind")
    flow = sim.survive()
    sim.commit(rollout("docs-v2", "docs", "v2", "{canary: [{weight: 50, hold: 24h}]}"), "Try")
    sim.settle(flow)
    sim.gateway.traffic("docs", 1000, {"v2": 0.3})
    sim.settle(flow, horizon=20)
    sim.commit(rollout("docs-v2-again", "docs", "v2"), "Try again")
    sim.settle(flow)
    assert [e.data["code"] for e in raised(sim, "Rollout/docs-v2-again")] == ["JudgedBad"]
    assert set(sim.gateway.versions("docs")) == {"v1", "v2"}, "a person may"


def test_another_machine_with_the_lease_is_waited_for_but_not_on_the_way_back(tmp_path: Path) -> None:
    from controller import reconcile
    from controller.testing.doubles import Killed

    sim = Simulation(tmp_path)
    sim.commit(binding("docs", "v1"), "Bind")
    sim.survive("one")
    sim.commit(binding("docs", "v2"), "v2")
    sim.faults.kill_at = sim.faults.count + 3  # dies right after its started events are durable, holding the lease
    with pytest.raises(Killed):
        sim.settle(sim.controller("one"))
    sim.faults.kill_at = -1
    other = sim.controller("two")
    result = reconcile.settle(other)
    assert sim.gateway.versions("docs") == {"v1": 100.0}, "the lease is somebody else's"
    assert result.again is not None
    sim.commit(binding("docs", "v1"), "Back")
    sim.settle(other)
    assert sim.gateway.versions("docs") == {"v1": 100.0}
    sim.commit(binding("docs", "v3"), "v3")
    sim.settle(other, horizon=60)
    assert sim.gateway.versions("docs") == {"v3": 100.0}
    sim.check_log()
