"""HTTP as it must not be fooled: raw bytes over raw sockets."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
BODY = b'{"model":"dev"}'
POST = HEAD + b"Content-Length: 15\r\n\r\n" + BODY
LAST = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def ready(proxy: Any, models: Any) -> Any:
    proxy.put({"dev": {"variants": [proxy.variant("stable", "m", 100)]}}, models.endpoints())
    return proxy


def talk(proxy: Any, *parts: bytes, close: bytes = LAST) -> bytes:
    """Send these, then a last request that closes the connection, and read everything."""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as client:
        for part in (*parts, close):
            client.sendall(part)
        answer = b""
        while data := client.recv(65536):
            answer += data
        return answer


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize(
    "request_bytes",
    [
        HEAD + b"Content-Length: 15\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 15\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 15\r\nContent-Length: 16\r\n\r\n" + BODY,
        HEAD + b"Content-Length: 15, 16\r\n\r\n" + BODY,
        HEAD + b"Content-Length: +15\r\n\r\n" + BODY,
        HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 9\r\n\r\n",
        HEAD + b"A: b\r\n c\r\n\r\n",
        HEAD + b"A : b\r\n\r\n",
        HEAD + b"A: b\x00\r\n\r\n",
        HEAD + b"Host: y\r\n\r\n",
        HEAD + b"Expect: a miracle\r\nContent-Length: 15\r\n\r\n" + BODY,
        HEAD + b"A: " + b"b" * 66000 + b"\r\n\r\n",
        HEAD + b"A: b\r\n" * 12000 + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
    ],
)
def test_a_dubious_request_is_refused(ready: Any, models: Any, request_bytes: bytes) -> None:
    answer = talk(ready, GET, request_bytes, close=b"")
    assert statuses(answer) == [200, 400]
    assert b"connection: close" in answer
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["error"]["message"]
    assert models.counts("one") == {}


def test_a_head_without_end_is_refused(ready: Any) -> None:
    with socket.create_connection(("127.0.0.1", ready.port), timeout=30) as client:
        client.sendall(HEAD + b"A: ")
        client.sendall(b"b" * 300_000)
        assert client.recv(100).startswith(b"HTTP/1.1 400")


def test_pipelined_requests_are_answered_in_order(ready: Any, models: Any) -> None:
    models.behave("one", {"m": {"latency_ms": 20}})
    answer = talk(ready, POST + GET + POST + b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
    assert statuses(answer) == [200, 200, 200, 404, 200, 200]
    assert answer.index(b"chat.completion") < answer.index(b'"status":"ok"')
    byte_by_byte = [POST[i : i + 1] for i in range(len(POST))]
    assert statuses(talk(ready, *byte_by_byte)) == [200, 200]


def test_a_chunked_body_and_its_trailers(ready: Any) -> None:
    chunks = b"7;x=y\r\n" + BODY[:7] + b"\r\n8\r\n" + BODY[7:] + b"\r\n0\r\nX-Session-ID: 9\r\n\r\n"
    assert statuses(talk(ready, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)) == [200, 200]


def test_a_client_that_asks_first_is_told_to_go_on(ready: Any) -> None:
    with socket.create_connection(("127.0.0.1", ready.port), timeout=30) as client:
        client.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 15\r\n\r\n")
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(BODY)
        assert client.recv(12) == b"HTTP/1.1 200"
        client.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n")
        answer = b""
        while data := client.recv(65536):
            answer += data
        assert b"HTTP/1.1 413" in answer
        assert b"100 Continue" not in answer


def test_bodies_have_a_limit(ready: Any) -> None:
    large = b'{"model":"dev","x":"' + b"x" * (16 << 20) + b'"}'
    assert statuses(talk(ready, HEAD + b"Content-Length: %d\r\n\r\n" % len(large), close=b"")) == [413]
    chunk = b"100000\r\n" + b"x" * (1 << 20) + b"\r\n"
    assert statuses(talk(ready, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 17, close=b"")) == [413]
    fits = large[: -(len(large) - (16 << 20) + 2)] + b'"}'
    assert ready.request("POST", "/v1/completions", fits)[0] == 200
    assert ready.admin("PUT", large)[0] == 422


def test_head_and_http_1_0(ready: Any) -> None:
    answer = talk(ready, b"HEAD /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", b"HEAD /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
    assert statuses(answer) == [200, 404, 200]
    assert answer.count(b'"object"') == 0
    streamed = b'{"model":"dev","stream":true,"messages":[]}'
    old = b"POST /v1/chat/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(streamed) + streamed
    answer = talk(ready, old, close=b"")
    assert b"transfer-encoding" not in answer
    assert answer.endswith(b"data: [DONE]\n\n")
    kept = b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    assert statuses(talk(ready, kept, kept)) == [200, 200, 200]
    absolute = b"GET http://x/healthz?y HTTP/1.1\r\nHost: x\r\n\r\n"
    assert statuses(talk(ready, absolute)) == [200, 200]


def test_nothing_after_the_last_request_is_looked_at(ready: Any) -> None:
    assert statuses(talk(ready, LAST + POST, close=b"")) == [200]
    assert statuses(talk(ready, b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n" + POST, close=b"")) == [404]
