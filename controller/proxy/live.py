"""A route table made ready to serve: what requests need is looked up when the table comes, not when they do."""

from __future__ import annotations

import difflib
import hashlib
import random
from urllib.parse import urlsplit

from .keys import resolve
from .table import Endpoint, Price, Route, RouteTable, Variant

_NAMES = 2000  # at most so many are compared for "did you mean"


def point(salt: str, session: str) -> float:
    """Where a session stands in [0, 100). Nothing else matters, so a raised weight moves sessions only forward."""
    digest = hashlib.blake2b(salt.encode() + b"\0" + session.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) * (100 / (1 << 53))


def pick(variants: list[Variant], at: float) -> int:
    """Which variant has this point: those after the first have [0, w) in their order, the first has the rest."""
    upper, last = 0.0, 0
    for i, variant in enumerate(variants[1:], 1):
        if variant.weight > 0:
            last = i
            upper += variant.weight
            if at < upper:
                return i
    return 0 if variants[0].weight > 0 else last


class Upstream:
    """An endpoint as the proxy connects to it."""

    __slots__ = ("_api_key", "host", "host_line", "name", "port", "prefix", "timeout_s", "tls")

    def __init__(self, name: str, endpoint: Endpoint) -> None:
        url = urlsplit(endpoint.url)
        self.name = name
        self.tls = url.scheme == "https"
        self.host = url.hostname or ""
        self.port = url.port or (443 if self.tls else 80)
        self.prefix = url.path.rstrip("/").encode("ascii")
        self.host_line = b"host: " + url.netloc.encode("ascii") + b"\r\n"
        self.timeout_s = endpoint.timeout_s
        self._api_key = endpoint.api_key

    def authorization(self) -> bytes:
        """The header line with the endpoint's key, resolved now; raises KeyMissing."""
        if not self._api_key:
            return b""
        return b"authorization: Bearer " + resolve(self._api_key).encode("ascii") + b"\r\n"


class Target:
    """One variant of one route, with the header lines that tell the client who answered."""

    __slots__ = ("agent", "headers", "model", "price", "step", "upstream", "variant", "version")

    def __init__(self, agent: str, step: str, variant: Variant, upstream: Upstream) -> None:
        self.agent = agent
        self.step = step
        self.variant = variant.name
        self.version = variant.version
        self.model = variant.model
        self.price: Price | None = variant.price
        self.upstream = upstream
        shown = {
            "agent": agent,
            "variant": variant.name,
            "version": variant.version,
            "model": variant.model,
            "endpoint": upstream.name,
        }
        if step:
            shown["step"] = step
        self.headers = b"".join(
            f"x-turnout-{name}: {value}\r\n".encode("ascii", "backslashreplace") for name, value in shown.items()
        )


class LiveRoute:
    """A route with its targets. `tripped` is the one thing here that changes: the guard sets it."""

    __slots__ = ("_by_name", "agent", "route", "shadow", "targets", "tripped")

    def __init__(self, agent: str, route: Route, upstreams: dict[str, Upstream], tripped: bool) -> None:
        self.agent = agent
        self.route = route
        self.tripped = tripped
        self.targets = [Target(agent, route.step, variant, upstreams[variant.endpoint]) for variant in route.variants]
        self._by_name = {target.variant: target for target in self.targets}
        self.shadow: Target | None = None
        if route.shadow is not None and route.shadow.percent > 0:
            variant = route.shadow.variant
            self.shadow = Target(agent, route.step, variant, upstreams[variant.endpoint])

    def choose(self, session: str | None, forced: str | None) -> Target:
        """Who answers this request. A tripped guard outweighs everything; an unknown forced name does nothing."""
        if self.tripped or len(self.targets) == 1:
            return self.targets[0]
        if forced is not None and forced in self._by_name:
            return self._by_name[forced]
        at = random.random() * 100 if session is None else point(self.route.salt, session)
        return self.targets[pick(self.route.variants, at)]

    def copied(self) -> bool:
        """Whether this request is among those that the shadow gets a copy of."""
        return self.route.shadow is not None and random.random() * 100 < self.route.shadow.percent


class Live:
    """The table in service, exactly as it was written (`raw`) and ready for use. Replaced as a whole, never changed."""

    def __init__(self, table: RouteTable, raw: bytes, tripped: set[str]) -> None:
        self.table = table
        self.raw = raw
        self.etag = f'"{table.digest}"'.encode("ascii")
        upstreams = {name: Upstream(name, endpoint) for name, endpoint in table.endpoints.items()}
        self.routes = {agent: LiveRoute(agent, route, upstreams, agent in tripped) for agent, route in table.routes.items()}

    def nearest(self, name: str) -> str | None:
        """The agent whose name is most like this one."""
        if len(name) > 200:
            return None
        names = [other for other in self.routes if abs(len(other) - len(name)) <= 4]
        found = difflib.get_close_matches(name, names[:_NAMES], n=1)
        return found[0] if found else None
