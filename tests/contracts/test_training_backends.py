"""Promises of every backend that trains: one start for one intent, found again, looked at, verified, stopped.

`local` runs real processes, `hf_jobs` the vendor's SDK against the double, whose jobs are real processes too. The program is a
small one that speaks the same protocol (`training_program_of_tests.py`); with a Python that has torch, the real one (`training`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.clients.huggingface import Hub, OutcomeUnknown, connect
from controller.clients.training import program
from controller.clients.training.backend import Order, Prices, Sight, TrainingBackend
from controller.clients.training.hf_jobs import HubTraining
from controller.clients.training.local import LocalTraining
from controller.errors import Permanent, Temporary
from controller.testing.hugging_face import Account, HuggingFaceDouble, Options
from controller.vendors import HuggingFace

PROGRAM = Path(__file__).with_name("training_program_of_tests.py")
TOKEN = "hf_secretsecretsecret"
ENDED = ("succeeded", "failed", "cancelled", "lost")


class Place:
    """A backend, and what a test wants to know about it."""

    def __init__(self, name: str, folder: Path, make: Callable[[], TrainingBackend], hardware: str) -> None:
        self.name, self.folder, self.make, self.hardware = name, folder, make, hardware
        self.backend = make()
        self.repo = "" if name == "local" else "acme/turnout-docs-v1"

    def order(
        self, agent: str = "docs", intent: str = "k1", attempt: int = 1, batch: int = 4, run: str = "k1", **more: Any
    ) -> Order:
        rows = self.folder / f"{'a' * 40}.jsonl"
        rows.write_text('{"inputs": {"task": "t"}, "outputs": {"code": "c"}}\n')
        request = {"agent": agent, "batch": batch, "accumulation": 4, "push": bool(self.repo), "hub_repository": self.repo or None}
        return Order(intent, run, attempt, request, rows, self.hardware, more.pop("timeout", 3600.0), {"agent": agent, **more})

    def until(self, handle: str, *stages: str) -> Sight:
        for _ in range(2000):
            sight = self.backend.look([handle])[handle]
            assert isinstance(sight, Sight), sight
            if sight.stage in stages:
                return sight
            assert sight.stage not in ENDED, sight
            time.sleep(0.01)
        raise AssertionError(f"never {stages}")

    def begun(self, handle: str) -> Sight:
        """Until the program has told all its steps (a `slow` one then waits to be stopped)."""
        for _ in range(2000):
            sight = self.until(handle, "running", "queued")
            if sight.progress.get("step") == 3:
                return sight
            time.sleep(0.01)
        raise AssertionError("it never told a step")


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HuggingFaceDouble]:
    for name in ("HF_TOKEN", "HUGGINGFACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    options = Options(accounts={TOKEN: Account("ada", ("acme",))}, interpreter=sys.executable, run_jobs="subprocess")
    with HuggingFaceDouble(tmp_path / "double", options) as running:
        yield running


@pytest.fixture
def hub(double: HuggingFaceDouble, tmp_path: Path) -> Hub:
    return hub_of(double, tmp_path)


def hub_of(double: HuggingFaceDouble, folder: Path) -> Hub:
    (folder / "hub.token").write_text(TOKEN)
    opened = connect(HuggingFace(url=double.url, namespace="acme", token="file:hub.token"), folder)
    opened.jobs.quiet_seconds = 0.1
    return opened


def hub_place(hub: Hub, folder: Path) -> Place:
    fallback = Prices("2026-11-01", False, {})
    return Place("hf_jobs", folder, lambda: HubTraining(lambda: hub, PROGRAM.read_text, fallback), "a10g-small")


@pytest.fixture(params=["local", "hf_jobs"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "hf_jobs":
        yield hub_place(request.getfixturevalue("hub"), tmp_path)
        return
    found = Place("local", tmp_path, lambda: LocalTraining(tmp_path / "training", PROGRAM, hub=_no_hub), "this-machine")
    yield found
    end_all(tmp_path)


def _no_hub() -> Hub:
    raise AssertionError("this machine needs no Hub")


def end_all(folder: Path) -> None:
    for path in folder.glob("training/*/process-*"):
        try:
            os.killpg(int(path.read_text().split()[0]), signal.SIGKILL)
        except (ProcessLookupError, ValueError, IndexError):
            continue


def starts(place: Place) -> int:
    """How often the program has been started, ever."""
    return sum(len(path.read_text().splitlines()) for path in place.folder.rglob("starts"))


# -- every backend ----------------------------------------------------------------------------------------------------


def test_it_trains_tells_and_leaves_what_its_list_says(place: Place) -> None:
    handle = place.backend.start(place.order())
    sight = place.until(handle, "succeeded")
    found = place.backend.verify(handle, place.repo, "k1")
    assert (found.problems, found.files, found.bytes) == ((), 1, 7)
    assert found.metrics["tokens_per_second"] == 250.0
    assert len(found.metrics["loss_curve"]) <= 60
    assert bool(found.revision) is bool(place.repo)
    assert sight.code == ""
    assert starts(place) == 1


def test_a_result_of_another_intent_is_none(place: Place) -> None:
    handle = place.backend.start(place.order())
    place.until(handle, "succeeded")
    assert "intent 'k1', expected 'other'" in place.backend.verify(handle, place.repo, "other").problems[0]


def test_a_file_that_is_not_whole_is_told(place: Place) -> None:
    handle = place.backend.start(place.order("broken"))
    place.until(handle, "succeeded")
    assert any("model.safetensors" in each for each in place.backend.verify(handle, place.repo, "k1").problems)


def test_a_fresh_controller_finds_it_by_its_intent_with_what_was_kept(place: Place) -> None:
    handle = place.backend.start(place.order("slow", phase="queued"))
    fresh = place.make()
    found = fresh.find("k1")
    assert found is not None
    assert (found.handle, dict(found.record)) == (handle, {"agent": "slow", "phase": "queued"})
    assert fresh.find("k2") is None
    place.backend = fresh
    place.begun(handle)
    fresh.cancel(handle)
    place.until(handle, "failed", "cancelled")
    fresh.cancel(handle)  # once more does no harm


def test_progress_is_told_while_it_runs(place: Place) -> None:
    handle = place.backend.start(place.order("slow"))
    sight = place.begun(handle)
    losses = [[1, 2.0], [2, 1.0], [3, 0.0]]
    assert sight.progress == {"step": 3, "steps": 3, "loss": 0.0, "eta_seconds": 0, "losses": losses}
    assert (sight.batch, sight.accumulation) == (4, 4)
    place.backend.cancel(handle)


def test_out_of_memory_is_told_and_the_next_attempt_has_a_name_of_its_own(place: Place) -> None:
    first = place.backend.start(place.order("oom"))
    sight = place.until(first, "failed")
    assert (sight.code, sight.batch) == ("out_of_memory", 4)
    assert "With batch 4: out of memory." in sight.message
    second = place.backend.start(place.order("oom", intent="k1/attempt-2", attempt=2, batch=1))
    assert second != first
    place.until(second, "succeeded")
    found = place.backend.find("k1/attempt-2")
    assert found is not None
    assert found.handle == second
    assert place.backend.verify(second, place.repo, "k1").problems == ()


def test_a_bug_of_the_program_is_told_as_one(place: Place) -> None:
    handle = place.backend.start(place.order("crash"))
    assert place.until(handle, "failed").code == "unexpected"


def test_hardware_has_prices(place: Place) -> None:
    prices = place.backend.prices()
    assert prices.live
    assert place.hardware in prices.hardware


# -- this machine -----------------------------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Place]:
    yield Place("local", tmp_path, lambda: LocalTraining(tmp_path / "training", PROGRAM, hub=_no_hub), "this-machine")
    end_all(tmp_path)


def test_started_again_it_is_the_same_process(local: Place) -> None:
    handle = local.backend.start(local.order("slow"))
    local.begun(handle)
    for _ in range(3):
        assert local.make().start(local.order("slow")) == handle
    assert starts(local) == 1
    local.backend.cancel(handle)
    assert local.until(handle, "failed").code == "preempted"
    assert local.make().start(local.order("slow")) == handle  # an attempt is one attempt: the next one has another intent
    assert starts(local) == 1


def test_it_lives_on_without_its_controller_and_in_a_session_of_its_own(local: Place) -> None:
    handle = local.backend.start(local.order("slow"))
    local.begun(handle)
    pid = int(next(local.folder.glob("training/*/process-1")).read_text().split()[0])
    assert os.getsid(pid) == pid != os.getsid(0)


def test_a_number_that_the_kernel_gave_to_somebody_else_is_left_alone(local: Place) -> None:
    handle = local.backend.start(local.order("slow"))
    local.begun(handle)
    path = next(local.folder.glob("training/*/process-1"))
    true = path.read_text()
    path.write_text(f"{os.getpid()} 1 another-boot\n")
    sight = local.backend.look([handle])[handle]
    assert isinstance(sight, Sight)
    assert sight.stage == "lost"
    local.backend.cancel(handle)  # would end this test run
    path.write_text(true)


def test_killed_without_a_word_it_is_lost_and_the_next_attempt_takes_over(local: Place) -> None:
    handle = local.backend.start(local.order("slow"))
    local.begun(handle)
    end_all(local.folder)
    assert local.until(handle, "lost").message.startswith("its process ended without an exit code")
    local.backend.start(local.order("docs", intent="k1/attempt-2", attempt=2))
    request = json.loads(next(local.folder.glob("training/*/request-2.json")).read_text())
    assert (request["intent"], request["attempt"], request["takes_over"]) == ("k1", "2", ["1"])


def test_a_missing_interpreter_is_said_before_anything_is_made(tmp_path: Path) -> None:
    backend = LocalTraining(tmp_path / "training", PROGRAM, python="/nowhere/python", hub=_no_hub)
    with pytest.raises(Permanent, match=r"'/nowhere/python'.*TURNOUT_TRAINING_PYTHON"):
        backend.start(Place("local", tmp_path, lambda: backend, "this-machine").order())
    assert backend.find("k1") is None


def test_a_training_of_another_machine_cannot_be_seen_from_here(local: Place) -> None:
    handle = local.backend.start(local.order("slow")).replace(os.uname().nodename, "elsewhere")
    assert "trains on the machine 'elsewhere'" in str(local.backend.look([handle])[handle])
    with pytest.raises(Temporary):
        local.backend.cancel(handle)


# -- jobs of Hugging Face ---------------------------------------------------------------------------------------------


@pytest.fixture
def jobs(hub: Hub, tmp_path: Path) -> Place:
    return hub_place(hub, tmp_path)


def paid(double: HuggingFaceDouble) -> int:
    return int(double.ledger()["requests"].get("POST /api/jobs/acme", 0))


def test_a_lost_answer_is_neither_repeated_nor_believed(jobs: Place, double: HuggingFaceDouble) -> None:
    double.fail("POST /api/jobs/acme", "lose")
    with pytest.raises(OutcomeUnknown):
        jobs.backend.start(jobs.order(phase="queued"))
    found = jobs.backend.find("k1")
    assert found is not None
    assert found.record["phase"] == "queued"
    jobs.until(found.handle, "succeeded")
    assert paid(double) == 1


def test_rows_travel_once_in_a_private_data_set(jobs: Place, hub: Hub) -> None:
    for attempt in (1, 2):
        intent = "k1" if attempt == 1 else "k1/attempt-2"
        jobs.until(jobs.backend.start(jobs.order("crash", intent=intent, attempt=attempt)), "failed")
    rows = hub.repositories.rows(f"turnout-data-{'a' * 32}")
    assert rows.rows == ({"inputs": {"task": "t"}, "outputs": {"code": "c"}},)


def test_dated_prices_count_where_the_list_cannot_be_read(tmp_path: Path) -> None:
    hub = connect(HuggingFace(url="http://127.0.0.1:1", namespace="acme", token="env:NOT_SET_ANYWHERE"), tmp_path)
    fallback = Prices("2026-11-01", False, {})
    assert HubTraining(lambda: hub, PROGRAM.read_text, fallback).prices() is fallback


def test_a_job_at_its_time_out_is_told_as_that(tmp_path: Path) -> None:
    with HuggingFaceDouble(tmp_path / "scripted", Options(accounts={TOKEN: Account("ada", ("acme",))})) as double:
        jobs = hub_place(hub_of(double, tmp_path), tmp_path)
        double.script("{}", end="NEVER", running=1)
        handle = jobs.backend.start(jobs.order(timeout=120.0))
        double.advance(600)
        sight = jobs.until(handle, "failed")
    assert sight.code == "timeout"
    assert sight.cost_usd == pytest.approx(2 / 60, rel=0.01)


def test_cancelled_before_its_program_begins_it_never_works(local: Place) -> None:
    for number in range(6):  # the moment falls differently each time
        handle = local.backend.start(local.order("slow", intent=f"k{number}", run=f"k{number}"))
        local.backend.cancel(handle)
        assert local.until(handle, "failed").code == "preempted"


# -- the real program -------------------------------------------------------------------------------------------------


@pytest.mark.training
def test_the_real_program_trains_a_tiny_model(tmp_path: Path) -> None:
    python = os.environ.get("TURNOUT_TRAINING_PYTHON")
    if not python:
        pytest.skip("TURNOUT_TRAINING_PYTHON names no Python with torch")
    backend = LocalTraining(tmp_path / "training", program(), python=python, hub=_no_hub)
    place = Place("local", tmp_path, lambda: backend, "this-machine")
    rows = tmp_path / "rows.jsonl"
    lines = [{"inputs": {"task": f"add {n}"}, "outputs": {"code": f"def add_{n}(x): return x + {n}"}} for n in range(40)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    request = {
        "agent": "docs",
        "method": "sft",
        "base_model": {"tiny": {}},
        "learning_rate": 0.01,
        "accumulation": 1,
        "max_length": 64,
    }
    handle = backend.start(Order("k1", "k1", 1, request, rows, "this-machine", 600.0))
    for _ in range(6000):
        sight = backend.look([handle])[handle]
        assert isinstance(sight, Sight)
        if sight.stage != "running":
            break
        time.sleep(0.1)
    assert sight.stage == "succeeded", sight
    found = place.backend.verify(handle, "", "k1")
    assert found.problems == ()
    assert found.metrics["after"]["loss"] < found.metrics["before"]["loss"]
    assert found.metrics["tokens_per_second"] > 0
