"""Money: a second person's yes is a commit, and the budget holds whatever starts at the same moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from controller import approval, reconcile
from controller.address import Address
from controller.kind import Kind
from controller.reconcile import PassResult
from controller.testing.paid import Jobs, JobSpec, JobState, Vendor, job, plan_job
from controller.testing.simulation import ADA, BOB, ENVIRONMENT, Simulation

A = Address("Job/a")


def world(folder: Path, environment: str = "") -> tuple[Simulation, Vendor]:
    vendor = Vendor()
    kind: Kind[Any, Any] = Kind("Job", "jobs", JobSpec, JobState, plan_job, lambda spec: (), lambda clients: Jobs(vendor))
    sim = Simulation(folder, kinds={"Job": kind})
    if environment:
        sim.commit({"environments/local/environment.yaml": ENVIRONMENT + environment}, "Budget")
    return sim, vendor


def settled(sim: Simulation) -> PassResult:
    return sim.settle(sim.survive())


def waits(sim: Simulation, address: Address = A) -> list[str]:
    result = settled(sim)
    return [wait.code for change in result.plan.changes if change.address == address for wait in change.waits]


def planned_line(sim: Simulation, address: Address = A) -> str:
    result = settled(sim)
    return approval.line(next(change for change in result.plan.changes if change.address == address))


def sentences(sim: Simulation, kind: str) -> list[Any]:
    return [event for event in sim.check_log() if kind in event.type]


def test_above_the_limit_a_second_person_has_to_say_yes_and_then_it_runs_once(tmp_path: Path) -> None:
    sim, vendor = world(tmp_path)
    sim.commit(job("big", ceiling=25.0), "Ask for it", by=ADA)
    assert waits(sim) == ["Approval"]
    line = planned_line(sim)
    assert line.endswith("up to 25.00 USD")
    sim.commit({}, "Me again", trailer=line, by=ADA)
    assert waits(sim) == ["Approval"]
    refused = sentences(sim, "approval.refused")
    assert [event.data["reason"].split(" wrote ")[0] for event in refused] == ["ada@example.org"]
    assert vendor.calls == 0
    sim.commit({}, "Fine", trailer=line, by=BOB)
    sim.survive()
    for _ in range(3):
        assert waits(sim) == []
    assert vendor.calls == 1
    assert [event.data["by"] for event in sentences(sim, "approval.granted")] == ["Bob <bob@example.org>"]


def test_an_approval_is_for_what_was_seen(tmp_path: Path) -> None:
    sim, vendor = world(tmp_path)
    sim.commit(job("big", ceiling=25.0))
    line = planned_line(sim)
    sim.commit(job("bigger", ceiling=25.0), "Changed meanwhile")
    sim.commit({}, "Fine", trailer=line, by=BOB)
    assert waits(sim) == ["Approval"]
    sim.commit({}, "Cheap?", trailer=planned_line(sim).replace("25.00", "20.00"), by=BOB)
    assert waits(sim) == ["Approval"]
    assert vendor.calls == 0


def test_an_approval_is_found_by_a_controller_that_starts_later_and_counted_once(tmp_path: Path) -> None:
    sim, vendor = world(tmp_path)
    sim.commit(job("big", ceiling=25.0))
    line = planned_line(sim)
    sim.commit({}, "Fine", trailer=line, by=BOB)
    sim.commit({"note.txt": "x"}, "Something else", by=ADA)
    for _ in range(3):
        sim.controller(f"machine-{_}")
        sim.survive()
    assert vendor.calls == 1
    assert len(sentences(sim, "approval.granted")) == 1


def test_killed_anywhere_on_the_way_it_is_paid_once(tmp_path: Path) -> None:
    for crossing in range(1, 12):
        sim, vendor = world(tmp_path / str(crossing))
        sim.commit(job("big", ceiling=25.0))
        sim.commit({}, "Fine", trailer=planned_line(sim), by=BOB)
        sim.faults.kill_at = crossing
        for _ in range(3):
            sim.survive()
            sim.advance(90)
        assert vendor.calls == 1, crossing
        assert len(sentences(sim, "approval.granted")) == 1, crossing


def test_one_plan_does_not_give_the_same_money_twice(tmp_path: Path) -> None:
    sim, vendor = world(tmp_path, "  budget: {monthlyUsd: 5}\n")
    sim.survive()
    sim.commit({**job("one", "a"), **job("two", "b"), **job("three", "c")})
    result = reconcile.once(sim.controller("m"))
    assert [change.address for change in result.plan.active if change.cost.ceiling] == ["Job/a", "Job/b"]
    assert [wait.code for change in result.plan.changes if change.address == "Job/c" for wait in change.waits] == ["Budget"]
    sim.survive()  # the two cost less than they might have, so that there is enough for the third
    assert vendor.calls == 3


def test_an_approval_goes_over_the_budget(tmp_path: Path) -> None:
    sim, vendor = world(tmp_path, "  budget: {monthlyUsd: 4}\n")
    sim.commit(job("dear", ceiling=4.5))
    assert waits(sim) == ["Budget"]
    sim.commit({}, "Worth it", trailer=planned_line(sim), by=BOB)
    sim.survive()
    assert vendor.calls == 1


def test_a_new_month_has_a_new_budget(tmp_path: Path) -> None:
    sim, vendor = world(tmp_path, "  budget: {monthlyUsd: 2}\n")
    sim.commit(job("one", "a"))
    sim.survive()
    sim.commit(job("two", "b"))
    assert waits(sim, Address("Job/b")) == ["Budget"]
    sim.advance(31 * 86400)
    sim.survive()
    sim.survive()
    assert vendor.calls == 2
