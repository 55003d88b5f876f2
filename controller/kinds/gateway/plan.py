"""Situation of a Gateway -> Change: the route table and the files are a pure function of bindings and rollouts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from controller.address import Address
from controller.change import Action, Change, Wait
from controller.document_edit import dump
from controller.errors import listed, nearest
from controller.kind import Observed, Reference, Refs, Situation, Unknown
from controller.kinds.gateway import targets
from controller.kinds.gateway.spec import GatewaySpec, GatewayState
from controller.resource import digest

BLIND_AGAIN_SECONDS = 2.0
TARGET = ("model", "endpoint", "version")
SEEN = ("proxies", *targets.PARTS)
"""Parts of the state with targets that may be out of sight; they are known as `main`, `haproxy edge`, `httpRoutes cluster`."""


def references(spec: GatewaySpec) -> Iterable[Reference]:
    return [Reference(Address("ModelBinding/*")), Reference(Address("Rollout/*"))]


def plan(situation: Situation[GatewaySpec, GatewayState]) -> Change:
    past = situation.past
    known, unseen = _known(situation)
    if situation.desired is None:
        if not past.exists:
            return Change(Action.NOOP, "not there, and not wanted")
        return Change(Action.DELETE, "removed from git; its proxies keep their last routes, its files stay", before=known)
    spec = situation.desired.spec
    table = render(situation.refs, (past.after or {}).get("endpoints", {}))
    files = {target.path: content(target.format, table) for target in spec.files}
    listening = [name for name in spec.proxies if name in situation.refs.environment.get("proxies", {})]
    words, name = spoken(table["routes"]), situation.desired.address.name
    others = targets.render(spec, name, table, words, _endpoints(situation.refs), situation.refs.environment)
    after = {
        "routes": words,
        "endpoints": table["endpoints"],
        "proxies": dict.fromkeys(listening, digest(table)),
        "files": {path: digest(text) for path, text in files.items()},
        **others.after,
    }
    signals = situation.observed.signals if isinstance(situation.observed, Observed) else None
    problems = [*_problems(spec, situation.refs), *others.conditions, *targets.refused(signals or {})]
    conditions = (*problems, *_blindness(unseen))
    again = situation.now + timedelta(seconds=BLIND_AGAIN_SECONDS) if unseen else None
    if known is not None and _same(known, after):
        told = f"; {', '.join(unseen)} cannot be seen" if unseen else ""
        reason = f"serves {len(after['routes'])} routes, as git says{told}"
        return Change(Action.NOOP, reason, before=known, after=known, conditions=conditions, again=again)
    reason = _reason(known, past.after, after, past.spec_digest == situation.desired.spec_digest)
    seen = {part: (known or {}).get(part, {}) for part in targets.PARTS}
    payload = {"table": table, "files": files, "seen": (known or {}).get("proxies", {}), **others.payload, "before": seen}
    action = Action.CREATE if not past.exists else Action.UPDATE
    urgent = known is not None and _is_way_back(known, after, situation.refs)
    return Change(action, reason, before=known, after=after, payload=payload, conditions=conditions, again=again, urgent=urgent)


def _known(situation: Situation[GatewaySpec, GatewayState]) -> tuple[Mapping[str, Any] | None, Mapping[str, str]]:
    """What is there; a proxy that cannot be seen is believed to serve what it was left with. And which those are, and why."""
    observed, last = situation.observed, situation.past.after
    if isinstance(observed, Unknown):
        names = [label(part, name) for part in SEEN for name in (last or {}).get(part, {})] or ["everything"]
        return last, dict.fromkeys(names, observed.reason)
    if observed is None or observed.state is None:
        return None, {}
    unseen = (observed.signals or {}).get("unseen", {})
    state = observed.state.full()
    for part in SEEN:
        before = (last or {}).get(part, {})
        state[part] = {name: before.get(name, "") if label(part, name) in unseen else found for name, found in state[part].items()}
    return {part: found for part, found in state.items() if found or part not in targets.PARTS}, unseen


def label(part: str, name: str) -> str:
    """A target as it is called in conditions."""
    return name if part == "proxies" else f"{part} {name}"


def _same(known: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether every target has what it should; `endpoints` follow from the digests."""
    return all(known.get(part, {}) == after.get(part, {}) for part in ("routes", "files", *SEEN))


def _blindness(unseen: Mapping[str, str]) -> Iterable[Wait]:
    if unseen:
        names = ",".join(sorted(unseen))
        yield Wait("Blind", names, f"{names} cannot be seen: {'; '.join(sorted(set(unseen.values())))}")


def _problems(spec: GatewaySpec, refs: Refs) -> Iterable[Wait]:
    """A proxy that the environment does not have keeps no other from being written."""
    proxies = refs.environment.get("proxies", {})
    for name in spec.proxies:
        if name not in proxies:
            yield Wait(
                "Invalid",
                f"proxy {name}",
                f"spec.proxies: environment {refs.environment.get('name')} has no proxy "
                f"{name!r}{nearest(name, proxies)}; allowed: {listed(proxies)}",
            )


def _moved(known: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[str]:
    before = (known or {}).get("routes", {})
    return sorted(agent for agent in {*before, *after["routes"]} if before.get(agent) != after["routes"].get(agent))


def _is_way_back(known: Mapping[str, Any], after: Mapping[str, Any], refs: Refs) -> bool:
    """Whether a route goes back, with all its sessions, to its binding's version that served before.

    It did where the route that is left names it beside a candidate, or where it was healthy and was left. Other routes that
    move with it were allowed as changes of their bindings; they do not hold the way back up.
    """
    return any(_goes_back(agent, known, after, refs) for agent in _moved(known, after))


def _goes_back(agent: str, known: Mapping[str, Any], after: Mapping[str, Any], refs: Refs) -> bool:
    address = Address.of("ModelBinding", agent)
    state, route = refs.all("ModelBinding").get(address), after["routes"].get(agent, "")
    if state is None:
        return False
    target = f"{state['model']} {state['version']} at {state['endpoint']}"
    served = f" % {target}" in known["routes"].get(agent, "") or digest(state) in refs.past(address).been_healthy
    return served and (route == target or route.startswith(f"{target}, else "))


def _reason(known: Mapping[str, Any] | None, last: Mapping[str, Any] | None, after: Mapping[str, Any], same_spec: bool) -> str:
    moved = _moved(known, after)
    if last == after and same_spec:
        found = known or {}
        strayed = [
            label(part, name) if part != "files" else name
            for part in ("proxies", "files", *targets.PARTS)
            for name in after.get(part, {})
            if found.get(part, {}).get(name) != after[part][name]
        ]
        return f"drift: {listed(strayed, 3)} is not as it was left; written again"
    if not moved:
        return "targets are brought up to date"
    first = after["routes"].get(moved[0])
    return f"routes {listed(moved, 3)}: {first or 'no more'}"


# -- rendering -------------------------------------------------------------------------------------------------------


def render(refs: Refs, last: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Routes and endpoints of a route table (proxy/table.py), without serial, digest and predecessor.

    `last` = endpoints as they were routed to: one that left the environment while something uses it stays as it was.
    """
    rollouts = {state["binding"]: state for state in refs.all("Rollout").values() if _has_effect(state)}
    bindings = {address.name: state for address, state in refs.all("ModelBinding").items()}
    prices = refs.environment.get("prices", {})
    endpoints = {**(last or {}), **_endpoints(refs)}
    routes = {}
    for agent, state in bindings.items():
        rollout = rollouts.get(agent)
        if rollout is not None and rollout["candidate"]["endpoint"] not in endpoints:
            rollout = None
        if state["endpoint"] in endpoints or (rollout is not None and rollout["phase"] == "promoted"):
            routes[agent] = _route(state, rollout, prices)
    for agent, route in routes.items():
        fallbacks = [name for name in bindings[agent].get("fallbacks", ()) if name in routes and name != agent]
        if fallbacks:
            route["fallbacks"] = fallbacks
    environment = refs.environment
    for agent, limits in environment.get("limits", {}).items():
        if agent in routes:
            routes[agent]["limits"] = _renamed(limits, _LIMITS)
    used = {variant["endpoint"] for route in routes.values() for variant in _variants(route)}
    table = {"routes": routes, "endpoints": {name: endpoints[name] for name in sorted(used)}}
    clients, headers = _clients(environment), _renamed(environment.get("headers", {}), _HEADERS)
    said = {"clients": clients, "headers": headers, "content": environment.get("logContent", False)}
    return {**table, **{name: value for name, value in said.items() if value}}


def _has_effect(state: Mapping[str, Any]) -> bool:
    return state["phase"] == "progressing" or (state["phase"] == "promoted" and not state["settled"])


def _route(state: Mapping[str, Any], rollout: Mapping[str, Any] | None, prices: Mapping[str, Any]) -> dict[str, Any]:
    bound = {key: state[key] for key in TARGET}
    route: dict[str, Any] = {"variants": []}
    if rollout is None or rollout["stable"] != bound:
        route["variants"] = [_variant("stable", bound, 100.0, prices)]
    elif rollout["phase"] == "promoted":
        route["variants"] = [_variant("stable", rollout["candidate"], 100.0, prices)]
    else:
        weight = rollout["weight"]
        route["step"], route["salt"] = rollout["step_id"], rollout["salt"]
        if rollout["shadow"]:
            route["variants"] = [_variant("stable", bound, 100.0, prices)]
            route["shadow"] = {"variant": _variant("candidate", rollout["candidate"], 0.0, prices), "percent": rollout["shadow"]}
        else:
            route["variants"] = [
                _variant("stable", bound, 100.0 - weight, prices),
                _variant("candidate", rollout["candidate"], weight, prices),
            ]
            guard = rollout.get("guard")
            if guard:
                route["guard"] = {"error_rate": guard["errorRate"] / 100.0, "minimum": int(guard["minimum"])}
    return route


def _variant(name: str, target: Mapping[str, Any], weight: float, prices: Mapping[str, Any]) -> dict[str, Any]:
    out = {"name": name, **{key: target[key] for key in TARGET}, "weight": weight}
    price = prices.get(target["model"])
    if price:
        out["price"] = {"input": price["input"], "output": price["output"]}
    return out


# How environment.yaml spells a field, how the route table does, and the proxy's default: what equals it is left out, so that a
# new field of a new release changes no table.
Names = Mapping[str, tuple[str, Any]]
_PLAIN: Names = {
    "url": ("url", None),
    "replicas": ("replicas", []),
    "apiKey": ("api_key", None),
    "auth": ("auth", "bearer"),
    "timeout": ("timeout_s", None),
    "firstByte": ("first_byte_s", None),
    "total": ("total_s", None),
    "connect": ("connect_s", 10.0),
    "retries": ("retries", 2),
    "strategy": ("strategy", "least_load"),
    "affinity": ("affinity", None),
    "load": ("load_path", None),
    "slowStart": ("slow_start_s", None),
    "maxInFlight": ("max_in_flight", None),
}
_NESTED: Mapping[str, Names] = {
    "queue": {"size": ("size", 1024), "wait": ("wait_s", 30.0)},
    "health": {
        "path": ("path", None),
        "interval": ("interval_s", 30.0),
        "timeout": ("timeout_s", 5.0),
        "fall": ("fall", 2),
        "rise": ("rise", 1),
    },
    "ejection": {"failures": ("failures", 5), "for": ("seconds", 10.0), "most": ("most", 50.0)},
}
_LIMITS: Names = {
    "requestsPerMinute": ("requests_per_minute", None),
    "tokensPerMinute": ("tokens_per_minute", None),
    "budgetUsd": ("budget_usd", None),
    "budgetPeriod": ("budget_period", "month"),
}
_HEADERS: Names = {
    "session": ("session", "X-Session-ID"),
    "task": ("task", "X-Task-ID"),
    "client": ("client", "X-Client-ID"),
    "pre": ("pre", "X-Timing-Pre-Ms"),
    "post": ("post", "X-Timing-Post-Ms"),
}


def _endpoints(refs: Refs) -> dict[str, Any]:
    """All of the environment, whether a route goes there or not: targets whose structure they are need no reload for a rollout.

    One that evaluations create for themselves has no address, so no route can go there.
    """
    known = refs.environment.get("endpoints", {})
    return {name: _endpoint(each) for name, each in known.items() if not each.get("inferenceEndpoint")}


def _endpoint(settings: Mapping[str, Any]) -> dict[str, Any]:
    nested = {part: _renamed(settings.get(part) or {}, names) for part, names in _NESTED.items()}
    return _renamed(settings, _PLAIN) | {part: inner for part, inner in nested.items() if inner}


def _renamed(settings: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """What is set, under the names of the route table."""
    found = {}
    for name, (told, default) in names.items():
        value = settings.get(name)
        value = list(value) if isinstance(value, tuple) else value
        if value is not None and value != default:
            found[told] = value
    return found


def _clients(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Who may ask; keys are there as digests only."""
    clients = {}
    for name, client in environment.get("clients", {}).items():
        clients[name] = {
            "keys": [key.removeprefix("sha256:") for key in client.get("keys", ())],
            "limits": _renamed(client, _LIMITS),
        }
        if client.get("agents") is not None:
            clients[name]["agents"] = list(client["agents"])
    return clients


def _variants(route: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    shadow = route.get("shadow")
    return [*route["variants"], *([shadow["variant"]] if shadow else [])]


def spoken(routes: Mapping[str, Any]) -> dict[str, str]:
    """Each route in words, for diffs that a person reads."""
    return {agent: _route_in_words(route) for agent, route in routes.items()}


def _route_in_words(route: Mapping[str, Any]) -> str:
    variants = route["variants"]
    parts = []
    for variant in variants:
        share = f"{variant['weight']:g} % " if len(variants) > 1 else ""
        parts.append(f"{share}{variant['model']} {variant['version']} at {variant['endpoint']}")
    shadow = route.get("shadow")
    copies = f", copies of {shadow['percent']:g} % to {shadow['variant']['version']}" if shadow else ""
    back = f", else {', '.join(route['fallbacks'])}" if route.get("fallbacks") else ""
    return ", ".join(parts) + copies + back


def content(form: str, table: Mapping[str, Any]) -> str:
    """The document that an orchestrator reads: the version that most sessions get."""
    agents = {}
    for agent, route in sorted(table["routes"].items()):
        main = max(route["variants"], key=lambda variant: variant["weight"])
        agents[agent] = {key: main[key] for key in TARGET}
    if form == "json":
        return json.dumps({"agents": agents}, indent=2, sort_keys=True) + "\n"
    return dump({"agents": agents}).decode()
