"""Inference Endpoints of evaluations: created once, found again, ended whatever happens, paid by the minute below the ceiling.

The door, its child process and the vendor's SDK are the real ones; the vendor, and the models behind its endpoints, are doubles.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from controller.address import Address
from controller.change import Change
from controller.clients.evaluation_serving import name_of, periods
from controller.clients.evaluation_work import Work
from controller.clients.evaluations import Evaluations
from controller.environment import EnvironmentSpec
from controller.errors import Permanent, Temporary
from controller.kind import Known, Past, Refs, Situation
from controller.kinds.evaluation.plan import plan
from controller.kinds.evaluation.provider import EvaluationProvider
from controller.kinds.evaluation.spec import EvaluationSpec
from controller.resource import Resource
from controller.settings import Settings
from controller.testing.hugging_face import Account, HuggingFaceDouble, Options
from controller.testing.openrouter_api import OpenRouterApi, Rules
from controller.testing.openrouter_api.rules import ModelEntry

TOKEN = "hf_secretsecretsecret"
INTENT = "a" * 32
CHAT = "POST */chat/completions"
CREATE = "POST /v2/endpoint/acme"
LOOK = "GET /v2/endpoint/acme/turnout-*"
DELETE = "DELETE /v2/endpoint/acme/turnout-*"
PATIENCE = 60.0
HOURLY = 0.8
ROWS = [{"inputs": {"task": f"what is {n} plus 1?"}, "outputs": {"answer": str(n + 1)}} for n in range(60)]
DEDICATED = {"inferenceEndpoint": {"region": "us-east-1", "instanceType": "nvidia-l4", "boot": 60.0}}


def right(model: str, share: float) -> list[dict[str, Any]]:
    rows = [{"model": model, "contains": row["inputs"]["task"], "share": share, "text": row["outputs"]["answer"]} for row in ROWS]
    return [*rows, {"model": model, "text": "I do not know"}]


@pytest.fixture
def api() -> Iterator[OpenRouterApi]:
    """What answers behind the endpoints, and as a router of its own; both know the Hub's token."""
    rules = Rules.model_validate({"rules": [*right("acme/v2", 0.95), *right("acme/v1", 0.4)]})
    models = {name: ModelEntry() for name in ("acme/v1", "acme/v2")}
    with OpenRouterApi(answers=rules, models=models, keys=[TOKEN]) as running:
        yield running
    assert running.broken == []


@pytest.fixture
def options(api: OpenRouterApi) -> Options:
    return Options(accounts={TOKEN: Account("ada", ("acme",))}, boot_seconds=0.4, serving_url=f"{api.url}/api", now=time.time)


class Bench:
    """One environment with its door and provider, and what is planned for an evaluation."""

    def __init__(self, data: Path, double: HuggingFaceDouble, api: OpenRouterApi, **more: Any) -> None:
        data.mkdir(parents=True, exist_ok=True)
        (data / "token").write_text(TOKEN)
        written = {
            "endpoints": {"dedicated": DEDICATED, "router": {"url": api.base_url, "apiKey": "file:token", "timeout": 10.0}},
            "huggingface": {
                "url": double.url,
                "inferenceEndpointsUrl": double.inference_endpoints_url,
                "namespace": "acme",
                "token": "file:token",
            },
            "inference": {"attempts": 2, "timeout": 10.0, "patience": 1.0},
            **more,
        }
        self.double, self.api = double, api
        self.settings = Settings("local", EnvironmentSpec.model_validate(written, strict=False), data)
        self.door = Evaluations(self.settings)
        self.provider = EvaluationProvider(self)

    def open(self, name: str) -> Any:
        assert name == "evaluations"
        return self.door

    @property
    def work(self) -> Work:
        return Work(self.door.data / "evaluations" / INTENT)

    def planned(self, **more: Any) -> Change:
        spec = EvaluationSpec.model_validate(
            {
                "agent": "docs",
                "candidate": {"model": "acme/v2", "endpoint": "dedicated", "version": "v2"},
                "baseline": {"model": "acme/v1", "endpoint": "dedicated", "version": "v1"},
                "dataset": "hf://acme/questions",
                "evaluators": [{"name": "accuracy", "kind": "exact", "field": "outputs.answer"}],
                "examples": 60,
                "thresholds": {"watch": {}},
                "maxTokens": 64,
                "budgetUsd": 100.0,
                **more,
            }
        )
        address, past = Address.of("Evaluation", "docs-v2"), Past()
        resource = Resource(address, spec, spec.written(), "digest")
        seen = self.provider.observe([Known(address, resource, past)])
        refs = Refs({}, self.settings.as_refs)
        change = plan(Situation(resource, seen.get(address), past, refs, datetime.now(UTC)))
        return replace(change, intent=INTENT)

    def start(self, **more: Any) -> str:
        change = self.planned(**more)
        assert not change.waits, change.waits
        return self.provider.apply(change, print).handle

    def resumed(self, handle: str) -> None:
        order = self.work.order()
        assert order is not None
        self.door.resume(handle, {})

    def wait(self, found: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        while not found():
            assert time.monotonic() < end, f"{self.work.read('progress.json')} {self.log()}"
            time.sleep(0.05)

    def finished(self, handle: str) -> dict[str, Any]:
        self.wait(lambda: not self.work.alive())
        return self.door.look(handle)

    def result(self, handle: str) -> dict[str, Any]:
        found = self.finished(handle)
        assert found["phase"] == "ended", f"{found} {self.log()}"
        result: dict[str, Any] = found["result"]
        return result

    def log(self) -> str:
        return self.work.path("log").read_text() if self.work.path("log").exists() else ""

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        os.kill(int(self.work.path("pid").read_text()), how)
        self.wait(lambda: not self.work.alive())

    def endpoints(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.double.ledger()["endpoints"]
        return rows

    def asked(self) -> int:
        return len(self.api.asked(CHAT))


@pytest.fixture
def bench(tmp_path: Path, double: HuggingFaceDouble, api: OpenRouterApi) -> Iterator[Bench]:
    content = "".join(f"{json.dumps(row)}\n" for row in ROWS).encode()
    double.seed("dataset", "acme/questions", {"questions.jsonl": content})
    bench = Bench(tmp_path / "data", double, api)
    yield bench
    double.heal()
    if bench.work.path("pid").exists():
        bench.work.write("cancelled", b"{}")
        bench.wait(lambda: not bench.work.alive())


def spent(bench: Bench) -> float:
    return sum(float(row["usd"]) for row in bench.endpoints())


def assert_gone(bench: Bench, lives: int) -> None:
    assert [row["state"] for row in bench.endpoints()] == ["deleted"] * lives


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_the_ceiling_is_every_minute_to_the_deadline_at_the_price_of_today(bench: Bench) -> None:
    change = bench.planned(deadline="1h")
    assert not change.waits
    # an hour, and two attempts of 10 s, a wait of 1 s and a minute to end it: 62 minutes on each side, nothing per token
    assert change.cost.ceiling == pytest.approx(2 * 62 * HOURLY / 60, abs=1e-4)
    today = datetime.now(UTC).date().isoformat()
    told = f"an endpoint for the candidate on aws/us-east-1/gpu/nvidia-l4/x1, at most 62 min at 0.8 USD/h of {today} = 0.8267"
    assert told in change.reason
    assert change.after is not None
    assert change.after["serving"]["baseline"]["usdPerHour"] == HOURLY
    over = bench.planned(deadline="1h", budgetUsd=1.0)
    assert [(wait.code, "or shorten the deadline" in wait.reason) for wait in over.waits] == [("Budget", True)]


def test_without_the_vendors_list_the_written_price_counts(tmp_path: Path, double: HuggingFaceDouble, api: OpenRouterApi) -> None:
    double.fail("GET /v2/provider/*", "status", status=503, times=None)
    bench = Bench(tmp_path / "a", double, api)
    (wait,) = {wait.reason: wait for wait in bench.planned().waits if "candidate" in wait.reason}.values()
    assert (wait.code, "write usdPerHour and asOf" in wait.reason) == ("Blind", True)
    written = {"inferenceEndpoint": {**DEDICATED["inferenceEndpoint"], "usdPerHour": 1.5, "asOf": "2026-11-01"}}
    priced = Bench(tmp_path / "b", double, api, endpoints={"dedicated": written}).planned(deadline="1h")
    assert not priced.waits
    assert priced.cost.ceiling == pytest.approx(2 * 62 * 1.5 / 60, abs=1e-4)
    assert "at 1.5 USD/h of 2026-11-01" in priced.reason


@pytest.mark.parametrize(
    ("endpoint", "more", "said"),
    [
        ({"instanceType": "nvidia-l5"}, {}, r"the vendor has no aws/us-east-1/gpu/nvidia-l5/x1 \(did you mean"),
        ({}, {"candidate": {"model": "v2", "endpoint": "dedicated", "version": "v2"}}, "write organisation/name"),
        ({}, {"judge": {"model": "acme/judge", "endpoint": "dedicated"}}, "not for a judge"),
    ],
)
def test_what_cannot_be_created_waits(
    tmp_path: Path, double: HuggingFaceDouble, api: OpenRouterApi, endpoint: Any, more: Any, said: str
) -> None:
    one = {"inferenceEndpoint": {**DEDICATED["inferenceEndpoint"], **endpoint}}
    change = Bench(tmp_path / "data", double, api, endpoints={"dedicated": one}).planned(**more)
    assert any(wait.code == "Invalid" and re.search(said, wait.reason) for wait in change.waits), change.waits
    assert double.ledger()["endpoints"] == []


# -- the work ----------------------------------------------------------------------------------------------------------


def test_both_sides_are_created_asked_and_deleted(bench: Bench) -> None:
    handle = bench.start()
    result = bench.result(handle)
    assert result["verdict"]["verdict"] in ("deploy", "deploy_canary")
    assert_gone(bench, 2)
    assert {row["name"] for row in bench.endpoints()} == {name_of(INTENT, side) for side in ("candidate", "baseline")}
    assert bench.asked() == 120
    assert result["cost_usd"] == pytest.approx(spent(bench), abs=1e-5)
    assert result["revision"] == json.loads(bench.work.path("source.json").read_text())["revision"]
    assert "waits for the endpoint of the" in bench.log()
    assert TOKEN not in bench.log() + bench.work.path("order.json").read_text() + bench.work.path("calls.jsonl").read_text()


def test_one_side_is_created_and_the_other_asked_by_token(bench: Bench) -> None:
    handle = bench.start(baseline={"model": "acme/v1", "endpoint": "router", "version": "v1"})
    result = bench.result(handle)
    assert_gone(bench, 1)
    by_token = bench.api.ledger()["by_model"]["acme/v1"]["usd"]
    assert result["cost_usd"] == pytest.approx(spent(bench) + by_token, abs=1e-5)


def test_a_killed_child_leaves_one_that_the_next_finds(bench: Bench) -> None:
    """Killed while they boot, and again while they are asked."""
    bench.double.fail(LOOK, "status", status=503, times=4)
    handle = bench.start()
    bench.wait(lambda: len(bench.endpoints()) == 2)
    bench.kill()
    assert bench.door.look(handle)["phase"] == "stopped"
    bench.api.fail("slow", CHAT, seconds=0.05, times=1000)
    bench.resumed(handle)
    bench.wait(lambda: bench.asked() >= 10)
    bench.kill()
    bench.resumed(handle)
    result = bench.result(handle)
    assert_gone(bench, 2)
    assert result["verdict"]["examples"] == 60
    assert result["cost_usd"] == pytest.approx(spent(bench), abs=1e-5)


def test_one_that_went_to_zero_meanwhile_is_woken_and_its_sleep_is_free(bench: Bench) -> None:
    bench.api.fail("slow", CHAT, seconds=0.05, times=1000)
    handle = bench.start()
    bench.wait(lambda: bench.asked() >= 4)
    bench.kill()
    for side in ("candidate", "baseline"):
        bench.door._hub().endpoints.scale_to_zero(name_of(INTENT, side))
    bench.resumed(handle)
    result = bench.result(handle)
    assert_gone(bench, 2)
    assert [row["minutes"] for row in bench.endpoints()] == [2, 2]  # two periods each, of seconds
    assert result["cost_usd"] == pytest.approx(spent(bench), abs=1e-5)


@pytest.mark.parametrize("fault", [{"kind": "lose"}, {"kind": "status", "status": 502, "before": False}], ids=str)
def test_a_lost_answer_to_create_makes_no_second_one(bench: Bench, fault: dict[str, Any]) -> None:
    bench.double.fail(CREATE, times=2, **fault)
    result = bench.result(bench.start())
    assert_gone(bench, 2)
    assert result["cost_usd"] == pytest.approx(spent(bench), abs=1e-5)


def test_sigterm_deletes_and_the_next_one_creates_again(bench: Bench) -> None:
    bench.api.fail("slow", CHAT, seconds=0.05, times=1000)
    handle = bench.start()
    bench.wait(lambda: bench.asked() >= 4)
    bench.kill(signal.SIGTERM)
    assert_gone(bench, 2)
    assert bench.door.look(handle)["cost_usd"] == pytest.approx(spent(bench), abs=1e-5)
    bench.resumed(handle)
    result = bench.result(handle)
    assert_gone(bench, 4)
    assert result["cost_usd"] == pytest.approx(spent(bench), abs=1e-5)


def test_create_refused_says_why_and_costs_nothing(bench: Bench) -> None:
    bench.double.fail(CREATE, "status", status=403, message="Quota exceeded for nvidia-l4", times=None)
    handle = bench.start()
    found = bench.finished(handle)
    assert (found["phase"], found["cost_usd"]) == ("failed", 0.0)
    assert "Quota exceeded for nvidia-l4" in found["reason"]
    assert (bench.endpoints(), bench.asked()) == ([], 0)
    with pytest.raises(Permanent, match="Quota exceeded"):
        bench.resumed(handle)
    bench.double.heal()
    bench.resumed(handle)
    assert bench.result(handle)["verdict"]["examples"] == 60


def test_one_that_never_serves_is_named_and_deleted(tmp_path: Path, api: OpenRouterApi, options: Options) -> None:
    with HuggingFaceDouble(tmp_path / "slow", replace(options, boot_seconds=3600.0)) as double:
        double.seed("dataset", "acme/questions", {"questions.jsonl": json.dumps(ROWS[0]).encode()})
        one = {"inferenceEndpoint": {**DEDICATED["inferenceEndpoint"], "boot": 1.0}}
        bench = Bench(tmp_path / "data", double, api, endpoints={"dedicated": one})
        found = bench.finished(bench.start())
        assert found["phase"] == "failed"
        assert f"({name_of(INTENT, 'candidate')}) does not serve after" in found["reason"]
        assert "initializing" in found["reason"]
        assert_gone(bench, 2)
        assert found["cost_usd"] == pytest.approx(spent(bench), abs=1e-5)


def test_the_ceiling_holds_while_minutes_pass(bench: Bench) -> None:
    """The vendor's clock and ours run on; what is left of the ceiling is for ending them."""
    change = bench.planned(deadline="1m")
    order = change.payload["order"]
    per_minute = 2 * HOURLY / 60
    handle = bench.door.start(INTENT, {**order, "ceiling": 1.5 * per_minute})
    result = bench.result(handle)
    assert result["verdict"]["verdict"] == "not_enough_data"
    assert any("leaves no room for another" in note for note in result["report"]["verdict"]["notes"])
    assert bench.asked() == 0
    assert spent(bench) <= 1.5 * per_minute
    assert all(row["state"] == "deleted" for row in bench.endpoints())


# -- the end -----------------------------------------------------------------------------------------------------------


def test_cancelled_it_deletes_them_itself(bench: Bench) -> None:
    bench.api.fail("slow", CHAT, seconds=0.05, times=1000)
    handle = bench.start()
    bench.wait(lambda: bench.asked() >= 4)
    told = bench.door.cancel(handle, ["baseline", "candidate"])
    bench.wait(lambda: not bench.work.alive())
    assert_gone(bench, 2)
    assert told["cost_usd"] == pytest.approx(spent(bench), abs=1e-5)
    assert bench.asked() < 120


def test_cancelled_with_a_dead_child_the_door_deletes_them(bench: Bench) -> None:
    bench.api.fail("slow", CHAT, seconds=0.05, times=1000)
    handle = bench.start()
    bench.wait(lambda: bench.asked() >= 4)
    bench.kill()
    bench.double.fail(DELETE, "status", status=503, times=1)
    with pytest.raises(Temporary, match="503"):
        bench.door.cancel(handle, ["baseline", "candidate"])
    told = bench.door.cancel(handle, ["baseline", "candidate"])
    assert_gone(bench, 2)
    assert told["cost_usd"] == pytest.approx(spent(bench), abs=1e-5)
    assert periods(bench.work) == {}
    again = bench.door.cancel(handle, ["baseline", "candidate"])
    assert again["cost_usd"] == pytest.approx(told["cost_usd"])


def test_cancelled_from_another_machine_they_are_deleted_by_their_names(
    bench: Bench, tmp_path: Path, double: HuggingFaceDouble, api: OpenRouterApi
) -> None:
    bench.double.fail(LOOK, "status", status=503, times=1)
    handle = bench.start()
    bench.wait(lambda: len(bench.endpoints()) == 2)
    bench.kill()
    other = Bench(tmp_path / "elsewhere", double, api)
    told = other.door.cancel(handle, ["baseline", "candidate"])
    assert "could not be reached" in told["said"]
    assert told["said"].endswith("what was created for the baseline and the candidate is deleted")
    assert_gone(bench, 2)


def test_a_verdict_is_not_lost_because_they_cannot_be_deleted(bench: Bench) -> None:
    bench.api.fail("slow", CHAT, seconds=0.02, times=1000)
    handle = bench.start()
    bench.wait(lambda: bench.asked() >= 4)
    bench.double.fail(DELETE, "status", status=403, times=None)
    result = bench.result(handle)
    assert any("could not be deleted, and stop by themselves" in note for note in result["report"]["verdict"]["notes"])
    said = bench.door.release(handle, ["baseline", "candidate"])
    assert "could not be deleted" in said
    bench.double.heal()
    assert bench.door.release(handle, ["baseline", "candidate"]) == ""
    assert_gone(bench, 2)


# -- lists and fallbacks -----------------------------------------------------------------------------------------------


def test_prices_of_the_endpoints_own_list_make_the_ceiling(bench: Bench) -> None:
    sides = {name: {"model": f"acme/{name}", "endpoint": "router", "version": name} for name in ("v1", "v2")}
    change = bench.planned(candidate=sides["v2"], baseline=sides["v1"], maxInputTokens=100, maxTokens=100)
    today = datetime.now(UTC).date().isoformat()
    assert change.after is not None
    assert change.after["prices"]["candidate"] == {"input": 1.0, "output": 2.0, "asOf": today}  # as the double lists, per million
    assert change.cost.ceiling == pytest.approx(60 * 2 * 300 / 1e6)
    assert f"the endpoint's own price of {today} for the candidate and the baseline" in change.reason
    listed = len(bench.api.asked("GET */models"))
    bench.planned(candidate=sides["v2"], baseline=sides["v1"])
    assert len(bench.api.asked("GET */models")) == listed  # kept for ten minutes


def test_written_prices_win_and_then_nobody_is_asked(tmp_path: Path, double: HuggingFaceDouble, api: OpenRouterApi) -> None:
    prices = {name: {"input": 10.0, "output": 20.0} for name in ("acme/v1", "acme/v2")}
    bench = Bench(tmp_path / "data", double, api, prices=prices)
    sides = {name: {"model": f"acme/{name}", "endpoint": "router", "version": name} for name in ("v1", "v2")}
    change = bench.planned(candidate=sides["v2"], baseline=sides["v1"], maxInputTokens=100, maxTokens=100)
    assert change.cost.ceiling == pytest.approx(10 * 60 * 2 * 300 / 1e6)
    assert api.asked("GET */models") == []


def test_a_list_that_cannot_be_read_changes_nothing(tmp_path: Path, double: HuggingFaceDouble, api: OpenRouterApi) -> None:
    api.fail("status", "GET */models", status=503, times=1000)
    bench = Bench(tmp_path / "data", double, api)
    change = bench.planned(
        candidate={"model": "acme/v2", "endpoint": "router", "version": "v2"},
        baseline={"model": "acme/v1", "endpoint": "router", "version": "v1"},
        budgetUsd=3.0,
    )
    assert (change.waits, change.cost.ceiling) == ((), 3.0)
    assert "its budget: no price is known for the baseline and the candidate" in change.reason


def test_a_model_that_is_not_listed_is_asked_at_the_fallback(tmp_path: Path, double: HuggingFaceDouble, api: OpenRouterApi) -> None:
    """Down to the last one, which is created; what answered is in the state, what is compared stays what was written."""
    double.seed("dataset", "acme/questions", {"q.jsonl": "".join(f"{json.dumps(row)}\n" for row in ROWS).encode()})
    with OpenRouterApi(models={"acme/v1": ModelEntry()}, answers=api.answers, keys=[TOKEN]) as small:
        endpoints = {
            "small": {"url": small.base_url, "apiKey": "file:token", "fallback": "hub"},
            "hub": {"url": f"{double.url}/v1", "apiKey": "file:token", "fallback": "dedicated"},
            "dedicated": DEDICATED,
        }
        bench = Bench(tmp_path / "data", double, api, endpoints=endpoints)
        sides = {name: {"model": f"acme/{name}", "endpoint": "small", "version": name} for name in ("v1", "v2")}
        change = bench.planned(candidate=sides["v2"], baseline=sides["v1"])
        assert change.after is not None
        assert change.after["endpoints"] == {"candidate": "dedicated"}
        assert change.after["candidate"] == sides["v2"]
        assert "the candidate at dedicated: small does not list acme/v2" in change.reason
        assert not change.waits
        result = bench.result(bench.provider.apply(change, print).handle)
        assert result["verdict"]["verdict"] in ("deploy", "deploy_canary")
        assert {json.loads(one.asked.body)["model"] for one in small.asked(CHAT)} == {"acme/v1"}
        assert {json.loads(one.asked.body)["model"] for one in api.asked(CHAT)} == {"acme/v2"}
        assert result["report"]["candidate"].endswith("at dedicated")
        assert_gone(bench, 1)


def test_the_dearest_provider_of_the_router_is_the_ceiling(tmp_path: Path, double: HuggingFaceDouble, api: OpenRouterApi) -> None:
    model = "Qwen/Qwen2.5-Coder-7B-Instruct"
    bench = Bench(tmp_path / "data", double, api, endpoints={"hub": {"url": f"{double.url}/v1", "apiKey": "file:token"}})
    side = {"model": model, "endpoint": "hub", "version": "v1"}
    change = bench.planned(candidate={**side, "model": f"{model}:fastest"}, baseline=side, maxInputTokens=100, maxTokens=100)
    assert change.cost.ceiling == pytest.approx(60 * 2 * (100 * 0.1 + 100 * 0.3) / 1e6)


# -- pools and questions -----------------------------------------------------------------------------------------------


def test_both_sides_go_over_all_replicas_of_a_pool(tmp_path: Path, double: HuggingFaceDouble, api: OpenRouterApi) -> None:
    double.seed("dataset", "acme/questions", {"q.jsonl": "".join(f"{json.dumps(row)}\n" for row in ROWS).encode()})
    with OpenRouterApi(models=api.models, answers=api.answers, keys=[TOKEN]) as second:
        pool = {"replicas": [api.base_url, second.base_url], "apiKey": "file:token"}
        bench = Bench(tmp_path / "data", double, api, endpoints={"pool": pool})
        sides = {name: {"model": f"acme/{name}", "endpoint": "pool", "version": name} for name in ("v1", "v2")}
        result = bench.result(bench.start(candidate=sides["v2"], baseline=sides["v1"]))
        assert result["verdict"]["verdict"] in ("deploy", "deploy_canary")
        for one in (api, second):
            models = [json.loads(call.asked.body)["model"] for call in one.asked(CHAT)]
            assert len(models) == 60
            assert set(models) == {"acme/v1", "acme/v2"}


def test_questions_of_the_hub_at_one_commit_without_those_that_were_trained_on(bench: Bench) -> None:
    """The training saw 20 of them, at a commit that is not the newest any more."""
    content = "".join(f"{json.dumps(row)}\n" for row in ROWS[:20]).encode()
    then = bench.double.seed("dataset", "acme/trained", {"train.jsonl": content})
    sides = {name: {"model": f"acme/{name}", "endpoint": "router", "version": name} for name in ("v1", "v2")}
    change = bench.planned(candidate=sides["v2"], baseline=sides["v1"], dataset="hf://acme/questions@main", minimumExamples=10)
    source = {"source": "hf://acme/trained", "split": "train", "revision": then}
    handle = bench.door.start(INTENT, {**change.payload["order"], "trained_on": [source]})
    result = bench.result(handle)
    assert result["verdict"]["examples"] == 40
    assert len(result["revision"]) == 40
    notes = result["report"]["verdict"]["notes"]
    assert any("20 of 60 rows were left out: the candidate or the baseline was trained on them" in note for note in notes)
