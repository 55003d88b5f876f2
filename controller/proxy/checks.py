"""What makes a route table unfit to serve, as sentences that name the place. Checked before a table is written or served."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from .table import AFFINITIES, PERIODS, STRATEGIES, Client, Endpoint, HeaderNames, Limits, Route, RouteTable, Variant

_TEXT = re.compile(r"[^\x00-\x1f\x7f]*")
_AGENT = re.compile(r"[^\x00-\x20\x7f]+")
_KEY = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:.+")
_PATH = re.compile(r"/[!-~]*")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


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
    for name, client in table.clients.items():
        for text in _client_problems(client):
            yield f"clients.{name}: {text}"
    yield from _double_keys(table)
    yield from _header_problems(table.headers)
    for agent, route in table.routes.items():
        if not _AGENT.fullmatch(agent):
            yield f"routes: {agent!r} is no name of an agent"
        for text in _route_problems(agent, route, table):
            yield f"routes.{agent}: {text}"


def _endpoint_problems(endpoint: Endpoint) -> Iterator[str]:
    if bool(endpoint.url) == bool(endpoint.replicas):
        yield "needs either url or replicas"
    elif not all(_is_base_url(url) for url in endpoint.urls):
        yield "url is not of the form http(s)://host[:port]/path, without user, query and fragment"
    elif len(set(endpoint.urls)) != len(endpoint.urls):
        yield "replicas: the same URL stands there twice"
    if endpoint.api_key and not _KEY.fullmatch(endpoint.api_key):
        yield "api_key is not a reference of the form env:NAME or file:PATH"
    yield from _not_among("auth", endpoint.auth, ("bearer", "x-api-key"))
    yield from _not_among("strategy", endpoint.strategy, STRATEGIES)
    yield from _not_among("affinity", endpoint.affinity, AFFINITIES)
    for path in (endpoint.load_path, endpoint.health.path):
        if path and not _PATH.fullmatch(path):
            yield f"{path!r} is not a path that begins with /"
    yield from _numbers(
        endpoint, above=("timeout_s", "connect_s"), least=("first_byte_s", "total_s", "retries", "slow_start_s", "max_in_flight")
    )
    yield from _numbers(endpoint.queue, above=("wait_s",), least=("size",), where="queue.")
    yield from _numbers(endpoint.health, above=("interval_s", "timeout_s", "fall", "rise"), where="health.")
    yield from _numbers(endpoint.ejection, above=("seconds",), least=("failures", "most"), where="ejection.")


def _is_base_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        port_is_fine = url.port is None or url.port > 0
    except ValueError:
        return False
    plain = url.username is None and not url.query and not url.fragment
    printable = text.isascii() and text.isprintable() and " " not in text
    return url.scheme in ("http", "https") and bool(url.hostname) and port_is_fine and plain and printable


def _not_among(field: str, found: str, allowed: Sequence[str]) -> Iterator[str]:
    if found not in allowed:
        yield f"{field}: {found!r} is not one of {', '.join(each or 'none' for each in allowed)}"


def _numbers(of: object, *, above: Sequence[str] = (), least: Sequence[str] = (), where: str = "") -> Iterator[str]:
    for field in above:
        if not 0 < getattr(of, field) < math.inf:
            yield f"{where}{field}: {getattr(of, field)} is not above 0"
    for field in least:
        if not 0 <= getattr(of, field) < math.inf:
            yield f"{where}{field}: {getattr(of, field)} is negative"


def _client_problems(client: Client) -> Iterator[str]:
    for key in client.keys:
        if not _SHA256.fullmatch(key):
            yield "keys holds something that is not a SHA-256 digest in hexadecimal"
    yield from _limits_problems(client.limits)


def _double_keys(table: RouteTable) -> Iterator[str]:
    owners: dict[str, str] = {}
    for name, client in table.clients.items():
        for key in client.keys:
            if owners.setdefault(key, name) != name:
                yield f"clients: {owners[key]} and {name} have the same key"


def _limits_problems(limits: Limits) -> Iterator[str]:
    yield from _numbers(limits, least=("requests_per_minute", "tokens_per_minute"), where="limits.")
    yield from _not_among("limits.budget_period", limits.budget_period, PERIODS)
    if limits.budget_usd is not None and not 0 <= limits.budget_usd < math.inf:
        yield f"limits.budget_usd: {limits.budget_usd} is negative"


def _header_problems(names: HeaderNames) -> Iterator[str]:
    found = [getattr(names, field) for field in names.__struct_fields__]
    for name in found:
        if not _HEADER.fullmatch(name):
            yield f"headers: {name!r} is not the name of a header"
    if len({name.lower() for name in found}) != len(found):
        yield "headers: two of the names are the same"


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
    if route.limits is not None:
        yield from _limits_problems(route.limits)
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
