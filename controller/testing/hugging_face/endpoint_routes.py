"""Inference Endpoints of the double over HTTP: create, list, inspect, pause, resume, scale to zero, delete, hardware."""

from __future__ import annotations

from typing import Any

from controller.testing.hugging_face import accounts
from controller.testing.hugging_face.accounts import may_write
from controller.testing.hugging_face.endpoints import accepted, shown
from controller.testing.hugging_face.exchange import Answer, Refused, Request, Table
from controller.testing.hugging_face.prices import endpoint_hardware
from controller.testing.hugging_face.world import World


def create(world: World, request: Request, ns: str) -> Answer:
    who = may_write(request.account, ns, "create an endpoint")
    wanted, now = request.json(), world.clock.now()
    hourly = accepted(wanted)
    if world.endpoints.find(ns, wanted["name"]) is not None:
        raise Refused(409, f"Endpoint name {wanted['name']!r} already exists")
    secrets = wanted["model"].pop("secrets", None) or {}
    endpoint = {
        "namespace": ns,
        "name": wanted["name"],
        "number": len(world.endpoints.all()),
        "payload": wanted,
        "secrets": sorted(secrets),
        "by": {"id": accounts.object_id(f"user/{who.name}"), "name": who.name},
        "created": now,
        "updated": now,
        "deleted": None,
        "state": "on",
        "ready": now + world.options.boot_seconds,
        "periods": [[now, None]],
        "hourly": hourly,
    }
    world.endpoints.save(endpoint)
    return Answer(content=shown(endpoint, now, world.options.serving_url))


def listed(world: World, request: Request, ns: str) -> Answer:
    may_write(request.account, ns, "see endpoints")
    now, young = world.clock.now(), request.hidden_after
    found = [
        shown(each, now, world.options.serving_url)
        for each in world.endpoints.all()
        if each["namespace"] == ns and each["deleted"] is None and (young is None or each["created"] <= young)
    ]
    return Answer(content={"items": found})


def inspect(world: World, request: Request, ns: str, name: str) -> Answer:
    may_write(request.account, ns, "see endpoints")
    return Answer(content=shown(world.endpoints.get(ns, name), world.clock.now(), world.options.serving_url))


def pause(world: World, request: Request, ns: str, name: str) -> Answer:
    return _off(world, request, ns, name, "paused")


def scale_to_zero(world: World, request: Request, ns: str, name: str) -> Answer:
    return _off(world, request, ns, name, "scaledToZero")


def resume(world: World, request: Request, ns: str, name: str) -> Answer:
    may_write(request.account, ns, "resume an endpoint")
    endpoint, now = world.endpoints.get(ns, name), world.clock.now()
    if endpoint["state"] == "on":
        raise Refused(400, f"Endpoint {name} is already running")
    endpoint.update(state="on", updated=now, ready=now + world.options.boot_seconds)
    endpoint["periods"].append([now, None])
    world.endpoints.save(endpoint)
    return Answer(content=shown(endpoint, now, world.options.serving_url))


def delete(world: World, request: Request, ns: str, name: str) -> Answer:
    may_write(request.account, ns, "delete an endpoint")
    endpoint, now = world.endpoints.get(ns, name), world.clock.now()
    _close(endpoint, now)
    endpoint["deleted"] = now
    world.endpoints.save(endpoint)
    return Answer()


def hardware(world: World, request: Request, ns: str) -> Answer:
    may_write(request.account, ns, "see hardware")
    return Answer(content={"vendors": endpoint_hardware()})


def _off(world: World, request: Request, ns: str, name: str, into: str) -> Answer:
    may_write(request.account, ns, "stop an endpoint")
    endpoint, now = world.endpoints.get(ns, name), world.clock.now()
    if endpoint["state"] == "paused" and into != "paused":
        raise Refused(400, f"Endpoint {name} is paused")
    if endpoint["state"] != into:
        _close(endpoint, now)
        endpoint.update(state=into, updated=now)
        world.endpoints.save(endpoint)
    return Answer(content=shown(endpoint, now, world.options.serving_url))


def _close(endpoint: dict[str, Any], now: float) -> None:
    for period in endpoint["periods"]:
        period[1] = now if period[1] is None else period[1]


ROUTES: Table = [
    ("GET", "/v2/provider/{ns}", hardware),
    ("POST", "/v2/endpoint/{ns}", create),
    ("GET", "/v2/endpoint/{ns}", listed),
    ("GET", "/v2/endpoint/{ns}/{name}", inspect),
    ("DELETE", "/v2/endpoint/{ns}/{name}", delete),
    ("POST", "/v2/endpoint/{ns}/{name}/pause", pause),
    ("POST", "/v2/endpoint/{ns}/{name}/resume", resume),
    ("POST", "/v2/endpoint/{ns}/{name}/scale-to-zero", scale_to_zero),
]
