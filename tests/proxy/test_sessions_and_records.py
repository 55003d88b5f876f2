"""Multi-turn work as the proxy sees it: stock clients with a SessionContext, what is recorded of a request, and who is told."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from controller.client import SessionContext
from controller.proxy.record import PARTS, slowest
from controller.proxy.sessions import Sessions, together

ASKED: Any = [{"role": "user", "content": "Hello"}]
PRICE = {"input": 1000.0, "output": 10_000.0}


def put(proxy: Any, routes: Any, endpoints: Any, **more: Any) -> None:
    table = {**proxy.table(routes, endpoints), **more}
    status, _, body = proxy.admin("PUT", table)
    assert status == 200, body
    proxy.serial, proxy.digest = table["serial"], table["digest"]


def behind_token(proxy: Any, path: str) -> Any:
    status, _, body = proxy.request("GET", path, headers={"Authorization": f"Bearer {proxy.token}"})
    assert status == 200, body
    return json.loads(body)


def records(proxy: Any) -> list[Any]:
    found: list[Any] = behind_token(proxy, "/-/requests?limit=1000")["requests"]
    return found


def sessions(proxy: Any) -> dict[str, Any]:
    return {each["session"]: each for each in behind_token(proxy, "/-/sessions?limit=1000")["sessions"]}


def one_route(proxy: Any, model: str = "m", endpoint: str = "one", **more: Any) -> dict[str, Any]:
    return {"variants": [proxy.variant("stable", model, 100, endpoint, price=PRICE)], **more}


@pytest.fixture
def ready(start_proxy: Callable[..., Any], models: Any) -> Any:
    """A proxy with the agents dev and docs; the endpoints want a key."""
    proxy = start_proxy(env={"UPSTREAM_KEY": "of-the-vendor"})
    routes = {"dev": one_route(proxy), "docs": one_route(proxy, "n", "two")}
    proxy.put(routes, models.endpoints(api_key="env:UPSTREAM_KEY"))
    return proxy


@pytest.fixture
def gpt(ready: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{ready.url}/v1", api_key="any", max_retries=0, timeout=30, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture
def claude(ready: Any) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=ready.url, api_key="any", max_retries=0, timeout=30, _strict_response_validation=True
    ) as client:
        yield client


# -- the stock clients -----------------------------------------------------------------------------------------------


def test_a_session_of_the_openai_client(ready: Any, gpt: openai.OpenAI, models: Any) -> None:
    session = SessionContext("conversation-1", task_id="fix-the-build", client_id="agent-7")
    session.set_timing(pre_ms=1500, post_ms=500)
    text = gpt.chat.completions.create(model="dev", messages=ASKED, extra_headers=session.get_headers()).choices[0].message.content
    assert text is not None
    more: Any = {"model": "dev", "extra_headers": session.get_headers()}
    streamed = gpt.chat.completions.create(messages=ASKED, stream=True, stream_options={"include_usage": True}, **more)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices) == text
    assert gpt.responses.create(input="Hello", **more).output_text == text
    events = list(gpt.responses.create(input="Hello", stream=True, **more))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == text
    assert len(gpt.embeddings.create(input=["a", "b"], encoding_format="float", **more).data) == 2
    assert gpt.completions.create(prompt="Hello", **more).choices[0].text == text
    found, counts = sessions(ready), models.counts("one")["m"]
    assert list(found) == ["conversation-1"]
    mine = found["conversation-1"]
    assert (mine["turns"], mine["errors"], mine["agent"], mine["variant"], mine["task"]) == (6, 0, "dev", "stable", "fix-the-build")
    assert (mine["input_tokens"], mine["output_tokens"]) == (counts["input_tokens"], counts["output_tokens"])
    assert mine["cost_usd"] == pytest.approx((1000 * counts["input_tokens"] + 10_000 * counts["output_tokens"]) / 1e6)
    assert mine["agent_s"] == 2.0
    assert mine["bottleneck"] == "agent"
    paths = [each["path"].removeprefix("/v1/") for each in records(ready)]
    assert paths == ["chat/completions", "chat/completions", "responses", "responses", "embeddings", "completions"]
    assert [each.get("stream", False) for each in records(ready)] == [False, True, False, True, False, False]
    assert {(each["session"], each["task"], each["told_client"]) for each in records(ready)} == {
        ("conversation-1", "fix-the-build", "agent-7")
    }


def test_a_session_of_the_anthropic_client(ready: Any, claude: anthropic.Anthropic, models: Any) -> None:
    session = SessionContext("conversation-2")
    more: Any = {"model": "docs", "max_tokens": 50, "messages": ASKED, "extra_headers": session.get_headers()}
    message = claude.messages.create(**more)
    with claude.messages.stream(**more) as stream:
        streamed = stream.get_final_message()
    text: Any = message.content[0]
    again: Any = streamed.content[0]
    assert text.text == again.text
    assert streamed.usage.output_tokens == 12
    assert claude.messages.count_tokens(model="docs", messages=ASKED, extra_headers=session.get_headers()).input_tokens > 0
    counts, mine = models.counts("two")["n"], sessions(ready)["conversation-2"]
    assert (mine["turns"], mine["agent"]) == (3, "docs")
    assert mine["output_tokens"] == counts["output_tokens"] == 24
    told = [(each["path"], each["status"], each.get("input_tokens", 0), each.get("output_tokens", 0)) for each in records(ready)]
    assert told[:2] == [("/v1/messages", 200, message.usage.input_tokens, 12)] * 2


def test_timing_goes_with_one_request_and_nonsense_is_nothing(ready: Any) -> None:
    session = SessionContext("s")
    session.set_timing(pre_ms=250.5, post_ms=749.5)
    for headers in (session.get_headers(), session.get_headers(), {"X-Timing-Pre-Ms": "soon"}, {"X-Timing-Pre-Ms": "nan"}):
        assert ready.chat(headers=headers)[0] == 200
    for odd in ("-1", "1e999", "99999999999", "", "1,5"):
        assert ready.chat(headers={"X-Timing-Post-Ms": odd})[0] == 200
    assert [each.get("agent_s", 0.0) for each in records(ready)] == [1.0] + [0.0] * 8


def test_headers_can_have_other_names(ready: Any, models: Any) -> None:
    names = {"session": "X-Conversation", "task": "X-Job", "client": "X-Program", "pre": "X-Before", "post": "X-After"}
    put(ready, {"dev": one_route(ready)}, models.endpoints(), headers=names)
    ours = {"session_id": "X-Conversation", "task_id": "X-Job", "client_id": "X-Program"}
    config = {**ours, "timing_pre_ms": "X-Before", "timing_post_ms": "X-After"}
    session = SessionContext("c-9", task_id="t", client_id="p", headers_config=config)
    session.set_timing(pre_ms=3000, post_ms=1000)
    assert ready.chat(headers={**session.get_headers(), "X-Session-ID": "old", "X-Task-ID": "old"})[0] == 200
    (found,) = records(ready)
    assert (found["session"], found["task"], found["told_client"], found["agent_s"]) == ("c-9", "t", "p", 4.0)
    assert list(sessions(ready)) == ["c-9"]
    echoed = json.loads(ready.request("GET", "/v1/files", headers=session.get_headers())[2])["headers"]
    assert ["x-conversation", "c-9"] in echoed  # the model's side may want to know, too


# -- other paths -----------------------------------------------------------------------------------------------------


def test_a_recording_goes_through_as_it_is(ready: Any, gpt: openai.OpenAI) -> None:
    sound = bytes(range(256)) * 800  # every byte there is
    session = SessionContext("spoken")
    headers = {**session.get_headers(), "X-Turnout-Agent": "docs"}
    heard = gpt.audio.transcriptions.create(model="whisper", file=("a.wav", io.BytesIO(sound)), extra_headers=headers)
    assert heard.text.endswith(f"({len(sound)} bytes, sha256 {hashlib.sha256(sound).hexdigest()})")
    (found,) = records(ready)
    assert (found["agent"], found["path"], found["session"]) == ("docs", "/v1/audio/transcriptions", "spoken")
    assert (found["input_tokens"], found["output_tokens"]) == (heard.usage.input_tokens, 12) if heard.usage else False
    assert found["bytes_in"] > len(sound)
    assert ready.cell("docs")["requests"] == 0  # no evidence for a rollout


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_any_other_path_goes_to_the_endpoint_of_the_agent(ready: Any, method: str) -> None:
    body = b'{"a": [1, 2]}' if method not in ("GET", "DELETE") else None
    headers = {"X-Turnout-Agent": "docs", "X-Session-ID": "s", "X-Mine": "m"}
    status, got, text = ready.request(method, "/v1/vector_stores/va/files?after=../x&limit=5", body, headers)
    echo = json.loads(text)
    assert (status, got["x-turnout-agent"], got["x-turnout-endpoint"]) == (200, "docs", "two")
    assert (echo["method"], echo["path"], echo["query"]) == (method, "/v1/vector_stores/va/files", "after=../x&limit=5")
    assert echo["body_sha256"] == hashlib.sha256(body or b"").hexdigest()
    seen = {name.lower(): value for name, value in echo["headers"]}
    assert (seen["authorization"], seen["x-mine"], seen["x-session-id"]) == ("Bearer of-the-vendor", "m", "s")
    assert records(ready)[0]["method"] == method


def test_whose_endpoint_is_meant_has_to_be_clear(ready: Any, models: Any) -> None:
    status, _, body = ready.request("GET", "/v1/files")
    assert status == 400
    assert "X-Turnout-Agent" in json.loads(body)["error"]["message"]
    assert ready.request("GET", "/v1/files", headers={"X-Turnout-Agent": "nobody"})[0] == 404
    kind = {"Content-Type": "application/json; charset=utf-8"}
    assert ready.request("POST", "/v1/images/generations", {"model": "docs"}, kind)[1]["x-turnout-agent"] == "docs"
    ready.put({"docs": one_route(ready, "n", "two")}, models.endpoints())
    assert ready.request("GET", "/v1/files")[1]["x-turnout-agent"] == "docs"


@pytest.mark.parametrize(
    "target",
    [
        "/v1/../admin",
        "/v1/files/../../admin",
        "/v1/..",
        "/v1/%2e%2e/admin",
        "/v1/files/%2e%2e%2fadmin",
        "/v1/files/..%5cadmin",
        "/v1/..\\admin",
        "http://127.0.0.1/v1/../admin",
    ],
)
def test_no_path_leads_out_of_the_endpoint(ready: Any, models: Any, target: str) -> None:
    status, _, body = ready.request("GET", target, headers={"X-Turnout-Agent": "dev"})
    assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_path")
    assert models.counts("one") == {}


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PROPFIND"])
def test_other_methods_are_not_passed_through(ready: Any, method: str) -> None:
    status, headers, _ = ready.request(method, "/v1/files", headers={"X-Turnout-Agent": "dev"})
    assert (status, headers["allow"]) == (405, "GET, POST, PUT, PATCH, DELETE")


def test_what_may_not_be_done_twice_is_not_done_elsewhere_either(proxy: Any, models: Any, upstream: Any) -> None:
    one = upstream([])  # it takes the request, and closes
    endpoints = {"one": one.endpoint(retries=2), "two": models.endpoints()["two"]}
    proxy.put({"dev": one_route(proxy, fallbacks=["docs"]), "docs": one_route(proxy, "n", "two")}, endpoints)
    status, _, body = proxy.request("POST", "/v1/batches", {"input_file_id": "f"}, {"X-Turnout-Agent": "dev"})
    assert (status, json.loads(body)["error"]["code"]) == (502, "endpoint_broken")
    assert len(one.requests) == 1
    assert models.counts("two") == {}
    assert proxy.chat()[0] == 200  # asking for a text may be done elsewhere


# -- the pages behind the token --------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["requests", "sessions", "accounts", "routes"])
def test_the_pages_about_others_need_the_token(start_proxy: Callable[..., Any], page: str, tmp_path: Path) -> None:
    proxy = start_proxy()
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {proxy.token}"}, {"X-Api-Key": proxy.token}):
        assert proxy.request("GET", f"/-/{page}", headers=header)[0] == 401
    right = {"Authorization": f"Bearer {proxy.token}"}
    assert proxy.request("GET", f"/-/{page}", headers=right)[0] == (404 if page == "routes" else 200)
    assert proxy.request("DELETE", f"/-/{page}", headers=right)[0] == 405
    assert proxy.request("GET", f"/-/{page}/x", headers=right)[0] == 404
    assert proxy.request("GET", "/-/worker/shared", headers=right)[0] == 404
    proxy.data.with_name("data.token").write_text("")
    assert proxy.request("GET", f"/-/{page}", headers=right)[0] == 403


def test_records_are_read_page_by_page(ready: Any) -> None:
    for i in range(7):
        ready.chat(headers={"X-Request-ID": f"r{i}"})
    page = behind_token(ready, "/-/requests?limit=3")
    assert (page["newest"], [each["id"] for each in page["requests"]]) == (7, ["r4", "r5", "r6"])
    page = behind_token(ready, "/-/requests?after=5")
    assert [each["id"] for each in page["requests"]] == ["r5", "r6"]
    assert behind_token(ready, "/-/requests?after=7") == {"newest": 7, "requests": []}
    assert len(behind_token(ready, "/-/requests?after=never&limit=-1")["requests"]) == 0
    assert len(behind_token(ready, "/-/requests?after=99999999999999999999")["requests"]) == 0


def test_only_so_many_records_and_sessions_are_kept(ready: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", ready.port, timeout=30)
    for i in range(200):
        connection.request(
            "POST", "/v1/chat/completions", b'{"model":"nobody"}', {"X-Request-ID": f"r{i}", "X-Session-ID": f"s{i}"}
        )
        connection.getresponse().read()
    connection.close()
    page = behind_token(ready, "/-/requests?limit=1000")
    assert (page["newest"], len(page["requests"]), page["requests"][0]["id"]) == (200, 128, "r72")
    few = Sessions(most=3)
    from controller.proxy.record import Record

    for name in ("a", "b", "a", "c", "d"):
        few.add(Record(id="", trace="", span="", at=1.0, method="", path="", agent="dev", session=name))
    assert [(each["session"], each["turns"]) for each in together([few.newest(9)], 9)] == [("d", 1), ("c", 1), ("a", 2)]


# -- the stream of records -------------------------------------------------------------------------------------------


class Reader:
    """Reads the stream of records as events."""

    def __init__(self, proxy: Any, last: str | None = None, *, query: str = "", buffer: int = 0) -> None:
        self._socket = socket.socket()
        if buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self._socket.settimeout(10)
        self._socket.connect(("127.0.0.1", proxy.port))
        lines = [f"GET /-/requests{query} HTTP/1.1", "Host: x", f"Authorization: Bearer {proxy.token}", "Accept: text/event-stream"]
        lines += [f"Last-Event-ID: {last}"] if last is not None else []
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        self._file = self._socket.makefile("rb")
        self.head = b""
        while not self.head.endswith(b"\r\n\r\n"):
            line = self._file.readline()
            assert line, "the stream ended before it began"
            self.head += line

    def event(self) -> tuple[int, Any]:
        """The next one; raises EOFError at the end."""
        number = 0
        while line := self._file.readline():
            if line.startswith(b"id: "):
                number = int(line[4:])
            elif line.startswith(b"data: "):
                return number, json.loads(line[6:])
            else:
                assert line in (b"\n", b": alive\n"), line
        raise EOFError

    def rest(self) -> list[int]:
        found = []
        with contextlib.suppress(EOFError):
            while True:
                found.append(self.event()[0])
        return found

    def close(self) -> None:
        self._file.close()
        self._socket.close()


def test_records_are_streamed_as_they_come_and_a_reader_may_come_again(ready: Any) -> None:
    reader = Reader(ready)
    assert b"content-type: text/event-stream\r\n" in reader.head
    for i in range(3):
        ready.chat(headers={"X-Request-ID": f"r{i}"})
    seen = [reader.event() for _ in range(3)]
    assert [(number, record["id"]) for number, record in seen] == [(1, "r0"), (2, "r1"), (3, "r2")]
    assert [record for _, record in seen] == records(ready)
    reader.close()
    for i in range(3, 6):
        ready.chat(headers={"X-Request-ID": f"r{i}"})
    again = Reader(ready, last="3")
    assert [again.event()[0] for _ in range(3)] == [4, 5, 6]
    ready.chat(headers={"X-Request-ID": "r6"})
    assert again.event()[1]["id"] == "r6"
    again.close()
    asked = Reader(ready, query="?after=5")
    assert asked.event()[0] == 6
    asked.close()
    fresh = Reader(ready, last="nonsense")
    ready.chat()
    assert fresh.event()[0] == 8
    fresh.close()
    ready.until(lambda: b"\nturnout_client_connections 1\n" in ready.request("GET", "/metrics")[2])


def test_a_number_without_end_is_no_reason_to_stumble(ready: Any) -> None:
    ready.chat()
    for last in ("9" * 30, "9" * 5000):
        reader = Reader(ready, last=last)
        ready.chat()
        assert reader.event()[0] >= 2
        reader.close()


def flood(proxy: Any, count: int) -> None:
    """So many refused requests, each with a large record, on one connection."""
    long = "x" * 250
    head = f"X-Session-ID: {long}\r\nX-Task-ID: {long}\r\nX-Client-ID: {long}\r\nX-Request-ID: {long[:128]}"
    one = f'POST /v1/completions HTTP/1.1\r\nHost: x\r\n{head}\r\nContent-Length: 14\r\n\r\n{{"model":"no"}}'.encode()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=60) as client:
        reading = threading.Thread(target=lambda: [None for _ in iter(lambda: client.recv(1 << 20), b"")])
        reading.start()
        client.sendall(one * (count - 1) + one.replace(b"Host: x", b"Host: x\r\nConnection: close"))
        reading.join(60)
        assert not reading.is_alive()


def test_a_reader_that_is_cut_off_holds_nothing_any_more(ready: Any) -> None:
    slow = Reader(ready, buffer=4096)
    for _ in range(30):
        flood(ready, 400)
        time.sleep(0.1)  # for the records to go out, as long as they can
    ready.until(lambda: b"\nturnout_client_connections 1\n" in ready.request("GET", "/metrics")[2])
    slow.close()


def test_a_reader_does_not_hold_up_the_end(start_proxy: Callable[..., Any]) -> None:
    proxy = start_proxy("--drain", "3600")
    reader = Reader(proxy)
    assert proxy.process.stop() == 0
    assert reader.rest() == []
    reader.close()


# -- where the time goes ---------------------------------------------------------------------------------------------


def last(proxy: Any) -> Any:
    return records(proxy)[-1]


def test_the_slowest_part_is_the_bottleneck() -> None:
    for i, part in enumerate(PARTS):
        times = [0.1] * 5
        times[i] = 0.2
        assert slowest(*times) == part
    assert slowest(0, 0, 0, 0, 0) == ""


def test_the_agent_is_slow(ready: Any) -> None:
    session = SessionContext("s")
    session.set_timing(pre_ms=60_000)
    ready.chat(headers=session.get_headers())
    assert last(ready)["bottleneck"] == "agent"


def test_the_queue_is_slow(ready: Any, models: Any) -> None:
    routes = {"dev": one_route(ready), "slow": one_route(ready, "slow-model")}
    ready.put(routes, models.endpoints(max_in_flight=1))
    models.behave("one", {"slow-model": {"latency_ms": 400}})
    first = threading.Thread(target=ready.chat, args=("slow",))
    first.start()
    ready.until(lambda: ready.stats()["endpoints"]["one"]["in_flight"] == 1)
    assert ready.chat("dev")[0] == 200
    first.join()
    assert {each["agent"]: each["bottleneck"] for each in records(ready)} == {"slow": "prefill", "dev": "queue"}


def test_the_first_token_is_slow(ready: Any, models: Any) -> None:
    models.behave("one", {"m": {"first_token_ms": 400}})
    ready.chat(stream=True)
    assert last(ready)["bottleneck"] == "prefill"


def test_the_tokens_are_slow(ready: Any, models: Any) -> None:
    models.behave("one", {"m": {"token_ms": 40}})
    ready.chat(stream=True)
    found = last(ready)
    assert found["bottleneck"] == "decode"
    assert found["token_s"] == pytest.approx(found["decode_s"] / 14)  # a role, 12 tokens, an end and [DONE]
    ready.chat()
    assert last(ready).get("token_s", 0.0) == 0.0
    assert 'turnout_bottleneck_total{agent="dev",part="decode"} 1' in ready.request("GET", "/metrics")[2].decode()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_connecting_is_slow(start_proxy: Callable[..., Any], tmp_path: Path) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {key} -out {certificate} -subj /CN=localhost"
    subprocess.run([*command.split(), "-addext", "subjectAltName=DNS:localhost"], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        raw, _ = listener.accept()
        time.sleep(0.4)  # the handshake begins late
        with context.wrap_socket(raw, server_side=True) as connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    serving = threading.Thread(target=serve)
    serving.start()
    proxy = start_proxy(env={"SSL_CERT_FILE": certificate})
    endpoint = {"url": f"https://localhost:{listener.getsockname()[1]}/v1"}
    proxy.put({"dev": one_route(proxy)}, {"one": endpoint})
    assert proxy.chat()[0] == 200
    serving.join()
    listener.close()
    assert last(proxy)["bottleneck"] == "network"


def test_a_client_that_reads_slowly_is_the_network(proxy: Any, upstream: Any) -> None:
    size = 30 << 20
    one = upstream([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, b"x" * size, b"UNTIL-CLOSED"])
    proxy.put({"dev": one_route(proxy)}, {"one": one.endpoint()})
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        client.settimeout(30)
        client.connect(("127.0.0.1", proxy.port))
        client.sendall(b'POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{"model":"dev"}')
        client.recv(1)
        time.sleep(1.5)  # meanwhile nothing can be passed on
        seen = 0
        while seen < size:
            seen += len(client.recv(1 << 20))
    proxy.until(lambda: records(proxy))
    assert last(proxy)["bottleneck"] == "network"


# -- shadows ---------------------------------------------------------------------------------------------------------


def chat_answer(text: str, *, streamed: bool = False) -> bytes:
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    if streamed:
        pieces = [text[i : i + 3] for i in range(0, len(text), 3)]
        events: list[Any] = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
        body = b"".join(b"data: %b\n\n" % json.dumps(one).encode() for one in [*events, {"choices": [], "usage": usage}])
        kind = b"text/event-stream"
    else:
        body = json.dumps({"choices": [{"message": {"content": text}}], "usage": usage}).encode()
        kind = b"application/json"
    return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (kind, len(body), body)


def shadowed(proxy: Any, stable: Any, candidate: Any) -> None:
    dear = {"input": 2000.0, "output": 20_000.0}
    shadow = {"variant": proxy.variant("candidate", "n", 0, "two", price=dear), "percent": 100}
    routes = {"dev": one_route(proxy, shadow=shadow)}
    clients = {"ci": {"keys": [hashlib.sha256(b"key").hexdigest()]}}
    put(proxy, routes, {"one": stable, "two": candidate}, clients=clients)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("ours", "theirs", "same", "likeness"),
    [("a b c d", "a b c d", 1, 1.0), ("a b c d", "a b x y", 0, 0.5), ("a b", "c d", 0, 0.0), ("ä ö ü", "ü ö ä", 0, 1.0)],
)
def test_a_shadow_is_compared(
    proxy: Any, upstream: Any, ours: str, theirs: str, same: int, likeness: float, streamed: bool
) -> None:
    stable, candidate = upstream([chat_answer(ours)]), upstream([chat_answer(theirs, streamed=streamed)])
    shadowed(proxy, stable.endpoint(), candidate.endpoint())
    status, headers, body = proxy.chat(headers={"Authorization": "Bearer key"})
    assert (status, headers["x-turnout-variant"]) == (200, "stable")
    assert json.loads(body)["choices"][0]["message"]["content"] == ours
    proxy.until(lambda: proxy.stats()["agents"]["dev"]["compared"])
    found = proxy.stats()["agents"]["dev"]["compared"][""]
    assert (found["pairs"], found["same"], found["likeness_sum"]) == (1, same, pytest.approx(likeness))


def test_a_shadow_is_paid_by_the_agent_and_not_by_the_client(proxy: Any, upstream: Any) -> None:
    stable, candidate = upstream([chat_answer("a")]), upstream([chat_answer("a")])
    shadowed(proxy, stable.endpoint(), candidate.endpoint())
    for _ in range(3):
        assert proxy.chat(headers={"Authorization": "Bearer key", "X-Session-ID": "s"})[0] == 200
    proxy.until(lambda: proxy.stats()["agents"]["dev"]["steps"][""].get("candidate", {}).get("requests") == 3)
    own, copies = 0.2, 0.4  # of one request: 100 tokens in and 10 out
    assert proxy.cell("dev", "candidate")["cost_usd"] == pytest.approx(3 * copies)
    assert proxy.cell("dev")["cost_usd"] == pytest.approx(3 * own)
    (month,) = behind_token(proxy, "/-/accounts")["agent:dev"].values()
    assert month["cost_usd"] == pytest.approx(3 * (own + copies))
    (month,) = behind_token(proxy, "/-/accounts")["client:ci"].values()
    assert month["cost_usd"] == pytest.approx(3 * own)
    assert sessions(proxy)["s"]["cost_usd"] == pytest.approx(3 * own)
    assert [each["cost_usd"] for each in records(proxy)] == [pytest.approx(own)] * 3


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_what_may_not_be_done_twice_is_not_copied(ready: Any, models: Any, method: str) -> None:
    shadow = {"variant": ready.variant("candidate", "n", 0, "two"), "percent": 100}
    ready.put({"dev": one_route(ready, shadow=shadow)}, models.endpoints())
    assert ready.request(method, "/v1/files/f", {} if method == "POST" else None, {"X-Turnout-Agent": "dev"})[0] == 200
    assert ready.chat()[0] == 200
    ready.until(lambda: models.counts("two"))
    assert models.counts("two")["n"]["requests"] == 1
    assert set(models.counts("two")) == {"n"}
