"""Events: CloudEvents 1.0 envelopes, their types in the past tense, the sentence each one is, and upcasters.

Everything the controller does or decides passes through here on its way to the log. `TYPES` is the reference: the docs and
`schemas/event.json` are generated from it. Unknown types are kept and folded by nobody; old versions are lifted by `upcast`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

PREFIX = "turnout."
MAX_EVENT_BYTES = 64 * 1024


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """CloudEvents 1.0 in JSON (`specversion` is written by `encode`).

    `sequence` is contiguous from 1 and given by the log; `time` is for display only.
    """

    id: str
    source: str
    type: str
    subject: str = ""
    time: str = ""
    sequence: int = 0
    causationid: str = ""
    correlationid: str = ""
    statecommit: str = ""
    actor: str = ""
    epoch: int = 0
    reportedlate: bool = False
    data: dict[str, Any] = {}

    @property
    def at(self) -> datetime:
        return parse_time(self.time)


_encode = msgspec.json.Encoder(enc_hook=str, order="deterministic").encode
_decode = msgspec.json.Decoder(Event).decode


def encode(event: Event) -> bytes:
    """One line of JSON, without the newline. `specversion` is always written: readers of CloudEvents require it."""
    return b'{"specversion":"1.0",' + _encode(event)[1:]


def decode(line: bytes) -> Event:
    """Lenient: unknown fields of a newer writer are ignored."""
    return upcast(_decode(line))


def format_time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def uuid7(now: datetime, random: Callable[[int], bytes] = os.urandom) -> str:
    """UUID version 7 (RFC 9562 section 5.7): 48 bits of Unix milliseconds, then randomness."""
    raw = bytearray(int(now.timestamp() * 1000).to_bytes(6, "big") + random(10))
    raw[6] = (raw[6] & 0x0F) | 0x70
    raw[8] = (raw[8] & 0x3F) | 0x80
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


@dataclass(frozen=True, slots=True)
class EventType:
    """`name` without prefix and version; `doc` for the reference; `fields` of `data`, each with its meaning."""

    name: str
    version: int
    doc: str
    fields: Mapping[str, str]
    sentence: Callable[[Event], str]

    @property
    def full(self) -> str:
        return f"{PREFIX}{self.name}.v{self.version}"


def _subject(event: Event) -> str:
    return event.subject.partition("/")[2] or event.subject


def _started(event: Event) -> str:
    return f"{_subject(event)}: {event.data.get('reason') or event.data.get('action', '')}"


def _failed(event: Event) -> str:
    again = "; will be tried again" if event.data.get("temporary") else ""
    return f"{_subject(event)}: {event.data.get('action', 'action')} failed: {event.data.get('error', '')}{again}"


def _condition(event: Event) -> str:
    return f"{_subject(event)}: {event.data.get('reason', event.data.get('code', ''))}"


def _imported(event: Event) -> str:
    count = event.data.get("versions", 0)
    what = f"{count} version{'' if count == 1 else 's'}"
    return f"imported {what} from {event.data.get('source', 'a registry')} ({event.data.get('by', 'somebody')})"


_ACTION = {
    "action": "create, update, replace, delete, run or step",
    "intent": "key of the intent; the same over every retry",
    "generation": "number of intents of this address closed before",
}

TYPES: tuple[EventType, ...] = (
    EventType(
        "log.opened",
        1,
        "The first event of a log; its id is the log id that enters every intent key.",
        {"environment": "name of the environment"},
        lambda event: f"opened the log of {event.data.get('environment', 'this environment')}",
    ),
    EventType(
        "plan.made",
        1,
        "A commit was planned and something follows from it.",
        {
            "summary": "one line",
            "digest": "digest of the set of changes",
            "counts": "changes by action",
            "problems": "files that could not be used",
        },
        lambda event: f"planned {event.statecommit[:7]}: {event.data.get('summary', '')}",
    ),
    EventType(
        "lease.taken",
        1,
        "A controller became the single writer of actions until `expires`.",
        {"holder": "who", "epoch": "number of this tenure", "expires": "RFC 3339"},
        lambda event: f"{event.data.get('holder')} took the lease (epoch {event.data.get('epoch')})",
    ),
    EventType(
        "lease.renewed",
        1,
        "The holder goes on.",
        {"holder": "who", "epoch": "unchanged", "expires": "RFC 3339"},
        lambda event: f"{event.data.get('holder')} renewed the lease",
    ),
    EventType(
        "lease.released",
        1,
        "The holder is done.",
        {"holder": "who", "epoch": "unchanged"},
        lambda event: f"{event.data.get('holder')} released the lease",
    ),
    EventType(
        "action.started",
        1,
        "Durable before the side effect.",
        {
            **_ACTION,
            "reason": "why, for people",
            "spec": "what the user wrote",
            "spec_digest": "digest of it",
            "before": "state before",
            "after": "state that is aimed at",
            "diff": "field differences",
            "cost": "USD: estimate and ceiling",
            "irreversible": "why a revert will not undo it",
            "careful": "paid or irreversible: never called twice",
            "frozen": "of a run: the spec with its defaults",
            "evidence": "figures behind a decision",
            "bad": "digests judged bad, by the address that they concern",
        },
        _started,
    ),
    EventType(
        "action.succeeded",
        1,
        "The side effect is done and `after` is true.",
        {
            **_ACTION,
            "after": "state now",
            "running": "a run that goes on",
            "ends": "how a run ended",
            "healthy": "a state to go back to",
            "handle": "how the provider finds it again",
            "notes": "what the provider adds",
            "said": "sentence for people",
        },
        lambda event: f"{_subject(event)}: {event.data.get('said') or str(event.data.get('action', '')) + ' done'}",
    ),
    EventType(
        "action.failed",
        1,
        "The side effect did not happen, for now (temporary) or for good.",
        {
            **_ACTION,
            "error": "what the provider said",
            "temporary": "whether it is retried",
            "attempts": "so far",
            "retry_at": "not before",
            "failed_digest": "what has to change before it is tried again",
        },
        _failed,
    ),
    EventType(
        "action.superseded",
        1,
        "An open intent was given up because the desired state moved on.",
        _ACTION,
        lambda event: f"{_subject(event)}: superseded before it was done",
    ),
    EventType(
        "approval.granted",
        1,
        "A person said yes to one change, in a commit that somebody else than the author of the file wrote.",
        {"digest": "of the change", "ceiling": "USD at most", "by": "who", "commit": "where it stands"},
        lambda event: f"{_subject(event)}: approved up to {event.data.get('ceiling', 0):.2f} USD by {event.data.get('by', '')}",
    ),
    EventType(
        "approval.refused",
        1,
        "An approval that does not count.",
        {"digest": "of the change", "ceiling": "USD at most", "by": "who", "commit": "where it stands", "reason": "why not"},
        lambda event: (
            f"{_subject(event)}: the approval by {event.data.get('by', '')} does not count: {event.data.get('reason', '')}"
        ),
    ),
    EventType(
        "condition.raised",
        1,
        "Something holds a resource up or is worth knowing; numbers inside never count.",
        {"code": "stable code", "cause": "what it hangs on", "reason": "for people"},
        _condition,
    ),
    EventType(
        "condition.cleared",
        1,
        "The condition is over.",
        {"code": "stable code", "reason": "for people"},
        lambda event: f"{_subject(event)}: {event.data.get('code')} is over",
    ),
    EventType(
        "edits.started",
        1,
        "A write-back commit is about to be made.",
        {"intent": "key of the write-back", "edits": "fields by address, null removes the file", "reason": "for people"},
        lambda event: f"{_subject(event)}: writes to the branch: {event.data.get('reason', 'its result')}",
    ),
    EventType(
        "edits.written",
        1,
        "The edits are in git, whoever wrote them.",
        {
            "intent": "key of the write-back",
            "commit": "the commit that has them",
            "by": "controller or person",
            "said": "sentence for people",
        },
        lambda event: f"{_subject(event)}: {event.data.get('said', 'its result is in git')}",
    ),
    EventType(
        "retry.requested",
        1,
        "A person asked for another try.",
        {"by": "who"},
        lambda event: f"{_subject(event)}: {event.data.get('by', 'somebody')} asked for another try",
    ),
    EventType(
        "registry.imported",
        1,
        "What a registry.json of before says about versions; what a binding, a training or an evaluation says comes first.",
        {
            "source": "name of the file",
            "digest": "sha256 of the file; the same file is imported once",
            "form": "flat or per-agent",
            "versions": "how many",
            "agents": "history and current version, by agent",
            "by": "who",
        },
        _imported,
    ),
)

BY_NAME: Mapping[str, EventType] = {kind.full: kind for kind in TYPES}

UPCASTERS: dict[str, Callable[[Event], Event]] = {}
"""Old type -> the same event one version newer. Applied until none fits."""


def upcast(event: Event) -> Event:
    while UPCASTERS and (lift := UPCASTERS.get(event.type)):
        event = lift(event)
    return event


def typed(name: str) -> str:
    """`action.started` -> `turnout.action.started.v1`, refusing a name that does not exist."""
    for kind in TYPES:
        if kind.name == name:
            return kind.full
    raise ValueError(f"unknown event type {name!r}")


def sentence(event: Event) -> str:
    """What happened, for people."""
    kind = BY_NAME.get(event.type)
    return kind.sentence(event) if kind else f"{_subject(event)}: {event.type}"
