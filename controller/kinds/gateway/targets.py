"""The targets of a gateway that are not Turnout's own proxies, for `plan.py`: what each has to have, and what it cannot do. Pure.

A target is known by its label (`haproxy edge`, `httpRoutes cluster`) in conditions, and by its name within its part of the state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from controller.change import Wait
from controller.errors import listed, nearest
from controller.kinds.gateway import haproxy, httproute
from controller.kinds.gateway.spec import GatewaySpec

PARTS = ("haproxy", "httpRoutes")


@dataclass
class Others:
    """`after` and `payload` by part; a part that the spec does not have is in neither."""

    after: dict[str, dict[str, Any]] = field(default_factory=dict)
    payload: dict[str, dict[str, Any]] = field(default_factory=dict)
    conditions: list[Wait] = field(default_factory=list)


def render(
    spec: GatewaySpec,
    gateway: str,
    table: Mapping[str, Any],
    words: Mapping[str, str],
    endpoints: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> Others:
    """`endpoints` = all that the environment has, as the table would have them; `words` = each route for people."""
    out = Others()
    addresses = environment.get("haproxies", {})
    for target in spec.haproxy:
        if target.name not in addresses:
            out.conditions.append(_nowhere(target.name, environment))
            continue
        if target.reload is None and not addresses[target.name].get("masterSocket"):
            text = f"spec.haproxy: {target.name} has no reload, and the environment no masterSocket for it; one of them is needed"
            out.conditions.append(Wait("Invalid", f"haproxy {target.name}", text))
            continue
        made = haproxy.render(target, table, endpoints, addresses[target.name]["socket"])
        steps = haproxy.steps(made.routes)
        content = {"config": made.config, "routes": made.routes, "steps": steps, "state": made.state}
        _add(out, "haproxy", target.name, made.state, content, made.conditions)
    for cluster in spec.http_routes:
        mine = httproute.owner(environment.get("name", ""), gateway, cluster)
        routes = httproute.render(cluster, table, words, mine)
        _add(out, "httpRoutes", cluster.name, routes.state, {"objects": routes.objects, "owner": mine}, routes.conditions)
    return out


def _add(out: Others, part: str, name: str, after: Any, payload: dict[str, Any], conditions: Iterable[Wait]) -> None:
    out.after.setdefault(part, {})[name] = after
    out.payload.setdefault(part, {})[name] = payload
    out.conditions += conditions


def _nowhere(name: str, environment: Mapping[str, Any]) -> Wait:
    known = environment.get("haproxies", {})
    where = f"spec.haproxy: environment {environment.get('name')}"
    return Wait("Invalid", f"haproxy {name}", f"{where} has no haproxy {name!r}{nearest(name, known)}; allowed: {listed(known)}")


def refused(signals: Mapping[str, Any]) -> Iterable[Wait]:
    """What the Gateways of clusters say against our routes."""
    for where, texts in sorted(signals.get("refused", {}).items()):
        yield Wait("Refused", where, f"{where} is refused by its Gateway: {'; '.join(texts)}")
