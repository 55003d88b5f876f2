"""The replicas of one endpoint: who may be asked, who waits, who is out. It lives as long as tables name the endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from time import monotonic
from typing import Any, Protocol

from .replica import Replica
from .strategies import STRATEGIES, Ring, Turn
from .table import Endpoint

_LONGEST_OUT_S = 300.0
_RETRY_SHARE = 0.2  # of the requests in flight may be retries: a storm of them must not finish off what is left
_RETRIES_ALWAYS = 10


class Waiter(Protocol):
    """Who asked for a replica and has to wait for one."""

    key: bytes | None

    def granted(self, replica: Replica) -> None: ...
    def waited_in_vain(self) -> None: ...


class Full(Exception):
    """Every replica is busy and the queue is full."""


class Pool:
    """Replicas of an endpoint. Its figures and states survive a new table; what is new in the endpoint holds at once."""

    def __init__(self, name: str, endpoint: Endpoint, loop: asyncio.AbstractEventLoop) -> None:
        self.name = name
        self.endpoint = endpoint
        self.replicas: list[Replica] = []
        self.leaving: set[Replica] = set()
        self.in_flight = 0
        self.retrying = 0
        self._loop = loop
        self._turn = Turn()
        self._ring: Ring | None = None
        self._ready: list[Replica] = []
        self._trials: list[Replica] = []
        self._waiting: dict[Waiter, tuple[asyncio.TimerHandle, Sequence[Replica], bool]] = {}
        self._letting_in = False
        self.update(endpoint)

    def update(self, endpoint: Endpoint) -> None:
        """Take over what the table says. Removed replicas get nothing more and finish what they have."""
        first = not self.replicas
        known = {replica.url: replica for replica in (*self.replicas, *self.leaving)}
        self.endpoint = endpoint
        replicas = []
        for url in endpoint.urls:
            replica = known.pop(url, None)
            if replica is None:
                replica = Replica(url)
                replica.warming_since = 0.0 if first else monotonic()
            if replica.draining:  # named again: what was wrong with it then says nothing about now
                replica.draining = replica.down = replica.ejected = replica.trial = False
                replica.failures = replica.ejections = 0
            replicas.append(replica)
        for replica in known.values():
            replica.draining = True
        self.leaving = {replica for replica in known.values() if replica.in_flight}
        for replica in known.values():
            self._close_idle(replica)
        self.replicas = replicas
        self._trials = [replica for replica in self._trials if replica.trial and not replica.draining]
        self._turn.slow_start_s = endpoint.slow_start_s
        self._choose = STRATEGIES[endpoint.strategy]
        self._ring = Ring(replicas) if endpoint.affinity and len(replicas) > 1 else None
        self.refresh()
        self._let_in()

    def retire(self) -> None:
        """The table no longer names the endpoint."""
        for replica in self.replicas:
            replica.draining = True
            self._close_idle(replica)
        self.leaving |= {replica for replica in self.replicas if replica.in_flight}
        self._let_in()

    @staticmethod
    def _close_idle(replica: Replica) -> None:
        for connection in list(replica.idle):
            connection.abort()
        replica.idle.clear()

    def refresh(self) -> None:
        """Health has changed. Where nobody is well, everybody is asked: a try is better than a refusal."""
        self._ready = [replica for replica in self.replicas if replica.usable] or self.replicas

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    # a request

    def take(self, waiter: Waiter, tried: Sequence[Replica], *, trial: bool = True) -> Replica | None:
        """A replica, now its own; or None: the waiter will be told. Raises Full.

        `tried` are avoided where others are. `trial` = the request may find out whether an ejected one is well again, because
        another try can save it.
        """
        trial = trial and not tried and self.endpoint.retries > 0
        replica = self._pick(waiter.key, tried, trial)
        if replica is not None:
            replica.in_flight += 1
            self.in_flight += 1
            return replica
        queue = self.endpoint.queue
        if len(self._waiting) >= queue.size:
            raise Full
        self._waiting[waiter] = (self._loop.call_later(queue.wait_s, self._in_vain, waiter), tried, trial)
        return None

    def give_back(self, replica: Replica) -> None:
        replica.in_flight -= 1
        self.in_flight -= 1
        if not replica.in_flight:
            if replica.draining:
                self.leaving.discard(replica)
            elif replica.trial and replica not in self._trials:
                self._trials.append(replica)  # its trial ended without a verdict
        if self._waiting and not self._letting_in:
            self._let_in()

    def forget(self, waiter: Waiter) -> None:
        """Its client is gone."""
        waiting = self._waiting.pop(waiter, None)
        if waiting is not None:
            waiting[0].cancel()

    def _in_vain(self, waiter: Waiter) -> None:
        if self._waiting.pop(waiter, None) is not None:
            waiter.waited_in_vain()

    def _let_in(self) -> None:
        """In a loop and not one inside the other, however many of them cannot use what they get."""
        self._letting_in = True
        try:
            while self._waiting:
                waiter, (timer, tried, trial) = next(iter(self._waiting.items()))
                replica = self._pick(waiter.key, tried, trial)
                if replica is None:
                    return
                del self._waiting[waiter]
                timer.cancel()
                replica.in_flight += 1
                self.in_flight += 1
                waiter.granted(replica)
        finally:
            self._letting_in = False

    def _pick(self, key: bytes | None, tried: Sequence[Replica], trial: bool) -> Replica | None:
        ready = self._ready
        most = self.endpoint.max_in_flight
        if trial and self._trials:
            found = self._trial(most)
            if found is not None:
                return found
        if len(ready) == 1 and not tried:
            return ready[0] if not most or ready[0].in_flight < most else None
        allowed: Sequence[Replica] = ready
        if tried:
            allowed = [replica for replica in ready if replica not in tried] or ready
        if most:
            allowed = [replica for replica in allowed if replica.in_flight < most]
            if not allowed:
                return None
        if len(allowed) == 1:
            return allowed[0]
        if key is not None and self._ring is not None:
            return self._ring.choose(key, allowed)
        self._turn.now = monotonic()
        return self._choose(allowed, self._turn)

    def _trial(self, most: int) -> Replica | None:
        """An ejected replica whose time is over gets one request."""
        for replica in self._trials:
            if not replica.down and not (most and replica.in_flight >= most):
                self._trials.remove(replica)
                return replica
        return None

    def may_retry(self) -> bool:
        return self.retrying < max(_RETRIES_ALWAYS, _RETRY_SHARE * self.in_flight)

    # what became of it

    def succeeded(self, replica: Replica) -> None:
        replica.failures = 0
        if replica.ejected:
            self._back(replica)

    def failed(self, replica: Replica) -> None:
        """A failure that was the replica's own. Some in a row take it out for a while; a failed trial does so at once."""
        ejection = self.endpoint.ejection
        replica.failures += 1
        if replica.draining or not ejection.failures:
            return
        if replica.ejected:
            if replica.trial:
                self._eject(replica)
        elif replica.failures >= ejection.failures and (self._out() + 1) * 100 <= ejection.most * len(self.replicas):
            self._eject(replica)

    def _out(self) -> int:
        return sum(replica.ejected for replica in self.replicas)

    def _eject(self, replica: Replica) -> None:
        seconds = min(self.endpoint.ejection.seconds * 2**replica.ejections, _LONGEST_OUT_S)
        replica.ejected, replica.trial = True, False
        replica.ejections = min(replica.ejections + 1, 16)
        replica.ejections_ever += 1
        self._end_trial(replica)
        self.refresh()
        self._loop.call_later(seconds, self._try_again, replica, replica.ejections_ever)

    def _try_again(self, replica: Replica, number: int) -> None:
        """Half open: the next request that a retry can save goes there. `number` = of the ejection whose time is over."""
        if not replica.ejected or replica.draining or number != replica.ejections_ever:
            return
        if not self.endpoint.retries:
            self._back(replica)
            return
        replica.trial = True
        self._trials.append(replica)
        self._let_in()

    def _end_trial(self, replica: Replica) -> None:
        if replica in self._trials:
            self._trials.remove(replica)

    def _back(self, replica: Replica) -> None:
        self._end_trial(replica)
        replica.ejected = replica.trial = False
        replica.ejections = replica.failures = 0
        replica.warming_since = monotonic() if self.endpoint.slow_start_s else 0.0
        self.refresh()
        self._let_in()

    def checked(self, replica: Replica, *, well: bool) -> None:
        """The result of an active check."""
        health = self.endpoint.health
        replica.passed = replica.passed + 1 if well is replica.down else 0
        if well and replica.down and replica.passed >= health.rise:
            replica.down, replica.passed = False, 0
            replica.failures = replica.ejections = 0
            replica.ejected = replica.trial = False
            self._end_trial(replica)
            replica.warming_since = monotonic() if self.endpoint.slow_start_s else 0.0
            self.refresh()
            self._let_in()
        elif not well and not replica.down and replica.passed >= health.fall:
            replica.down, replica.passed = True, 0
            self.refresh()

    def shown(self) -> dict[str, Any]:
        """For `/stats`."""
        return {
            "strategy": self.endpoint.strategy,
            "in_flight": self.in_flight,
            "waiting": len(self._waiting),
            "replicas": [_shown(replica) for replica in (*self.replicas, *self.leaving)],
        }


def _shown(replica: Replica) -> dict[str, Any]:
    return {
        "url": replica.url,
        "health": replica.health,
        "in_flight": replica.in_flight,
        "sent": replica.sent,
        "answered": replica.answered,
        "failed": replica.failed,
        "first_byte_seconds": replica.first_byte_s,
        "seconds_per_token": replica.token_s,
        "running_and_waiting": replica.polled,
        "kv_usage": replica.kv_usage,
    }


class Pools:
    """All endpoints by name."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.by_name: dict[str, Pool] = {}

    def adopt(self, endpoints: Iterable[tuple[str, Endpoint]]) -> dict[str, Pool]:
        """The pools of a table: those that are known go on with what it says, the others begin or end."""
        before, self.by_name = self.by_name, {}
        for name, endpoint in endpoints:
            pool = before.pop(name, None)
            if pool is None:
                pool = Pool(name, endpoint, self._loop)
            elif pool.endpoint != endpoint:
                pool.update(endpoint)
            self.by_name[name] = pool
        for pool in before.values():
            pool.retire()
        return self.by_name


_ADDED = ("in_flight", "sent", "answered", "failed")


def added(own: dict[str, Any], others: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One endpoint as several workers see it: what they count is added, the rest is this worker's view."""
    replicas = {replica["url"]: dict(replica) for replica in own["replicas"]}
    total = {**own}
    for other in others:
        total["in_flight"] += other["in_flight"]
        total["waiting"] += other["waiting"]
        for replica in other["replicas"]:
            known = replicas.setdefault(replica["url"], {**replica, **dict.fromkeys(_ADDED, 0)})
            for name in _ADDED:
                known[name] += replica[name]
    return {**total, "replicas": list(replicas.values())}
