"""OpenRouter's double and the real `openai` SDK: it answers as the vendor's description says and refuses as the vendor does."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from controller.testing.openrouter_api import Call, Forward, OpenRouterApi, ProviderFailed, Reply, Rules
from controller.testing.vendor_contract import Published

HERE = Path(__file__).parent
PUBLISHED = Published(HERE / "openapi" / "openrouter.json", prefixes=("",))
ASK: list[Any] = [{"role": "user", "content": "add 3"}]
RULES = Rules.model_validate(
    {
        "credits": 1,
        "models": {
            "acme/v1": {"prompt": "0.000001", "completion": "0.000002", "context_length": 100},
            "acme/v2": {"prompt": "0.00001", "completion": "0.00002"},
            "acme/broken": {},
            "acme/breaks": {},
        },
        "rules": [
            {"model": "acme/broken", "error": {"status": 503, "message": "the GPU is on fire"}},
            {"model": "acme/breaks", "text": "one two three four", "breaks_after": 2},
            {"matches": r"add (\d+)", "model": "acme/v2", "text": r"x + \1"},
            {"contains": "add", "model": "acme/v1", "share": 0.5, "json": {"answer": 1}},
            {"model": "acme/v1", "text": "I do not know"},
        ],
    }
)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[OpenRouterApi]:
    with OpenRouterApi(tmp_path / "openrouter", answers=RULES) as double:
        yield double
    assert double.broken == []


@functools.cache
def shared() -> openai.OpenAI:
    """Making a client takes long; what differs is given by `with_options`."""
    return openai.OpenAI(base_url="http://127.0.0.1:9", api_key="none", max_retries=0, timeout=10.0)


def client_of(api: OpenRouterApi, **more: Any) -> openai.OpenAI:
    return shared().with_options(**{"base_url": api.base_url, "api_key": api.key, **more})


def raw(error: Any) -> str:
    """What the provider behind the vendor said."""
    return str(error.body["metadata"]["raw"])


def say(api: OpenRouterApi, model: str = "acme/v2", text: str = "add 3", **more: Any) -> Any:
    messages: list[Any] = [{"role": "user", "content": text}]
    return client_of(api).chat.completions.create(model=model, messages=messages, **more)


def kept_to_the_description(api: OpenRouterApi) -> bool:
    seen = [one for one in api.seen if one.asked.path.startswith("/api/v1")]
    stripped = [type(one)(_without_prefix(one.asked), one.status, one.content, one.fault) for one in seen]
    assert PUBLISHED.problems(stripped) == []
    return True


def _without_prefix(asked: Any) -> Any:
    return type(asked)(asked.method, asked.path.removeprefix("/api/v1"), asked.query, asked.headers, asked.body)


def get(api: OpenRouterApi, path: str) -> tuple[int, Any]:
    request = urllib.request.Request(api.url + path, headers={"Authorization": f"Bearer {api.key}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_models_are_listed_with_prices_per_token(api: OpenRouterApi) -> None:
    found = client_of(api, api_key="none is needed").models.list().data
    assert [one.id for one in found] == ["acme/v1", "acme/v2", "acme/broken", "acme/breaks"]
    assert (found[0].model_extra or {})["pricing"]["completion"] == "0.000002"
    assert get(api, "/api/v1/models?offset=1&limit=2")[1]["links"]["next"] == "/api/v1/models?offset=3&limit=2"
    assert get(api, "/api/v1/models?limit=0")[0] == 400
    assert kept_to_the_description(api)


def test_a_model_answers_by_rule_and_bills(api: OpenRouterApi) -> None:
    answer = say(api)
    assert answer.choices[0].message.content == "x + 3"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 2)
    assert answer.usage.model_extra["cost"] == pytest.approx(2 * 1e-5 + 2 * 2e-5)
    assert say(api, "acme/v1", "something").choices[0].message.content == "I do not know"
    _, ledger = get(api, "/-/ledger")
    assert (ledger["calls"], ledger["by_model"]["acme/v2"]["calls"]) == (2, 1)
    assert get(api, "/api/v1/credits")[1]["data"] == {"total_credits": 1.0, "total_usage": ledger["usd"]}
    assert get(api, "/api/v1/key")[1]["data"]["usage"] == ledger["usd"]
    status, generation = get(api, f"/api/v1/generation?id={answer.id}")
    assert (status, generation["data"]["total_cost"]) == (200, answer.usage.model_extra["cost"])
    assert kept_to_the_description(api)


def test_a_stream_ends_with_its_cost(api: OpenRouterApi) -> None:
    events = list(say(api, stream=True, stream_options={"include_usage": True}))
    assert "".join(choice.delta.content or "" for event in events for choice in event.choices) == "x + 3"
    assert [choice.finish_reason for event in events for choice in event.choices][-1] == "stop"
    assert events[-1].usage.model_extra["cost"] == pytest.approx(6e-5)
    assert PUBLISHED.events("/chat/completions", "post", [event.model_dump(exclude_unset=True) for event in events]) == []
    assert kept_to_the_description(api)


def test_the_same_part_of_the_prompts_is_answered_every_time(api: OpenRouterApi) -> None:
    first = [say(api, "acme/v1", f"add {n}").choices[0].message.content for n in range(40)]
    assert first == [say(api, "acme/v1", f"add {n}").choices[0].message.content for n in range(40)]
    assert 10 <= first.count('{"answer": 1}') <= 30
    better = RULES.rules[3].model_copy(update={"share": 0.9})
    right = [better.fits(Call("acme/v1", {"messages": [{"role": "user", "content": f"add {n}"}]})) is not None for n in range(40)]
    assert all(now for now, before in zip(right, first, strict=True) if before == '{"answer": 1}')
    assert right.count(True) > first.count('{"answer": 1}')


def test_an_answer_ends_at_max_tokens(api: OpenRouterApi) -> None:
    answer = say(api, "acme/v1", "something", max_tokens=2)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("I do not", "length")
    assert answer.usage.completion_tokens == 2


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"model": "acme/v9"}, 404, "No endpoints found for acme/v9"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "role"),
        ({"messages": [{"role": "user"}]}, 400, "content"),
        ({"temperature": 3}, 400, "temperature"),
        ({"extra_body": {"max_tokens": "many"}}, 400, "max_tokens"),
        ({"extra_body": {"response_format": {"type": "json_schema", "json_schema": {}}}}, 400, "name"),
        ({"model": "acme/v1", "messages": [{"role": "user", "content": "x" * 500}]}, 400, "maximum context length is 100"),
        ({"model": "acme/broken"}, 502, "Provider returned error"),
        ({"model": "acme/breaks"}, 502, "Provider returned error"),
    ],
)
def test_what_the_vendor_refuses(api: OpenRouterApi, change: dict[str, Any], status: int, text: str) -> None:
    with pytest.raises(openai.APIStatusError, match=text) as caught:
        client_of(api).chat.completions.create(**{"model": "acme/v2", "messages": ASK, **change})
    assert caught.value.status_code == status
    assert get(api, "/-/ledger")[1]["calls"] == 0
    assert kept_to_the_description(api)


def test_keys_and_credits(api: OpenRouterApi) -> None:
    with pytest.raises(openai.AuthenticationError):
        client_of(api, api_key="wrong").chat.completions.create(model="acme/v2", messages=ASK)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{api.base_url}/key", timeout=10)
    api.credits = 1e-5
    with pytest.raises(openai.APIStatusError, match="Insufficient credits") as caught:
        say(api)
    assert caught.value.status_code == 402
    api.credits = 2e-5
    assert say(api).choices[0].finish_reason == "stop"
    with pytest.raises(openai.APIStatusError, match="Insufficient credits"):
        say(api)
    assert get(api, "/api/v1/generation?id=gen-0")[0] == 404
    assert get(api, "/api/v1/generation")[0] == 400
    assert kept_to_the_description(api)


def test_a_provider_that_breaks_off_says_so_in_the_stream(api: OpenRouterApi) -> None:
    with pytest.raises(openai.APIError, match="Provider disconnected"):
        list(say(api, "acme/breaks", stream=True))
    entry = get(api, "/-/ledger")[1]["entries"][0]
    assert (entry["finish_reason"], entry["cancelled"], entry["tokens_completion"]) == ("error", True, 2)


@pytest.mark.parametrize("stream", [False, True])
def test_a_lost_answer_is_billed_all_the_same(api: OpenRouterApi, stream: bool) -> None:
    api.fail("lose", "POST */chat/completions")
    with pytest.raises(openai.APIConnectionError):
        list(say(api, stream=stream))
    api.fail("hang", "POST */chat/completions")
    with pytest.raises(openai.APITimeoutError):
        list(client_of(api, timeout=0.2).chat.completions.create(model="acme/v2", messages=ASK, stream=stream))
    api.fail("drop", "POST */chat/completions")
    with pytest.raises(openai.APIConnectionError):
        say(api, stream=stream)
    api.fail("status", "POST */chat/completions", status=429, headers={"Retry-After": "7"})
    with pytest.raises(openai.RateLimitError) as caught:
        say(api, stream=stream)
    assert caught.value.response.headers["retry-after"] == "7"
    assert get(api, "/-/ledger")[1]["calls"] == 2
    assert kept_to_the_description(api)


def test_a_cut_stream_and_a_generation_that_lags(api: OpenRouterApi) -> None:
    api.fail("cut", "POST */chat/completions")
    with pytest.raises(openai.APIConnectionError):
        list(say(api, stream=True))
    api.fail("lag", "GET */generation")
    answer = say(api)
    assert [get(api, f"/api/v1/generation?id={answer.id}")[0] for _ in range(2)] == [404, 200]


def test_answers_are_a_callable(tmp_path: Path) -> None:
    asked: list[Call] = []
    both = threading.Barrier(2)

    def answers(call: Call) -> str | Reply:
        asked.append(call)
        if call.prompt == "together":
            both.wait(20)
        if call.prompt == "no":
            raise ProviderFailed("never", 429)
        return Reply(["a ", "b"], finish_reason="content_filter", output_tokens=50)

    with OpenRouterApi(answers=answers) as api:
        answer = say(api, "openai/gpt-4o-mini", "yes", seed=3)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("a b", "content_filter")
        assert answer.usage.completion_tokens == 50
        assert asked[0].body["seed"] == 3
        with pytest.raises(openai.RateLimitError) as caught:
            say(api, "openai/gpt-4o-mini", "no")
        assert raw(caught.value) == "never"
        threads = [threading.Thread(target=say, args=(api, "openai/gpt-4o-mini", "together")) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert get(api, "/-/ledger")[1]["calls"] == 3


@pytest.mark.parametrize("stream", [False, True])
def test_answers_are_forwarded(api: OpenRouterApi, stream: bool) -> None:
    with OpenRouterApi(answers=Forward(api.base_url, api.key, "acme/v2")) as front:
        made = say(front, "openai/gpt-4o-mini", "add 8", stream=stream)
        if stream:
            text = "".join(choice.delta.content or "" for event in made for choice in event.choices)
        else:
            text = made.choices[0].message.content
        assert text == "x + 8"
        api.fail("status", "POST */chat/completions", status=429)
        with pytest.raises(openai.RateLimitError) as caught:
            say(front, "openai/gpt-4o-mini")
        assert "This 429 was asked for" in raw(caught.value)
    down = Forward("http://127.0.0.1:9/v1")
    with OpenRouterApi(answers=down) as front, pytest.raises(openai.InternalServerError, match="Provider returned error"):
        say(front, "openai/gpt-4o-mini")


def test_wrong_rules_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "rules.json"
    path.write_text('{"rules": [{"matches": "("}], "modells": {}}')
    with pytest.raises(ValueError, match=r"(?s)rules.json.*is no pattern.*modells"):
        Rules.read(path)
    command = [sys.executable, "-m", "controller.testing.openrouter_api", "--rules", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "modells" in done.stderr


def test_the_double_as_a_process_keeps_its_ledger(tmp_path: Path) -> None:
    (tmp_path / "rules.json").write_text(RULES.model_dump_json(by_alias=True))
    command = [sys.executable, "-m", "controller.testing.openrouter_api", "--data", str(tmp_path), "--key", "k"]
    for calls in (1, 2):
        child = subprocess.Popen([*command, "--rules", str(tmp_path / "rules.json")], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        url = child.stdout.readline().split()[-1]
        client = openai.OpenAI(base_url=f"{url}/api/v1", api_key="k", max_retries=0)
        assert client.chat.completions.create(model="acme/v2", messages=ASK).choices[0].message.content == "x + 3"
        with urllib.request.urlopen(f"{url}/-/ledger", timeout=10) as answer:
            assert json.loads(answer.read())["calls"] == calls
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0
        child.stdout.close()
