"""Every action as a run in LangSmith, by the real SDK against the double; and a LangSmith that fails changes nothing."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.loading import Flow
from controller.testing.langsmith_api import LangSmithApi
from controller.testing.simulation import ENVIRONMENT, Simulation, binding, rollout
from controller.tracing import META, Tracing, missing

pytest.importorskip("langsmith")
KEY = "a-key-of-the-tests"
FAST = "{canary: [{weight: 50, hold: 0s}]}"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LANGSMITH_ENDPOINT", "LANGSMITH_API_KEY", "LANGSMITH_PROJECT", "LANGSMITH_RUNS_ENDPOINTS", "LANGSMITH_TRACING"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LangSmithApi]:
    with LangSmithApi(tmp_path / "langsmith", keys=[KEY]) as double:
        yield double
    assert double.broken == []


def environment(url: str, more: str = "") -> dict[str, str]:
    line = f'  langsmith: {{url: "{url}", apiKey: "file:key", timeout: 5s{more}}}\n' if url else ""
    return {"environments/local/environment.yaml": ENVIRONMENT + line}


class Traced:
    """One controller of a simulation, wired as `app.py` does it."""

    def __init__(self, sim: Simulation, machine: str = "m", key: str = KEY) -> None:
        self.sim, self.flow = sim, sim.controller(machine)
        self.flow.data.mkdir(parents=True, exist_ok=True)
        (self.flow.data / "key").write_text(key)
        self.tracing = Tracing(self.flow)

    def settle(self) -> None:
        self.flow.tell = self.tracing.telling(lambda event: None)
        try:
            self.sim.settle(self.flow)
        finally:
            self.tracing.follow()

    def sent(self) -> None:
        """Until nothing waits any more."""
        until(lambda: not any(sender.tracer.counts().waiting for sender in self.tracing.senders))

    def close(self, seconds: float = 30) -> None:
        self.tracing.close(seconds)
        self.flow.cache.close()


def until(done: Callable[[], bool]) -> None:
    wait = threading.Event()
    for _ in range(6000):
        if done():
            return
        wait.wait(0.01)
    raise AssertionError("it never came")


def runs(api: LangSmithApi) -> list[Any]:
    return sorted(api.tables.all("runs"), key=lambda run: run["extra"]["metadata"]["sequence"])


def outcomes(sim: Simulation) -> list[int]:
    """Sequences of what the log knows as outcomes."""
    ends = ("action.succeeded.v1", "action.failed.v1", "action.superseded.v1", "edits.written.v1")
    return [event.sequence for event in sim.check_log() if event.type.removeprefix("turnout.") in ends]


def sequences(api: LangSmithApi) -> list[int]:
    return [run["extra"]["metadata"]["sequence"] for run in runs(api)]


def uploads(api: LangSmithApi) -> int:
    return len(api.asked("POST /runs/multipart"))


# -- what appears ------------------------------------------------------------------------------------------------------


def test_a_rollout_is_a_run_and_its_steps_are_below_it(api: LangSmithApi, tmp_path: Path) -> None:
    sim = Simulation(tmp_path)
    sim.commit({**environment(api.url), **binding("docs", "v1")})
    one = Traced(sim)
    one.settle()
    begun = sim.commit(rollout("docs-v2", "docs", "v2", FAST))
    one.settle()
    for _ in range(5):
        sim.gateway.traffic("docs", 100)
        sim.advance(5)
        one.settle()
    assert sim.subjects()[0] == "Promote docs to v2"
    one.settle()
    one.close()
    found = runs(api)
    assert [run["extra"]["metadata"]["sequence"] for run in found] == outcomes(sim)
    assert {run["status"] for run in found} == {"success"}
    start = next(run for run in found if run["name"] == "run Rollout/docs-v2")
    below = [run for run in found if run["extra"]["metadata"]["address"] == "Rollout/docs-v2" and run is not start]
    assert {run["name"].partition(" ")[0] for run in below} >= {"step", "write"}
    assert {(run["parent_run_id"], run["trace_id"]) for run in below} == {(start["id"], start["id"])}
    assert all(run["parent_run_id"] is None for run in found if run not in below)
    assert start["inputs"]["spec"]["candidate"]["version"] == "v2"
    assert start["inputs"]["reason"]
    assert start["outputs"]["after"]["phase"]
    told = start["extra"]["metadata"]
    assert (told["commit"], told["environment"], told["agent"]) == (begun, "local", "docs")
    assert told["intent"]
    assert told["correlation"]
    assert start["tags"] == ["Rollout", "run", "local"]


def test_an_action_that_failed_is_a_run_with_an_error(api: LangSmithApi, tmp_path: Path) -> None:
    sim = Simulation(tmp_path)
    sim.commit({**environment(api.url), **binding("docs", "v1")})
    sim.gateway.down = True
    one = Traced(sim)
    one.settle()
    sim.gateway.down = False
    sim.advance(60)
    one.settle()
    one.close()
    failed = next(run for run in runs(api) if run["status"] == "error")
    assert failed["name"].endswith("Gateway/main")
    assert failed["error"] == "proxy main does not answer (is tried again)"
    assert failed["outputs"] is None
    again = [run for run in runs(api) if run["name"] == failed["name"] and run["status"] == "success"]
    assert [run["extra"]["metadata"]["intent"] for run in again] == [failed["extra"]["metadata"]["intent"]]
    assert sequences(api) == outcomes(sim)


# -- a LangSmith that fails ---------------------------------------------------------------------------------------------


def refused_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("fault", ["down", "wrong key", "limited", "broken"])
def test_a_langsmith_that_fails_changes_nothing_but_the_count(api: LangSmithApi, tmp_path: Path, fault: str) -> None:
    if fault == "limited":
        api.fail("status", "POST *", status=429, times=0)
    if fault == "broken":
        api.fail("cut", times=0)
    plain = story(tmp_path / "plain", environment(""))
    one: list[Traced] = []
    url = refused_port() if fault == "down" else api.url
    assert story(tmp_path / "traced", environment(url), one, "wrong" if fault == "wrong key" else KEY) == plain
    (tracing,) = [each.tracing for each in one]
    assert runs(api) == []
    assert tracing.dropped == len([event for event in plain[1] if event[0].endswith(("succeeded.v1", "failed.v1"))])
    assert f"{tracing.dropped} actions are not in LangSmith" in tracing.news()
    assert tracing.news() == ""  # once
    one[0].tracing.close(30)
    assert f"{tracing.dropped} actions are not in LangSmith" in missing(one[0].flow.cache)
    one[0].flow.cache.close()


def story(
    folder: Path, settings: dict[str, str], made: list[Traced] | None = None, key: str = KEY
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """The same life with the same seed: border crossings (provider calls, appends) in order, and events."""
    folder.mkdir()
    sim = Simulation(folder, seed=7)
    sim.commit({**settings, **binding("docs", "v1"), **binding("code", "v1")})
    one = Traced(sim, key=key)
    one.settle()
    one.sent()
    sim.commit(binding("docs", "v2"))
    one.settle()
    one.sent()
    if made is not None:
        made.append(one)
    return sim.faults.trace, [(e.type, e.subject, e.sequence, e.data.get("action"), e.data.get("after")) for e in sim.check_log()]


def test_a_langsmith_that_accepts_and_never_answers_holds_up_nobody(api: LangSmithApi, tmp_path: Path) -> None:
    api.fail("hang", "* /info", times=0)
    sim = Simulation(tmp_path)
    sim.commit({**environment(api.url), **binding("docs", "v1")})
    one = Traced(sim)
    one.settle()
    until(lambda: bool(api.asked("GET /info")))  # from here on the sender hangs until the double ends
    before = len(sim.check_log())
    puts = sim.gateway.puts
    sim.commit(binding("docs", "v2"))
    one.settle()
    assert sim.gateway.puts == puts + 1
    assert len(sim.check_log()) > before
    assert one.tracing.senders[0].tracer.counts().sent == 0
    one.close(0)
    api.faults.clear()
    other = Traced(sim)  # what the first could not send is not lost
    other.settle()
    other.close()
    assert sequences(api) == outcomes(sim)
    assert all(run["inputs"]["reason"] for run in runs(api))  # with the starts that only the first had seen


# -- restarts, gaps and several processes --------------------------------------------------------------------------------


def test_a_restart_sends_nothing_twice_and_loses_nothing(api: LangSmithApi, tmp_path: Path) -> None:
    sim = Simulation(tmp_path)
    sim.commit({**environment(api.url), **binding("docs", "v1")})
    first = Traced(sim)
    first.settle()
    first.close()
    asked = uploads(api)
    idle = Traced(sim)
    idle.settle()
    idle.close()
    assert uploads(api) == asked  # what was sent is known
    sim.commit(binding("docs", "v2"))
    away = sim.controller("elsewhere")  # another machine acts, and does not trace
    sim.settle(away)
    away.cache.close()
    sim.commit(rollout("docs-v3", "docs", "v3", "{canary: [{weight: 50, hold: 24h}]}"))
    second = Traced(sim)
    second.settle()
    second.flow.cache.close()  # killed: nothing is noted after the offer
    second.sent()
    third = Traced(sim)
    third.settle()
    third.close()
    before = sequences(api)
    assert before == outcomes(sim)
    sim.commit({"state/rollouts/docs-v3.yaml": None}, "Stop it")
    fourth = Traced(sim)
    fourth.settle()
    fourth.close()
    assert sequences(api) == outcomes(sim)
    assert {run["status"] for run in runs(api)} == {"success"}
    start = next(run for run in runs(api) if run["name"] == "run Rollout/docs-v3")
    last = [run for run in runs(api)[len(before) :] if run["extra"]["metadata"]["address"] == "Rollout/docs-v3"]
    assert last
    assert {run["parent_run_id"] for run in last} == {start["id"]}


def test_history_is_not_sent_when_langsmith_comes_late(api: LangSmithApi, tmp_path: Path) -> None:
    sim = Simulation(tmp_path)
    sim.commit({**environment(""), **binding("docs", "v1")})
    one = Traced(sim)
    one.settle()
    old = outcomes(sim)
    assert one.flow.cache.meta(META) == ""
    sim.commit({**environment(api.url), **binding("docs", "v2")})
    one.settle()
    one.close()
    new = [sequence for sequence in outcomes(sim) if sequence not in old]
    assert new
    assert sequences(api) == new
    fresh = Traced(sim, "fresh")  # a new data folder, as in a CI job
    sim.commit(binding("docs", "v3"))
    fresh.settle()
    fresh.close()
    assert sequences(api) == [sequence for sequence in outcomes(sim) if sequence not in old]


def test_settings_may_change_between_passes(api: LangSmithApi, tmp_path: Path) -> None:
    sim = Simulation(tmp_path)
    sim.commit({**environment(api.url), **binding("docs", "v1")})
    one = Traced(sim)
    one.settle()
    one.sent()
    sim.commit({**environment(api.url, ", project: other"), **binding("docs", "v2")})
    one.settle()
    one.sent()
    sim.commit({**environment(""), **binding("docs", "v3")})
    one.settle()
    untold = len(outcomes(sim))
    sim.commit({**environment(api.url, ", trace: false"), **binding("docs", "v4")})
    one.settle()
    one.close()
    names = {session["id"]: session["name"] for session in api.tables.all("sessions")}
    assert sorted({names[run["session_id"]] for run in runs(api)}) == ["other", "turnout"]
    assert len(runs(api)) < untold
    assert max(sequences(api)) < outcomes(sim)[-1]


def test_what_does_not_fit_waits_in_the_log(api: LangSmithApi, tmp_path: Path) -> None:
    sim = Simulation(tmp_path)
    many = {path: text for number in range(12) for path, text in binding(f"agent-{number}", "v1").items()}
    sim.commit(environment(api.url))
    one = Traced(sim)
    one.settle()
    one.sent()
    tracer = one.tracing.senders[0].tracer
    tracer._queue.maxsize = 5
    api.fail("hang", "POST /runs/multipart", seconds=0.0, times=1)
    sim.commit(many)
    for _ in range(10):
        one.settle()
        one.sent()
    assert tracer.counts().dropped == 0
    one.close()
    assert sequences(api) == outcomes(sim)


def test_nothing_is_touched_where_langsmith_is_not_configured(tmp_path: Path) -> None:
    sim = Simulation(tmp_path)
    sim.commit(binding("docs", "v1"))
    one = Traced(sim)
    one.settle()
    flow: Flow = one.flow
    assert (one.tracing.senders, one.tracing.news(), missing(flow.cache)) == ([], "", "")
    one.close()


def test_a_fault_of_ours_fails_no_pass_and_is_told(api: LangSmithApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sim = Simulation(tmp_path)
    sim.commit({**environment(api.url), **binding("docs", "v1")})
    one = Traced(sim)
    monkeypatch.setattr("controller.projections.traces.as_traced", lambda *_: 1 / 0)
    one.settle()
    assert "ZeroDivisionError" in one.tracing.news()
    assert sim.gateway.puts == 1
    one.close()
