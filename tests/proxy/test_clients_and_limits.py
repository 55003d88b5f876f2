"""Who may ask, how much, and for how much money: keys, rates and budgets as the stock clients meet them."""

from __future__ import annotations

import hashlib
import http.client
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

PRICE = {"input": 1000.0, "output": 10_000.0}
ASKED: Any = [{"role": "user", "content": "Hello"}]
FOR_MODELS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def put(proxy: Any, routes: Any, endpoints: Any, **more: Any) -> None:
    table = {**proxy.table(routes, endpoints), **more}
    status, _, body = proxy.admin("PUT", table)
    assert status == 200, body
    proxy.serial, proxy.digest = table["serial"], table["digest"]


def agents(proxy: Any, *names: str, **more: Any) -> dict[str, Any]:
    return {name: {"variants": [proxy.variant("stable", f"acme/{name}", 100, price=PRICE)], **more} for name in names}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def error(answer: tuple[int, Any, bytes]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(answer[2])["error"]
    return found


def accounts(proxy: Any) -> Any:
    """Those that used something."""
    found = json.loads(proxy.request("GET", "/-/accounts", headers=bearer(proxy.token))[2])
    return {key: periods for key, periods in found.items() if periods}


def used(proxy: Any, key: str) -> Any:
    """What an account used in its newest month."""
    return max((period, figures) for period, figures in accounts(proxy)[key].items() if len(period) == 7)[1]


@pytest.fixture
def closed(start_proxy: Callable[..., Any], models: Any) -> Any:
    """A proxy with two agents; the client `ci` has two keys and may ask both, `docs-bot` may ask one of them."""
    proxy = start_proxy(env={"UPSTREAM_KEY": "key-of-the-vendor"})
    clients = {
        "ci": {"keys": [digest("key-one"), digest("key-two")]},
        "docs-bot": {"keys": [digest("key-docs")], "agents": ["docs"]},
        "nobody": {"keys": [digest("key-none")], "agents": []},
        "without": {"keys": []},
    }
    put(proxy, agents(proxy, "dev", "docs"), models.endpoints(api_key="env:UPSTREAM_KEY"), clients=clients)
    return proxy


def claude(proxy: Any, key: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=proxy.url, api_key=key, max_retries=0, timeout=30)


def gpt(proxy: Any, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=key, max_retries=0, timeout=30)


# -- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer key-one"},
        {"authorization": "bearer  key-two "},
        {"X-Api-Key": "key-one"},
        {"api-key": "key-two"},
        {"x-api-key": "key-one", "x-client-id": "somebody"},
    ],
)
def test_a_key_is_shown_in_any_of_the_usual_ways(closed: Any, headers: dict[str, str]) -> None:
    assert closed.chat(headers=headers)[0] == 200
    assert used(closed, "client:ci")["requests"] == 1


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer key-three"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic a2V5LW9uZTo="},
        {"Authorization": "key-one"},
        {"Authorization": f"Bearer {digest('key-one')}"},
        {"X-Api-Key": "KEY-ONE"},
        {"X-Api-Key": ""},
        {"Cookie": "key-one"},
    ],
)
def test_without_a_key_of_the_proxy_nothing_is_served(closed: Any, models: Any, headers: dict[str, str]) -> None:
    for method, path in (
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/audio/speech"),
        ("GET", "/v1/models"),
        ("GET", "/v1/files"),
    ):
        status, got, body = closed.request(method, path, {"model": "dev"} if method == "POST" else None, headers)
        assert (status, got["www-authenticate"], json.loads(body)["error"]["code"]) == (401, "Bearer", "invalid_api_key")
    assert models.counts("one") == {}
    assert accounts(closed) == {}


def test_the_stock_clients_understand_why(closed: Any) -> None:
    with pytest.raises(openai.AuthenticationError, match="A key of this proxy is needed") as refused:
        gpt(closed, "wrong").chat.completions.create(model="dev", messages=ASKED)
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(anthropic.AuthenticationError) as told:
        claude(closed, "wrong").messages.create(model="dev", messages=ASKED, max_tokens=5)
    assert told.value.type == "authentication_error"
    assert gpt(closed, "key-one").chat.completions.create(model="dev", messages=ASKED).choices[0].message.content
    assert claude(closed, "key-one").messages.create(model="dev", messages=ASKED, max_tokens=5).content


def test_a_key_is_rotated_without_a_gap(closed: Any, models: Any) -> None:
    for digests, works in ((("one", "two"), ("one", "two")), (("two", "three"), ("two", "three")), (("three",), ("three",))):
        clients = {"ci": {"keys": [digest(f"key-{name}") for name in digests]}}
        put(closed, agents(closed, "dev"), models.endpoints(), clients=clients)
        accepted = [name for name in ("one", "two", "three") if closed.chat(headers=bearer(f"key-{name}"))[0] == 200]
        assert tuple(accepted) == works
    assert used(closed, "client:ci")["requests"] == 5


def test_without_clients_no_key_is_needed_and_one_does_no_harm(proxy: Any, models: Any) -> None:
    proxy.put(agents(proxy, "dev"), models.endpoints())
    assert proxy.chat()[0] == 200
    assert proxy.chat(headers=bearer("anything"))[0] == 200
    assert list(accounts(proxy)) == ["agent:dev"]


def test_a_key_is_nowhere_to_be_found(start_proxy: Callable[..., Any], upstream: Any, tmp_path: Path) -> None:
    log = tmp_path / "access.jsonl"
    proxy = start_proxy("--access-log", str(log), env={"UPSTREAM_KEY": "secret-of-the-vendor"})
    one = upstream([b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"])
    clients = {"ci": {"keys": [digest("secret-good")]}, "bot": {"keys": [digest("secret-bot")], "agents": []}}
    put(proxy, agents(proxy, "dev"), {"one": one.endpoint(api_key="env:UPSTREAM_KEY")}, clients=clients, content=True)
    texts = []
    for key in ("secret-good", "secret-bot", "secret-bad"):
        for name in ("Authorization", "X-Api-Key", "Api-Key"):
            headers = {name: f"Bearer {key}" if name == "Authorization" else key, "X-Session-ID": "s"}
            for path in (*FOR_MODELS, "/v1/audio/speech", "/v1/models", "/elsewhere", "/-/routes", "/-/requests"):
                method = "POST" if path in (*FOR_MODELS, "/v1/audio/speech") else "GET"
                texts.append(proxy.request(method, path, {"model": "dev"} if method == "POST" else None, headers))
    answers = b"".join(str(head).encode() + body for _, head, body in texts)
    pages = [proxy.request("GET", path)[2] for path in ("/stats", "/metrics", "/healthz")]
    behind = [proxy.request("GET", f"/-/{name}", headers=bearer(proxy.token))[2] for name in ("requests", "sessions", "accounts")]
    proxy.until(lambda: log.exists() and log.read_bytes().count(b"\n") >= 45)
    proxy.process.stop()
    files = [path.read_bytes() for path in (log, proxy.errors, *proxy.data.rglob("*")) if path.is_file()]
    everything = [answers, *pages, *behind, *files]
    assert b'"client":"ci"' in log.read_bytes()
    assert not any(b"secret" in text for text in everything)
    assert all(digest("secret-good").encode() not in text for text in (answers, *pages, *behind, log.read_bytes()))
    assert len(one.requests) == 15
    assert all(b"authorization: Bearer secret-of-the-vendor\r\n" in asked for asked in one.requests)
    assert not any(word in asked for asked in one.requests for word in (b"secret-good", b"secret-bad", b"secret-bot"))


# -- agents ----------------------------------------------------------------------------------------------------------


def test_a_client_may_ask_its_agents_and_no_others(closed: Any, models: Any) -> None:
    assert closed.chat("docs", bearer("key-docs"))[0] == 200
    answer = closed.chat("dev", bearer("key-docs"))
    assert (answer[0], error(answer)["code"], error(answer)["type"]) == (403, "agent_not_allowed", "permission_error")
    assert error(answer)["message"] == "The client docs-bot may not ask dev; it may ask docs"
    assert "it may ask none" in error(closed.chat("dev", bearer("key-none")))["message"]
    with pytest.raises(anthropic.PermissionDeniedError):
        claude(closed, "key-docs").messages.create(model="dev", messages=ASKED, max_tokens=5)
    headers = {**bearer("key-docs"), "X-Turnout-Agent": "dev"}
    assert closed.request("GET", "/v1/files", headers=headers)[0] == 403
    assert closed.request("GET", "/v1/files", headers={**headers, "X-Turnout-Agent": "docs"})[0] == 200
    assert set(models.counts("one")) == {"acme/docs", "*"}


def test_an_unknown_agent_is_told_the_nearest_that_the_client_may_ask(closed: Any) -> None:
    answer = closed.chat("dvv", bearer("key-one"))
    assert (answer[0], error(answer)["code"]) == (404, "model_not_found")
    assert error(answer)["message"] == "There is no agent 'dvv'. Did you mean 'dev'?"
    assert error(closed.chat("dvv", bearer("key-docs")))["message"] == "There is no agent 'dvv'."


def test_the_list_of_models_is_that_of_the_client(closed: Any) -> None:
    def listed(key: str) -> list[str]:
        return [model.id for model in gpt(closed, key).models.list()]

    assert listed("key-one") == ["dev", "docs"]
    assert listed("key-docs") == ["docs"]
    assert listed("key-none") == []
    assert gpt(closed, "key-docs").models.retrieve("docs").id == "docs"
    with pytest.raises(openai.NotFoundError):
        gpt(closed, "key-docs").models.retrieve("dev")


def test_the_page_of_a_model_names_no_agent_that_the_client_may_not_ask(closed: Any) -> None:
    for asked in ("dev", "dvv"):
        status, _, body = closed.request("GET", f"/v1/models/{asked}", headers=bearer("key-docs"))
        assert status == 404
        assert json.loads(body)["error"]["message"] == f"There is no agent {asked!r}."


# -- rates -----------------------------------------------------------------------------------------------------------


def limited(proxy: Any, models: Any, *, client: Any = None, agent: Any = None, **more: Any) -> None:
    """`ci` with the key key-one and these limits, `other` without any, and the agent dev with its own."""
    clients = {"ci": {"keys": [digest("key-one")], "limits": client or {}}, "other": {"keys": [digest("key-two")]}}
    routes = {**agents(proxy, "dev", **({"limits": agent} if agent else {})), **agents(proxy, "docs")}
    put(proxy, routes, models.endpoints(**more), clients=clients)


@pytest.mark.parametrize("whose", ["client", "agent"])
def test_a_rate_of_requests(proxy: Any, models: Any, whose: str) -> None:
    limited(proxy, models, **{whose: {"requests_per_minute": 3}})
    assert [proxy.chat(headers=bearer("key-one"))[0] for _ in range(5)] == [200, 200, 200, 429, 429]
    status, headers, body = proxy.chat(headers=bearer("key-one"))
    assert (status, error((status, headers, body))["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(headers["retry-after"]) <= 120
    name = "The client ci" if whose == "client" else "The agent dev"
    assert error((status, headers, body))["message"].startswith(f"{name} has used its 3 requests a minute; it goes on in ")
    with pytest.raises(openai.RateLimitError):
        gpt(proxy, "key-one").chat.completions.create(model="dev", messages=ASKED)
    assert proxy.chat(headers=bearer("key-two"))[0] == (200 if whose == "client" else 429)
    assert proxy.chat("docs", headers=bearer("key-one"))[0] == (429 if whose == "client" else 200)
    assert models.counts("one")["acme/dev"]["requests"] == (4 if whose == "client" else 3)


@pytest.mark.parametrize("whose", ["client", "agent"])
def test_a_rate_of_tokens(proxy: Any, models: Any, whose: str) -> None:
    limited(proxy, models, **{whose: {"tokens_per_minute": 20}})
    statuses = [proxy.chat(headers=bearer("key-one"))[0] for _ in range(4)]  # each uses 12 and some
    assert statuses == [200, 200, 429, 429]
    _, headers, body = proxy.chat(headers=bearer("key-one"))
    assert int(headers["retry-after"]) >= 1
    assert "has used its 20 tokens a minute" in json.loads(body)["error"]["message"]
    assert proxy.chat(headers=bearer("key-two"))[0] == (200 if whose == "client" else 429)


def test_a_request_that_the_agent_refuses_is_none_of_the_client(proxy: Any, models: Any) -> None:
    limited(proxy, models, client={"requests_per_minute": 3}, agent={"requests_per_minute": 1})
    assert [proxy.chat(headers=bearer("key-one"))[0] for _ in range(4)] == [200, 429, 429, 429]
    assert proxy.chat("docs", headers=bearer("key-one"))[0] == 200


def test_limits_change_with_the_table_and_keep_what_was_used(proxy: Any, models: Any) -> None:
    limited(proxy, models, client={"requests_per_minute": 2})
    assert [proxy.chat(headers=bearer("key-one"))[0] for _ in range(3)] == [200, 200, 429]
    limited(proxy, models, client={"requests_per_minute": 3})
    assert [proxy.chat(headers=bearer("key-one"))[0] for _ in range(2)] == [200, 429]
    limited(proxy, models)
    assert proxy.chat(headers=bearer("key-one"))[0] == 200


# -- money -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["client", "agent"])
def test_a_budget_that_is_spent_is_a_402_that_says_so(proxy: Any, models: Any, whose: str) -> None:
    limited(proxy, models, **{whose: {"budget_usd": 0.2}})  # 12 tokens of output cost 0.12
    assert [proxy.chat(headers=bearer("key-one"))[0] for _ in range(3)] == [200, 200, 402]
    status, headers, body = proxy.chat(headers=bearer("key-one"))
    found = error((status, headers, body))
    assert (found["code"], found["type"], found["param"], headers["retry-after"]) == (
        "budget_exceeded",
        "insufficient_quota",
        None,
        None,
    )
    name = "client ci" if whose == "client" else "agent dev"
    spent = used(proxy, "client:ci" if whose == "client" else "agent:dev")["cost_usd"]
    assert found["message"].startswith(f"The budget of the {name} for ")
    assert f" is spent: {spent:.4f} of 0.20 USD. " in found["message"]
    with pytest.raises(openai.APIStatusError) as refused:
        gpt(proxy, "key-one").chat.completions.create(model="dev", messages=ASKED)
    assert refused.value.status_code == 402
    assert proxy.chat(headers=bearer("key-two"))[0] == (200 if whose == "client" else 402)
    assert models.counts("one")["acme/dev"]["requests"] == (3 if whose == "client" else 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_spent_outlives_the_process(proxy: Any, models: Any, number: int) -> None:
    limited(proxy, models, client={"budget_usd": 0.2})
    assert [proxy.chat(headers=bearer("key-one"))[0] for _ in range(3)] == [200, 200, 402]
    before = accounts(proxy)
    if number == signal.SIGKILL:
        kept = proxy.data / "stats.json"
        proxy.until(lambda: kept.exists() and json.loads(kept.read_bytes())["accounts"].items() >= before.items())
    proxy.restart(number)
    assert accounts(proxy) == before
    assert proxy.chat(headers=bearer("key-one"))[0] == 402
    limited(proxy, models, client={"budget_usd": 0.3})
    assert [proxy.chat(headers=bearer("key-one"))[0] for _ in range(2)] == [200, 402]


def test_what_is_charged_is_what_the_upstream_said(proxy: Any, models: Any) -> None:
    limited(proxy, models)
    for key in ("key-one", "key-one", "key-two"):
        assert proxy.chat(headers=bearer(key))[0] == 200
    models.behave("one", {"acme/dev": {"status": 500}})
    assert proxy.chat(headers=bearer("key-two"))[0] == 500
    counts = models.counts("one")["acme/dev"]
    agent, ci, other = (used(proxy, key) for key in ("agent:dev", "client:ci", "client:other"))
    assert (agent["input_tokens"], agent["output_tokens"]) == (counts["input_tokens"], counts["output_tokens"])
    assert agent["cost_usd"] == pytest.approx((1000 * counts["input_tokens"] + 10_000 * counts["output_tokens"]) / 1e6)
    assert agent["cost_usd"] == pytest.approx(ci["cost_usd"] + other["cost_usd"])
    assert (agent["requests"], ci["requests"], other["requests"]) == (3, 2, 1)  # a failure costs nothing
    assert agent["cost_usd"] == pytest.approx(proxy.cell("dev")["cost_usd"])


def test_a_stream_without_usage_is_charged_by_estimate(proxy: Any, models: Any) -> None:
    limited(proxy, models, client={"budget_usd": 0.1})
    status, _, body = proxy.chat(headers=bearer("key-one"), stream=True)
    assert (status, body.count(b"data:")) == (200, 15)
    found = used(proxy, "client:ci")
    size = len(json.dumps({"model": "dev", "messages": ASKED, "stream": True}))
    assert found["estimated_tokens"] == size // 4 + 15
    assert found["cost_usd"] == pytest.approx((1000 * (size // 4) + 10_000 * 15) / 1e6)
    assert (found["requests"], found.get("input_tokens", 0), found.get("output_tokens", 0)) == (1, 0, 0)
    assert proxy.chat(headers=bearer("key-one"))[0] == 402
    cell = proxy.cell("dev")
    assert (cell["estimated"], cell["costed"], cell["cost_usd"]) == (1, 0, 0)  # a guess is no evidence for a rollout


def test_a_stream_with_usage_is_charged_by_it(proxy: Any, models: Any) -> None:
    limited(proxy, models)
    proxy.chat(headers=bearer("key-one"), stream=True, stream_options={"include_usage": True})
    counts, found = models.counts("one")["acme/dev"], used(proxy, "client:ci")
    assert (found["input_tokens"], found["output_tokens"]) == (counts["input_tokens"], 12)
    assert found.get("estimated_tokens", 0) == 0


def test_who_leaves_in_the_middle_of_a_stream_pays_for_what_came(proxy: Any, models: Any) -> None:
    limited(proxy, models, client={"budget_usd": 0.02})
    models.behave("one", {"acme/dev": {"token_ms": 50, "output_tokens": 200}})
    body = json.dumps({"model": "dev", "messages": ASKED, "stream": True})
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
    connection.request("POST", "/v1/chat/completions", body, bearer("key-one"))
    answer = connection.getresponse()
    for _ in range(10):
        answer.readline()
    answer.close()
    connection.close()
    proxy.until(lambda: models.counts("one")["acme/dev"]["cancelled"] == 1)
    proxy.until(lambda: accounts(proxy).get("client:ci"))
    assert used(proxy, "client:ci")["estimated_tokens"] >= 4 + len(body) // 4
    assert proxy.chat(headers=bearer("key-one"))[0] == 402


def test_a_fallback_is_charged_to_the_agent_that_was_asked(proxy: Any, models: Any) -> None:
    stable = {
        "variants": [proxy.variant("stable", "acme/dev", 100, price=PRICE)],
        "fallbacks": ["docs"],
        "limits": {"budget_usd": 0.2},
    }
    spare = {"variants": [proxy.variant("stable", "acme/docs", 100, "two", price=PRICE)], "limits": {"requests_per_minute": 1}}
    clients = {"ci": {"keys": [digest("key-one")], "agents": ["dev"]}}
    put(proxy, {"dev": stable, "docs": spare}, models.endpoints(retries=0), clients=clients)
    models.behave("one", {"acme/dev": {"status": 503}})
    for _ in range(2):
        status, headers, _ = proxy.chat(headers=bearer("key-one"))
        assert (status, headers["x-turnout-agent"], headers["x-turnout-fallback-for"]) == (200, "docs", "dev")
    assert proxy.chat(headers=bearer("key-one"))[0] == 402
    assert sorted(accounts(proxy)) == ["agent:dev", "client:ci"]
    assert used(proxy, "agent:dev")["output_tokens"] == models.counts("two")["acme/docs"]["output_tokens"] == 24
    assert proxy.cell("docs")["cost_usd"] == pytest.approx(used(proxy, "agent:dev")["cost_usd"])  # who answered is judged by it


# -- Anthropic -------------------------------------------------------------------------------------------------------


def shape(answer: tuple[int, Any, bytes]) -> tuple[int, str, str]:
    found = json.loads(answer[2])
    assert found["type"] == "error"
    assert isinstance(found["error"]["message"], str)
    return answer[0], found["error"]["type"], found["error"]["code"]


def test_errors_of_the_messages_api_have_its_shape(proxy: Any, upstream: Any) -> None:
    def ask(model: str = "", key: str = "key-one", body: bytes = b"", method: str = "POST") -> tuple[int, str, str]:
        return shape(proxy.request(method, "/v1/messages", body or {"model": model}, bearer(key)))

    assert ask("dead") == (503, "api_error", "no_route_table")
    hung = upstream([b"UNTIL-CLOSED"])
    endpoints = {"hung": hung.endpoint(timeout_s=0.2), "dead": {"url": "http://127.0.0.1:1/v1", "retries": 0}}
    routes = {name: {"variants": [proxy.variant("stable", "m", 100, name)]} for name in endpoints}
    routes["poor"] = {**routes["dead"], "limits": {"budget_usd": 0.0}}
    routes["slow"] = {**routes["dead"], "limits": {"requests_per_minute": 1}}
    put(proxy, routes, endpoints, clients={"ci": {"keys": [digest("key-one")], "agents": [*routes, "gone"]}})
    assert ask("dead", key="wrong") == (401, "authentication_error", "invalid_api_key")
    assert ask("poor") == (402, "billing_error", "budget_exceeded")
    assert ask("gone") == (404, "not_found_error", "model_not_found")
    assert ask(body=b"{") == (400, "invalid_request_error", "invalid_body")
    assert ask(method="GET") == (405, "invalid_request_error", "method_not_allowed")
    assert ask("slow") == ask("dead") == (502, "api_error", "endpoint_unreachable")
    assert ask("slow") == (429, "rate_limit_error", "rate_limit_exceeded")
    assert ask("hung") == (504, "timeout_error", "endpoint_timeout")
    large = b'{"model":"dead","x":"' + b"x" * (16 << 20) + b'"}'
    assert ask(body=large) == (413, "request_too_large", "request_too_large")


@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/v1/messages/batches", "/v1/messages?beta=true"])
def test_errors_of_every_path_of_the_messages_api_have_its_shape(closed: Any, path: str) -> None:
    assert shape(closed.request("POST", path, {"model": "dev"}))[:2] == (401, "authentication_error")
    large = b'{"model":"dev","x":"' + b"x" * (16 << 20) + b'"}'
    assert shape(closed.request("POST", path, large, bearer("key-one")))[:2] == (413, "request_too_large")
