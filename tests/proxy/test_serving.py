"""What an agent sees: answers of the right variant, through the real client, and what is counted of them."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from typing import Any

import httptools
import openai
import pytest

HEADERS = ("agent", "variant", "version", "model", "endpoint", "step")


def said(headers: Any) -> list[str | None]:
    return [headers.get(f"x-turnout-{name}") for name in HEADERS]


def split(proxy: Any, *, weight: float = 0, **more: Any) -> dict[str, Any]:
    stable = proxy.variant("stable", "acme/v1", 100 - weight, price={"input": 3, "output": 15})
    return {"variants": [stable, proxy.variant("candidate", "acme/v2", weight, "two")], **more}


def test_the_openai_client_gets_answers(proxy: Any, models: Any) -> None:
    proxy.put({"dev": split(proxy, step="s1")}, models.endpoints())
    client = proxy.client()
    asked: Any = [{"role": "user", "content": "Hello"}]
    raw = client.chat.completions.with_raw_response.create(model="dev", messages=asked)
    assert raw.parse().choices[0].message.content.startswith("Simulated answer of acme/v1 at one:")
    assert said(raw.headers) == ["dev", "stable", "v1", "acme/v1", "one", "s1"]
    options: Any = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="dev", messages=asked, stream=True, stream_options=options))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == raw.parse().choices[0].message.content
    assert chunks[-1].usage.completion_tokens == 12
    assert client.completions.create(model="dev", prompt="x").choices[0].text.startswith("Simulated")
    assert len(client.embeddings.create(model="dev", input=["a", "b"]).data) == 2
    assert [model.id for model in client.models.list()] == ["dev"]
    cell, counts = proxy.cell("dev", step="s1"), models.counts("one")["acme/v1"]
    for name in ("requests", "errors", "input_tokens", "output_tokens"):
        assert cell[name] == counts[name]
    assert cell["costed"] == cell["requests"] == sum(cell["latency"].values()) == 4
    assert cell["cost_usd"] == pytest.approx((3 * counts["input_tokens"] + 15 * counts["output_tokens"]) / 1e6)
    assert cell["version"] == "v1"


def test_an_unknown_model_gets_the_nearest_name(proxy: Any, models: Any) -> None:
    proxy.put({"feature_dev": split(proxy)}, models.endpoints())
    with pytest.raises(openai.NotFoundError, match="Did you mean 'feature_dev'") as found:
        proxy.client().chat.completions.create(model="feature-dev", messages=[])
    assert found.value.code == "model_not_found"
    assert proxy.request("POST", "/v1/chat/completions", b"{")[0] == 400
    assert proxy.request("POST", "/elsewhere", {})[0] == 404
    assert proxy.request("GET", "/v1/chat/completions")[0] == 405


def test_without_a_table_nothing_is_served(proxy: Any) -> None:
    assert [proxy.request("GET", path)[0] for path in ("/healthz", "/v1/models", "/stats", "/metrics")] == [
        503, 503, 200, 200,
    ]  # fmt: skip
    assert proxy.chat()[0] == 503
    assert proxy.admin("GET")[0] == 404


def test_the_bytes_go_through_and_the_keys_do_not(start_proxy: Any, upstream: Any, tmp_path: Any) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-Other: 2\r\n\r\nok"
    one = upstream([answer])
    (tmp_path / "key").write_text("from-a-file\n")
    proxy = start_proxy(env={"A_KEY": "from-the-environment"})
    body = b'{ "messages":[{"model":"dev"}],\n"model" : "dev", "x":1e400, "\\u006dodel": "dev"}'
    headers = {"Authorization": "Bearer client", "X-Api-Key": "k", "X-Mine": "m", "Connection": "X-Gone", "X-Gone": "g"}
    for key, expected in (("env:A_KEY", "from-the-environment"), (f"file:{tmp_path / 'key'}", "from-a-file")):
        proxy.put({"dev": {"variants": [proxy.variant("stable", "ä/v1", 100)]}}, {"one": one.endpoint(api_key=key)})
        status, got, text = proxy.request("POST", "/v1/responses?a=b", body, headers)
        assert (status, text, got["x-other"], got["x-hop"]) == (200, b"ok", "2", None)
        head, _, sent = one.requests[-1].partition(b"\r\n\r\n")
        assert sent == body.replace(b': "dev"', ': "ä/v1"'.encode())
        assert head.startswith(b"POST /v1/responses?a=b HTTP/1.1\r\n")
        assert f"authorization: Bearer {expected}\r\n".encode() in head
        assert f"host: 127.0.0.1:{one.port}\r\n".encode() in head
        assert b"x-mine: m\r\n" in head
        assert not any(word in head.lower() for word in (b"bearer client", b"x-api-key", b"x-gone"))
    proxy.put({"dev": {"variants": [proxy.variant("stable", "m", 100)]}}, {"one": one.endpoint(api_key="env:NOT_SET")})
    status, _, text = proxy.request("POST", "/v1/responses", body)
    assert (status, json.loads(text)["error"]["code"]) == (502, "endpoint_key_missing")


def test_sessions_stay_and_testers_may_choose(proxy: Any, models: Any) -> None:
    def variants_of(sessions: range) -> list[str]:
        return [proxy.chat(headers={"X-Session-ID": f"s{i}"})[1]["x-turnout-variant"] for i in sessions]

    proxy.put({"dev": split(proxy, weight=30, step="s1", salt="x")}, models.endpoints())
    first = variants_of(range(40))
    assert first == variants_of(range(40))
    assert set(first) == {"stable", "candidate"}
    proxy.put({"dev": split(proxy, weight=60, step="s2", salt="x")}, models.endpoints())
    second = variants_of(range(40))
    assert all(after == "candidate" for before, after in zip(first, second, strict=True) if before == "candidate")
    proxy.put({"dev": split(proxy, weight=0, step="s3", salt="x")}, models.endpoints())
    assert set(variants_of(range(40))) == {"stable"}
    assert proxy.chat(headers={"X-Turnout-Variant": "candidate"})[1]["x-turnout-version"] == "v2"
    assert proxy.chat(headers={"X-Turnout-Variant": "nobody"})[1]["x-turnout-version"] == "v1"
    counted = [cell for step in ("s1", "s2", "s3") for cell in proxy.stats()["agents"]["dev"]["steps"][step].values()]
    upstream_saw = models.counts("one")["acme/v1"]["requests"] + models.counts("two")["acme/v2"]["requests"]
    assert sum(cell["requests"] for cell in counted) == upstream_saw == 162


def test_the_shadow_is_counted_and_never_felt(proxy: Any, models: Any) -> None:
    models.behave("two", {"shadowed": {"hang": True}})
    shadow = {"variant": proxy.variant("candidate", "shadowed", 0, "two"), "percent": 100}
    route = {"variants": [proxy.variant("stable", "acme/v1", 100)], "shadow": shadow}
    proxy.put({"dev": route}, models.endpoints())
    for _ in range(70):
        status, headers, _ = proxy.chat()
        assert (status, headers["x-turnout-variant"]) == (200, "stable")
    dropped = 'turnout_shadow_dropped_total{agent="dev"} 6'
    assert dropped in proxy.request("GET", "/metrics")[2].decode()
    proxy.until(lambda: models.counts("two")["shadowed"]["requests"] == 64)
    models.process.child.kill()  # the 64 end as errors, of which no client hears
    proxy.until(lambda: proxy.stats()["agents"]["dev"]["steps"][""].get("candidate", {}).get("errors") == 64)
    assert proxy.cell("dev")["requests"] == 70
    assert proxy.cell("dev")["errors"] == 0


def test_a_guard_trips_and_stays_tripped(proxy: Any, models: Any) -> None:
    models.behave("two", {"acme/v2": {"status": 500}})
    guarded = split(proxy, weight=50, step="s1", guard={"error_rate": 0.5, "minimum": 5})
    proxy.put({"dev": guarded}, models.endpoints())
    force = {"X-Turnout-Variant": "candidate"}
    assert [proxy.chat(headers=force)[0] for _ in range(8)] == [500] * 5 + [200] * 3
    assert {proxy.chat()[0] for _ in range(20)} == {200}
    trip = proxy.stats()["agents"]["dev"]["tripped"]
    assert (trip["step"], trip["requests"], trip["errors"]) == ("s1", 5, 5)
    proxy.put({"dev": guarded}, models.endpoints())
    assert proxy.chat(headers=force)[0] == 200
    proxy.restart(signal.SIGKILL)
    assert proxy.chat(headers=force)[0] == 200
    assert proxy.stats()["agents"]["dev"]["tripped"] == trip
    assert models.counts("two")["acme/v2"]["requests"] == 5
    proxy.put({"dev": {**guarded, "step": "s2"}}, models.endpoints())
    assert proxy.stats()["agents"]["dev"]["tripped"] is None
    assert proxy.chat(headers=force)[0] == 500


def test_fallbacks_are_tried_once_each(proxy: Any, models: Any) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoints = {**models.endpoints(), "dead": {"url": f"http://127.0.0.1:{closed.getsockname()[1]}/v1"}}
        models.behave("one", {"busy": {"status": 503}, "broken": {"status": 500}})
        routes = {
            name: {"variants": [proxy.variant("stable", model, 100, endpoint)], "fallbacks": fallbacks}
            for name, model, endpoint, fallbacks in (
                ("dev", "x", "dead", ["busy", "docs"]),
                ("busy", "busy", "one", ["dead"]),
                ("docs", "docs", "two", []),
                ("dead", "x", "dead", ["busy"]),
                ("broken", "broken", "one", ["docs"]),
            )
        }
        proxy.put(routes, endpoints)
        status, headers, _ = proxy.chat(stream=True)
        assert (status, headers["x-turnout-agent"], headers["x-turnout-fallback-for"]) == (200, "docs", "dev")
        assert [proxy.cell(agent)["errors"] for agent in ("dev", "busy", "docs")] == [1, 1, 0]
        assert proxy.chat("dead")[0] == 503
        assert proxy.chat("broken")[0] == 500
        assert models.counts("one")["busy"]["requests"] == 2


def test_a_client_that_leaves_stops_the_upstream(proxy: Any, models: Any) -> None:
    models.behave("one", {"acme/v1": {"hang": True}})
    proxy.put({"dev": split(proxy)}, models.endpoints())
    body = json.dumps({"model": "dev", "messages": []}).encode()
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        client.sendall(head + body)
        proxy.until(lambda: models.counts("one").get("acme/v1", {}).get("requests") == 1)
    proxy.until(lambda: models.counts("one")["acme/v1"]["cancelled"] == 1)
    proxy.until(lambda: proxy.cell("dev")["requests"] == 1)
    assert proxy.cell("dev")["errors"] == 0
    assert 'code="499"' in proxy.request("GET", "/metrics")[2].decode()


def test_a_client_that_leaves_in_the_middle_of_a_stream(proxy: Any, upstream: Any) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    one = upstream([head + b"b\r\ndata: {}\r\n\r\n\r\n", b"UNTIL-CLOSED"])
    proxy.put({"dev": {"variants": [proxy.variant("stable", "m", 100)]}}, {"one": one.endpoint()})
    response = proxy.client().chat.completions.with_streaming_response.create(model="dev", messages=[], stream=True)
    with response as stream:
        next(stream.iter_bytes())
    assert one.closed.wait(20)


def test_a_stream_that_dies_says_so(proxy: Any, models: Any) -> None:
    models.behave("one", {"acme/v1": {"die_mid_stream": True}})
    proxy.put({"dev": split(proxy)}, models.endpoints())
    got = []
    with pytest.raises(openai.APIError, match="broke"):  # noqa: PT012
        for chunk in proxy.client().chat.completions.create(model="dev", messages=[], stream=True):
            got.append(chunk)
    assert got
    with pytest.raises(openai.APIConnectionError):
        proxy.client().chat.completions.create(model="dev", messages=[])
    assert proxy.cell("dev")["errors"] == proxy.cell("dev")["requests"] == 2
    assert proxy.cell("dev")["latency"] == {}


def test_a_silent_upstream_is_a_504_and_a_dead_one_a_502(proxy: Any, models: Any, upstream: Any) -> None:
    models.behave("one", {"acme/v1": {"hang": True}})
    garbage = upstream([b"SSH-2.0-hello\r\n"])
    endpoints = {**models.endpoints(timeout_s=0.05), "garbage": garbage.endpoint()}
    routes = {"dev": split(proxy), "odd": {"variants": [proxy.variant("stable", "m", 100, "garbage")]}}
    proxy.put(routes, endpoints)
    assert [proxy.chat()[0], proxy.chat("odd")[0]] == [504, 502]
    assert [proxy.cell(agent)["errors"] for agent in ("dev", "odd")] == [1, 1]


def test_answers_come_as_they_were_framed(proxy: Any, upstream: Any) -> None:
    one = upstream(
        [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Fine\r\nContent-Length: 3\r\n\r\n", b"abc"],
        [b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil ", b"the end"],
        [b"HTTP/1.1 204 No Content\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", b"2\r\nbc\r\n0\r\nT: x\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"],
    )
    proxy.put({"dev": {"variants": [proxy.variant("stable", "m", 100)]}}, {"one": one.endpoint()})
    got = [proxy.chat() for _ in range(5)]
    assert [body for _, _, body in got] == [b"abc", b"until the end", b"", b"abc", b"x"]
    assert [status for status, _, _ in got] == [200, 200, 204, 200, 200]


def test_a_slow_reader_slows_the_upstream(proxy: Any, upstream: Any) -> None:
    size = 64 << 20
    one = upstream([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, *[b"x" * (1 << 20)] * 64])
    proxy.put({"dev": {"variants": [proxy.variant("stable", "m", 100)]}}, {"one": one.endpoint()})
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        client.sendall(b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{"model":"dev"}')
        proxy.until(lambda: one.requests)
        for _ in range(20):
            assert proxy.request("GET", "/healthz")[0] == 200
        status = f"/proc/{proxy.process.child.pid}/status"
        with open(status) as lines:
            peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        assert peak < 64 << 10  # kB: far less than the answer is waiting in the proxy
        seen = 0
        while seen < size:
            seen += len(client.recv(1 << 20))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_an_upstream_over_tls_is_verified(start_proxy: Any, upstream: Any, tmp_path: Any) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {key} -out {certificate} -subj /CN=localhost"
    subprocess.run([*command.split(), "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    one = upstream([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"UNTIL-CLOSED"], tls=context)
    for name, env, expected in (("trusting", {"SSL_CERT_FILE": certificate}, 200), ("wary", {}, 502)):
        proxy = start_proxy(name=name, env=env)
        endpoint = {"url": f"https://localhost:{one.port}/v1"}
        proxy.put({"dev": {"variants": [proxy.variant("stable", "m", 100)]}}, {"one": endpoint})
        assert proxy.chat()[0] == expected


def test_connections_are_kept_and_a_closed_one_is_replaced(proxy: Any, upstream: Any) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    one = upstream([answer, b"READ", answer, b"READ"], [answer])
    proxy.put({"dev": {"variants": [proxy.variant("stable", "m", 100)]}}, {"one": one.endpoint()})
    assert [proxy.chat()[0] for _ in range(3)] == [200] * 3
    assert len(one.requests) == 4  # the third was read by the first connection, which then closed without an answer
    assert one.connections == 2
    assert (proxy.cell("dev")["requests"], proxy.cell("dev")["errors"]) == (3, 0)


def test_metrics_can_be_read_by_prometheus(proxy: Any, models: Any) -> None:
    proxy.put({'d"e\\v': split(proxy)}, models.endpoints())
    proxy.chat('d"e\\v')
    text = proxy.request("GET", "/metrics")[2].decode()
    labels = 'agent="d\\"e\\\\v",variant="stable"'
    assert f'turnout_requests_total{{{labels},version="v1",code="200"}} 1' in text
    labels = 'gen_ai_agent_name="d\\"e\\\\v",turnout_variant="stable",turnout_version="v1",gen_ai_request_model="acme/v1"'
    assert f"gen_ai_server_request_duration_seconds_count{{{labels}}} 1" in text
    assert f'gen_ai_server_request_duration_seconds_bucket{{{labels},le="+Inf"}} 1' in text
    assert f'gen_ai_client_token_usage_sum{{{labels},gen_ai_token_type="output"}} 12' in text
    assert "turnout_route_table_serial 1" in text


def test_stopping_lets_requests_end(proxy: Any, upstream: Any) -> None:
    one = upstream([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"WAIT", b"ok"])
    proxy.put({"dev": {"variants": [proxy.variant("stable", "m", 100)]}}, {"one": one.endpoint()})
    got: list[Any] = []
    asking = threading.Thread(target=lambda: got.append(proxy.chat()))
    asking.start()
    proxy.until(lambda: one.requests)
    proxy.process.child.send_signal(signal.SIGTERM)

    def refused() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", proxy.port)) != 0

    proxy.until(refused)
    one.release.set()
    asking.join(20)
    assert got[0][2] == b"ok"
    assert proxy.process.child.wait(20) == 0
    assert json.loads((proxy.data / "stats.json").read_bytes())["agents"]["dev"]["steps"][""]["stable"]["requests"] == 1


def test_a_port_in_use_is_one_line(proxy: Any, tmp_path: Any) -> None:
    command = [sys.executable, "-m", "controller.proxy", "--port", str(proxy.port), "--data", str(tmp_path / "other")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr.startswith("proxy: cannot listen on 127.0.0.1:")
    assert ended.stderr.count("\n") == 1


def test_the_parser_is_the_strict_one() -> None:
    """The hygiene of `test_hygiene.py` rests on llhttp 9; an older httptools would let obs-fold through."""
    parser = httptools.HttpRequestParser(object())
    with pytest.raises(httptools.HttpParserError):
        parser.feed_data(b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n")
