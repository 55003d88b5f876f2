"""Each fault of the simulated endpoints, seen as bytes on a raw socket and as lines of the journal."""

from __future__ import annotations

import json
import re
import select
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httptools
import pytest

from controller.testing.fleet import Fleet
from controller.testing.model_behaviour import FAULTS, WHOLE

BODY = b'{"model":"m","messages":[]}'
STREAM = b'{"model":"m","messages":[],"stream":true}'
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def post(body: bytes = BODY, path: bytes = b"/v1/chat/completions", more: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"POST %b HTTP/%b\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (path, version, more, len(body), body)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("faults"), 1) as fleet:
        yield fleet


@pytest.fixture
def fleet(shared: Fleet) -> Iterator[Fleet]:
    yield shared
    shared.behave(0, {"m": None, "*": None})


class Line:
    """A connection to the endpoint."""

    def __init__(self, fleet: Fleet) -> None:
        self.socket = socket.create_connection(("127.0.0.1", fleet.ports[0]), timeout=30)
        self.got = b""
        self.reads = 0

    def send(self, *parts: bytes) -> Line:
        for part in parts:
            self.socket.sendall(part)
        return self

    def rest(self) -> bytes:
        """Everything until the other side closes; a reset is a ConnectionResetError."""
        while data := self.socket.recv(1 << 20):
            self.got += data
            self.reads += 1
        return self.got

    def until(self, end: bytes) -> bytes:
        while end not in self.got:
            data = self.socket.recv(1 << 20)
            assert data, f"closed after {self.got[-300:]!r}"
            self.got += data
        return self.got

    def silent(self) -> bool:
        return not select.select([self.socket], [], [], 0)[0]


@pytest.fixture
def line(fleet: Fleet) -> Iterator[Callable[[], Line]]:
    lines: list[Line] = []

    def connect() -> Line:
        lines.append(Line(fleet))
        return lines[-1]

    yield connect
    for one in lines:
        one.socket.close()


def eventually(condition: Callable[[], Any]) -> None:
    """The limit is there to fail, never to pass."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)


def last(fleet: Fleet) -> dict[str, Any]:
    return fleet.journal(0)[-1]


def events(fleet: Fleet) -> list[str]:
    """What the journal says of its last request."""
    journal = fleet.journal(0)
    return [one["event"] for one in journal if one["serial"] == journal[-1]["serial"]]


class Parsed:
    """What a strict parser makes of an answer; it raises HttpParserError for what is wrong."""

    def __init__(self, data: bytes) -> None:
        self.statuses: list[int] = []
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.complete = 0
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        self.statuses.append(self._parser.get_status_code())

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete += 1


def lengths(answer: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"\r\ncontent-length: (\d+)", answer)]


def kept(line: Line, request: bytes) -> bytes:
    """The answer to this request, with what follows it before the answer to the next one on the same connection."""
    line.send(request)
    line.until(b"\r\n\r\n")
    line.send(HEALTH)
    return line.until(b'"status": "ok"').rpartition(b"HTTP/1.1 200")[0]


@pytest.mark.parametrize("body", [BODY, STREAM])
@pytest.mark.parametrize(
    ("fault", "before"), [("close_before_head", b""), ("reset_before_head", None), ("not_http", b"SSH-2.0-OpenSSH_9.2\r\n")]
)
def test_no_answer_at_all(fleet: Fleet, line: Callable[[], Line], fault: str, before: bytes | None, body: bytes) -> None:
    fleet.behave(0, {"m": {"fault": fault}})
    if before is None:
        with pytest.raises(ConnectionResetError):
            line().send(post(body)).rest()
    else:
        assert line().send(post(body)).rest() == before
    assert events(fleet) == (["received", "first_byte", "cut"] if before else ["received", "cut"])
    assert (last(fleet)["why"], last(fleet)["fault"]) == ("a fault was asked for", fault)


def test_a_head_that_ends_in_the_middle(fleet: Fleet, line: Callable[[], Line]) -> None:
    fleet.behave(0, {"m": {"fault": "close_mid_head"}})
    answer = line().send(post()).rest()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"\r\n\r\n" not in answer
    assert events(fleet) == ["received", "first_byte", "cut"]


@pytest.mark.parametrize("body", [BODY, STREAM])
@pytest.mark.parametrize("fault", ["close_mid_body", "reset_mid_body", "end_early"])
def test_half_an_answer(fleet: Fleet, line: Callable[[], Line], fault: str, body: bytes) -> None:
    whole = Parsed(kept(line(), post(body))).body
    fleet.behave(0, {"m": {"fault": fault}})
    broken = line()
    if fault == "reset_mid_body":
        with pytest.raises(ConnectionResetError):
            broken.send(post(body)).rest()
        answer = broken.got
    elif fault == "close_mid_body":
        answer = broken.send(post(body)).rest()
    else:
        answer = kept(broken, post(body))
    half = Parsed(answer)
    assert half.complete == (fault == "end_early")
    assert 0 < len(half.body) < len(whole)
    if body == STREAM:
        assert half.body.endswith(b"\n\n")
        assert half.body.count(b"\n\n") == whole.count(b"\n\n") // 2
    else:
        assert len(half.body) == len(whole) // 2
        assert lengths(answer) == [len(half.body) if fault == "end_early" else len(whole)]
    assert events(fleet) == ["received", "first_byte", "cut"]


@pytest.mark.parametrize("body", [BODY, STREAM])
@pytest.mark.parametrize("fault", ["hang_before_head", "hang_mid_body"])
def test_a_hang_ends_when_the_client_leaves(fleet: Fleet, line: Callable[[], Line], fault: str, body: bytes) -> None:
    fleet.behave(0, {"m": {"fault": fault}})
    cancelled = fleet.counts(0).get("m", {}).get("cancelled", 0)
    hanging = line().send(post(body))
    if fault == "hang_mid_body":
        hanging.until(b"\r\n\r\n")
    eventually(lambda: events(fleet)[-1] == ("first_byte" if fault == "hang_mid_body" else "received"))
    hanging.socket.close()
    eventually(lambda: fleet.counts(0)["m"]["cancelled"] == cancelled + 1)
    assert events(fleet) == (["received", "first_byte", "cut"] if fault == "hang_mid_body" else ["received", "cut"])
    assert last(fleet)["why"] == "the client left"


@pytest.mark.parametrize("body", [BODY, STREAM])
@pytest.mark.parametrize(("fault", "lie"), [("length_too_long", 10), ("length_too_short", -10)])
def test_lies_about_the_length(fleet: Fleet, line: Callable[[], Line], fault: str, lie: int, body: bytes) -> None:
    fleet.behave(0, {"m": {"fault": fault}})
    answer = kept(line(), post(body))
    head, _, content = answer.partition(b"\r\n\r\n")
    assert lengths(head + b"\r\n") == [len(content) + lie]
    assert b"transfer-encoding" not in head
    assert events(fleet) == ["received", "first_byte", "cut"]


@pytest.mark.parametrize("body", [BODY, STREAM])
@pytest.mark.parametrize(("fault", "more"), [("two_lengths", 1), ("two_equal_lengths", 0)])
def test_two_lengths(fleet: Fleet, line: Callable[[], Line], fault: str, more: int, body: bytes) -> None:
    fleet.behave(0, {"m": {"fault": fault}})
    answer = kept(line(), post(body))
    content = answer.partition(b"\r\n\r\n")[2]
    assert lengths(answer) == [len(content), len(content) + more]
    with pytest.raises(httptools.HttpParserError):
        Parsed(answer)


@pytest.mark.parametrize("body", [BODY, STREAM])
@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("length_and_chunked", rb"\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n"),
        ("bad_chunk_size", rb"\r\nzz\r\n"),
        ("huge_chunk_size", rb"\r\nfffffffffffffffff\r\n"),
    ],
)
def test_chunks_that_make_no_sense(fleet: Fleet, line: Callable[[], Line], fault: str, found: bytes, body: bytes) -> None:
    fleet.behave(0, {"m": {"fault": fault}})
    answer = kept(line(), post(body))
    assert len(re.findall(found, answer)) == 1
    assert answer.endswith(b"0\r\n\r\n")
    with pytest.raises(httptools.HttpParserError):
        Parsed(answer)
    assert last(fleet)["event"] == "cut"


@pytest.mark.parametrize("body", [BODY, STREAM])
def test_chunk_extensions(fleet: Fleet, line: Callable[[], Line], body: bytes) -> None:
    fleet.behave(0, {"m": {"fault": "chunk_extension"}})
    answer = kept(line(), post(body))
    assert answer.count(b';note="simulated"\r\n') == (15 if body == STREAM else 2)
    assert Parsed(answer).complete == 1
    assert (last(fleet)["event"], last(fleet)["fault"]) == ("finished", "chunk_extension")


def test_a_folded_header(fleet: Fleet, line: Callable[[], Line]) -> None:
    fleet.behave(0, {"m": {"fault": "obs_fold"}})
    assert b"\r\nx-folded: one\r\n two\r\n" in kept(line(), post())


@pytest.mark.parametrize("body", [BODY, STREAM])
@pytest.mark.parametrize(
    ("fault", "extra"), [("extra_bytes", b"bytes that belong to no answer"), ("second_answer", b"content-length: 2\r\n\r\n{}")]
)
def test_more_than_was_asked_for(fleet: Fleet, line: Callable[[], Line], fault: str, extra: bytes, body: bytes) -> None:
    fleet.behave(0, {"m": {"fault": fault}})
    answer = kept(line(), post(body))
    assert answer.endswith(extra)
    assert answer.count(b"HTTP/1.1 200") == (2 if fault == "second_answer" else 1)
    assert b"connection: close" not in answer
    assert (last(fleet)["event"], last(fleet)["fault"]) == ("finished", fault)


def test_a_fault_of_some_requests_only(fleet: Fleet, line: Callable[[], Line]) -> None:
    fleet.behave(0, {"of-some": {"fault": "close_before_head", "fault_rate": 0.25}})
    answers = [line().send(post(b'{"model":"of-some"}', more=b"Connection: close\r\n")).rest() for _ in range(8)]
    assert [answer == b"" for answer in answers] == [False, False, False, True] * 2
    counts = fleet.counts(0)["of-some"]
    assert (counts["requests"], counts["faults"], counts["finished"]) == (8, 2, 6)


def test_every_fault_is_tried_here() -> None:
    with open(__file__, encoding="utf-8") as file:
        here = file.read()
    assert [fault for fault in (*FAULTS, *WHOLE) if f'"{fault}"' not in here and fault != "error_event"] == []


# what is odd, and right


@pytest.mark.parametrize("body", [BODY, STREAM])
@pytest.mark.parametrize(("framing", "first"), [("eof", b"HTTP/1.1 200"), ("http10", b"HTTP/1.0 200")])
def test_an_answer_until_the_end_of_the_connection(
    fleet: Fleet, line: Callable[[], Line], framing: str, first: bytes, body: bytes
) -> None:
    fleet.behave(0, {"m": {"framing": framing}})
    answer = line().send(post(body)).rest()
    head, _, content = answer.partition(b"\r\n\r\n")
    assert head.startswith(first)
    assert b"content-length" not in head
    assert b"transfer-encoding" not in head
    assert content.endswith(b"data: [DONE]\n\n" if body == STREAM else b"}}")
    assert events(fleet) == ["received", "first_byte", "finished"]


def test_json_in_chunks_and_events_with_a_length(fleet: Fleet, line: Callable[[], Line]) -> None:
    fleet.behave(0, {"m": {"framing": "chunked"}})
    json_in_chunks = kept(line(), post())
    assert b"transfer-encoding: chunked" in json_in_chunks
    assert json.loads(Parsed(json_in_chunks).body)["object"] == "chat.completion"
    fleet.behave(0, {"m": {"framing": "length"}})
    events_with_length = kept(line(), post(STREAM))
    assert lengths(events_with_length) == [len(Parsed(events_with_length).body)]


def test_old_clients_get_no_chunks(line: Callable[[], Line]) -> None:
    answer = line().send(post(STREAM, version=b"1.0")).rest()
    assert b"transfer-encoding" not in answer
    assert answer.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("body", [BODY, STREAM])
def test_gzip(fleet: Fleet, line: Callable[[], Line], body: bytes) -> None:
    plain = Parsed(kept(line(), post(body))).body
    fleet.behave(0, {"m": {"gzip": True}})
    zipped = Parsed(kept(line(), post(body)))
    assert (b"content-encoding", b"gzip") in zipped.headers
    unpacked = zlib.decompress(zipped.body, wbits=zlib.MAX_WBITS | 16)
    assert _without_ids(unpacked) == _without_ids(plain)


def _without_ids(body: bytes) -> bytes:
    return re.sub(rb'"id":"[^"]*"|"created":\d+', b"", body)


def test_one_byte_at_a_time(fleet: Fleet, line: Callable[[], Line]) -> None:
    fleet.behave(0, {"m": {"drip_ms": 2}})
    dripping = line()
    answer = dripping.send(post(more=b"Connection: close\r\n")).rest()
    assert Parsed(answer).complete == 1
    assert dripping.reads > 20  # of some hundred bytes, even if both sides are often late


def test_a_long_header_and_informational_answers(fleet: Fleet, line: Callable[[], Line]) -> None:
    fleet.behave(0, {"m": {"header_kb": 70, "informational": [100, 102, 103]}})
    parsed = Parsed(kept(line(), post()))
    assert parsed.statuses == [100, 102, 103, 200]
    assert (b"x-long", b"a" * 70 * 1024) in parsed.headers
    fleet.behave(0, {"m": {"header_kb": None, "fault": "hang_before_head"}})
    hanging = line().send(post())
    eventually(lambda: fleet.journal(0)[-1]["event"] == "received")
    assert hanging.silent()  # also of informational ones


def test_an_answer_before_the_request_was_read(fleet: Fleet, line: Callable[[], Line]) -> None:
    fleet.behave(0, {"*": {"early": "answer"}})
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    early = line().send(head, b"x" * 1000)
    answer = Parsed(early.until(b"}}"))
    assert (answer.complete, answer.statuses) == (1, [200])
    assert events(fleet) == ["first_byte", "finished"]
    early.got = b""
    early.send(b"x" * 99_000, HEALTH)
    assert Parsed(early.until(b'"status": "ok"')).complete == 1
    assert events(fleet) == ["first_byte", "finished", "received"]


def test_a_refusal_before_the_request_was_read(fleet: Fleet, line: Callable[[], Line]) -> None:
    fleet.behave(0, {"*": {"early": "refuse"}})
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    answer = Parsed(line().send(head).rest())
    assert answer.statuses == [413]
    assert (b"connection", b"close") in answer.headers
    refused = line().send(head)
    with pytest.raises(OSError):  # noqa: PT012 - which of the two notices it is a matter of time
        while True:
            refused.send(b"x" * 50_000)
    assert line().send(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").rest().startswith(b"HTTP/1.1 200")


def test_a_client_that_asks_first_is_told_to_go_on(line: Callable[[], Line]) -> None:
    asking = line().send(post(b"", more=b"Expect: 100-continue\r\n").replace(b"Length: 0", b"Length: %d" % len(BODY)))
    assert asking.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert Parsed(asking.send(BODY).until(b"}}")).statuses == [100, 200]


def test_what_is_not_http_is_refused(line: Callable[[], Line]) -> None:
    assert line().send(b"\x16\x03\x01\x02\x00\r\n\r\n").rest().startswith(b"HTTP/1.1 400")
    pipelined = line().send(post() + b"\x16\x03\x01\r\n\r\n").rest()
    assert pipelined.count(b"HTTP/1.1") <= 1


def test_pipelined_requests_are_answered_in_order(line: Callable[[], Line]) -> None:
    answer = line().send(post(STREAM) + post() + HEALTH).until(b'"status": "ok"')
    assert answer.index(b"[DONE]") < answer.index(b'"chat.completion"') < answer.index(b'"status": "ok"')
