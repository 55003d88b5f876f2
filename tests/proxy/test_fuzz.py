"""The client's side of a real proxy under requests that are almost right: what it lets through has one meaning, and it lives.

A conversation is made from a grammar, bent by tricks that are known to fool parsers, cut and changed at random bytes, and
sent in random pieces. A strict parser (`controller/testing/strict_http.py`) says what each byte means; the upstream is raw
and keeps what it gets. `TURNOUT_FUZZ=100000 pytest tests/proxy/test_fuzz.py` is a long run, with other seeds each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from controller.proxy.body import understood, with_model
from controller.testing.strict_http import Answer, Malformed, Request, answer, request

EXAMPLES = int(os.environ.get("TURNOUT_FUZZ", "0"))
FUZZED = settings(
    max_examples=EXAMPLES or 600,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
SILENCE_S = 0.05  # after bytes that mean nothing certain; what comes later is not looked at, so it decides nothing
PATHS = (b"/v1/chat/completions", b"/v1/messages", b"/v1/responses", b"/v1/echo/me?a=b", b"/v1/models", b"/healthz", b"/nothing")
KNOWN, PAGES = PATHS[:3], PATHS[4:6]
GOOD, ANSWERED = b'{"model":"dev"}', b'{"model":"m"}'
CONTROL = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 15\r\n\r\n" + GOOD
METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE")
HOP_BY_HOP = {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"proxy-connection", b"expect"}


def each(form: bytes, values: bytes) -> list[bytes]:
    return [form % value for value in values.split(b"|")]


# What is put into heads. Many are refused; what is not must mean the same to everybody behind.
FIELDS = [
    *each(b"Content-Length: %b", b"0|5|15|16|+15|-15|0x0f|15, 15|15,16|1 5||000015|15 |\t15|15\x00|9999999999999999999|1e1|15;"),
    *each(b"Transfer-Encoding: %b", b"chunked|CHUNKED|chunked, chunked|gzip|identity||gzip, chunked|identity, chunked|xchunked"),
    *each(b"Transfer-Encoding: %b", b'chunked, identity|"chunked"|chunked;q=1|\x0bchunked|chunked\x00|, chunked'),
    *each(b"%b: chunked", b"Transfer-Encoding |Transfer_Encoding|Transfer-Encoding\t| Transfer-Encoding|Transfer-Encoding\x00"),
    *each(b"%b: 15", b"Content-Length |Content_Length|Content-Length\x00|\tContent-Length|Content-Length:|Content-Length\r\n"),
    *each(b"Connection: %b", b"close|keep-alive|Upgrade|close, keep-alive|content-length, host|X-Gone|transfer-encoding||\x01"),
    *each(b"Connection: %b", b"authorization, x-request-id, traceparent, accept-encoding"),
    *each(b"Host: %b", b"y||x\x00|x y|[::1]:5"),
    *each(b"Expect: %b", b"100-continue|100-Continue, 200-ok|100-continu\x00"),
    *each(b"X-Odd: a%bb", b"\r\n b|\r\n\tb|\r|\n|\x00|\x0b|\x7f|\xff\xfe|\r\nX"),
    *each(b"X-Request-ID: %b", b"a\tb|\xe4|a b||" + b"a" * 129),
    *each(b"traceparent: %b", b"zz|00-\xff|00-" + b"0" * 32 + b"-1234567890abcdef-01"),
    *each(b"X-Timing-Pre-Ms: %b", b"nan|1e999|-1|1_0|\xb2|" + b"9" * 5000),
    *each(b"X-Turnout-Agent: %b", b"nobody|dev|dev\x00|\xff|"),
    *each(
        b"%b", b": a|X|X\x00: a|X(: a| X: a|\tX: a|X :a|\xc3\xa4: a||X: \r\n\r\nGET /v1/x HTTP/1.1|X-Session-ID: \xff\xfe|X-Gone: 1"
    ),
    *each(
        b"%b", b"Trailer: Content-Length|TE: trailers|Upgrade: websocket|Keep-Alive: 9|Proxy-Connection: close|HTTP2-Settings: A"
    ),
    *each(b"%b", b"Content-Type: application/json|X-Long: " + b"a" * 66_000),
]
LINES = [
    *each(
        b"GET %b HTTP/1.1", b"/v1/\x00|/v1/\xe4|/v1/a\tb|/v1/a b|*|x|//v1/x|/v1/\\|/v1/../x|/v1/a/%2e%2e/b|/v1/x#y|http://a/v1/x"
    ),
    *each(b"GET %b HTTP/1.1", b"http://a@b:9/v1/x|http:///v1/x|http://a/v1/../x|a:80|/v1/models/dev?" + b"q" * 66_000),
    *each(b"POST /v1/echo %b", b"HTTP/1.0|HTTP/1.2|HTTP/2.0|HTTP/0.9|http/1.1|HTTP/1.10"),
    *each(b"POST /v1/echo%b", b"| | HTTP/1.1 |  HTTP/1.1|\tHTTP/1.1| HTTP/1.1\r| ICE/1.0"),
    *each(b"%b /v1/echo HTTP/1.1", b"get|G\x00T|| GET|TRACE|CONNECT|PRI|GE T|" + b"M" * 70_000),
    *each(b"%b", b"SOURCE /v1/echo ICE/1.0|OPTIONS * HTTP/1.1|PRI * HTTP/2.0|\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
]
PAYLOADS = [
    *each(
        b"%b\r\n{}{}{}{}{}{}{}{}\r\n0\r\n\r\n", b'10|010|10 |10;a=b|10;a="\r"|10;\n|10;a\x00|+10|-10|f|11|0x10|g|| 10|10\t|10,10'
    ),
    *each(b"%b\r\n{}{}{}{}{}{}{}{}\r\n0\r\n\r\n", b"fffffffffffffffff|0000000000000000000010"),
    *each(b"%b", b"2\n{}\n0\n\n|2\r{}\r0\r\r|2\n\r{}\n\r0\n\r\n\r|2\r\r\n{}\r\r\n0\r\r\n\r\r\n"),
    *each(b"%b", b"2\r\n {}\r\n0\r\n\r\n|2\r\n{}\r\n00\r\n\r\n|2\r\n{}"),
    *each(b"2\r\n{}\r\n0\r\n%b\r\n\r\n", b"X: a|Content-Length: 5|X : a|X: a\nb| X: a|X\x00: a|Transfer-Encoding: chunked"),
    *each(b"%b", b"2\r\n{}0\r\n\r\n|2\r\n{}\r\n|0\r\n\r\n|0\r\n"),
]
SPECIAL = each(b"%b", b'\x00|\t|\n|\r| |"|%|,|/|:|;|?|\x7f|\x80|\xff|\r\n|\r\n\r\n|\n\n|0|chunked|Content-Length: 5')


@dataclass(frozen=True)
class Conversation:
    """What is sent on one connection, and in which pieces. `plain` = nothing was bent, so everything must be answered."""

    data: bytes
    cuts: tuple[int, ...]
    plain: bool

    def __repr__(self) -> str:
        data = re.sub(rb"(.)\1{60,}", lambda run: b"<%d times %b>" % (len(run[0]), run[1]), self.data)
        return f"Conversation({data!r}, cuts={self.cuts}, plain={self.plain})"

    def pieces(self) -> Iterator[bytes]:
        places = sorted({0, *(cut % (len(self.data) + 1) for cut in self.cuts), len(self.data)})
        return (self.data[start:end] for start, end in pairwise(places))


def bend(draw: Callable[..., Any], line: bytes, fields: list[bytes], payload: bytes) -> tuple[bytes, bytes]:
    """Up to two odd things about one request."""
    for trick in draw(st.lists(st.sampled_from(("field", "field", "instead", "line", "payload", "eol")), max_size=2)):
        if trick == "field":
            fields.insert(draw(st.integers(0, len(fields))), draw(st.sampled_from(FIELDS)))
        elif trick == "instead":
            fields[draw(st.integers(0, len(fields) - 1))] = draw(st.sampled_from(FIELDS))
        elif trick == "line":
            line = draw(st.sampled_from(LINES))
        elif trick == "payload":
            payload = draw(st.sampled_from(PAYLOADS))
            fields += [b"Transfer-Encoding: chunked"] if b"Transfer-Encoding: chunked" not in fields else []
        else:
            at = draw(st.integers(0, len(fields) - 1))
            fields[at] += draw(st.sampled_from((b"\n", b"\r", b"\r\n", b"\n\r"))) + b"X-More: 1"
    return line, payload


@st.composite
def messages(draw: Callable[..., Any], *, bent: bool) -> bytes:
    """One request."""
    path = draw(st.sampled_from(PATHS))
    others = (b"GET", b"POST", b"DELETE") if bent else (b"GET", b"HEAD", b"GET" if path in PAGES else b"PUT")
    method = b"POST" if path in KNOWN else draw(st.sampled_from(others))
    body = b'{"model":"dev","n":"%b"}' % (b"x" * draw(st.integers(0, 40))) if method in (b"POST", b"PUT") else b""
    fields, payload = [b"Host: x", b"X-Session-ID: s"], body
    if body and draw(st.booleans()):
        half = draw(st.integers(1, len(body) - 1))
        payload = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:], b""))
        fields.append(b"Transfer-Encoding: chunked")
    elif body:
        fields.append(b"Content-Length: %d" % len(body))
    line = b"%b %b HTTP/1.1" % (method, path)
    if not bent:
        return b"\r\n".join([line, *fields, b"", payload])
    line, payload = bend(draw, line, fields, payload)
    return draw(st.sampled_from((b"", b"", b"\r\n", b"\n", b"\r"))) + b"\r\n".join([line, *fields, b"", payload])


@st.composite
def conversations(draw: Callable[..., Any]) -> Conversation:
    bent = draw(st.integers(0, 9)) > 1
    data = b"".join(draw(st.lists(messages(bent=bent), min_size=1, max_size=4)))
    if bent:
        for _ in range(draw(st.integers(0, 2))):
            at, to = draw(st.integers(0, len(data))), draw(st.integers(0, 3))
            data = data[:at] + draw(st.sampled_from(SPECIAL) | st.binary(max_size=3)) + data[at + to :]
        if not draw(st.integers(0, 4)):
            data = data[: draw(st.integers(0, len(data)))]
    return Conversation(data, tuple(draw(st.lists(st.integers(0, 1 << 16), max_size=4))), not bent)


def found_by_fuzzing(coding: bytes, version: bytes = b"HTTP/1.1") -> Conversation:
    """A request with a coding that the parser of the proxy alone would take for plain chunks."""
    head = b"POST /v1/echo %b\r\nHost: x\r\nConnection: keep-alive\r\n%b\r\n\r\n" % (version, coding)
    return Conversation(head + b"2\r\n{}\r\n0\r\n\r\n", (), False)


class Recorder:
    """A raw upstream that reads strictly and answers each request with its own body."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.wrong: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        async def serve() -> None:
            await self._loop.create_server(lambda: Recorded(self), sock=self._socket)
            await self._stopped.wait()

        self._stopped = asyncio.Event()
        self._loop.run_until_complete(serve())

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)
        self._socket.close()


class Recorded(asyncio.Protocol):
    """One connection to the recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._data = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        try:
            while self._data and (found := request(self._data)) is not None:
                self._data = self._data[found.size :]
                self._recorder.requests.append(found)
                self._recorder.wrong += problems(found)
                kind = b"content-type: application/json\r\n"
                self._transport.write(b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (kind, len(found.body), found.body))
        except Malformed as error:
            self._recorder.wrong.append(f"{error}: {self._data!r}")
            self._transport.close()


def problems(found: Request) -> Iterator[str]:
    """What is wrong with a request that went to the upstream, although it can be read."""
    names = [name for name, _ in found.headers]
    if hop := HOP_BY_HOP.intersection(names):
        yield f"{hop} of the client's hop went on"
    if found.method not in (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE") or not found.target.startswith(b"/v1/"):
        yield f"{found.method!r} {found.target!r} went on"
    for name in (b"host", b"content-length", b"authorization", b"x-request-id", b"traceparent"):
        if names.count(name) > 1:
            yield f"{name!r} went on more than once"


@dataclass
class Meant:
    """What the strict parser reads in a conversation, as far as it is certain."""

    requests: list[Request] = field(default_factory=list)
    certain: int = 0  # so many of them have to be answered
    clean: bool = False  # nothing is left, and nothing is open to doubt


def meant(data: bytes) -> Meant:
    """Line ends before a request are skipped, whatever they look like: they are no part of any message. RFC 9112 also lets
    a server take more than one space between the words of the first line."""
    found, sure = Meant(), True
    while data := data.lstrip(b"\r\n"):
        if (line := re.match(rb"([A-Z]+) +([!-~]+) +HTTP", data)) and line[0].count(b" ") > 2:
            data, sure = b" ".join((line[1], line[2], data[line.end() - 4 :])), False
        try:
            one = request(data)
        except Malformed:
            return found
        if one is None:
            return found
        found.requests.append(one)
        data = data[one.size :]
        sure = sure and not dubious(one)
        found.certain += sure
        if not one.keep_alive:
            break  # nothing after it counts, and closing with something unread may cost the answers
    found.clean = sure and not data
    return found


def dubious(one: Request) -> bool:
    """Whether it can be read, but may be refused or may end the connection."""
    other = one.values(b"upgrade") or one.values(b"proxy-connection") or one.method not in METHODS or one.old
    expects = [value.lower() for value in one.values(b"expect")] not in ([], [b"100-continue"])
    return bool(other or expects or one.size > 60_000 or not one.target.startswith(b"/") or b"#" in one.target)


class Talk:
    """One connection to the proxy, and what came back on it."""

    def __init__(self, port: int, methods: list[bytes]) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._methods = methods
        self._data = b""
        self.ended = False
        self.answers: list[Answer] = []

    def send(self, pieces: Iterator[bytes]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may refuse before it has heard everything
            for piece in pieces:
                self._socket.sendall(piece)
                os.sched_yield()

    def read(self, count: int | None) -> None:
        """So many answers, or (None) whatever comes before a silence. Raises Malformed."""
        self._socket.settimeout(20 if count is not None else SILENCE_S)
        while not self.ended and (count is None or len(self.answers) < count):
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                assert count is None, f"only {len(self.answers)} of {count} requests are answered"
                return
            except ConnectionResetError:
                assert count is None
                return
            self.ended = not data
            self._data += data
            self._parse()
        if self.ended and self._data:
            raise Malformed(f"the connection ended in the middle of an answer: {self._data!r}")

    def _parse(self) -> None:
        while self._data:
            method = self._methods[len(self.answers)] if len(self.answers) < len(self._methods) else b"GET"
            found = answer(self._data, method, ended=self.ended)
            if found is None:
                return
            self._data = self._data[found.size :]
            if found.status >= 200:
                self.answers.append(found)

    def close(self) -> None:
        self._socket.close()


def check(one: Request, found: Answer, *, plain: bool) -> None:
    """That the answer is the one to this request."""
    path, relayed = one.target.partition(b"?")[0], found.values(b"x-turnout-agent")
    if not relayed:
        assert found.status != 200 or path in (b"/v1/models", b"/healthz", b"/metrics", b"/stats"), (one, found)
        assert not plain or found.status in ((200,) if path in (b"/v1/models", b"/healthz") else (404, 405)), (one, found)
        return
    assert (found.status, relayed) == (200, [b"dev"])
    expected = with_model(one.body, understood(one.body)[1], "m") if path in KNOWN else one.body
    assert found.body == expected, (one, found)


def control(port: int) -> None:
    talk = Talk(port, [b"POST"])
    talk.send(iter([CONTROL]))
    talk.read(1)
    talk.close()
    assert [(one.status, one.body) for one in talk.answers] == [(200, ANSWERED)]


def held_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    yield recorder
    recorder.close()


def test_no_request_means_two_things(proxy: Any, recorder: Recorder) -> None:
    endpoint = {"url": f"http://127.0.0.1:{recorder.port}/v1", "retries": 0, "ejection": {"failures": 0}}
    proxy.put({"dev": {"variants": [proxy.variant("stable", "m", 100)]}}, {"one": endpoint})
    control(proxy.port)
    before: list[Request] = []  # what the conversation before this one may still have sent on its way
    talks, clean, went_on = 0, 0, 0
    held: list[int] = []  # KiB, at every quarter

    @FUZZED
    @given(conversations())
    @example(found_by_fuzzing(b"Transfer-Encoding: xchunked\r\nTransfer-Encoding: chunked"))
    @example(found_by_fuzzing(b"Transfer-Encoding: identity, chunked"))
    @example(found_by_fuzzing(b"Transfer-Encoding: chunked", b"HTTP/1.0"))
    def run(conversation: Conversation) -> None:
        expected = meant(conversation.data)
        mark = len(recorder.requests)
        talk = Talk(proxy.port, [one.method for one in expected.requests])
        try:
            talk.send(conversation.pieces())
            talk.read(expected.certain if expected.clean else None)
        finally:
            talk.close()
        assert not expected.clean or len(talk.answers) == expected.certain, (expected, talk.answers)
        for one, found in zip(expected.requests[: expected.certain], talk.answers, strict=False):
            check(one, found, plain=conversation.plain)
        control(proxy.port)
        assert proxy.process.child.poll() is None
        assert "Traceback" not in proxy.errors.read_text()
        assert recorder.wrong == []
        allowed = {meaning(one) for one in (*expected.requests, *before)} | {
            (b"POST", b"/v1/completions", GOOD.replace(b"dev", b"m"))
        }
        forwarded = {(one.method, one.target, one.body) for one in recorder.requests[mark:]}
        assert forwarded <= allowed, forwarded - allowed
        before[:] = expected.requests
        del recorder.requests[: max(0, mark - 100)]
        nonlocal talks, clean, went_on
        talks, clean, went_on = talks + 1, clean + expected.clean, went_on + len(forwarded) - 1
        if not talks % (FUZZED.max_examples // 4):
            held.append(held_kib(proxy.process.child.pid))

    run()
    print(f"{talks} conversations, {clean} of them clean, {went_on} requests went on, held {held} KiB")
    assert min(clean, talks - clean, went_on) > talks // 5  # else the grammar no longer finds what it looks for
    assert held[-1] - held[0] < 32 << 10
    proxy.until(lambda: b"\nturnout_client_connections 1\n" in proxy.request("GET", "/metrics")[2])


def meaning(one: Request) -> tuple[bytes, bytes, bytes]:
    """What the upstream may get of a request."""
    path, mark, query = re.sub(rb"^https?://[^/?]*", b"", one.target).partition(b"?")
    try:
        body = with_model(one.body, understood(one.body)[1], "m") if path in KNOWN else one.body
    except ValueError:
        body = one.body
    return one.method, path + mark + query, body
