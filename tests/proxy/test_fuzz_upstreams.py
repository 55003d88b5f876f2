"""The side towards the models under answers that are almost right: the client gets the answer, or an error that is one.

Each example is one answer: made from a grammar, bent, cut or changed at random bytes, sent in random pieces, and ended by a
close, a reset, silence or nothing. A strict parser says what it means. `TURNOUT_FUZZ=100000 pytest
tests/proxy/test_fuzz_upstreams.py` is a long run, with other seeds each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from controller.testing.strict_http import Answer, Malformed, answer, request

EXAMPLES = int(os.environ.get("TURNOUT_FUZZ", "0"))
FUZZED = settings(
    max_examples=EXAMPLES or 600,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
)
SILENCE_S = 1.0  # of the upstream, after which the proxy gives up


def each(form: bytes, values: bytes) -> list[bytes]:
    return [form % value for value in values.split(b"|")]


FIELDS = [
    *each(b"Content-Length: %b", b"0|2|5|+5|-1|5, 5|5 5|0x5|99999999999999999999|9999|05| 5 ||5;"),
    *each(
        b"Transfer-Encoding: %b",
        b"chunked|CHUNKED|gzip|identity|gzip, chunked|chunked, chunked|chunked, gzip|xchunked||\x0bchunked",
    ),
    *each(b"X-Odd: a%bb", b"\r\n c|\r\n\tc|\r|\n|\x00|\x0b|\x7f|\xff|\t|\r\nX-Other: "),
    *each(b"%b: a", b"X |\tX| X|X\x00|X(|\xc3\xa4||Content-Length\x00|X-Turnout-Agent|X-Request-ID|Traceparent|Set-Cookie"),
    *each(b"Connection: %b", b"close|keep-alive|upgrade|X-Gone|Content-Type|content-length|transfer-encoding|close, X-Gone||\x01"),
    *each(b"Upgrade: %b", b"h2c|websocket"),
    *each(b"Content-Type: %b", b"text/event-stream|application/json|text/plain|\xff|"),
    *each(b"%b", b"X|HTTP/1.1 200 OK||Trailer: X|Retry-After: 1|Content-Encoding: gzip|X-Gone: 1"),
    b"X-Long: " + b"a" * 70_000,
]
HEAD_LIMIT = 64 * 1024
LINES = [
    *each(
        b"HTTP/1.1 %b",
        b"200 OK|200|200 |200  OK|201 \xe4|204 No|205 Reset|206 Part|304 Not|404 No|429 Busy|500 Bad|503 Later|599 x|999 x",
    ),
    *each(
        b"HTTP/1.1 %b",
        b"000 x|099 x|20 x|2000 x|-20 x|2x0 x|200 a\x00b|200 a\x01b|200 a\x7fb|200 a\tb|101 Switch|100 Go|102 x|600 x",
    ),
    *each(b"%b 200 OK", b"HTTP/1.0|HTTP/2.0|HTTP/2|HTTP/0.9|HTTP/1.2|HTTP/11|http/1.1|ICY|HTTP/1.1\t| HTTP/1.1||\x16\x03\x01"),
]
CHUNKED = [
    *each(b"%b\r\n{}\r\n0\r\n\r\n", b"2|2;a=b|2 |02|3|1|zz|-2|0x2|2;\x00|ffffffffffffffff|fffffffffffffffff|"),
    *each(b"2\r\n{}\r\n0\r\n%b\r\n\r\n", b"X: a|Content-Length: 9|X : a|X: a\nb| X: a"),
    *each(b"%b", b"2\n{}\n0\n\n|2\r\n{}0\r\n\r\n|2\r\n{}\r\n00\r\n\r\n|2\r\n{}\r\n0\r\n|2\r\n{}\r\n"),
]
# Whatever is said of the usage, the answer goes through and the figures stay what they are: numbers.
BODIES = [
    *each(
        b"%b",
        b'{}|[]||{"usage":1}|{"usage":{}}|{"usage":{"prompt_tokens":1,"completion_tokens":2}}|{"usage":{"prompt_tokens":-5}}|\xff\xfe|{"usage"',
    ),
    *each(b'{"usage":{"cost":%b}}', b'1e308|-1|1e400|null|"1"|0.1|' + b"9" * 400),
    *each(
        b'{"usage":{"prompt_tokens":%b,"completion_tokens":1}}',
        b"1e9|9223372036854775808|1.5|true|" + b"9" * 400 + b"|" + b"9" * 5000,
    ),
    b'{"usage":' + b"[" * 3000,
]
EVENTS = [b"data: %b\n\n" % body for body in BODIES] + each(
    b"%b", b": alive\n\n|data: [DONE]\n\n|event: x\ndata: {}\n\n|data:|\n|\r\n\r\n|data: {}\r\n\r\n|\x00"
)
_LINE = re.compile(rb"(^[\r\n]*|\r\n\r\n[\r\n]*)HTTP/(?:2\.0|0\.9|1\.[01]) ([1-9]\d\d)(?: |(?=\r\n))")
SPECIAL = each(b"%b", b'\x00|\t|\n|\r| |"|:|;|\x7f|\x80|\xff|\r\n|\r\n\r\n|\n\n|0|HTTP/1.1 200 OK\r\n\r\n|Content-Length: 5')
AFTER = each(
    b"%b", b"|||||x|\r\n|\r\n\r\n|HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nnot-yours|HTTP/1.1 100 Continue\r\n\r\n|\x00"
)


@dataclass(frozen=True)
class Script:
    """What the upstream does with one request. `plain` = nothing about it is odd."""

    data: bytes
    cuts: tuple[int, ...]
    end: str  # close, reset, keep
    plain: bool

    def __repr__(self) -> str:
        data = re.sub(rb"(.)\1{60,}", lambda run: b"<%d times %b>" % (len(run[0]), run[1]), self.data)
        return f"Script({data!r}, cuts={self.cuts}, end={self.end!r}, plain={self.plain})"

    def pieces(self) -> list[bytes]:
        places = sorted({0, *(cut % (len(self.data) + 1) for cut in self.cuts), len(self.data)})
        return [self.data[start:end] for start, end in itertools.pairwise(places)]


@st.composite
def scripts(draw: Callable[..., Any]) -> Script:
    bent = draw(st.integers(0, 9)) > 1
    framing = draw(st.sampled_from(("length", "chunked", "eof")))
    streamed = draw(st.booleans())
    line = b"HTTP/1.1 200 OK"
    fields = [b"Content-Type: text/event-stream" if streamed else b"Content-Type: application/json"]
    body = b"".join(draw(st.lists(st.sampled_from(EVENTS), min_size=1, max_size=4))) if streamed else draw(st.sampled_from(BODIES))
    fields += {"length": [b"Content-Length: %d" % len(body)], "chunked": [b"Transfer-Encoding: chunked"], "eof": []}[framing]
    payload = body
    if framing == "chunked":
        half = draw(st.integers(0, len(body)))
        payload = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part) + b"0\r\n\r\n"
    before = b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\n" if draw(st.integers(0, 9)) == 0 else b""
    for trick in draw(st.lists(st.sampled_from(("field", "instead", "line", "chunks")), max_size=2)) if bent else ():
        if trick == "field":
            fields.insert(draw(st.integers(0, len(fields))), draw(st.sampled_from(FIELDS)))
        elif trick == "instead":
            fields[draw(st.integers(0, len(fields) - 1))] = draw(st.sampled_from(FIELDS))
        elif trick == "line":
            line = draw(st.sampled_from(LINES))
        else:
            payload = draw(st.sampled_from(CHUNKED))
    data = before + b"\r\n".join([line, *fields, b"", payload])
    if bent:
        data += draw(st.sampled_from(AFTER))
        for _ in range(draw(st.integers(0, 2))):
            at, to = draw(st.integers(0, len(data))), draw(st.integers(0, 3))
            data = data[:at] + draw(st.sampled_from(SPECIAL) | st.binary(max_size=3)) + data[at + to :]
        if not draw(st.integers(0, 4)):
            data = data[: draw(st.integers(0, len(data)))]
    end = draw(st.sampled_from(("close", "reset", "keep"))) if bent else {"eof": "close"}.get(framing, "keep")
    script = Script(data, tuple(draw(st.lists(st.integers(0, 1 << 16), max_size=3))), end, not bent)
    waits = end == "keep" and meant(script) is None
    return replace(script, end="close") if waits and draw(st.integers(0, 19)) else script  # waiting for nothing takes long


def whole(status: bytes, body: bytes, framing: bytes = b"") -> Script:
    """An answer that the proxy once passed on wrongly, or fell over."""
    framing = framing or b"Content-Length: %d" % len(body)
    return Script(b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%b\r\n\r\n%b" % (status, framing, body), (), "close", False)


class Actor:
    """A raw upstream that plays the script in `script` to a request for /v1/echo/played, and answers any other properly."""

    def __init__(self) -> None:
        self.script = Script(b"", (), "close", True)
        self._loop = asyncio.new_event_loop()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), daemon=True)
        self._thread.start()

    async def _serve(self) -> None:
        server = await self._loop.create_server(lambda: Played(self), sock=self._socket)
        await self._stopped.wait()
        server.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(10)


class Played(asyncio.Protocol):
    """One connection to the actor."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._data = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while self._data and (asked := request(self._data)) is not None:
            self._data = self._data[asked.size :]
            if b"played" not in asked.target:
                self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(asked.body), asked.body))
            else:
                self._play(self._actor.script.pieces(), self._actor.script.end)

    def _play(self, pieces: list[bytes], end: str) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(b"".join(pieces[:1]))
        if len(pieces) > 1:
            asyncio.get_running_loop().call_later(0.001, self._play, pieces[1:], end)
        elif end == "reset":
            raw = self._transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing sends RST
            self._transport.abort()
        elif end == "close":
            self._transport.close()


def heard(port: int, target: bytes, body: bytes) -> bytes:
    """What comes back for a POST on a connection of its own, until it ends."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        head = b"POST %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (target, len(body))
        client.sendall(head + body)
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while more := client.recv(1 << 16):
                data += more
        return data


def read(data: bytes, *, ended: bool, skip: bytes = b"") -> Answer | None:
    """The final answer, behind the interim ones; None where there is none. `skip` is what may stand before each."""
    while (found := answer(data.lstrip(skip), b"POST", ended=ended)) is not None and found.status < 200:
        if found.status == 101:
            return None
        data = data.lstrip(skip)[found.size :]
    return found


def meant(script: Script) -> Answer | None:
    """What the upstream said, if it can be read; else None. The proxy forgives it empty lines before the answer, another
    version, and that many servers leave out the space before an empty reason."""
    data = _LINE.sub(rb"\1HTTP/1.1 \2 ", script.data)
    try:
        found = read(data, ended=script.end == "close", skip=b"\r\n")
    except Malformed:
        return None
    too_large = found is not None and found.size - len(found.body) > HEAD_LIMIT
    return None if too_large else found


@pytest.fixture
def actor() -> Iterator[Actor]:
    actor = Actor()
    yield actor
    actor.close()


def test_no_answer_is_made_up(proxy: Any, actor: Actor) -> None:
    endpoint = {"url": f"http://127.0.0.1:{actor.port}/v1", "retries": 0, "timeout_s": SILENCE_S, "ejection": {"failures": 0}}
    dear = proxy.variant("stable", "m", 100, price={"input": 3, "output": 15})
    proxy.put({"dev": {"variants": [dear]}}, {"one": endpoint})
    seen = dict.fromkeys(("examples", "relayed", "refused", "cut"), 0)

    @FUZZED
    @given(scripts())
    @example(whole(b"200 OK", b'{"usage":{"prompt_tokens":%b}}' % (b"9" * 400)))
    @example(whole(b"200 OK", b'{"usage":{"prompt_tokens":1,"cost":1e308}}'))
    @example(whole(b"200 OK", b'{"usage":{"prompt_tokens":1,"cost":1.7e308}}'))
    @example(whole(b"000 No", b"{}"))
    @example(whole(b"200 O\x00K", b"{}"))
    @example(whole(b"204 No Content", b""))
    @example(whole(b"200 OK", b"{}", b"Transfer-Encoding: gzip, chunked"))
    def run(script: Script) -> None:
        actor.script = script
        expected = meant(script)
        data = heard(proxy.port, b"/v1/chat/completions?played", b'{"model":"dev"}')
        assert data, "not even a head came"
        try:
            found = read(data, ended=False)
        except Malformed as error:
            raise AssertionError(f"the client gets what it cannot read: {error}") from None
        seen["examples"] += 1
        seen["cut" if found is None else "relayed" if found.values(b"x-turnout-agent") else "refused"] += 1
        judge(script, expected, found)
        nonce = b'{"model":"dev","n":%d}' % seen["examples"]
        proper = heard(proxy.port, b"/v1/chat/completions?control", nonce)
        other = read(proper, ended=False)
        assert other is not None
        assert (other.status, other.body) == (200, nonce.replace(b"dev", b"m")), "an answer went to somebody else"
        assert proxy.process.child.poll() is None
        assert "Traceback" not in proxy.errors.read_text()

    run()
    print(seen)
    assert min(seen["relayed"], seen["refused"], seen["cut"]) > seen["examples"] // 50
    cell = proxy.cell("dev")
    assert cell["requests"] == 2 * seen["examples"]
    proxy.restart()
    assert proxy.cell("dev") == cell
    assert "unreadable" not in proxy.errors.read_text()


def judge(script: Script, expected: Answer | None, found: Answer | None) -> None:
    """What the client may get for what the upstream said. A reset may cost what was said before it."""
    lost = expected is None or script.end == "reset"
    if found is None:
        assert lost, "a proper answer was cut off"
    elif not found.values(b"x-turnout-agent"):
        assert found.status in (502, 504)
        assert json.loads(found.body)["error"]["code"] in ("endpoint_broken", "endpoint_timeout")
        assert lost, f"a proper answer became {found.body!r}"
    elif found.status == 204:
        assert b" 204" in script.data  # whatever its head says of a body: it has none
    elif expected is None or found.body != expected.body:
        assert lost, f"{expected} became {found}"
        assert b'data: {"error":' in found.body, "half an answer looks like a whole one"
    else:
        assert found.status == expected.status
