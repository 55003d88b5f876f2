"""A request as the proxy understands it: who asks, as part of what, and which lines of its head go on to a model.

The head is walked once, with a dictionary that is made when the table comes.
"""

from __future__ import annotations

import random
import re
import time
from enum import IntEnum
from typing import NamedTuple

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


class Slot(IntEnum):
    """What a header means to the proxy."""

    DROPPED = 0
    CONNECTION = 1
    AUTHORIZATION = 2
    API_KEY = 3
    VARIANT = 4
    AGENT = 5
    REQUEST_ID = 6
    TRACEPARENT = 7
    SESSION = 8  # these go on to the model too
    TASK = 9
    CLIENT = 10
    PRE = 11
    POST = 12


_FIXED = {
    **dict.fromkeys(_DROPPED, Slot.DROPPED),
    b"connection": Slot.CONNECTION,
    b"authorization": Slot.AUTHORIZATION,
    b"api-key": Slot.API_KEY,
    b"x-api-key": Slot.API_KEY,
    b"x-turnout-variant": Slot.VARIANT,
    b"x-turnout-agent": Slot.AGENT,
    b"x-request-id": Slot.REQUEST_ID,
    b"traceparent": Slot.TRACEPARENT,
}


def slots(names: HeaderNames) -> dict[bytes, Slot]:
    """Which header means what, with the names of this table."""
    given = {
        names.session: Slot.SESSION,
        names.task: Slot.TASK,
        names.client: Slot.CLIENT,
        names.pre: Slot.PRE,
        names.post: Slot.POST,
    }
    return {**{name.lower().encode("ascii"): slot for name, slot in given.items()}, **_FIXED}


class Trace(NamedTuple):
    """W3C trace context: `parent` is the span that the client named, `span` is ours."""

    trace: str
    parent: str
    span: str
    flags: str

    def header(self) -> bytes:
        return f"traceparent: 00-{self.trace}-{self.span}-{self.flags}\r\n".encode()


def trace_of(header: bytes | None) -> Trace:
    """The client's trace where it names one, a new one else."""
    span = f"{random.getrandbits(64) or 1:016x}"
    found = _TRACEPARENT.fullmatch(header) if header is not None else None
    if found is None:
        return Trace(f"{random.getrandbits(128) or 1:032x}", "", span, "00")
    return Trace(found[1].decode(), found[2].decode(), span, found[3].decode())


class Ask:
    """One request of a client, from its head. Times are seconds of the event loop's clock; `at` is the wall clock."""

    __slots__ = (
        "agent_header",
        "at",
        "began",
        "client",
        "id",
        "key",
        "lines",
        "post_ms",
        "pre_ms",
        "session",
        "task",
        "trace",
        "variant",
    )

    def __init__(self, headers: Headers, known: dict[bytes, Slot], began: float) -> None:
        found: list[bytes | None] = [None] * 13
        lines: list[bytes] = []
        for header in headers:
            slot = known.get(header[0])
            if slot is None:
                lines.append(b"%b: %b\r\n" % header)
            elif slot:
                found[slot] = header[1]
                if slot >= Slot.SESSION:
                    lines.append(b"%b: %b\r\n" % header)
        hop = found[Slot.CONNECTION]
        if hop is not None and hop.lower() not in (b"keep-alive", b"close"):
            gone = named_by_connection(headers)
            lines = [line for line in lines if line.partition(b":")[0] not in gone]
        self.began = began
        self.at = time.time()
        self.trace = trace_of(found[Slot.TRACEPARENT])
        given = found[Slot.REQUEST_ID]
        self.id = given.decode() if given is not None and _ID.fullmatch(given) else self.trace.trace
        lines.append(b"x-request-id: %b\r\n" % self.id.encode())
        lines.append(self.trace.header())
        self.lines = b"".join(lines)
        self.key = _key(found[Slot.AUTHORIZATION], found[Slot.API_KEY])
        self.variant = _text(found[Slot.VARIANT])
        self.agent_header = _text(found[Slot.AGENT])
        self.session = _text(found[Slot.SESSION])
        self.task = _text(found[Slot.TASK])
        self.client = _text(found[Slot.CLIENT])
        self.pre_ms = _milliseconds(found[Slot.PRE])
        self.post_ms = _milliseconds(found[Slot.POST])


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
