"""The inference door and the real `openai` SDK against OpenRouter's double: records, retries, prices, cache, judges, outages."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest

from controller.clients.model_attempt import of_status
from controller.clients.models import Call, Models, Reply, connect
from controller.environment import Endpoint, EnvironmentSpec, Price
from controller.errors import Permanent, Temporary
from controller.model import Spec
from controller.settings import Settings
from controller.testing.openrouter_api import Call as Asked
from controller.testing.openrouter_api import OpenRouterApi, ProviderFailed
from controller.testing.openrouter_api import Reply as Said
from controller.vendors import InferenceSpec

CHAT = "POST */chat/completions"
KEY = "sk-or-v1-very-secret"
SMALL = "openai/gpt-4o-mini"


class Script:
    """What the models say: by default the prompt in other words; `then` holds answers for the next calls."""

    def __init__(self) -> None:
        self.then: list[str | Said | ProviderFailed] = []
        self.calls: list[Asked] = []
        self.busy = self.most = 0
        self.lock = threading.Lock()
        self.gate: threading.Barrier | None = None

    def __call__(self, call: Asked) -> str | Said:
        with self.lock:
            self.calls.append(call)
            self.busy += 1
            self.most = max(self.most, self.busy)
            said = self.then.pop(0) if self.then else f"said: {call.prompt}"
        if self.gate is not None:
            self.gate.wait(20)
        with self.lock:
            self.busy -= 1
        if isinstance(said, ProviderFailed):
            raise said
        return said


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def api(script: Script) -> Iterator[OpenRouterApi]:
    with OpenRouterApi(answers=script, keys=[KEY]) as double:
        yield double
    assert double.broken == []


class Waits(list[float]):
    """Instead of sleeping."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def door(api: OpenRouterApi, tmp_path: Path, waits: Waits) -> Models:
    return door_to(api.base_url, tmp_path, waits)


def door_to(url: str, data: Path, waits: Waits, key: str = KEY, prices: Any = None, **spec: Any) -> Models:
    (data / "key").write_text(key + "\n")
    endpoint = Endpoint(url=url, api_key="file:key", timeout=10.0)
    settings = InferenceSpec(**{"attempts": 3, "timeout": 10.0, **spec})
    return Models({"router": endpoint}, prices or {}, settings, data, sleep=waits, chance=lambda: 1.0)


def call(text: str = "hello", model: str = SMALL, **more: Any) -> Call:
    return Call("router", model, ({"role": "user", "content": text},), **more)


# -- one call ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_and_all_that_is_known_of_it(api: OpenRouterApi, door: Models, script: Script, stream: bool) -> None:
    reply = door.ask(call("what is this", parameters={"temperature": 0.1, "top_k": 3}, stream=stream))
    assert (reply.text, reply.finish_reason, reply.model, reply.endpoint) == ("said: what is this", "stop", SMALL, "router")
    assert (reply.input_tokens, reply.output_tokens, reply.cost_from) == (3, 5, "endpoint")
    assert reply.cost_usd == reply.paid_usd == pytest.approx(api.spent)
    assert (reply.attempts, reply.unanswered, reply.error, reply.cached) == (1, 0, "", False)
    assert (reply.first_token_seconds is not None) == stream
    assert reply.first_token_seconds is None or 0 <= reply.first_token_seconds <= reply.seconds
    assert datetime.fromisoformat(reply.started).tzinfo is not None
    assert reply.id == api.ledger()["entries"][0]["id"]
    assert (script.calls[0].body["temperature"], script.calls[0].body["top_k"]) == (0.1, 3)


def test_times_are_the_clocks(api: OpenRouterApi, tmp_path: Path, script: Script) -> None:
    ticks = iter(range(100))
    (tmp_path / "key").write_text(KEY)
    endpoint = Endpoint(url=api.base_url, api_key="file:key")
    at = datetime(2026, 11, 1, tzinfo=UTC)
    spec = InferenceSpec(timeout=1000.0)
    door = Models({"router": endpoint}, {}, spec, tmp_path, clock=lambda: float(next(ticks)), now=lambda: at)
    reply = door.ask(call())
    assert reply.started == "2026-11-01T00:00:00+00:00"
    assert reply.first_token_seconds is not None
    assert 0 < reply.first_token_seconds < reply.seconds


def test_an_answer_that_was_cut_at_the_limit_says_so(door: Models) -> None:
    reply = door.ask(call("a long question", parameters={"max_tokens": 2}))
    assert (reply.text, reply.finish_reason, reply.error) == ("said: a ", "length", "")


def test_where_the_endpoint_names_no_cost_the_prices_do(tmp_path: Path, waits: Waits) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}
    with plain_server(lambda number: json_answer(completion("hi", usage=usage))) as url:
        prices = {"own/model": Price(input=2.0, output=4.0)}
        door = door_to(url, tmp_path, waits, prices=prices)
        reply = door.ask(call(model="own/model", stream=False))
        assert (reply.cost_usd, reply.cost_from) == (pytest.approx(0.004), "prices")
        unknown = door.ask(call(model="other/model", stream=False))
        assert (unknown.cost_usd, unknown.cost_from, unknown.paid_usd) == (None, "", None)
    with plain_server(lambda number: json_answer({"data": [{"id": "own/model", "object": "model"}]})) as url:
        assert [(one.id, one.input_usd) for one in door_to(url, tmp_path, waits).listed("router")] == [("own/model", None)]


def test_a_server_without_usage_gives_no_tokens_and_no_cost(tmp_path: Path, waits: Waits) -> None:
    with plain_server(lambda number: json_answer(completion("hi"))) as url:
        reply = door_to(url, tmp_path, waits, prices={SMALL: Price(input=2.0, output=4.0)}).ask(call(stream=False))
        assert (reply.text, reply.input_tokens, reply.cost_usd) == ("hi", None, None)


# -- replicas and created endpoints ------------------------------------------------------------------------------------


def test_replicas_take_turns_and_one_that_is_gone_is_passed_by(
    api: OpenRouterApi, script: Script, tmp_path: Path, waits: Waits
) -> None:
    (tmp_path / "key").write_text(KEY)
    with OpenRouterApi(answers=script, keys=[KEY]) as second:
        gone = f"http://127.0.0.1:{free_port()}/v1"
        pool = Endpoint(replicas=(api.base_url, gone, second.base_url), api_key="file:key", timeout=10.0)
        door = Models({"router": pool}, {}, InferenceSpec(attempts=3, timeout=10.0), tmp_path, sleep=waits, chance=lambda: 1.0)
        replies = [door.ask(call(f"question {number}")) for number in range(8)]
        assert [reply.error for reply in replies] == [""] * 8
        assert {len(one.asked(CHAT)) for one in (api, second)} == {4}
        assert sum(reply.attempts - 1 for reply in replies) == 4  # and nothing of that can have been billed
        assert sum(reply.unanswered for reply in replies) == 0
        assert [door.ask(call(f"question {number}")).cached for number in range(8)] == [True] * 8


def test_an_endpoint_that_was_created_is_known_by_its_identity(api: OpenRouterApi, tmp_path: Path, waits: Waits) -> None:
    """Its address may be another one next time; what was paid is not paid again."""
    created = Endpoint.model_validate({"inferenceEndpoint": {"region": "r", "instanceType": "t"}})
    asked = dataclasses.replace(call(), endpoint="mine")
    for address in (api.base_url, f"{api.base_url}/"):
        door = Models({"template": created}, {}, InferenceSpec(attempts=1, timeout=10.0), tmp_path, sleep=waits)
        door.serve("mine", Endpoint(url=address), lambda: KEY, "turnout-abc")
        assert door.ask(asked).error == ""
    assert len(api.asked(CHAT)) == 1
    with pytest.raises(Permanent, match="endpoint 'template' is created by an evaluation for a side of its own"):
        door.ask(dataclasses.replace(call(), endpoint="template"))
    door = Models({}, {}, InferenceSpec(attempts=1, timeout=10.0), tmp_path, sleep=waits)
    door.serve("mine", Endpoint(url=api.base_url), lambda: "hf_wrong_token", "turnout-def")
    with pytest.raises(Permanent, match=r"check spec.huggingface.token") as refused:
        door.ask(asked)
    assert "hf_wrong_token" not in str(refused.value)


def test_the_price_of_a_list_counts_where_none_is_written(tmp_path: Path, waits: Waits) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 500, "total_tokens": 1500}
    with plain_server(lambda number: json_answer(completion("hi", usage=usage))) as url:
        door = door_to(url, tmp_path, waits, prices={"own/model": Price(input=2.0, output=4.0)})
        listed = {model: Price(input=20.0, output=40.0) for model in ("own/model", "other/model")}
        door.listed_prices |= {("router", model): price for model, price in listed.items()}
        assert door.ask(call(model="own/model", stream=False)).cost_usd == pytest.approx(0.004)
        assert door.ask(call(model="other/model", stream=False)).cost_usd == pytest.approx(0.04)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


# -- retries -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("kind", "more", "unanswered"),
    [
        ("status", {"status": 429}, 0),
        ("status", {"status": 500}, 0),
        ("status", {"status": 503}, 0),
        ("status", {"status": 529}, 0),
        ("drop", {}, 1),
        ("lose", {}, 1),
        ("cut", {}, 1),
    ],
)
def test_a_failure_in_passing_is_tried_again(
    api: OpenRouterApi, door: Models, waits: Waits, kind: str, more: dict[str, Any], unanswered: int, stream: bool
) -> None:
    api.fail(kind, CHAT, **more)
    reply = door.ask(call(stream=stream))
    assert (reply.text, reply.attempts, reply.unanswered) == ("said: hello", 2, unanswered)
    assert len(waits) == 1
    assert len(api.asked(CHAT)) == (1 if kind == "drop" else 2)


def test_waits_double_with_jitter_and_end(api: OpenRouterApi, tmp_path: Path, waits: Waits) -> None:
    api.fail("status", CHAT, times=0, status=503)
    reply = door_to(api.base_url, tmp_path, waits, attempts=9).ask(call())
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert (reply.attempts, reply.error_kind, reply.text) == (9, "temporary", "")
    assert reply.error == "model openai/gpt-4o-mini at endpoint 'router': 503 This 503 was asked for"


def test_retry_after_is_honoured_and_not_for_ever(api: OpenRouterApi, door: Models, waits: Waits) -> None:
    api.fail("status", CHAT, status=429, headers={"Retry-After": "7"})
    assert door.ask(call("one")).text == "said: one"
    date = {"Date": "Sun, 01 Nov 2026 12:00:00 GMT", "Retry-After": "Sun, 01 Nov 2026 12:00:11 GMT"}
    assert of_status(503, "busy", headers={name.lower(): value for name, value in date.items()}).retry_after == 11
    assert of_status(503, "busy", headers={"retry-after": "soon"}).retry_after is None
    api.fail("status", CHAT, status=429, headers={"Retry-After": "3600"})
    reply = door.ask(call("two"))
    assert (reply.error_kind, reply.attempts) == ("temporary", 1)
    assert waits == [7.0]


def test_an_endpoint_that_hangs_is_given_up_and_may_have_billed(api: OpenRouterApi, tmp_path: Path, waits: Waits) -> None:
    api.fail("hang", CHAT, times=0)
    reply = door_to(api.base_url, tmp_path, waits, attempts=2, timeout=0.2).ask(call())
    assert (reply.error_kind, reply.attempts, reply.unanswered) == ("temporary", 2, 2)
    assert "does not answer in time" in reply.error
    assert api.ledger()["calls"] == 2


def test_a_stream_that_drips_for_ever_is_given_up(api: OpenRouterApi, tmp_path: Path) -> None:
    ticks = iter(range(0, 10_000, 4))
    (tmp_path / "key").write_text(KEY)
    endpoint = Endpoint(url=api.base_url, api_key="file:key")
    spec = InferenceSpec(timeout=10.0, attempts=1)
    door = Models({"router": endpoint}, {}, spec, tmp_path, clock=lambda: float(next(ticks)))
    reply = door.ask(call("one two three four five six"))
    assert (reply.error_kind, reply.unanswered) == ("temporary", 1)
    assert "took too long" in reply.error


def test_a_provider_that_breaks_off_is_asked_again(door: Models, script: Script) -> None:
    script.then = [Said(["one ", "two"], breaks_after=1), Said(["half"], finish_reason="error"), "whole"]
    reply = door.ask(call())
    assert (reply.text, reply.attempts, reply.unanswered) == ("whole", 3, 2)


def test_a_provider_that_refuses_is_a_reply_and_not_an_end(door: Models, script: Script) -> None:
    script.then = [ProviderFailed("this prompt has no end", 422)]
    reply = door.ask(call())
    assert (reply.error_kind, reply.attempts) == ("refused", 1)
    assert "422 Provider returned error: this prompt has no end" in reply.error
    script.then = [ProviderFailed("flagged: violence", 403)]
    assert door.ask(call("two")).error_kind == "refused"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b'data: {"id": "1", "object": "x", "choices": [{"index": 0, "delta": {"content": "ha"}}]}\n\n', "the answer has no end"),
        (b'data: {"error": {"code": 502, "message": "gone"}}\n\n', "502 gone"),
        (b'data: {"error": {"code": "odd", "message": "gone"}}\n\n', "gone"),
        (b"data: {half\n\n", "something else than a chat completion"),
        (b"", "the answer has no end"),
    ],
)
def test_streams_that_are_none(tmp_path: Path, waits: Waits, answer: bytes, said: str) -> None:
    with plain_server(lambda number: ("text/event-stream", answer)) as url:
        reply = door_to(url, tmp_path, waits, attempts=2).ask(call())
    assert (reply.error_kind, reply.attempts) == ("temporary", 2)
    assert said in reply.error


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (("text/html", b"<html>welcome</html>"), "something else than a chat completion"),
        (("application/json", b'{"error": {"code": 429, "message": "later"}}'), "429 later"),
        (("application/json", b'{"choices": []}'), "something else than a chat completion"),
    ],
)
def test_answers_that_are_none(tmp_path: Path, waits: Waits, answer: tuple[str, bytes], said: str) -> None:
    with plain_server(lambda number: answer) as url:
        reply = door_to(url, tmp_path, waits, attempts=2).ask(call(stream=False))
    assert (reply.error_kind, reply.attempts) == ("temporary", 2)
    assert said in reply.error


# -- what no call survives ---------------------------------------------------------------------------------------------


def test_a_wrong_key_ends_it_is_not_shown_and_can_be_replaced(api: OpenRouterApi, tmp_path: Path, waits: Waits) -> None:
    door = door_to(api.base_url, tmp_path, waits, key="sk-or-v1-old-secret")
    with pytest.raises(Permanent, match=r"401 User not found.; check spec.endpoints.router.apiKey \(file:key\)") as caught:
        door.ask(call())
    assert "old-secret" not in str(caught.value)
    assert waits == []
    (tmp_path / "key").write_text(KEY)
    assert door.ask(call()).text == "said: hello"
    (tmp_path / "key").unlink()
    with pytest.raises(Temporary, match="key cannot be read"):
        door_to_without_key(api.base_url, tmp_path).ask(call("new"))


def door_to_without_key(url: str, data: Path) -> Models:
    return Models({"router": Endpoint(url=url, api_key="file:key")}, {}, InferenceSpec(), data)


def test_a_key_that_the_endpoint_repeats_is_masked(tmp_path: Path, waits: Waits) -> None:
    body = json.dumps({"error": {"message": f"bad key {KEY}{'.' * 2000}{KEY}", "code": 401}}).encode()
    with plain_server(lambda number: ("application/json", body), status=401) as url, pytest.raises(Permanent) as caught:
        door_to(url, tmp_path, waits).ask(call())
    assert "bad key ***" in str(caught.value)
    assert KEY[:8] not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_key_is_masked_also_where_many_fail_at_once(tmp_path: Path, waits: Waits) -> None:
    body = json.dumps({"error": {"message": f"bad key {KEY}", "code": 401}}).encode()
    with plain_server(lambda number: ("application/json", body), status=401) as url:
        door = door_to(url, tmp_path, waits)
        told: list[str] = []

        def ask(number: int) -> None:
            try:
                door.ask(call(f"question {number}"))
            except Permanent as error:
                told.append(str(error))

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(told) == 12
    assert all("bad key ***" in text and KEY not in text for text in told)


def test_no_credits_an_unknown_model_an_unknown_endpoint(api: OpenRouterApi, door: Models) -> None:
    with pytest.raises(Permanent, match=r'404 No endpoints found .*lists \(did you mean "openai/gpt-4o-mini"\?\)'):
        door.ask(call(model="openai/gpt-4o-mine"))
    with pytest.raises(Permanent, match=r'no endpoint \'ruter\' .*there are router \(did you mean "router"\?\)'):
        door.ask(dataclasses.replace(call(), endpoint="ruter"))
    with pytest.raises(Permanent, match="may not hold messages, stream"):
        door.ask(call(parameters={"stream": False, "messages": []}))
    api.credits = 0
    with pytest.raises(Permanent, match=r"402 Insufficient credits.*add credits to the account behind endpoint 'router'"):
        door.ask(call())
    assert of_status(400, "acme/x is not a valid model ID").kind == "fatal"
    assert of_status(403, "no").kind == "fatal"


def test_an_endpoint_that_is_not_there(tmp_path: Path, waits: Waits) -> None:
    door = door_to("http://127.0.0.1:9/v1", tmp_path, waits)
    reply = door.ask(call())
    assert (reply.error_kind, reply.unanswered) == ("temporary", 0)
    assert "the connection failed" in reply.error
    with pytest.raises(Temporary, match="does not list its models"):
        door.listed("router")


# -- cache -------------------------------------------------------------------------------------------------------------


def test_the_same_call_is_paid_once_also_after_a_restart(api: OpenRouterApi, door: Models, tmp_path: Path, waits: Waits) -> None:
    first = door.ask(call())
    again = door.ask(call())
    assert again == dataclasses.replace(first, cached=True)
    assert (again.cost_usd, again.paid_usd) == (first.cost_usd, 0.0)
    assert door_to(api.base_url, tmp_path, waits).ask(call()) == again
    others = [
        call("other"),
        call(model="qwen/qwen2.5-coder-7b-instruct"),
        call(parameters={"temperature": 0.5}),
        call(sample=1),
    ]
    assert [door.ask(one).cached for one in others] == [False] * 4
    assert api.ledger()["calls"] == 5
    assert not list((tmp_path / "model-calls").rglob(".*"))


def test_errors_are_not_kept(api: OpenRouterApi, door: Models) -> None:
    api.fail("status", CHAT, times=3, status=503)
    assert door.ask(call()).error_kind == "temporary"
    assert door.ask(call()).text == "said: hello"


def test_a_damaged_file_is_paid_again_and_replaced(api: OpenRouterApi, door: Models, tmp_path: Path) -> None:
    door.ask(call())
    (path,) = (tmp_path / "model-calls").rglob("*.json")
    for damage in (b"", b'{"text": "ha', b"[]", b'{"text": 1}', b"\xff"):
        path.write_bytes(damage)
        assert not door.ask(call()).cached
        assert door.ask(call()).cached
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "a_newer_field": 1}))
    assert door.ask(call()).cached
    assert KEY not in path.read_text()


def test_two_threads_with_one_question_pay_once(api: OpenRouterApi, door: Models) -> None:
    replies = door.ask_all([call()] * 6)
    assert api.ledger()["calls"] == 1
    assert sorted(reply.cached for reply in replies) == [False, *[True] * 5]


def test_a_full_disk_stops_before_the_next_payment(api: OpenRouterApi, door: Models, tmp_path: Path) -> None:
    folder = tmp_path / "model-calls"
    folder.write_text("a file where the folder should be")
    assert door.ask(call("one")).text == "said: one"
    with pytest.raises(Temporary, match="no further model is called until"):
        door.ask(call("two"))
    assert door.ask(call("one")).cached
    os.remove(folder)
    assert door.ask(call("two")).text == "said: two"
    assert len(list(folder.rglob("*.json"))) == 2
    assert api.ledger()["calls"] == 2


# -- many calls --------------------------------------------------------------------------------------------------------


def test_calls_run_side_by_side_within_the_bound(api: OpenRouterApi, door: Models, script: Script) -> None:
    script.gate = threading.Barrier(3)
    seen: list[int] = []
    calls = [call(f"question {n}") for n in range(12)]
    replies = door.ask_all(calls, on_reply=lambda index, reply: seen.append(index), concurrency=3)
    assert [reply.text for reply in replies] == [f"said: question {n}" for n in range(12)]
    assert sorted(seen) == list(range(12))
    assert script.most == 3
    assert door.ask_all([]) == []


def test_a_question_that_fails_is_one_of_many(door: Models, script: Script) -> None:
    script.then = [ProviderFailed("too long", 413)]
    replies = door.ask_all([call(f"q{n}") for n in range(5)], concurrency=1)
    assert [reply.error_kind for reply in replies] == ["refused", "", "", "", ""]


def test_an_outage_ends_it_and_what_was_answered_is_kept(api: OpenRouterApi, tmp_path: Path, waits: Waits) -> None:
    door = door_to(api.base_url, tmp_path, waits, attempts=1, outage=3)
    calls = [call(f"q{n}") for n in range(20)]
    api.fail("status", CHAT, after=5, times=0, status=503)
    with pytest.raises(Temporary, match=r"3 calls in a row were not answered, the last: model .* 503"):
        door.ask_all(calls, concurrency=1)
    assert len(api.asked(CHAT)) == 8
    api.faults.clear()
    replies = door.ask_all(calls)
    assert [reply.cached for reply in replies] == [True] * 5 + [False] * 15
    assert api.ledger()["calls"] == 20


def test_a_permanent_error_ends_it_at_once(api: OpenRouterApi, door: Models) -> None:
    api.fail("status", CHAT, after=2, times=0, status=402)
    with pytest.raises(Permanent, match="402"):
        door.ask_all([call(f"q{n}") for n in range(50)], concurrency=2)
    assert len(api.asked(CHAT)) <= 5


def test_an_error_of_whoever_listens_ends_it_too(door: Models) -> None:
    def listen(index: int, reply: Reply) -> None:
        raise RuntimeError("the log cannot be written")

    with pytest.raises(RuntimeError, match="cannot be written"):
        door.ask_all([call(f"q{n}") for n in range(50)], on_reply=listen, concurrency=2)


# -- judges ------------------------------------------------------------------------------------------------------------


class Reason(Spec):
    text: str
    weight: float = 1.0


class Judgement(Spec):
    """What a judge says."""

    winner: Literal["A", "B", "tie"]
    reasons: tuple[Reason, ...] = ()


GOOD = '{"winner": "A", "reasons": [{"text": "it works", "weight": 0.5}]}'


def test_a_judge_is_asked_for_a_schema_and_read(door: Models, script: Script) -> None:
    script.then = [GOOD]
    verdict = door.ask_as(call("which is better?"), Judgement)
    assert verdict.value == Judgement(winner="A", reasons=(Reason(text="it works", weight=0.5),))
    assert (len(verdict.replies), verdict.problem, verdict.repaired) == (1, "", False)
    wanted = script.calls[0].body["response_format"]["json_schema"]
    assert (wanted["name"], wanted["strict"]) == ("Judgement", True)
    for part in (wanted["schema"], wanted["schema"]["$defs"]["Reason"]):
        assert part["additionalProperties"] is False
        assert part["required"] == list(part["properties"])
    script.then = [f"```json\n{GOOD}\n```"]
    assert door.ask_as(call("again?"), Judgement).value == verdict.value


def test_a_judge_that_answers_badly_is_asked_once_more(api: OpenRouterApi, door: Models, script: Script) -> None:
    script.then = ['{"winner": "C"}', GOOD]
    verdict = door.ask_as(call("which?"), Judgement)
    assert verdict.value is not None
    assert verdict.repaired
    assert verdict.cost_usd == pytest.approx(api.spent)
    said = script.calls[1].body["messages"]
    assert [one["role"] for one in said] == ["user", "assistant", "user"]
    assert "winner: Input should be 'A', 'B' or 'tie'" in said[2]["content"]
    again = door.ask_as(call("which?"), Judgement)
    assert (again.value, [one.paid_usd for one in again.replies]) == (verdict.value, [0.0, 0.0])
    assert len(script.calls) == 2


def test_a_judge_that_does_not_learn_has_no_value(door: Models, script: Script) -> None:
    script.then = ["", '{"winner": "A", "because": 1}']
    verdict = door.ask_as(call("which?"), Judgement)
    assert (verdict.value, len(verdict.replies)) == (None, 2)
    assert "because: Extra inputs are not permitted" in verdict.problem
    script.then = [ProviderFailed("no", 422)]
    failed = door.ask_as(call("what?"), Judgement)
    assert failed.value is None
    assert "422" in failed.problem
    script.then = ["nonsense", ProviderFailed("no", 422)]
    assert "422" in door.ask_as(call("who?"), Judgement).problem


# -- models ------------------------------------------------------------------------------------------------------------


def test_models_are_listed_with_their_prices(api: OpenRouterApi, door: Models) -> None:
    found = {one.id: one for one in door.listed("router")}
    assert found[SMALL].input_usd == pytest.approx(1.5e-7)
    assert found[SMALL].output_usd == pytest.approx(6e-7)
    assert found[SMALL].context_length == 128_000
    assert len(api.asked("GET */models")) == 1


def test_more_models_than_a_page(tmp_path: Path, waits: Waits) -> None:
    pricing = {"prompt": "-1", "completion": "nonsense"}
    listed = [{"id": f"m{n}", "object": "model", "pricing": pricing} for n in range(1002)]

    def page(number: int) -> tuple[str, bytes]:
        return json_answer({"data": listed[:1000] if number == 1 else listed[1000:]})

    with plain_server(page) as url:
        found = door_to(url, tmp_path, waits).listed("router")
    assert (len(found), found[0].input_usd, found[0].output_usd) == (1002, None, None)
    with plain_server(lambda number: json_answer({"data": listed[:1000]})) as url:
        assert len(door_to(url, tmp_path, waits).listed("router")) == 1000


def test_the_door_of_an_environment(api: OpenRouterApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    spec = EnvironmentSpec(endpoints={"router": Endpoint(url=api.base_url, api_key="env:A_KEY")})
    assert connect(Settings("local", spec, tmp_path)).ask(call()).text == "said: hello"


# -- a server that is only what a test says ----------------------------------------------------------------------------


def completion(text: str, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "own/model", "choices": [choice], **more}


def json_answer(value: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(value).encode()


class plain_server:
    """Answers every request with what `answer(number)` gives."""

    def __init__(self, answer: Callable[[int], tuple[str, bytes]], status: int = 200) -> None:
        numbers = iter(range(1, 1_000_000))

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                kind, body = answer(next(numbers))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
