"""The route table: what the control plane writes and the proxy obeys. All that crosses that border is typed here.

What makes a table unfit to serve is found in `checks.py`.
"""

from __future__ import annotations

import msgspec

STRATEGIES = ("least_load", "round_robin", "least_connections", "least_latency")
AFFINITIES = ("", "session", "prefix")
PERIODS = ("day", "month")


class Health(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Active checks: `path` below the origin of each replica is asked; without a path there are none."""

    path: str = ""
    interval_s: float = 30.0
    timeout_s: float = 5.0
    fall: int = 2  # so many failures in a row take a replica out
    rise: int = 1  # so many successes in a row bring it back


class Ejection(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Passive checks: a replica that fails `failures` times in a row gets nothing for `seconds`, then one trial."""

    failures: int = 5  # 0 = never ejected
    seconds: float = 10.0  # doubled for each ejection in a row, up to 300 s
    most: float = 50.0  # percent of the replicas that may be out at once


class Queue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who waits while every replica has `max_in_flight` requests."""

    size: int = 1024
    wait_s: float = 30.0


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a model is served: OpenAI-compatible base URLs (with their `/v1`) and a reference to the key."""

    url: str = ""  # one replica
    replicas: list[str] = []  # or several
    api_key: str = ""  # env:NAME or file:PATH, never the key itself
    auth: str = "bearer"  # how the key is sent: bearer, or x-api-key as Anthropic wants it
    timeout_s: float = 300.0  # the longest silence of the upstream, before its answer or in the middle of it
    first_byte_s: float = 0.0  # the longest wait of one try for the first byte; 0 = timeout_s
    total_s: float = 0.0  # the longest time of a request with all its tries; 0 = none
    connect_s: float = 10.0
    retries: int = 2  # further tries before the first byte
    strategy: str = "least_load"
    affinity: str = ""  # session or prefix: the same replica as long as it is not overloaded
    load_path: str = ""  # vLLM's /metrics, asked every second for least_load
    slow_start_s: float = 0.0
    max_in_flight: int = 0  # of one replica; 0 = unlimited
    queue: Queue = Queue()
    health: Health = Health()
    ejection: Ejection = Ejection()

    @property
    def urls(self) -> list[str]:
        return self.replicas or [self.url]


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one client or one agent may use; 0 or None = no limit."""

    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    budget_usd: float | None = None
    budget_period: str = "month"


class Client(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who may ask. `keys` are SHA-256 digests in hexadecimal: the proxy never knows a key that it could give away."""

    keys: list[str]
    agents: list[str] | None = None  # None = all
    limits: Limits = Limits()


class HeaderNames(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The request headers that agents tell about themselves with."""

    session: str = "X-Session-ID"
    task: str = "X-Task-ID"
    client: str = "X-Client-ID"
    pre: str = "X-Timing-Pre-Ms"
    post: str = "X-Timing-Post-Ms"


class Price(msgspec.Struct, frozen=True):
    """USD per million tokens."""

    input: float
    output: float


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One model version that may answer for an agent; `weight` is its share of the sessions in percent."""

    name: str
    model: str
    version: str
    endpoint: str
    weight: float
    price: Price | None = None


class Shadow(msgspec.Struct, frozen=True):
    """A variant that gets a copy of `percent` of the requests; its answers reach nobody."""

    variant: Variant
    percent: float


class Guard(msgspec.Struct, frozen=True):
    """The error rate at which the proxy itself sends everything to the first variant, for as long as the step lasts."""

    error_rate: float
    minimum: int


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers for one agent. The first variant is the stable one."""

    variants: list[Variant]
    step: str = ""
    salt: str = ""
    shadow: Shadow | None = None
    guard: Guard | None = None
    fallbacks: list[str] = []
    limits: Limits | None = None


class RouteTable(msgspec.Struct, frozen=True, kw_only=True):
    """All routes at once. A table names the one that it replaces, so that no writer overwrites what it has not seen."""

    serial: int
    digest: str
    replaces: str = ""
    routes: dict[str, Route] = {}
    endpoints: dict[str, Endpoint] = {}
    clients: dict[str, Client] = {}  # empty = anybody may ask
    headers: HeaderNames = HeaderNames()
    content: bool = False  # whether prompts and answers may be logged


def decode(raw: bytes) -> RouteTable:
    """The table in these bytes, or ValueError. Fields that this release does not know are ignored."""
    return msgspec.json.decode(raw, type=RouteTable)


def encode(table: RouteTable) -> bytes:
    return msgspec.json.encode(table)
