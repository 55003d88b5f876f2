"""Multi-turn work as the proxy sees it: turns, tokens, money and where the time of a session goes. Bounded, in memory."""

from __future__ import annotations

from collections import OrderedDict
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

    def shown(self, most: int) -> list[dict[str, Any]]:
        """The newest first."""
        found: list[dict[str, Any]] = []
        for name in reversed(self._sessions):
            if len(found) >= most:
                break
            session = self._sessions[name]
            found.append({"session": name, **msgspec.structs.asdict(session), "bottleneck": session.bottleneck})
        return found
