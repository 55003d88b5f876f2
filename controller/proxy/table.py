"""The route table: what the control plane writes and the proxy obeys. All that crosses that border is typed here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import msgspec

_TEXT = re.compile(r"[^\x00-\x1f\x7f]*")
_AGENT = re.compile(r"[^\x00-\x20\x7f]+")
_KEY = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+")


class Endpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a model is served: an OpenAI-compatible base URL (with its `/v1`) and a reference to its key."""

    url: str
    api_key: str = ""  # env:NAME or file:PATH, never the key itself
    timeout_s: float = 300.0  # the longest silence of the upstream, before its answer or in the middle of it


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


class RouteTable(msgspec.Struct, frozen=True, kw_only=True):
    """All routes at once. A table names the one that it replaces, so that no writer overwrites what it has not seen."""

    serial: int
    digest: str
    replaces: str = ""
    routes: dict[str, Route] = {}
    endpoints: dict[str, Endpoint] = {}


def decode(raw: bytes) -> RouteTable:
    """The table in these bytes, or ValueError. Fields that this release does not know are ignored."""
    return msgspec.json.decode(raw, type=RouteTable)


def encode(table: RouteTable) -> bytes:
    return msgspec.json.encode(table)


def problems(table: RouteTable) -> list[str]:
    """Everything that is wrong with the table, as sentences; an empty list means that the proxy can serve it."""
    return list(_problems(table))


def _problems(table: RouteTable) -> Iterator[str]:
    if table.serial < 0:
        yield f"serial: {table.serial} is negative"
    if not table.digest or not _AGENT.fullmatch(table.digest) or not table.digest.isascii() or '"' in table.digest:
        yield f"digest: {table.digest!r} is not a digest"
    for name, endpoint in table.endpoints.items():
        for text in _endpoint_problems(endpoint):
            yield f"endpoints.{name}: {text}"
    for agent, route in table.routes.items():
        if not _AGENT.fullmatch(agent):
            yield f"routes: {agent!r} is no name of an agent"
        for text in _route_problems(agent, route, table):
            yield f"routes.{agent}: {text}"


def _endpoint_problems(endpoint: Endpoint) -> Iterator[str]:
    try:
        url = urlsplit(endpoint.url)
        port_is_fine = url.port is None or url.port > 0
        plain = url.username is None and not url.query and not url.fragment
        printable = endpoint.url.isascii() and endpoint.url.isprintable() and " " not in endpoint.url
        fine = url.scheme in ("http", "https") and bool(url.hostname) and port_is_fine and plain and printable
    except ValueError:
        fine = False
    if not fine:
        yield "url is not of the form http(s)://host[:port]/path, without user, query and fragment"
    if endpoint.api_key and not _KEY.fullmatch(endpoint.api_key):
        yield "api_key is not a reference of the form env:NAME or file:PATH"
    if not (0 < endpoint.timeout_s < math.inf):
        yield f"timeout_s: {endpoint.timeout_s} is not above 0"


def _route_problems(agent: str, route: Route, table: RouteTable) -> Iterator[str]:
    if not route.variants:
        yield "has no variants"
        return
    names = [variant.name for variant in route.variants]
    if len(set(names)) != len(names):
        yield f"names a variant twice: {', '.join(names)}"
    for variant in route.variants:
        yield from _variant_problems(variant, table)
    total = sum(variant.weight for variant in route.variants)
    if not abs(total - 100) <= 1e-6:
        yield f"the weights sum to {total:g}, not 100"
    if not _TEXT.fullmatch(route.step):
        yield "step has control characters"
    if route.shadow is not None:
        yield from _variant_problems(route.shadow.variant, table)
        if not 0 <= route.shadow.percent <= 100:
            yield f"shadow.percent: {route.shadow.percent:g} is not within 0 and 100"
    if route.guard is not None:
        if not 0 <= route.guard.error_rate <= 1:
            yield f"guard.error_rate: {route.guard.error_rate:g} is not within 0 and 1"
        if route.guard.minimum < 1:
            yield f"guard.minimum: {route.guard.minimum} is less than 1"
        if not route.step:
            yield "a guard needs a step: it stays tripped for its step"
    for name in route.fallbacks:
        if name == agent:
            yield "falls back to itself"
        elif name not in table.routes:
            yield f"falls back to {name!r}, which has no route"
    if len(set(route.fallbacks)) != len(route.fallbacks):
        yield "names a fallback twice"


def _variant_problems(variant: Variant, table: RouteTable) -> Iterator[str]:
    where = f"variant {variant.name!r}"
    if not variant.name or not variant.model:
        yield f"{where} needs a name and a model"
    if not all(_TEXT.fullmatch(text) for text in (variant.name, variant.model, variant.version)):
        yield f"{where} has control characters"
    if variant.endpoint not in table.endpoints:
        yield f"{where} is at endpoint {variant.endpoint!r}, which the table does not have"
    if not 0 <= variant.weight <= 100:
        yield f"{where} has the weight {variant.weight:g}, which is not within 0 and 100"
    if variant.price is not None and not (0 <= variant.price.input < math.inf and 0 <= variant.price.output < math.inf):
        yield f"{where} has a negative price"
