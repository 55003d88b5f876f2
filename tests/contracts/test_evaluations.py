"""The local work of evaluations with models over HTTP: the better one is found, nothing is paid twice or beyond the ceiling."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from controller.clients.evaluation_work import Work
from controller.clients.evaluations import Evaluations
from controller.clients.git import Identity, Repository
from controller.clients.langsmith import LangSmith
from controller.environment import EnvironmentSpec
from controller.errors import Permanent, Temporary
from controller.judgement.record import Record
from controller.judgement.verdict import evaluated
from controller.kinds.evaluation.plan import priced
from controller.kinds.evaluation.spec import EvaluationSpec
from controller.settings import Settings
from controller.testing.langsmith_api import LangSmithApi
from controller.testing.openrouter_api import OpenRouterApi, Rules
from controller.testing.openrouter_api.rules import ModelEntry
from controller.vendors import LangSmithSpec

CHAT = "POST */chat/completions"
PATIENCE = 60.0
ROWS = [{"inputs": {"task": f"what is {n} plus 1?"}, "outputs": {"answer": str(n + 1)}} for n in range(120)]


def rules(candidate: float, baseline: float, judge: Callable[[Any], Any] | None = None) -> Any:
    """Models that are right on a share of the prompts; the smaller share is a part of the larger one."""

    def right(model: str, share: float) -> list[dict[str, Any]]:
        return [
            {"model": model, "contains": row["inputs"]["task"], "share": share, "text": row["outputs"]["answer"]} for row in ROWS
        ] + [{"model": model, "text": "I do not know"}]

    written = {
        "models": {"acme/v2": {}, "acme/v1": {}, "acme/judge": {}},
        "rules": [*right("acme/v2", candidate), *right("acme/v1", baseline)],
    }
    found = Rules.model_validate(written)
    return found if judge is None else lambda call: json.dumps(judge(call)) if call.model == "acme/judge" else found(call)


MODELS = {name: ModelEntry() for name in ("acme/v1", "acme/v2", "acme/judge")}


def judged_by(judge: Callable[[Any], Any]) -> OpenRouterApi:
    return OpenRouterApi(answers=rules(0.95, 0.4, judge), models=MODELS)


class Place:
    """A repository with a data set, an environment with one endpoint, and the door to evaluations."""

    def __init__(self, folder: Path, rows: list[dict[str, Any]] = ROWS) -> None:
        import pygit2

        folder.mkdir(parents=True, exist_ok=True)
        pygit2.init_repository(str(folder / "repo.git"), bare=True, initial_head="main")
        repository = Repository(folder / "repo.git")
        content = "".join(f"{json.dumps(row)}\n" for row in rows)
        tree = repository.write_tree(None, {"datasets/e.jsonl": content.encode()})
        commit = repository.write_commit(tree, [], "Begin\n", Identity("Ada", "ada@example.org"), 0.0, "refs/heads/main")
        assert repository.blob_at(commit, "datasets/e.jsonl") == object_of(rows)
        self.data = repository.common_dir / "turnout" / "local"
        self.data.mkdir(parents=True)
        (self.data / "key").write_text("sk-or-v1-double\n")

    def door(self, url: str, **more: Any) -> Evaluations:
        spec = {"endpoints": {"router": {"url": url, "apiKey": "file:key", "timeout": 10.0}}, **more}
        return Evaluations(Settings("local", EnvironmentSpec.model_validate(spec, strict=False), self.data))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def started() -> Iterator[list[tuple[Evaluations, str]]]:
    """What a test started; ended with it."""
    running: list[tuple[Evaluations, str]] = []
    yield running
    for door, handle in running:
        door.cancel(handle)
        finished(door, handle)


def spec_of(**more: Any) -> EvaluationSpec:
    written = {
        "agent": "docs",
        "candidate": {"model": "acme/v2", "endpoint": "router", "version": "v2"},
        "baseline": {"model": "acme/v1", "endpoint": "router", "version": "v1"},
        "dataset": {"files": ["datasets/e.jsonl"]},
        "evaluators": [{"name": "accuracy", "kind": "exact", "field": "outputs.answer"}],
        "examples": 60,
        "thresholds": {"watch": {}},
        "maxTokens": 64,
        "concurrency": 4,
        **more,
    }
    return EvaluationSpec.model_validate(written)


def object_of(rows: list[dict[str, Any]]) -> str:
    """Under which git has the data set."""
    content = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def order_of(
    spec: EvaluationSpec,
    ceiling: float = 1.0,
    worst: Mapping[str, float | None] | None = None,
    rows: list[dict[str, Any]] = ROWS,
) -> dict[str, Any]:
    sides = {"candidate": spec.candidate.full(), "baseline": spec.baseline.full()}
    targets = {name: {key: side[key] for key in ("model", "endpoint", "version")} for name, side in sides.items()}
    return {
        "name": "docs-v2",
        "agent": spec.agent,
        **targets,
        "state": {"dataset": spec.dataset.label, "judge": "acme/judge" if spec.judge else ""},
        "dataset": {**spec.dataset.full(), "objects": dict.fromkeys(spec.dataset.files, object_of(rows))},
        "trained_on": [],
        "spec": spec.full(),
        "worst": dict(worst if worst is not None else {"candidate": 0.0005, "baseline": 0.0005, "judge": 0.01}),
        "ceiling": ceiling,
    }


def folder_of(door: Evaluations, handle: str) -> Work:
    return Work(door.data / "evaluations" / handle.rpartition("/")[2])


def wait_until(found: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found():
            return True
        time.sleep(0.05)
    return False


def asked_or_gone(api: OpenRouterApi, work: Work, enough: int) -> bool:
    return len(api.asked(CHAT)) >= enough or not work.alive()


def finished(door: Evaluations, handle: str) -> dict[str, Any]:
    """What it came to when its child is gone."""
    work = folder_of(door, handle)
    assert wait_until(lambda: not work.alive()), work.path("log").read_text()
    return door.look(handle)


def result_of(door: Evaluations, handle: str) -> dict[str, Any]:
    found = finished(door, handle)
    assert found["phase"] == "ended", f"{found} {folder_of(door, handle).path('log').read_text()}"
    result: dict[str, Any] = found["result"]
    return result


@pytest.mark.parametrize(
    ("candidate", "baseline", "verdicts"),
    [
        (0.95, 0.4, {"deploy", "deploy_canary"}),
        (0.4, 0.95, {"reject"}),
        (0.7, 0.7, {"reject", "not_enough_data", "needs_review"}),
    ],
    ids=["better", "worse", "equal"],
)
def test_the_verdict_is_what_the_models_are(place: Place, candidate: float, baseline: float, verdicts: set[str]) -> None:
    with OpenRouterApi(answers=rules(candidate, baseline)) as api:
        door = place.door(api.base_url)
        only_answers = {"accuracy": 100.0}  # milliseconds of a busy machine decide nothing here
        handle = door.start("a" * 32, order_of(spec_of(weights=only_answers)))
        result = result_of(door, handle)
        assert result["verdict"]["verdict"] in verdicts, result["verdict"]
        assert api.broken == []
        assert len(api.asked(CHAT)) == 120
        assert result["cost_usd"] == pytest.approx(api.spent)
    record = msgspec.convert(result["report"], Record)
    again = evaluated(record.answers, record.judged, record.scoring, record.verdict.rules, seed=record.seed)
    assert again.verdict == record.verdict.verdict
    assert again.evidence == record.verdict.evidence


def test_both_sides_are_interleaved(place: Place) -> None:
    with OpenRouterApi(answers=rules(0.9, 0.9)) as api:
        door = place.door(api.base_url)
        result_of(door, door.start("a" * 32, order_of(spec_of(concurrency=1, examples=30))))
        models = [json.loads(one.asked.body)["model"] for one in api.asked(CHAT)]
    assert all({models[at], models[at + 1]} == {"acme/v1", "acme/v2"} for at in range(0, len(models), 2))
    assert len({tuple(models[at : at + 2]) for at in range(0, len(models), 2)}) == 2


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_anywhere_and_resumed_it_pays_once(place: Place, how: signal.Signals) -> None:
    with OpenRouterApi(answers=rules(0.95, 0.4)) as api:
        door = place.door(api.base_url)
        order = order_of(spec_of())
        handle = door.start("a" * 32, order)
        work = folder_of(door, handle)
        for enough in (5, 60):
            wait_until(partial(asked_or_gone, api, work, enough))
            if work.alive():
                os.kill(int(work.path("pid").read_text()), how)
            assert wait_until(lambda: not work.alive())
            assert door.look(handle)["phase"] in ("stopped", "ended")
            door.resume(handle, order)
        result = result_of(door, handle)
        asked = [json.loads(one.asked.body) for one in api.asked(CHAT) if one.asked.body]  # a kill may cut a request off
    questions = {(one["model"], json.dumps(one["messages"])) for one in asked}
    assert len(questions) == 120
    twice = len(asked) - len(questions)
    assert twice <= (2 * 4 if how == signal.SIGKILL else 0)  # only what was under way when it was killed
    assert result["verdict"]["verdict"] in ("deploy", "deploy_canary")
    assert result["verdict"]["examples"] == 60
    assert result["cost_usd"] >= api.spent - 1e-9  # what was under way when it was killed may have been billed


@pytest.mark.parametrize("judge", [False, True])
def test_killed_again_and_again_it_stays_below_its_ceiling(place: Place, judge: bool) -> None:
    """Calls of which nobody knows whether they were billed counted as nothing, so every kill raised the ceiling."""
    with judged_by(lambda call: {}) as api:
        api.fail("slow", CHAT, seconds=0.1, times=1000)
        door = place.door(api.base_url)
        more = {"judge": {"model": "acme/judge", "endpoint": "router"}} if judge else {}
        order = order_of(spec_of(concurrency=8, **more), ceiling=0.004, worst={"candidate": 2e-4, "baseline": 2e-4, "judge": 1e-3})
        handle = door.start("a" * 32, order)
        work = folder_of(door, handle)
        for enough in range(8, 200, 8):
            wait_until(partial(asked_or_gone, api, work, enough))
            if not work.alive() or not wait_until(work.path("pid").exists):
                break
            os.kill(int(work.path("pid").read_text()), signal.SIGKILL)
            assert wait_until(lambda: not work.alive())
            door.resume(handle, order)
        result = result_of(door, handle)
        assert api.spent <= 0.004
        assert api.spent - 1e-9 <= result["cost_usd"] <= 0.004 + 1e-9


def test_one_intent_is_one_child(place: Place) -> None:
    with OpenRouterApi(answers=rules(0.9, 0.5)) as api:
        doors = [place.door(api.base_url) for _ in range(3)]
        handles = {door.start("a" * 32, order_of(spec_of())) for door in doors for _ in range(3)}
        assert len(handles) == 1
        handle = handles.pop()
        assert doors[1].find("a" * 32) == {"handle": handle, "state": order_of(spec_of())["state"]}
        assert doors[1].find("b" * 32) is None
        result_of(doors[2], handle)
        doors[0].start("a" * 32, order_of(spec_of()))
        assert finished(doors[0], handle)["phase"] == "ended"
        assert len(api.asked(CHAT)) == 120


def test_the_ceiling_holds_and_what_is_there_is_judged(place: Place) -> None:
    with OpenRouterApi(answers=rules(0.95, 0.4)) as api:
        door = place.door(api.base_url)
        handle = door.start(
            "a" * 32, order_of(spec_of(concurrency=8), ceiling=0.0015, worst={"candidate": 0.001, "baseline": 0.001})
        )
        result = result_of(door, handle)
        assert api.spent <= 0.0015
        assert 0 < len(api.asked(CHAT)) < 120
    assert any("its ceiling of 0.0015 USD leaves no room" in note for note in result["report"]["verdict"]["notes"])


def test_a_cancelled_one_makes_no_further_call(place: Place, started: list[tuple[Evaluations, str]]) -> None:
    with OpenRouterApi(answers=rules(0.95, 0.4)) as api:
        door = place.door(api.base_url)
        api.fail("slow", CHAT, seconds=0.05, times=1000)
        handle = door.start("a" * 32, order_of(spec_of(concurrency=1)))
        started.append((door, handle))
        assert wait_until(lambda: len(api.asked(CHAT)) > 3)
        told = door.cancel(handle)
        assert "stopped after" in told["said"]
        assert finished(door, handle)["phase"] == "stopped"
        asked = len(api.asked(CHAT))
        door.resume(handle, order_of(spec_of(concurrency=1)))
        assert finished(door, handle)["phase"] == "stopped"
        assert len(api.asked(CHAT)) == asked < 120


def test_a_wrong_key_stops_it_until_somebody_asks_again(place: Place) -> None:
    (place.data / "key").write_text("wrong\n")
    with OpenRouterApi(answers=rules(0.95, 0.4)) as api:
        door, order = place.door(api.base_url), order_of(spec_of())
        handle = door.start("a" * 32, order)
        found = finished(door, handle)
        assert found["phase"] == "failed"
        assert "check spec.endpoints.router.apiKey" in found["reason"]
        with pytest.raises(Permanent, match="401"):
            door.resume(handle, order)
        (place.data / "key").write_text("sk-or-v1-double\n")
        door.resume(handle, order)
        assert result_of(door, handle)["verdict"]["examples"] == 60


def test_an_outage_stops_it_and_it_goes_on(place: Place) -> None:
    with OpenRouterApi(answers=rules(0.95, 0.4)) as api:
        door = place.door(api.base_url)
        order = order_of(spec_of())
        handle = door.start("a" * 32, order)
        work = folder_of(door, handle)
        assert wait_until(lambda: len(api.asked(CHAT)) > 10)
        os.kill(int(work.path("pid").read_text()), signal.SIGTERM)
        before = finished(door, handle)
        assert 0 < before["done"] < 120
        url, port = api.url, api.port
        api.stop()
    again = OpenRouterApi(answers=rules(0.95, 0.4), port=port)
    with again:
        assert again.url == url
        door.resume(handle, order)
        assert result_of(door, handle)["verdict"]["examples"] == 60
        assert len(again.asked(CHAT)) == 120 - before["done"]


# -- a judge -----------------------------------------------------------------------------------------------------------


def marks(value: int) -> dict[str, int]:
    return {"accuracy": value, "completeness": value, "integration": value}


def fair(call: Any) -> dict[str, Any]:
    """Prefers the answer that is a number."""
    first, second = call.prompt.split("Second answer:")
    good = ["I do not know" not in part.split("First answer:")[-1] for part in (first, second)]
    winner = "tie" if good[0] == good[1] else "first" if good[0] else "second"
    return {
        "reason": "a number answers it",
        "first": marks(5 if good[0] else 2),
        "second": marks(5 if good[1] else 2),
        "winner": winner,
    }


def first_always(call: Any) -> dict[str, Any]:
    return {"reason": "I like what I see first", "first": marks(5), "second": marks(2), "winner": "first"}


def assert_each_once(api: OpenRouterApi, answers: int) -> None:
    """Every answer once, every question to the judge once: two equal answers are the same question in both orders."""
    bodies = [one.asked.body for one in api.asked(CHAT)]
    assert len(set(bodies)) == len(bodies)
    assert sum(b"acme/judge" not in body for body in bodies) == answers


JUDGE = {"model": "acme/judge", "endpoint": "router"}


def test_a_judge_alone_can_decide(place: Place) -> None:
    with judged_by(fair) as api:
        door = place.door(api.base_url)
        spec = spec_of(evaluators=[], judge=JUDGE, examples=40)
        result = result_of(door, door.start("a" * 32, order_of(spec)))
        assert result["verdict"]["verdict"] in ("deploy", "deploy_canary"), result["verdict"]
        assert_each_once(api, 80)
        assert result["cost_usd"] == pytest.approx(api.spent)
    assert all(one["agreed"] for one in result["report"]["judged"] if "agreed" in one)


def test_a_judge_that_disagrees_with_itself_asks_a_person(place: Place) -> None:
    with judged_by(first_always) as api:
        door = place.door(api.base_url)
        result = result_of(door, door.start("a" * 32, order_of(spec_of(judge=JUDGE, examples=40))))
    assert result["verdict"]["verdict"] == "needs_review"
    assert any("changed its mind on 40 of 40 pairs" in reason for reason in result["verdict"]["reasons"])


# -- data sets ---------------------------------------------------------------------------------------------------------


def test_too_few_questions_are_not_enough_data(tmp_path: Path) -> None:
    place = Place(tmp_path, ROWS[:12])
    with OpenRouterApi(answers=rules(0.95, 0.4)) as api:
        door = place.door(api.base_url)
        result = result_of(door, door.start("a" * 32, order_of(spec_of(), rows=ROWS[:12])))
    assert result["verdict"]["verdict"] == "not_enough_data"
    assert result["verdict"]["needed"] >= 30


def test_a_file_that_is_not_there_is_said_before_anything_is_started(place: Place) -> None:
    door = place.door("http://127.0.0.1:9/v1")
    with pytest.raises(Permanent, match=r"datasets/e.jsonl \(.{10}\) is not in this clone as it is named"):
        door.start("a" * 32, order_of(spec_of(), rows=ROWS[:1]))
    assert door.find("a" * 32) is None


def test_rows_that_were_trained_on_are_left_out(place: Place) -> None:
    with OpenRouterApi(answers=rules(0.95, 0.4)) as api:
        door = place.door(api.base_url)
        order = {**order_of(spec_of()), "trained_on": [{"source": "datasets/e.jsonl", "split": None, "revision": object_of(ROWS)}]}
        found = finished(door, door.start("a" * 32, order))
        assert found["phase"] == "failed"
        assert "120 of 120 rows were left out: the candidate or the baseline was trained on them" in found["reason"]
        assert api.asked(CHAT) == []


def test_work_of_another_machine_is_not_touched(place: Place) -> None:
    door = place.door("http://127.0.0.1:9/v1")
    with pytest.raises(Temporary, match="another machine or data folder"):
        door.look("elsewhere:/data/" + "a" * 32)
    assert "could not be reached" in door.cancel("elsewhere:/data/" + "a" * 32)["said"]
    shared = place.door("http://127.0.0.1:9/v1", remote="origin")
    with pytest.raises(Temporary, match="may have been started on another machine"):
        shared.find("a" * 32)


def test_the_ceiling_of_the_plan_covers_the_bill(place: Place) -> None:
    """At the vendor's own prices, with a judge that has to be sent back every time."""

    def sent_back(call: Any) -> Any:
        return {"winner": "nobody"}

    prices = {name: {"input": 1.0, "output": 2.0} for name in ("acme/v1", "acme/v2", "acme/judge")}
    spec = spec_of(judge=JUDGE, examples=20, minimumExamples=10, maxInputTokens=64)
    sides = [{"model": f"acme/v{n}", "endpoint": "router", "version": f"v{n}"} for n in (2, 1)]
    cost, _, over = priced(spec, prices, sides[0], sides[1])
    assert not over
    with judged_by(sent_back) as api:
        door = place.door(api.base_url, prices=prices)
        result = result_of(door, door.start("a" * 32, order_of(spec, ceiling=cost.ceiling)))
        assert_each_once(api, 40)
        assert api.spent <= cost.ceiling
    assert result["verdict"]["verdict"] == "not_enough_data" or "JudgeFailed" in json.dumps(result)


# -- LangSmith ---------------------------------------------------------------------------------------------------------


def told(place: Place, url: str, langsmith: str) -> Evaluations:
    (place.data / "ls").write_text("a-key-of-the-tests\n")
    spec = {
        "endpoints": {"router": {"url": url, "apiKey": "file:key", "timeout": 10.0}},
        "langsmith": {"url": langsmith, "apiKey": "file:ls"},
    }
    return Evaluations(Settings("local", EnvironmentSpec.model_validate(spec, strict=False), place.data))


@pytest.fixture
def langsmith(monkeypatch: pytest.MonkeyPatch) -> Iterator[LangSmithApi]:
    for name in ("LANGSMITH_ENDPOINT", "LANGSMITH_API_KEY", "LANGSMITH_TRACING"):
        monkeypatch.delenv(name, raising=False)
    with LangSmithApi(keys=["a-key-of-the-tests"]) as double:
        yield double
    assert double.broken == []


def test_langsmith_shows_both_sides(place: Place, langsmith: LangSmithApi) -> None:
    with judged_by(fair) as api:
        door = told(place, api.base_url, langsmith.url)
        result = result_of(door, door.start("a" * 32, order_of(spec_of(judge=JUDGE, examples=30))))
    assert set(result["links"]) == {"LangSmith comparison", "LangSmith candidate", "LangSmith baseline"}
    made = [json.loads(one.asked.body) for one in langsmith.asked("POST */sessions")]
    tags = [one["extra"]["metadata"] for one in made]
    assert {(tag["agent"], tag["model_version"], tag["experiment_type"]) for tag in tags} == {
        ("docs", "v2", "baseline_vs_candidate"),
        ("docs", "v1", "baseline_vs_candidate"),
    }
    assert len(langsmith.tables.all("runs")) == 60


def test_questions_from_langsmith_at_their_revision(place: Place, langsmith: LangSmithApi) -> None:
    (place.data / "ls").write_text("a-key-of-the-tests\n")
    LangSmith(LangSmithSpec.model_validate({"url": langsmith.url, "apiKey": "file:ls"}), place.data).push("docs", ROWS[:40])
    with OpenRouterApi(answers=rules(0.95, 0.4)) as api:
        door = told(place, api.base_url, langsmith.url)
        handle = door.start("a" * 32, order_of(spec_of(dataset="ls://docs")))
        result = result_of(door, handle)
    assert result["verdict"]["examples"] == 40
    assert "LangSmith comparison" in result["links"]
    source = folder_of(door, handle).read("source.json")
    assert source is not None
    assert source["revision"]


def test_langsmith_never_fails_what_was_paid(place: Place, langsmith: LangSmithApi) -> None:
    langsmith.fail("status", "*", status=403, times=1000)
    with OpenRouterApi(answers=rules(0.95, 0.4)) as api:
        door = told(place, api.base_url, langsmith.url)
        result = result_of(door, door.start("a" * 32, order_of(spec_of(examples=30))))
    assert result["links"] == {}
    assert any(note.startswith("LangSmith was not told") for note in result["report"]["verdict"]["notes"])
    assert result["verdict"]["verdict"] in ("deploy", "deploy_canary")
