"""A file for the data plane alone: agents, endpoints and clients in YAML -> the route table that the proxy serves.

With a control plane the Gateway kind writes the table; who runs only the proxy writes this file, and the proxy follows it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import yaml

from .checks import problems
from .table import Client, Endpoint, HeaderNames, Limits, Price, Route, RouteTable, Variant, decode, encode

_LARGEST = 1 << 20


class Agent(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Who answers for one agent: a model at an endpoint, or a split over several `variants`."""

    model: str = ""
    endpoint: str = ""
    version: str = "v1"
    price: Price | None = None
    variants: list[Variant] = []
    salt: str = ""
    fallbacks: list[str] = []
    limits: Limits | None = None


class Model(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A model on `replicas` consecutive ports of one host, as a serving pool starts it; its name is the agent's."""

    name: str
    model_path: str = ""
    host: str = "127.0.0.1"
    base_port: int = 5900
    replicas: int = 1


class Config(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The whole file. `strategy` to `request_timeout` (seconds) hold for every endpoint that does not say otherwise."""

    host: str = "127.0.0.1"
    port: int = 5800
    strategy: str = "least_load"
    affinity: str = ""
    health_check_path: str = ""
    health_check_interval: float = 30.0
    request_timeout: float = 300.0
    headers: HeaderNames = HeaderNames()
    endpoints: dict[str, dict[str, Any]] = {}
    agents: dict[str, Agent] = {}
    models: list[Model] = []
    clients: dict[str, Client] = {}
    content: bool = False


def load_config(path: str | Path) -> Config:
    """Read a file; raises OSError, or ValueError that names the file and what is wrong in it."""
    return _config(Path(path).read_bytes(), str(path))


def _config(raw: bytes, name: str) -> Config:
    if len(raw) > _LARGEST:
        raise ValueError(f"{name} is larger than 1 MiB")
    try:
        content = yaml.load(raw, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from None
    try:
        config = msgspec.convert(content or {}, Config, strict=True)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name}: {error}; allowed at the top are {', '.join(Config.__struct_fields__)}") from None
    found = list(_surplus(content or {}, config, ""))
    if found:
        raise ValueError(f"{name}: {'; '.join(found)}")
    return config


def _surplus(given: Any, understood: Any, where: str) -> Iterator[str]:
    """Fields that mean nothing. The route table's types let them pass, for newer writers; in a person's file they are mistakes."""
    if isinstance(understood, msgspec.Struct):
        fields = understood.__struct_fields__
        for name, value in given.items():
            if name in fields:
                yield from _surplus(value, getattr(understood, name), f"{where}{name}.")
            else:
                yield f"{where}{name} is not known; there are {', '.join(fields)}"
    elif isinstance(understood, dict):
        for name, value in understood.items():
            yield from _surplus(given[name], value, f"{where}{name}.")
    elif isinstance(understood, list):
        for number, value in enumerate(understood):
            yield from _surplus(given[number], value, f"{where}{number}.")


class _Loader(yaml.SafeLoader):
    """Refuses what YAML otherwise takes in silence: a key that stands there twice, and aliases that can grow without end."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands there twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not read here", self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        return super().compose_node(parent, index)


def compiled(config: Config) -> RouteTable:
    """The table that a file means. Raises ValueError with everything that is wrong."""
    endpoints = {name: _endpoint(name, fields, config) for name, fields in config.endpoints.items()}
    routes = {name: _route(name, agent) for name, agent in config.agents.items()}
    for model in config.models:
        urls = [f"http://{model.host}:{model.base_port + i}/v1" for i in range(model.replicas)]
        endpoints[model.name] = _endpoint(model.name, {"replicas": urls, "load_path": "/metrics"}, config)
        served = model.model_path or model.name
        routes[model.name] = Route(variants=[Variant(name="stable", model=served, version="v1", endpoint=model.name, weight=100.0)])
    table = RouteTable(
        serial=0,
        digest="none",
        routes=routes,
        endpoints=endpoints,
        clients={name: _client(client) for name, client in config.clients.items()},
        headers=config.headers,
        content=config.content,
    )
    table = msgspec.structs.replace(table, digest=hashlib.sha256(encode(table)).hexdigest()[:32])
    found = problems(table)
    if found:
        raise ValueError("; ".join(found))
    return table


def _endpoint(name: str, fields: dict[str, Any], config: Config) -> Endpoint:
    unknown = sorted(set(fields) - set(Endpoint.__struct_fields__))
    if unknown:
        raise ValueError(f"endpoints.{name}: {', '.join(unknown)} is not known; there are {', '.join(Endpoint.__struct_fields__)}")
    defaults = {
        "strategy": config.strategy,
        "affinity": config.affinity,
        "timeout_s": config.request_timeout,
        "health": {"path": config.health_check_path, "interval_s": config.health_check_interval},
    }
    try:
        endpoint = msgspec.convert({**defaults, **fields}, Endpoint)
        if found := list(_surplus(fields, endpoint, "")):
            raise ValueError(f"endpoints.{name}: {'; '.join(found)}")
        return endpoint
    except msgspec.ValidationError as error:
        raise ValueError(f"endpoints.{name}: {error}") from None


def _client(client: Client) -> Client:
    return msgspec.structs.replace(client, keys=[key.removeprefix("sha256:") for key in client.keys])


def _route(name: str, agent: Agent) -> Route:
    if bool(agent.variants) == bool(agent.model and agent.endpoint):
        raise ValueError(f"agents.{name}: needs either model and endpoint, or variants")
    variants = agent.variants or [
        Variant(name="stable", model=agent.model, version=agent.version, endpoint=agent.endpoint, weight=100.0, price=agent.price)
    ]
    return Route(variants=variants, salt=agent.salt or name, fallbacks=agent.fallbacks, limits=agent.limits)


def read_config(path: Path) -> tuple[RouteTable, bytes]:
    """A table from a file in this form, or from one that is a route table already. Raises OSError, ValueError."""
    raw = path.read_bytes()
    if _is_table(raw):
        table = decode(raw)
        if found := problems(table):
            raise ValueError("; ".join(found))
        return table, raw
    table = compiled(_config(raw, str(path)))
    return table, encode(table)


def _is_table(raw: bytes) -> bool:
    return raw.lstrip()[:1] == b"{" and b'"routes"' in raw


def place(path: Path) -> tuple[str, int]:
    """Host and port that a file asks for; the defaults where it cannot be read, which is told when it is served."""
    try:
        raw = path.read_bytes()
        config = Config() if _is_table(raw) else _config(raw, str(path))
    except (OSError, ValueError):
        config = Config()
    return config.host, config.port
