"""A route table made ready to serve: what requests need is looked up when the table comes, not when they do."""

from __future__ import annotations

import difflib
import hashlib
import random
from collections.abc import Iterable

from .accounts import Account, Accounts
from .ask import slots
from .keys import Credential
from .metrics import Series
from .pool import Pool
from .stats import Cell, Stats
from .table import Client, Route, RouteTable, Variant

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


class Target:
    """One variant of one route, with the header lines that tell the client who answered."""

    __slots__ = ("agent", "authorization", "cell", "headers", "model", "pool", "price", "series", "step", "variant", "version")

    def __init__(self, agent: str, step: str, variant: Variant, pool: Pool, credential: Credential) -> None:
        self.agent = agent
        self.step = step
        self.variant = variant.name
        self.version = variant.version
        self.model = variant.model
        self.price = variant.price
        self.pool = pool
        self.authorization = credential.line
        self.cell: Cell | None = None  # where its figures are, from its first request on
        self.series: Series | None = None
        shown = {
            "agent": agent,
            "variant": variant.name,
            "version": variant.version,
            "model": variant.model,
            "endpoint": variant.endpoint,
        }
        if step:
            shown["step"] = step
        self.headers = b"".join(
            f"x-turnout-{name}: {value}\r\n".encode("ascii", "backslashreplace") for name, value in shown.items()
        )


class LiveRoute:
    """A route with its targets. `tripped` is the one thing here that changes: the guard sets it."""

    __slots__ = ("_by_name", "account", "agent", "route", "shadow", "targets", "tripped")

    def __init__(self, route: Route, targets: list[Target], shadow: Target | None, account: Account, tripped: bool) -> None:
        self.agent = targets[0].agent
        self.route = route
        self.tripped = tripped
        self.targets = targets
        self.shadow = shadow
        self.account = account
        self._by_name = {target.variant: target for target in targets}

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


class LiveClient:
    """A client that showed one of its keys."""

    __slots__ = ("account", "agents", "name")

    def __init__(self, name: str, client: Client, account: Account) -> None:
        self.name = name
        self.agents = None if client.agents is None else frozenset(client.agents)
        self.account = account

    def may_ask(self, agent: str) -> bool:
        return self.agents is None or agent in self.agents


class Live:
    """The table in service, exactly as it was written (`raw`) and ready for use. Replaced as a whole, never changed."""

    def __init__(
        self,
        table: RouteTable,
        raw: bytes,
        pools: dict[str, Pool],
        stats: Stats,
        accounts: Accounts,
        before: Live | None = None,
        agents: Iterable[str] | None = None,
    ) -> None:
        """`before` is a table with the same endpoints whose routes can be taken over, but for those of `agents`."""
        self.table = table
        self.raw = raw
        self.etag = f'"{table.digest}"'.encode("ascii")
        same_names = before is not None and before.table.headers == table.headers
        self.slots: dict[bytes, int] = before.slots if before is not None and same_names else slots(table.headers)
        self.closed = bool(table.clients)  # whether a key is needed
        self._shown: dict[bytes, LiveClient] = {}  # keys that were right, so that each is digested once
        self._keys = {
            digest: LiveClient(name, client, accounts.of("client", name))
            for name, client in table.clients.items()
            for digest in client.keys
        }
        credentials = {name: Credential(endpoint.api_key, endpoint.auth) for name, endpoint in table.endpoints.items()}

        def target(agent: str, step: str, variant: Variant) -> Target:
            return Target(agent, step, variant, pools[variant.endpoint], credentials[variant.endpoint])

        self.routes: dict[str, LiveRoute] = {}
        if before is not None:
            self.routes = {agent: route for agent, route in before.routes.items() if agent in table.routes}
        for agent in table.routes if agents is None else agents:
            route = table.routes[agent]
            copies = route.shadow is not None and route.shadow.percent > 0
            shadow = target(agent, route.step, route.shadow.variant) if route.shadow is not None and copies else None
            targets = [target(agent, route.step, variant) for variant in route.variants]
            tripped = stats.tripped(agent, route.step) is not None
            self.routes[agent] = LiveRoute(route, targets, shadow, accounts.of("agent", agent), tripped)

    def client(self, key: bytes | None) -> LiveClient | None:
        """Who has this key."""
        if key is None:
            return None
        known = self._shown.get(key)
        if known is None:
            known = self._keys.get(hashlib.sha256(key).hexdigest())
            if known is not None:
                self._shown[key] = known  # at most as many as there are digests
        return known

    def nearest(self, name: str) -> str | None:
        """The agent whose name is most like this one."""
        if len(name) > 200:
            return None
        names = [other for other in self.routes if abs(len(other) - len(name)) <= 4]
        found = difflib.get_close_matches(name, names[:_NAMES], n=1)
        return found[0] if found else None
