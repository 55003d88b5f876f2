"""Multi-turn work as the proxy sees it: turns, tokens, money and where the time of a session goes. Bounded, in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from .record import Record, slowest

_MOST = 10_000


class Session(msgspec.Struct):
    """Sums over the requests of one session; times in seconds, `first_at` and `last_at` on the wall clock."""

    agent: str = ""
    variant: str = ""
    replica: str = ""
    client: str = ""
    task: str = ""
    turns: int = 0
    errors: int = 0
    first_at: float = 0.0
    last_at: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    agent_s: float = 0.0
    queue_s: float = 0.0
    network_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0

    @property
    def bottleneck(self) -> str:
        return slowest(self.agent_s, self.queue_s, self.network_s, self.prefill_s, self.decode_s)


_KEPT = ("agent", "variant", "replica", "client", "task", "first_at", "last_at")
_ADDED = tuple(name for name in Session.__struct_fields__ if name not in _KEPT)


class Sessions:
    """The sessions that were heard of last."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, record: Record) -> None:
        """A request of a session has ended."""
        name = record.session
        session = self._sessions.get(name)
        if session is None:
            if len(self._sessions) >= self._most:
                self._sessions.popitem(last=False)
            session = self._sessions[name] = Session(first_at=record.at)
        else:
            self._sessions.move_to_end(name)
        session.agent, session.variant, session.replica = record.agent, record.variant, record.replica
        session.client, session.task = record.client, record.task or session.task
        session.turns += 1
        session.errors += record.error
        session.last_at = record.at + record.total_s
        session.input_tokens += record.input_tokens
        session.output_tokens += record.output_tokens
        session.cost_usd += record.cost_usd or 0.0
        session.agent_s += record.agent_s
        session.queue_s += record.queue_s
        session.network_s += record.network_s
        session.prefill_s += record.prefill_s
        session.decode_s += record.decode_s

    def newest(self, most: int) -> dict[str, Session]:
        """The last that were heard of, newest first."""
        return {name: self._sessions[name] for name in islice(reversed(self._sessions), most)}


def together(parts: Sequence[Mapping[str, Session]], most: int) -> list[dict[str, Any]]:
    """Sessions as several workers saw them, newest first: what can be added is, the rest is what was heard last."""
    total: dict[str, Session] = {}
    for part in parts:
        for name, session in part.items():
            total[name] = _plus(total[name], session) if name in total else session
    ordered = sorted(total.items(), key=lambda item: item[1].last_at, reverse=True)[:most]
    return [{"session": name, **msgspec.structs.asdict(session), "bottleneck": session.bottleneck} for name, session in ordered]


def _plus(one: Session, other: Session) -> Session:
    newer = one if one.last_at >= other.last_at else other
    added = {name: getattr(one, name) + getattr(other, name) for name in _ADDED}
    return msgspec.structs.replace(newer, first_at=min(one.first_at, other.first_at), **added)
