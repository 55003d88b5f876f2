"""A route table as objects of the Kubernetes Gateway API: one HTTPRoute an agent, its weights on backendRefs. Pure.

Every field of the spec is sent, an empty list of host names too, so that nobody can set one without taking it from us. What was
sent stands in an annotation: whoever reads an object back can tell what the server added from what somebody changed
(`served_digest`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controller.change import Wait
from controller.kinds.gateway.limits import UNSERVED, UNSUPPORTED, Served, missing, served, unfit_shadow
from controller.kinds.gateway.spec import BackendRef, HttpRouteTarget
from controller.kinds.gateway.urls import base
from controller.resource import digest

API = "gateway.networking.k8s.io/v1"
KIND, PLURAL = "HTTPRoute", "httproutes"
MANAGED_BY = "app.kubernetes.io/managed-by"
OWNER = "turnout/owner"
AGENT, SERVES, DIGEST, APPLIED = "turnout/agent", "turnout/serves", "turnout/digest", "turnout/applied"
CHANGED = "changed"
"""Stands for the digest of an object that is not as it was sent."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")


@dataclass(frozen=True)
class Rendered:
    """The objects by name. `state` is what observing them then shows."""

    objects: Mapping[str, Mapping[str, Any]]
    owner: str
    state: str
    conditions: tuple[Wait, ...]


def owner(environment: str, gateway: str, target: HttpRouteTarget) -> str:
    """Label by which our objects are known: nothing without it is ever changed or deleted."""
    return digest([environment, gateway, target.name])[:16]


def render(target: HttpRouteTarget, table: Mapping[str, Any], words: Mapping[str, str], mine: str) -> Rendered:
    """`words` = each route for people; `mine` = from `owner`."""
    label = f"httpRoutes {target.name}"
    faults = {name: fault for name, each in table["endpoints"].items() if (fault := _fault(target, name, each))}
    shadowed = {agent: route for agent, route in table["routes"].items() if route.get("shadow")}
    unfit = {agent: why for agent, route in shadowed.items() if (why := unfit_shadow(agent, route, faults, target.model_names))}
    routes, said = served(label, table, faults, target.model_names)
    objects: dict[str, Mapping[str, Any]] = {}
    for agent, route in routes.items():
        able, more = _one_path(label, agent, route, table["endpoints"])
        said += more
        mirrors = _mirror(target, table["routes"][agent]) if able.whole and agent not in unfit else []
        made = _object(target, table, agent, able, mirrors, words[agent], mine)
        objects[made["metadata"]["name"]] = made
    said += [*_keys(label, table["endpoints"]), *missing(label, table, frozenset({"shadow"})), *_shadows(label, table, unfit)]
    return Rendered(objects, mine, state({name: sent_digest(each) for name, each in objects.items()}), tuple(said))


def state(digests: Mapping[str, str]) -> str:
    """Of all objects together."""
    return digest(dict(digests))


def sent_digest(thing: Mapping[str, Any]) -> str:
    """Of what we say about an object: its spec, its labels, and the annotations that are for people."""
    metadata = thing["metadata"]
    return digest([thing["spec"], metadata["labels"], {key: metadata["annotations"][key] for key in (AGENT, SERVES)}])


def wanted_digest(made: Mapping[str, Any]) -> str:
    return str(made["metadata"]["annotations"][DIGEST])


def served_digest(live: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """That of what was sent if all of it is still there and still ours, else CHANGED.

    `ours` = the fields of `live` that our field manager owns, with their values.
    """
    try:
        sent = {"spec": json.loads(ours["metadata"]["annotations"][APPLIED]), "metadata": ours["metadata"]}
        there = covers(ours.get("spec"), sent["spec"]) and "deletionTimestamp" not in live["metadata"]
        return sent_digest(sent) if there else CHANGED
    except (KeyError, TypeError, ValueError):
        return CHANGED


def covers(found: Any, sent: Any) -> bool:
    """Whether all that was sent is found; what the server added beside it does not matter."""
    if isinstance(sent, Mapping):
        return isinstance(found, Mapping) and all(key in found and covers(found[key], value) for key, value in sent.items())
    if isinstance(sent, list):
        alike = isinstance(found, list) and len(found) == len(sent)
        return alike and all(covers(one, other) for one, other in zip(found, sent, strict=True))
    return bool(found == sent)


def refusals(live: Mapping[str, Any]) -> list[str]:
    """What the cluster's Gateways say against this route: conditions of its status that are False."""
    out = []
    for parent in live.get("status", {}).get("parents", ()):
        for each in parent.get("conditions", ()):
            if each.get("type") in ("Accepted", "ResolvedRefs") and each.get("status") == "False":
                out.append(
                    f"{parent.get('parentRef', {}).get('name', '')}: {each.get('reason')}: {each.get('message', '')}".strip()
                )
    return sorted(set(out))


# -- what cannot be said ---------------------------------------------------------------------------------------------


def _fault(target: HttpRouteTarget, name: str, endpoint: Mapping[str, Any]) -> str:
    if name not in target.backends:
        return f"backends names no Service for the endpoint {name}"
    if not _PATH.fullmatch(_base(endpoint)):
        return f"{name}: the path of {endpoint['url']} has characters that a route cannot hold"
    return ""


def _base(endpoint: Mapping[str, Any]) -> str:
    found = base(endpoint["url"])
    return found.path if found else "?"


def _one_path(label: str, agent: str, route: Served, endpoints: Mapping[str, Any]) -> tuple[Served, list[Wait]]:
    """A rule rewrites to one path, so variants whose endpoints have another one than the first's are refused."""
    path = _base(endpoints[route.variants[0]["endpoint"]])
    kept = tuple(each for each in route.variants if _base(endpoints[each["endpoint"]]) == path)
    text = f"the paths of the endpoints differ ({path or '/'} is the first variant's); all sessions stay with the first variant"
    said = [
        Wait(UNSERVED, f"{label} {agent} {each['name']}", f"{label}: {agent}: {each['version']} at {each['endpoint']}: {text}")
        for each in route.variants
        if each not in kept
    ]
    return Served(kept, route.whole and not said), said


def _keys(label: str, endpoints: Mapping[str, Any]) -> Iterable[Wait]:
    named = sorted(name for name, each in endpoints.items() if each.get("api_key"))
    if named:
        text = f"{label} sends no keys: the Services of {', '.join(named)} have to add their own"
        yield Wait(UNSUPPORTED, f"{label} keys", text)


def _shadows(label: str, table: Mapping[str, Any], unfit: Mapping[str, str]) -> Iterable[Wait]:
    for agent, why in sorted(unfit.items()):
        version = table["routes"][agent]["shadow"]["variant"]["version"]
        yield Wait(UNSERVED, f"{label} {agent} shadow", f"{label}: {agent}: no copies to {version}: {why}")


# -- objects ---------------------------------------------------------------------------------------------------------


def object_name(agent: str) -> str:
    """The agent's name where Kubernetes allows it; otherwise what is left of it, with a digest that keeps two apart."""
    if _NAME.fullmatch(agent):
        return agent
    plain = re.sub(r"[^a-z0-9.-]", "-", agent)
    plain = re.sub(r"[.-]*\.[.-]*", ".", plain).strip("-.")
    return f"{plain}-{digest(agent)[:6]}" if plain else f"agent-{digest(agent)[:6]}"


def _object(
    target: HttpRouteTarget,
    table: Mapping[str, Any],
    agent: str,
    able: Served,
    mirrors: list[dict[str, Any]],
    words: str,
    mine: str,
) -> dict[str, Any]:
    path = _base(table["endpoints"][able.variants[0]["endpoint"]])
    parents = [_parent(each.full()) for each in target.parent_refs]
    spec: dict[str, Any] = {"parentRefs": parents, "hostnames": list(target.hostnames)}
    weighed = list(zip(able.variants, _weights(able.variants), strict=True))
    spec["rules"] = [_rule(target, agent, path, weighed, mirrors)]
    if len(able.variants) > 1:
        spec["rules"] += [_rule(target, agent, path, [(each, 1)], [], forced=each["name"]) for each in able.variants]
    annotations = {AGENT: agent, SERVES: words, APPLIED: json.dumps(spec, sort_keys=True, separators=(",", ":"))}
    labels = {MANAGED_BY: "turnout", OWNER: mine}
    metadata = {"name": object_name(agent), "namespace": target.namespace, "labels": labels, "annotations": annotations}
    made = {"apiVersion": API, "kind": KIND, "metadata": metadata, "spec": spec}
    annotations[DIGEST] = sent_digest(made)
    return made


def _parent(ref: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "group": "gateway.networking.k8s.io",
        "kind": "Gateway",
        **{key: value for key, value in ref.items() if value is not None},
    }


def _rule(
    target: HttpRouteTarget,
    agent: str,
    upstream: str,
    weighed: list[tuple[Mapping[str, Any], int]],
    mirrors: list[dict[str, Any]],
    forced: str = "",
) -> dict[str, Any]:
    """One match only: with a rewritten prefix the API allows no more."""
    prefix = f"/agents/{agent}/v1" if target.match == "path" else "/v1"
    headers = [_exact(target.agent_header, agent)] if target.match == "header" else []
    headers += [_exact("X-Turnout-Variant", forced)] if forced else []
    match: dict[str, Any] = {"path": {"type": "PathPrefix", "value": prefix}, **({"headers": headers} if headers else {})}
    filters = list(mirrors)
    if prefix != upstream:
        path = {"type": "ReplacePrefixMatch", "replacePrefixMatch": upstream or "/"}
        filters.insert(0, {"type": "URLRewrite", "urlRewrite": {"path": path}})
    rule: dict[str, Any] = {"matches": [match], **({"filters": filters} if filters else {})}
    rule["backendRefs"] = [_backend(target, variant, weight) for variant, weight in weighed]
    return rule


def _exact(name: str, value: str) -> dict[str, str]:
    return {"type": "Exact", "name": name, "value": value}


def _reference(ref: BackendRef) -> dict[str, Any]:
    place = {"namespace": ref.namespace} if ref.namespace else {}
    return {"group": "", "kind": "Service", "name": ref.service, "port": ref.port, **place}


def _backend(target: HttpRouteTarget, variant: Mapping[str, Any], weight: int) -> dict[str, Any]:
    made = {**_reference(target.backends[variant["endpoint"]]), "weight": weight}
    if target.model_names.get(variant["endpoint"]) == "header":
        sets = {"set": [{"name": "X-Turnout-Model", "value": variant["model"]}]}
        made["filters"] = [{"type": "RequestHeaderModifier", "requestHeaderModifier": sets}]
    return made


def _mirror(target: HttpRouteTarget, route: Mapping[str, Any]) -> list[dict[str, Any]]:
    shadow = route.get("shadow")
    if not shadow or not shadow["percent"]:
        return []
    percent = shadow["percent"]
    mirror: dict[str, Any] = {"backendRef": _reference(target.backends[shadow["variant"]["endpoint"]])}
    if percent != round(percent):
        mirror["fraction"] = {"numerator": round(percent * 1000), "denominator": 100_000}
    elif percent < 100:
        mirror["percent"] = round(percent)
    return [{"type": "RequestMirror", "requestMirror": mirror}]


def _weights(variants: Iterable[Mapping[str, Any]]) -> list[int]:
    """Percent as whole numbers; where they are not whole, thousandths of a percent. A route alone has the weight 1."""
    weights = [each["weight"] for each in variants]
    if len(weights) == 1:
        return [1]
    left = 100.0 - sum(weights[1:])
    weights = [max(0.0, left), *weights[1:]]
    factor = 1 if all(weight == round(weight) for weight in weights) else 1000
    return [round(weight * factor) for weight in weights]
