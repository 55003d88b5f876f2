"""One server of an endpoint: its address, its state of health and its figures. Pools choose among them, probes watch them."""

from __future__ import annotations

import math
from typing import Protocol
from urllib.parse import urlsplit

_TOKEN_SHARE = 0.1  # of the newest answer in the mean time per token
_DECAY_S = 10.0  # how fast a peak of the first-byte time is forgotten
_FORGET_S = 30.0  # how fast the time per token of a replica without answers is forgotten
_COLDEST = 0.1  # the share of its work that a replica gets when its slow start begins
STALE_S = 5.0  # polled load that is older is not believed


class Idle(Protocol):
    """A connection that waits for its next request."""

    idle_since: float

    def abort(self) -> None: ...


class Replica:
    """Identity is the URL: over route tables the same replica keeps its connections, its health and its figures."""

    __slots__ = (
        "answer_head",
        "answered",
        "down",
        "draining",
        "ejected",
        "ejections",
        "ejections_ever",
        "failed",
        "failures",
        "first_byte_s",
        "host",
        "host_line",
        "idle",
        "in_flight",
        "in_flight_at_poll",
        "kv_usage",
        "measured_at",
        "name",
        "passed",
        "polled",
        "polled_at",
        "port",
        "prefix",
        "sent",
        "tls",
        "token_s",
        "trial",
        "url",
        "warming_since",
    )

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.url = url
        self.tls = parts.scheme == "https"
        self.host = parts.hostname or ""
        self.port = parts.port or (443 if self.tls else 80)
        self.name = f"{self.host}:{self.port}"
        self.prefix = parts.path.rstrip("/").encode("ascii")
        self.host_line = b"host: " + parts.netloc.encode("ascii") + b"\r\n"
        self.idle: list[Idle] = []
        self.answer_head: object | None = None  # of the last whole answer; the next one has mostly the same
        self.in_flight = 0
        # health
        self.draining = False  # no longer in the table
        self.down = False  # said by the active checks
        self.passed = 0  # active checks in a row with the same result
        self.ejected = False  # said by the requests
        self.ejections = 0  # in a row
        self.ejections_ever = 0
        self.trial = False  # ejected, and being tried again
        self.failures = 0  # requests in a row that failed
        self.warming_since = 0.0
        # speed
        self.first_byte_s = 0.0  # peak-sensitive mean; 0 = not known
        self.measured_at = 0.0
        self.token_s = 0.0  # mean seconds per token of whole answers; 0 = not known
        self.polled = 0.0  # requests running and waiting there, as the replica said
        self.polled_at = -math.inf
        self.in_flight_at_poll = 0
        self.kv_usage = 0.0
        # counts of requests whose bytes went out
        self.sent = 0
        self.answered = 0
        self.failed = 0

    @property
    def usable(self) -> bool:
        return not (self.down or self.ejected or self.draining)

    @property
    def health(self) -> str:
        if self.draining:
            return "draining"
        if self.down:
            return "down"
        if self.ejected:
            return "trial" if self.trial else "ejected"
        return "up"

    def measured(self, now: float, first_byte_s: float, total_s: float, tokens: int) -> None:
        """An answer came to its end. A slower one counts at once, faster ones gain ground over some seconds."""
        if first_byte_s > self.first_byte_s:
            self.first_byte_s = first_byte_s
        else:
            kept = math.exp((self.measured_at - now) / _DECAY_S)
            self.first_byte_s = self.first_byte_s * kept + first_byte_s * (1 - kept)
        sample = total_s / tokens if tokens > 0 else total_s
        share = max(_TOKEN_SHARE, 1 - math.exp((self.measured_at - now) / _FORGET_S))  # after a silence the newest counts most
        self.token_s = sample if self.token_s == 0.0 else self.token_s + share * (sample - self.token_s)
        self.measured_at = now

    def first_byte(self, now: float, fastest: float) -> float:
        """The expected time to the first byte; what is long ago fades towards what the fastest needs, so that it is tried."""
        if self.first_byte_s == 0.0:
            return fastest
        return fastest + (self.first_byte_s - fastest) * math.exp((self.measured_at - now) / _DECAY_S)

    def token(self, now: float, fastest: float) -> float:
        """The expected seconds per token; what is long ago fades towards what the fastest needs."""
        if self.token_s == 0.0:
            return fastest
        return fastest + (self.token_s - fastest) * math.exp((self.measured_at - now) / _FORGET_S)

    def load(self, now: float) -> float:
        """Requests at work there with the next one: our own, and what others sent as far as a fresh poll tells."""
        if now - self.polled_at > STALE_S:
            return self.in_flight + 1
        return self.in_flight + max(0.0, self.polled - self.in_flight_at_poll) + 1

    def pressure(self, now: float) -> float:
        """What a nearly full KV cache multiplies the cost with: 1 up to 80 %, then 1 + 2 (kv - 0.8) / (1 - kv)."""
        kv = self.kv_usage
        if kv <= 0.8 or now - self.polled_at > STALE_S:
            return 1.0
        return 1.0 + 2.0 * (kv - 0.8) / max(1.0 - kv, 0.01)

    def warmth(self, now: float, slow_start_s: float) -> float:
        """The share of its full work that it should get now, in (0, 1]."""
        if self.warming_since == 0.0:
            return 1.0
        share = (now - self.warming_since) / slow_start_s if slow_start_s > 0 else 1.0
        if share >= 1.0:
            self.warming_since = 0.0
            return 1.0
        return max(_COLDEST, share)
