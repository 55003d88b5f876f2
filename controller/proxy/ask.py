"""A request as the proxy understands it: who asks, as part of what, and which lines of its head go on to a model.

The head is walked once, with a dictionary that is made when the table comes.
"""

from __future__ import annotations

import random
import re
import time
from typing import NamedTuple

import httptools

from .table import HeaderNames

Headers = list[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# The answer must stay readable for the usage, so no encoding is asked for; the client's keys are not the vendor's.
_DROPPED = HOP_BY_HOP | {b"accept-encoding", b"content-length", b"expect", b"host"}
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_ID = re.compile(rb"[!-~]{1,128}")
_LONGEST = 256  # of a session, task or client that is remembered
_LONGEST_MS = 86_400_000.0


# What a header means to the proxy: its place in the list that Ask fills. From _SESSION on it goes on to the model too.
_DROP, _CONNECTION, _AUTHORIZATION, _API_KEY, _VARIANT, _AGENT, _REQUEST_ID, _CONTEXT = range(8)
_SESSION, _TASK, _CLIENT, _PRE, _POST = range(8, 13)
_NOTHING: list[bytes | None] = [None] * 13


_FIXED = {
    **dict.fromkeys(_DROPPED, _DROP),
    b"connection": _CONNECTION,
    b"authorization": _AUTHORIZATION,
    b"api-key": _API_KEY,
    b"x-api-key": _API_KEY,
    b"x-turnout-variant": _VARIANT,
    b"x-turnout-agent": _AGENT,
    b"x-request-id": _REQUEST_ID,
    b"traceparent": _CONTEXT,
}


def slots(names: HeaderNames) -> dict[bytes, int]:
    """Which header means what, with the names of this table."""
    given = {
        names.session: _SESSION,
        names.task: _TASK,
        names.client: _CLIENT,
        names.pre: _PRE,
        names.post: _POST,
    }
    return {**{name.lower().encode("ascii"): slot for name, slot in given.items()}, **_FIXED}


class Trace(NamedTuple):
    """W3C trace context: `parent` is the span that the client named, `span` is ours."""

    trace: str
    parent: str
    span: str
    flags: str


def trace_of(header: bytes | None) -> Trace:
    """The client's trace where it names one, a new one else."""
    drawn = f"{random.getrandbits(192) or 1:048x}"
    span = drawn[:16]
    found = _TRACEPARENT.fullmatch(header) if header is not None else None
    if found is None:
        return Trace(drawn[16:], "", span, "00")
    return Trace(found[1].decode(), found[2].decode(), span, found[3].decode())


class Head:
    """What the head of a request says, as far as it is the same whenever the same head comes again.

    `known` is the dictionary that it was read with: another table may have other names for headers.
    """

    __slots__ = (
        "agent",
        "client",
        "context",
        "key",
        "known",
        "lines",
        "method",
        "onward",
        "path",
        "post_ms",
        "pre_ms",
        "request_id",
        "session",
        "task",
        "variant",
    )

    def __init__(self, method: bytes, target: bytes, headers: Headers, known: dict[bytes, int]) -> None:
        found = _NOTHING.copy()
        lines: list[bytes] = []
        for header in headers:
            slot = known.get(header[0])
            if slot is None:
                lines.append(b"%b: %b\r\n" % header)
            elif slot:
                found[slot] = header[1]
                if slot >= _SESSION:
                    lines.append(b"%b: %b\r\n" % header)
        hop = found[_CONNECTION]
        if hop is not None and hop.lower() not in (b"keep-alive", b"close"):
            gone = named_by_connection(headers)
            lines = [line for line in lines if line.partition(b":")[0] not in gone]
        self.known = known
        self.lines = b"".join(lines)
        self.method = method.decode("latin-1")
        path = path_of(target)
        self.path = path.decode("latin-1")
        query = target.partition(b"?")
        self.onward = path.removeprefix(b"/v1") + query[1] + query[2]
        given = found[_REQUEST_ID]
        self.request_id = given.decode() if given is not None and _ID.fullmatch(given) else ""
        self.context = found[_CONTEXT]
        self.key = _key(found[_AUTHORIZATION], found[_API_KEY])
        self.variant = _text(found[_VARIANT])
        self.agent = _text(found[_AGENT])
        self.session = _text(found[_SESSION])
        self.task = _text(found[_TASK])
        self.client = _text(found[_CLIENT])
        self.pre_ms = _milliseconds(found[_PRE])
        self.post_ms = _milliseconds(found[_POST])


class Ask:
    """One request of a client. `began` is seconds of the monotonic clock, `at` of the wall clock."""

    __slots__ = ("at", "began", "head", "id", "trace")

    def __init__(self, head: Head, began: float) -> None:
        self.head = head
        self.began = began
        self.at = time.time()
        self.trace = trace_of(head.context)
        self.id = head.request_id or self.trace.trace

    def lines(self) -> bytes:
        """The header lines that go on to a model."""
        trace = self.trace
        own = f"x-request-id: {self.id}\r\ntraceparent: 00-{trace.trace}-{trace.span}-{trace.flags}\r\n"
        return self.head.lines + own.encode()


def path_of(target: bytes) -> bytes:
    """The path of a request's target, which may be a whole URL."""
    if target.startswith((b"http://", b"https://")):
        try:
            return httptools.parse_url(target).path or b"/"
        except httptools.HttpParserInvalidURLError:
            return b"/"
    return target.partition(b"?")[0]


def _text(value: bytes | None) -> str | None:
    return None if value is None else value[:_LONGEST].decode("latin-1")


def _key(authorization: bytes | None, api_key: bytes | None) -> bytes | None:
    if authorization is None:
        return api_key
    scheme, _, given = authorization.partition(b" ")
    return given.strip() if scheme.lower() == b"bearer" else None


def _milliseconds(value: bytes | None) -> float | None:
    """What an agent says about its own time; nonsense is nothing."""
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if 0 <= number <= _LONGEST_MS else None


def named_by_connection(headers: Headers) -> set[bytes]:
    """Headers that a `Connection` header declares to be for this hop only."""
    return {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
