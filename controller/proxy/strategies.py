"""Which replica gets the next request: a dictionary of functions over the replicas that may get it.

Whether a session goes to a candidate or to stable is decided before (`live.py`); balancing never moves that share.
"""

from __future__ import annotations

import hashlib
import math
import random
from bisect import bisect
from collections.abc import Callable, Sequence

from .replica import Replica

_POINTS = 64  # of one replica on the ring
_BOUND = 1.25  # no replica gets more than this times the mean by affinity (consistent hashing with bounded loads)
_PREFIX = 1024


class Turn:
    """What a strategy remembers between requests, and when it is asked."""

    __slots__ = ("now", "number", "slow_start_s")

    def __init__(self) -> None:
        self.number = -1
        self.now = 0.0
        self.slow_start_s = 0.0


Strategy = Callable[[Sequence[Replica], Turn], Replica]


def round_robin(replicas: Sequence[Replica], turn: Turn) -> Replica:
    """One after the other; one that is warming up is passed over as often as it is cold."""
    for _ in replicas:
        turn.number += 1
        replica = replicas[turn.number % len(replicas)]
        warmth = replica.warmth(turn.now, turn.slow_start_s)
        if warmth == 1.0 or random.random() < warmth:
            return replica
    return replica


def least_connections(replicas: Sequence[Replica], turn: Turn) -> Replica:
    """The fewest requests of this proxy in flight."""
    return _least(replicas, [(each.in_flight + 1) / each.warmth(turn.now, turn.slow_start_s) for each in replicas])


def least_latency(replicas: Sequence[Replica], turn: Turn) -> Replica:
    """Peak EWMA: the time to the first byte times what is in flight. One that is not known counts as the fastest."""
    now, fastest = turn.now, _smallest([each.first_byte_s for each in replicas])
    return _least(
        replicas,
        [(each.in_flight + 1) * each.first_byte(now, fastest) / each.warmth(now, turn.slow_start_s) for each in replicas],
    )


def least_load(replicas: Sequence[Replica], turn: Turn) -> Replica:
    """load x seconds per token x pressure on the KV cache, where load = in flight + max(0, polled - in flight then) + 1."""
    now, fastest = turn.now, _smallest([each.token_s for each in replicas])
    costs = [
        each.load(now) * each.token(now, fastest) * each.pressure(now) / each.warmth(now, turn.slow_start_s) for each in replicas
    ]
    return _least(replicas, costs)


STRATEGIES: dict[str, Strategy] = {
    "least_load": least_load,
    "round_robin": round_robin,
    "least_connections": least_connections,
    "least_latency": least_latency,
}


def _smallest(figures: Sequence[float]) -> float:
    return min((figure for figure in figures if figure > 0), default=1.0)


def _least(replicas: Sequence[Replica], costs: Sequence[float]) -> Replica:
    """Ties are broken at random: else every proxy of a fleet would choose the same one."""
    lowest = min(costs)
    if costs.count(lowest) == 1:
        return replicas[costs.index(lowest)]
    return random.choice([replica for replica, cost in zip(replicas, costs, strict=True) if cost == lowest])


class Ring:
    """Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, 2018): a key keeps its replica while that
    has at most 1.25 times the mean of the work, and a replica that comes or goes moves only its own share of keys."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        points = sorted(
            (_hash(f"{replica.url} {i}".encode()), number) for number, replica in enumerate(replicas) for i in range(_POINTS)
        )
        self._at = [point for point, _ in points]
        self._owners = [replicas[number] for _, number in points]

    def choose(self, key: bytes, allowed: Sequence[Replica]) -> Replica:
        bound = math.ceil(_BOUND * (sum(each.in_flight for each in allowed) + 1) / len(allowed))
        start = bisect(self._at, _hash(key))
        for i in range(len(self._owners)):
            owner = self._owners[(start + i) % len(self._owners)]
            if owner.in_flight < bound and owner in allowed:
                return owner
        return allowed[0]


def _hash(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest())


def prefix_key(body: bytes) -> bytes:
    """What requests with the same beginning share: the first KiB from the messages, the prompt or the input on."""
    found = [at for name in (b'"messages"', b'"prompt"', b'"input"') if (at := body.find(name)) >= 0]
    start = min(found, default=0)
    return body[start : start + _PREFIX]
