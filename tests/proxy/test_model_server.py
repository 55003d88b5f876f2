"""The simulated endpoints: what can be asked of them, and that their faults are exactly those that were asked for."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
import sys
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest

from controller.testing.model_behaviour import FAULTS, Behaviours, changed

STREAM = {"model": "m", "messages": [], "stream": True}


def ask(models: Any, model: str = "m") -> int:
    return models.web["one"].request("POST", "/v1/chat/completions", {"model": model, "messages": []})[0]


def test_errors_are_spread_evenly(models: Any) -> None:
    models.behave("one", {"m": {"error_rate": 0.1, "status": 429}})
    assert [ask(models) for _ in range(30)] == ([200] * 9 + [429]) * 3
    models.behave("one", {"m": {"error_rate": None, "status": None}})
    assert ask(models) == 200
    assert models.counts("one")["m"]["errors"] == 3
    models.behave("one", {"m": {"status": 503}})
    assert [ask(models), ask(models, "other")] == [503, 200]
    models.behave("one", {"m": None})
    assert ask(models) == 200


def test_a_wrong_behaviour_is_explained(models: Any) -> None:
    wrong = {"m": {"error_rate": 2, "latency": 1, "hang": "yes", "output_tokens": 0, "status": 200}, "n": 3}
    status, _, body = models.web["one"].request("PUT", "/-/behaviour", wrong)
    assert status == 422
    assert len(json.loads(body)["errors"]) == 6
    assert models.web["one"].json("/-/behaviour") == {}
    assert models.web["one"].request("PUT", "/-/behaviour", b"{")[0] == 422


def test_behaviours_are_kept_and_sigterm_stops_at_once(tmp_path: Path, models: Any) -> None:
    web = type(models.web["one"])
    state = tmp_path / "state.json"
    command = [sys.executable, "-m", "controller.testing.model_server", "--endpoint", "x=0", "--state", str(state)]
    for expected in ({}, {"m": {"hang": True, "latency_ms": 0, "output_tokens": 12, "die_mid_stream": False}}):
        child = Popen(command, stdout=PIPE, text=True)
        assert child.stdout is not None
        line = child.stdout.readline()
        assert line.startswith("model endpoint x listening on http://127.0.0.1:")
        server = web(int(line.rpartition(":")[2]))
        assert server.json("/-/behaviour") == expected
        assert server.request("PUT", "/-/behaviour", {"m": {"hang": True}})[0] == 200
        child.send_signal(signal.SIGTERM)
        assert child.wait(20) == 0
        child.stdout.close()


@pytest.mark.parametrize(
    ("field", "wrong", "right"),
    [
        ("first_token_ms", -1, 0),
        ("token_ms", "1", 0.5),
        ("speed", 0, 0.5),
        ("concurrency", 0, 1),
        ("queue", -1, 0),
        ("kv_tokens", 1.5, 1),
        ("retry_after", "\n", "Wed, 21 Oct 2026 07:28:00 GMT"),
        ("retry_after", True, 0),
        ("fault", "explode", "obs_fold"),
        ("fault_rate", 1.1, 1),
        ("framing", "none", "eof"),
        ("gzip", 1, True),
        ("drip_ms", -1, 0),
        ("header_kb", 0, 70),
        ("informational", [101], [100, 199]),
        ("informational", 103, []),
        ("informational", [103] * 65, [103] * 64),
        ("metrics_running", -1, 1e5),
        ("metrics_kv_cache", 1.01, 1),
        ("early", "late", "refuse"),
        ("health", 200, 503),
        ("health", "sleep", "hang"),
        ("metrics", "none", "old_names"),
    ],
)
def test_every_field_is_checked(field: str, wrong: Any, right: Any) -> None:
    own, found = changed("*", {}, {field: wrong})
    assert own == {}
    assert found[0].startswith(f"{field} is ")
    assert found[0].endswith(json.dumps(wrong))
    assert changed("*", {}, {field: right}) == ({field: right}, [])
    assert changed("*", {field: right}, {field: None}) == ({}, [])


def test_all_models_have_the_behaviour_of_the_star_and_then_their_own(tmp_path: Path) -> None:
    behaviours = Behaviours(tmp_path / "state.json")
    assert behaviours.merge("one", {"*": {"fault": "obs_fold", "gzip": True}, "m": {"gzip": False, "token_ms": 5}}) == []
    behaviours.keep()
    for one in (behaviours, Behaviours(tmp_path / "state.json")):
        of_m, of_other = one.of("one", "m"), one.of("one", "other")
        assert (of_m.fault, of_m.gzip, of_m.token_ms) == ("obs_fold", False, 5)
        assert (of_other.fault, of_other.gzip, of_other.token_ms) == ("obs_fold", True, None)
        assert one.of("two", "m").fault is None
    assert "for the model '*'" in behaviours.merge("one", {"m": {"early": "refuse"}})[0]
    assert all(name in behaviours.merge("one", {"m": {"fault": "?"}})[0] for name in FAULTS)


def send(models: Any, content: Any) -> socket.socket:
    """A request whose answer nobody waits for."""
    line = socket.create_connection(("127.0.0.1", models.web["one"].port), timeout=30)
    body = json.dumps(content).encode()
    line.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    return line


def metrics(models: Any, model: str = "m") -> dict[str, float]:
    _, headers, page = models.web["one"].request("GET", "/metrics")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    found = re.findall(rf'^vllm:(\w+){{engine="0",model_name="{model}"}} (\S+)$', page.decode(), re.MULTILINE)
    return {name: float(value) for name, value in found}


def test_places_and_the_queue_are_real(models: Any, proxy: Any) -> None:
    models.behave("one", {"m": {"concurrency": 2, "queue": 2, "fault": "hang_mid_body", "kv_tokens": 100}})
    asked: Any = {**STREAM, "messages": [{"role": "user", "content": "a b c"}]}
    lines = [send(models, asked) for _ in range(4)]
    proxy.until(lambda: metrics(models).get("num_requests_waiting") == 2)
    assert metrics(models)["num_requests_running"] == 2
    status, headers, body = models.web["one"].request("POST", "/v1/chat/completions", STREAM)
    assert (status, headers["retry-after"], json.loads(body)["error"]["code"]) == (429, "1", "queue_full")
    lines[3].close()  # one that waits
    proxy.until(lambda: metrics(models)["num_requests_waiting"] == 1)
    assert metrics(models)["num_requests_running"] == 2
    lines[0].close()  # one that is served
    proxy.until(lambda: metrics(models)["num_requests_waiting"] == 0)
    assert metrics(models)["num_requests_running"] == 2
    # Half of 15 events are the role and 6 tokens, and the request has 6 words.
    proxy.until(lambda: metrics(models)["kv_cache_usage_perc"] == 2 * (6 + 6) / 100)
    models.behave("one", {"m": {"fault": None}})
    waiting = [send(models, STREAM) for _ in range(2)]
    proxy.until(lambda: metrics(models)["num_requests_waiting"] == 2)
    models.behave("one", {"m": {"concurrency": None}})  # more places are taken at once
    proxy.until(lambda: metrics(models)["num_requests_waiting"] == 0)
    for line in (*lines, *waiting):
        line.close()
    proxy.until(lambda: metrics(models)["num_requests_running"] == 0)
    assert metrics(models)["kv_cache_usage_perc"] == 0
    assert metrics(models)["request_success_total"] == models.counts("one")["m"]["finished"]
    assert models.counts("one")["m"]["cancelled"] >= 4


def test_metrics_can_be_set_and_can_be_bad(models: Any) -> None:
    web = models.web["one"]
    assert ask(models) == ask(models, 'odd "name"') == 200
    said = {"metrics_running": 7, "metrics_waiting": 3, "metrics_kv_cache": 0.5}
    models.behave("one", {"m": said})
    found = metrics(models)
    assert [found["num_requests_running"], found["num_requests_waiting"], found["kv_cache_usage_perc"]] == [7, 3, 0.5]
    assert metrics(models, r"odd \\\"name\\\"")["num_requests_running"] == 0
    models.behave("one", {"*": {"metrics": "old_names"}})
    assert metrics(models)["gpu_cache_usage_perc"] == 0.5
    assert "kv_cache_usage_perc" not in metrics(models)
    models.behave("one", {"*": {"metrics": "without_vllm"}})
    assert metrics(models) == {}
    models.behave("one", {"*": {"metrics": "error"}})
    assert web.request("GET", "/metrics")[0] == 500
    models.behave("one", {"*": {"metrics": "garbage"}})
    with pytest.raises(UnicodeDecodeError):
        web.request("GET", "/metrics")[2].decode()


def test_health_can_be_bad(models: Any) -> None:
    web = models.web["one"]
    assert web.request("GET", "/health")[::2] == (200, b"")
    models.behave("one", {"*": {"health": 503}})
    assert web.request("GET", "/health")[0] == 503
    assert web.request("GET", "/healthz")[0] == 200
    models.behave("one", {"*": {"health": "hang", "metrics": "hang"}})
    for path in (b"/health", b"/metrics"):
        with socket.create_connection(("127.0.0.1", web.port), timeout=30) as line:
            line.sendall(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            assert [web.request("GET", "/healthz")[0] for _ in range(3)] == [200] * 3
            line.setblocking(False)
            with pytest.raises(BlockingIOError):
                line.recv(1)


def test_unknown_paths_are_echoed(models: Any) -> None:
    web = models.web["one"]
    content = bytes(range(256)) * 5000
    status, _, body = web.request("PATCH", "/v1/files/a%20b?x=1&x=2", content, {"X-Odd": "ä", "x-odd": "2"})
    answer = json.loads(body)
    assert (status, answer["method"], answer["path"], answer["query"]) == (200, "PATCH", "/v1/files/a%20b", "x=1&x=2")
    assert (answer["body_length"], answer["body_sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert [value for name, value in answer["headers"] if name.lower() == "x-odd"] == ["ä", "2"]
    status, headers, body = web.request("HEAD", "/v1/files")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 100
    models.behave("one", {"*": {"status": 418}})
    assert web.request("DELETE", "/v1/files/1")[0] == 418
    models.behave("one", {"named": {"status": 503}})
    assert web.request("POST", "/v1/rerank", {"model": "named"})[0] == 503
    assert models.counts("one")["*"]["requests"] == 3
    assert [one["id"] for one in web.json("/v1/models")["data"]] == ["named"]
    assert web.request("GET", "/v1/chat/completions")[0] == 405
    assert web.request("GET", "/other")[0] == 404


def test_tokens_take_their_time(models: Any, proxy: Any) -> None:
    long = 600_000
    models.behave("one", {"m": {"first_token_ms": long}, "gaps": {"token_ms": long}, "late": {"latency_ms": long}})
    # The head comes at once, then nothing; a role and a token, then nothing; nothing.
    for model, tokens in (("m", 0), ("gaps", 1), ("late", None)):
        with send(models, {**STREAM, "model": model}) as line:
            received = b""
            while tokens is not None and (b"\r\n\r\n" not in received or received.count(b'"content":"') < tokens + bool(tokens)):
                received += line.recv(65536)
            proxy.until(lambda model=model: metrics(models, model).get("num_requests_running") == 1)
            line.setblocking(False)
            with pytest.raises(BlockingIOError):
                line.recv(1)
            assert received.count(b"data:") == (0 if not tokens else 1 + tokens)
    models.behave("one", {"quick": {"first_token_ms": 10_000, "token_ms": 1000, "latency_ms": 10_000, "speed": 1000}})
    assert ask(models, "quick") == 200
    answer = models.web["one"].request("POST", "/v1/chat/completions", {**STREAM, "model": "quick"})[2]
    assert answer.endswith(b"data: [DONE]\n\n")
    assert models.web["one"].request("POST", "/v1/completions", {"model": "quick", "max_tokens": 3})[0] == 200
