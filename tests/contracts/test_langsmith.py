"""The LangSmith door and the real SDK against the double: what is sent keeps to the vendor's description, through every fault."""

from __future__ import annotations

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from controller.clients.langsmith import (
    Example,
    Experiment,
    LangSmith,
    Preference,
    Result,
    Score,
    Traced,
    connect,
)
from controller.clients.langsmith_sdk import timed_id
from controller.environment import EnvironmentSpec
from controller.errors import Permanent, Temporary
from controller.settings import Settings
from controller.testing.langsmith_api import LangSmithApi
from controller.testing.vendor_contract import Published
from controller.vendors import LangSmithSpec

HERE = Path(__file__).parent
PUBLISHED = Published(HERE / "openapi" / "langsmith.json", prefixes=("/api/v1", ""))
UNPUBLISHED = re.compile(
    r"GET /examples: parameter inline_s3_urls is not known|GET /(datasets|sessions)/[0-9a-f-]{36}: parameter limit is not known"
)
"""What the SDK sends and the published description lacks."""

START = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
ROWS = [{"inputs": {"task": f"add {n}"}, "outputs": {"code": f"x + {n}"}, "metadata": {"agent": "docs", "n": n}} for n in range(6)]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LANGSMITH_ENDPOINT", "LANGSMITH_API_KEY", "LANGSMITH_PROJECT", "LANGSMITH_RUNS_ENDPOINTS", "LANGSMITH_TRACING"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LangSmithApi]:
    with LangSmithApi(tmp_path / "langsmith", keys=["a-key-of-the-tests"]) as double:
        yield double
    assert double.broken == []


@pytest.fixture
def door(api: LangSmithApi, tmp_path: Path) -> Iterator[LangSmith]:
    with_key = door_to(api.url, tmp_path)
    yield with_key
    with_key.close()


def door_to(url: str, data: Path, key: str = "a-key-of-the-tests", **more: Any) -> LangSmith:
    (data / "key").write_text(key + "\n")
    return LangSmith(LangSmithSpec(url=url, api_key="file:key", timeout=5.0, **more), data)


def kept_to_the_description(api: LangSmithApi) -> bool:
    problems = [one for one in PUBLISHED.problems(api.seen) if not UNPUBLISHED.fullmatch(one)]
    assert problems == []
    return True


def experiment(door: LangSmith, name: str = "docs v2", dataset: str | None = None) -> Experiment:
    dataset_id = dataset or door.push("qa", ROWS).id
    return door.experiment(name, dataset_id, agent="docs", model_version="v2.0.0", metadata={"event": "e1"})


def results(examples: Sequence[Example], score: float = 1.0) -> list[Result]:
    return [
        Result(
            example_id=one.id,
            inputs=one.inputs,
            outputs={"code": f"answer to {one.inputs['task']}"},
            started=START + timedelta(seconds=index),
            ended=START + timedelta(seconds=index + 2),
            scores=(Score("accuracy", score, "as the reference says"), Score("passed", True)),
            input_tokens=10,
            output_tokens=5,
            cost_usd=0.001,
        )
        for index, one in enumerate(examples)
    ]


def stats(api: LangSmithApi, name: str) -> Any:
    request = urllib.request.Request(f"{api.url}/sessions?include_stats=true&name={name.replace(' ', '%20')}")
    request.add_header("X-API-Key", "a-key-of-the-tests")
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())[0]


# -- data sets ---------------------------------------------------------------------------------------------------------


def test_a_data_set_is_pushed_and_read_with_its_revision(api: LangSmithApi, door: LangSmith) -> None:
    pushed = door.push("qa", ROWS, "questions")
    assert pushed.rows() == ROWS
    assert door.dataset("qa") == door.dataset(pushed.id) == pushed
    assert datetime.fromisoformat(pushed.revision).tzinfo is not None
    assert kept_to_the_description(api)


def test_a_push_adds_only_what_is_not_there(api: LangSmithApi, door: LangSmith) -> None:
    first = door.push("qa", ROWS[:4])
    again = door.push("qa", ROWS[:4])
    assert again == first
    twice = [*ROWS[:4], ROWS[0], {**ROWS[5], "split": "test"}]
    more = door.push("qa", twice)
    assert len(more.examples) == 6
    assert more.revision != first.revision
    assert more.digest != first.digest
    assert [one.inputs["task"] for one in door.dataset("qa", split="test").examples] == ["add 5"]
    assert door.dataset("qa", revision=first.revision) == first
    assert len(api.asked("POST /v1/platform/*")) == 2


def test_the_digest_covers_content_not_order_or_ids(door: LangSmith) -> None:
    one, other = door.push("one", ROWS), door.push("other", ROWS[::-1])
    assert one.digest == other.digest
    assert {example.id for example in one.examples}.isdisjoint(example.id for example in other.examples)


def test_an_old_revision_and_a_tag_stay_readable(api: LangSmithApi, door: LangSmith) -> None:
    first = door.push("qa", ROWS[:2])
    sdk = door.access.client(background=False)
    sdk.update_dataset_tag(dataset_id=first.id, as_of=datetime.fromisoformat(first.revision), tag="training")
    sdk.update_example(first.examples[0].id, inputs={"task": "something else"}, dataset_id=first.id)
    sdk.delete_example(first.examples[1].id)
    assert [one.inputs["task"] for one in door.dataset("qa").examples] == ["something else"]
    assert door.dataset("qa", revision="training") == first
    sdk.update_dataset_splits(dataset_id=first.id, split_name="test", example_ids=[first.examples[0].id])
    assert sdk.list_dataset_splits(dataset_id=first.id) == ["base", "test"]
    assert len(list(sdk.list_dataset_versions(dataset_id=first.id))) == 5
    sdk.close()
    assert kept_to_the_description(api)


def test_more_than_a_page_of_examples(door: LangSmith) -> None:
    rows = [{"inputs": {"n": n}, "outputs": {}, "metadata": {}} for n in range(230)]
    assert door.push("big", rows).rows() == rows


def test_a_data_set_that_is_not_there_says_which_may_be_meant(door: LangSmith) -> None:
    door.push("questions", ROWS[:1])
    with pytest.raises(Permanent, match=r'no data set \'question\' \(did you mean "questions"\?\)'):
        door.dataset("question")
    with pytest.raises(Permanent, match="no data set"):
        door.dataset(str(uuid4()))
    with pytest.raises(Permanent, match=r"refuses reading data set 'questions' \(404\)"):
        door.dataset("questions", revision="no-such-tag")


def test_a_lost_answer_to_a_push_makes_nothing_twice(api: LangSmithApi, door: LangSmith) -> None:
    api.fail("lose", "POST /datasets")
    api.fail("lose", "POST /v1/platform/*")
    assert door.push("qa", ROWS).rows() == ROWS
    assert len(api.tables.all("datasets")) == 1


def test_half_an_answer_to_a_push_makes_nothing_twice(api: LangSmithApi, door: LangSmith) -> None:
    for match in ("POST /datasets", "POST /v1/platform/*"):
        api.fail("cut", match)
        with pytest.raises(Temporary, match="while pushing data set 'qa'"):
            door.push("qa", ROWS)
    assert door.push("qa", ROWS).rows() == ROWS
    assert len(api.tables.all("datasets")) == 1


def test_a_list_that_lags_is_temporary_and_then_found(api: LangSmithApi, door: LangSmith) -> None:
    door.push("qa", ROWS[:1])
    api.fail("lag", "GET /examples", times=0)
    with pytest.raises(Temporary, match="does not list them"):
        door.push("qa", ROWS)
    api.faults.clear()
    assert len(door.push("qa", ROWS).examples) == 6


# -- experiments -------------------------------------------------------------------------------------------------------


def test_an_experiment_is_the_same_after_a_crash(api: LangSmithApi, door: LangSmith, tmp_path: Path) -> None:
    first = experiment(door)
    other = door_to(api.url, tmp_path)
    assert experiment(other) == first
    other.close()
    kept = api.tables.all("sessions")
    assert len(kept) == 1
    metadata = kept[0]["extra"]["metadata"]
    assert {name: metadata[name] for name in ("agent", "model_version", "experiment_type", "event")} == {
        "agent": "docs",
        "model_version": "v2.0.0",
        "experiment_type": "baseline_vs_candidate",
        "event": "e1",
    }
    assert kept[0]["extra"]["tags"] == ["agent:docs", "model_version:v2.0.0", "experiment_type:baseline_vs_candidate"]
    assert f"/datasets/{first.dataset_id}/compare?selectedSessions={first.id}" in first.url
    assert kept_to_the_description(api)


def test_an_experiment_of_another_data_set_is_refused(door: LangSmith) -> None:
    experiment(door)
    with pytest.raises(Permanent, match="choose another name"):
        experiment(door, dataset=door.push("other", ROWS).id)


def test_results_that_are_sent_twice_are_there_once(api: LangSmithApi, door: LangSmith) -> None:
    one = experiment(door)
    examples = door.dataset(one.dataset_id).examples
    door.log(one, results(examples[:4]))
    door.log(one, results(examples))
    shown = stats(api, one.name)
    assert (shown["run_count"], shown["total_tokens"], shown["latency_p50"]) == (6, 90, 2.0)
    assert shown["feedback_stats"] == {"accuracy": {"n": 6, "avg": 1.0}, "passed": {"n": 6, "avg": 1.0}}
    assert any(seen.asked.headers.get("content-encoding") == "zstd" for seen in api.asked("POST /runs/multipart"))
    runs = api.tables.all("runs")
    assert {run["reference_example_id"] for run in runs} == {example.id for example in examples}
    assert {UUID(run["id"]).version for run in runs} == {7}
    assert {run["status"] for run in runs} == {"success"}
    assert kept_to_the_description(api)


def test_results_of_many_examples_all_arrive(api: LangSmithApi, door: LangSmith) -> None:
    dataset = door.push("big", [{"inputs": {"task": str(n)}, "outputs": {}, "metadata": {}} for n in range(130)])
    one = experiment(door, dataset=dataset.id)
    door.log(one, results(dataset.examples))
    assert stats(api, one.name)["run_count"] == 130


@pytest.mark.parametrize("kind", ["lose", "drop"])
def test_an_upload_whose_answer_is_lost_is_sent_again_and_there_once(api: LangSmithApi, door: LangSmith, kind: str) -> None:
    one = experiment(door)
    api.fail(kind, "POST /runs/multipart")
    door.log(one, results(door.dataset(one.dataset_id).examples))
    assert stats(api, one.name)["feedback_stats"]["accuracy"] == {"n": 6, "avg": 1.0}
    assert len(api.tables.all("runs")) == 6


def test_half_an_answer_to_an_upload_is_temporary_and_nothing_is_there_twice(api: LangSmithApi, door: LangSmith) -> None:
    one = experiment(door)
    examples = door.dataset(one.dataset_id).examples
    api.fail("cut", "POST /runs/multipart")
    with pytest.raises(Temporary, match="while logging results"):
        door.log(one, results(examples))
    door.log(one, results(examples))
    assert stats(api, one.name)["feedback_stats"]["accuracy"] == {"n": 6, "avg": 1.0}
    assert len(api.tables.all("runs")) == 6


def test_results_that_cannot_be_sent_are_an_error_and_not_a_line_in_a_log(api: LangSmithApi, door: LangSmith) -> None:
    one = experiment(door)
    examples = door.dataset(one.dataset_id).examples
    api.fail("status", "POST /runs/multipart", status=503, times=0)
    with pytest.raises(Temporary, match=r"failed while logging results of experiment 'docs v2' \(503\)"):
        door.log(one, results(examples))
    api.faults.clear()
    api.fail("status", "POST /runs/multipart", status=429, times=0, headers={"Retry-After": "3600"})
    with pytest.raises(Temporary, match="limits the rate"):
        door.log(one, results(examples))
    api.faults.clear()
    with pytest.raises(Permanent, match=r"refuses logging results .*\(422\)"):
        door.log(one, [Result(**{**vars(results(examples[:1])[0]), "scores": (Score("k" * 200, 1.0),)})])
    door.log(one, results(examples))
    assert stats(api, one.name)["feedback_stats"]["accuracy"] == {"n": 6, "avg": 1.0}


def test_evaluate_runs_what_is_missing_and_tells_nobody_who_wrote_the_commit(api: LangSmithApi, door: LangSmith) -> None:
    one = experiment(door)
    asked: list[str] = []

    def target(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        asked.append(inputs["task"])
        if len(asked) == 3:
            raise ValueError("this one is too hard")
        return {"code": inputs["task"].replace("add", "x +")}

    def accuracy(example: Example, outputs: Mapping[str, Any]) -> list[Score]:
        return [Score("accuracy", outputs == example.outputs)]

    found = door.evaluate(one, target, [accuracy], concurrency=2)
    assert sorted(asked) == [row["inputs"]["task"] for row in ROWS]
    assert sorted(result.scores[0].score or 0 for result in found) == [0, 1, 1, 1, 1, 1]
    assert ["too hard" in (result.error or "") for result in found].count(True) == 1
    assert door.evaluate(one, target, [accuracy]) == []
    assert len(asked) == 6
    assert len(door.evaluate(one, target, [accuracy], repetition=1)) == 6
    shown = stats(api, one.name)
    assert (shown["run_count"], shown["feedback_stats"]["accuracy"]["n"]) == (12, 12)
    assert shown["extra"]["tags"][0] == "agent:docs"
    assert shown["extra"]["metadata"]["agent"] == "docs"
    sent = json.dumps([api.tables.all(table) for table in ("sessions", "runs", "feedback")])
    assert "author_name" not in sent
    assert "author_email" not in sent
    assert kept_to_the_description(api)


def test_an_evaluation_cut_short_goes_on_where_it_stopped(api: LangSmithApi, door: LangSmith) -> None:
    one = experiment(door)
    asked: list[str] = []

    def target(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        asked.append(inputs["task"])
        if len(asked) > 3:
            raise Permanent("the account is empty")
        return {"code": "x"}

    def scored(example: Example, outputs: Mapping[str, Any]) -> list[Score]:
        return [Score("accuracy", 1.0)]

    with pytest.raises(Permanent, match="the account is empty"):
        door.evaluate(one, target, [scored], concurrency=1)
    assert len(asked) == 4
    assert len(api.tables.all("runs")) == 3
    first = set(asked[:3])
    asked.clear()
    found = door.evaluate(one, lambda inputs: asked.append(inputs["task"]) or {}, [scored])  # type: ignore[func-returns-value]
    assert set(asked) == {row["inputs"]["task"] for row in ROWS} - first
    assert len(found) == 3
    assert stats(api, one.name)["run_count"] == 6


def test_an_evaluator_that_fails_ends_the_evaluation(api: LangSmithApi, door: LangSmith) -> None:
    one = experiment(door)

    def judge(example: Example, outputs: Mapping[str, Any]) -> list[Score]:
        raise Temporary("the judge is busy")

    with pytest.raises(Temporary, match="the judge is busy"):
        door.evaluate(one, lambda inputs: {}, [judge], concurrency=1)
    found = door.evaluate(one, lambda inputs: {}, [lambda example, outputs: [Score("accuracy", 0.5)]])
    assert len(found) == 6
    shown = stats(api, one.name)
    assert shown["run_count"] == 6
    assert shown["feedback_stats"] == {"accuracy": {"n": 6, "avg": 0.5}}


def test_a_comparison_has_an_address_and_the_judges_preferences(api: LangSmithApi, door: LangSmith) -> None:
    base, candidate = experiment(door, "docs v1"), experiment(door, "docs v2")
    examples = door.dataset(base.dataset_id).examples
    for side in (base, candidate):
        door.log(side, results(examples))
    preferences = [Preference(one.id, {base.id: 0.0, candidate.id: 1.0}, comment="clearer") for one in examples]
    api.fail("lose", "POST /datasets/comparative")
    found = door.compare("v1 against v2", [base, candidate], preferences)
    assert door.compare("v1 against v2", [base, candidate], preferences) == found
    assert f"selectedSessions={base.id}%2C{candidate.id}&comparativeExperiment={found.id}" in found.url
    assert len(api.tables.all("comparisons")) == 1
    mine = [one for one in api.tables.all("feedback") if one["comparative_experiment_id"] == found.id]
    assert len(mine) == 12
    assert len({one["feedback_group_id"] for one in mine}) == 6
    with pytest.raises(Permanent, match="two or more experiments on one data set"):
        door.compare("alone", [base])
    assert kept_to_the_description(api)


# -- what can go wrong -------------------------------------------------------------------------------------------------


def test_a_slow_answer_is_an_answer(api: LangSmithApi, door: LangSmith) -> None:
    api.fail("slow", "GET /datasets", seconds=0.1)
    assert len(door.push("qa", ROWS).examples) == 6


def test_a_wrong_key_is_permanent_and_shown_nowhere(api: LangSmithApi, tmp_path: Path) -> None:
    door = door_to(api.url, tmp_path, key="lsv2_a-very-secret-key")
    with pytest.raises(Permanent, match=r"refuses the key while .*\(401\); check file:key") as caught:
        door.dataset("qa")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    door.close()
    (tmp_path / "key").unlink()
    with pytest.raises(Temporary, match="key cannot be read"):
        LangSmith(LangSmithSpec(url=api.url, api_key="file:key"), tmp_path).dataset("qa")


def test_a_key_that_the_server_repeats_is_masked(api: LangSmithApi, door: LangSmith) -> None:
    one = experiment(door)
    bad = results(door.dataset(one.dataset_id).examples[:1])[0]
    with pytest.raises(Permanent, match=r"\(422\)") as caught:
        door.log(one, [Result(**{**vars(bad), "example_id": bad.example_id, "error": None, "scores": (Score("k" * 200, 1.0),)})])
    assert "a-key-of-the-tests" not in str(caught.value)
    assert door.access.masked("the key a-key-of-the-tests is bad") == "the key *** is bad"


@pytest.mark.parametrize(
    ("kind", "more", "error", "text"),
    [
        ("status", {"status": 429, "headers": {"Retry-After": "3600"}}, Temporary, "limits the rate"),
        ("status", {"status": 500}, Temporary, r"failed while reading data set 'qa' \(500\)"),
        ("status", {"status": 503}, Temporary, r"\(503\)"),
        ("status", {"status": 403}, Permanent, "refuses the key"),
        ("status", {"status": 422}, Permanent, r"refuses reading data set 'qa' \(422\)"),
        ("drop", {}, Temporary, "does not answer"),
        ("lose", {}, Temporary, "does not answer"),
        ("cut", {}, Temporary, "langsmith|LangSmith"),
    ],
)
def test_every_fault_is_temporary_or_permanent(
    api: LangSmithApi, door: LangSmith, kind: str, more: dict[str, Any], error: type[Exception], text: str
) -> None:
    door.push("qa", ROWS[:1])
    api.fail(kind, "GET /datasets", times=0, **more)
    with pytest.raises(error, match=text) as caught:
        door.dataset("qa")
    assert "a-key-of-the-tests" not in str(caught.value)
    api.faults.clear()
    assert len(door.dataset("qa").examples) == 1


def test_a_server_that_hangs_is_given_up(api: LangSmithApi, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("a-key-of-the-tests")
    door = LangSmith(LangSmithSpec(url=api.url, api_key="file:key", timeout=0.2), tmp_path)
    api.fail("hang", "POST /datasets", times=0)
    with pytest.raises(Temporary, match="does not answer while pushing"):
        door.push("qa", ROWS)
    api.faults.clear()
    assert len(door.push("qa", ROWS).examples) == 6
    assert len(api.tables.all("datasets")) == 1
    door.close()


def test_one_failure_in_passing_is_not_seen(api: LangSmithApi, door: LangSmith) -> None:
    for kind, match in (("status", "GET /datasets"), ("drop", "POST /sessions"), ("status", "POST /datasets/comparative")):
        api.fail(kind, match)
    base, candidate = experiment(door, "a"), experiment(door, "b")
    assert door.compare("c", [base, candidate]).id
    assert api.faults.shown() == []


def test_an_api_that_is_not_there_is_temporary(tmp_path: Path) -> None:
    door = door_to("http://127.0.0.1:9", tmp_path)
    with pytest.raises(Temporary, match=r"http://127.0.0.1:9 does not answer while reading /info"):
        door.dataset("qa")
    door.close()


def test_the_door_of_an_environment(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match=r"environments/local/environment.yaml has no spec.langsmith"):
        connect(Settings("local", EnvironmentSpec(), tmp_path))


# -- traces ------------------------------------------------------------------------------------------------------------


def action(number: int, parent: Traced | None = None, **more: Any) -> Traced:
    at = START + timedelta(seconds=number)
    values: dict[str, Any] = {"inputs": {"n": number}, "outputs": {"ok": True}, "metadata": {"agent": "docs"}, "tags": ("update",)}
    return Traced(f"event-{number}", f"action {number}", at, at + timedelta(seconds=1), parent=parent, **{**values, **more})


def test_actions_become_runs(api: LangSmithApi, door: LangSmith) -> None:
    parent = action(1)
    for one in (parent, action(2, parent), action(3, action(2, parent), error="refused"), parent):
        door.trace(one)
    counts = door.close(30)
    assert (counts.sent, counts.dropped) == (4, 0)
    runs = {run["name"]: run for run in api.tables.all("runs")}
    assert len(runs) == 3
    assert runs["action 3"]["parent_run_id"] == runs["action 2"]["id"]
    assert runs["action 3"]["trace_id"] == runs["action 1"]["id"] == str(timed_id(parent.started, "action", "event-1"))
    assert (runs["action 3"]["status"], runs["action 3"]["error"]) == ("error", "refused")
    assert [one["name"] for one in api.tables.all("sessions")] == ["turnout"]
    assert kept_to_the_description(api)


@pytest.mark.parametrize("kind", ["status", "drop", "lose"])
def test_a_langsmith_that_fails_costs_traces_and_nothing_else(api: LangSmithApi, door: LangSmith, kind: str) -> None:
    api.fail(kind, "POST /runs/multipart", times=0)
    for number in range(5):
        door.trace(action(number))
    counts = door.close(30)
    assert (counts.sent, counts.dropped, counts.waiting) == (0, 5, 0)
    assert "tracing actions" in counts.last_error


def test_a_langsmith_that_hangs_holds_up_nobody(api: LangSmithApi, tmp_path: Path) -> None:
    door = door_to(api.url, tmp_path)
    door.tracer._queue.maxsize = 10
    api.fail("hang", "* /info", times=0)
    for number in range(30):
        door.trace(action(number))
    counts = door.close(0.1)
    assert counts.sent == 0
    assert counts.dropped == 30
    door.trace(action(31))
    assert door.tracer.counts().dropped >= 20


def test_after_an_outage_tracing_goes_on(api: LangSmithApi, door: LangSmith) -> None:
    door.tracer._pause = 0.01
    api.fail("status", "GET /info")
    door.trace(action(1))
    waited = threading.Event()
    while door.tracer.counts().waiting:
        waited.wait(0.01)
    door.trace(action(2))
    counts = door.close(30)
    assert (counts.sent, counts.dropped) == (1, 1)


def test_tracing_can_be_off(api: LangSmithApi, tmp_path: Path) -> None:
    door = door_to(api.url, tmp_path, trace=False)
    door.trace(action(1))
    assert door.close().sent == 0
    assert not api.seen
