"""What a target that is not Turnout's proxy cannot do, told as conditions: nothing of a route is dropped in silence. Pure.

The renderers (`haproxy.py`, `httproute.py`) ask two things here: which variants they may serve at all (`served`), and which
parts of the route table have no counterpart with them (`missing`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from controller.change import Wait
from controller.errors import listed

UNSERVED = "Unserved"
"""A route or a variant that a target leaves out: somebody has to do something about it."""
UNSUPPORTED = "Unsupported"
"""A part of a route that a target does without, by its nature."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_KNOWN = {
    "route": {"variants", "step", "salt", "shadow", "guard", "fallbacks"},
    "variant": {"name", "model", "version", "endpoint", "weight", "price"},
    "endpoint": {"url", "api_key", "timeout_s", "replicas", "strategy"},
}
"""Fields of a route table that the renderers know; a value in any other is told as not carried out."""
_LACKS = {
    "guard": "has no guard: a candidate that fails there is aborted by the controller alone",
    "fallbacks": "has no fallbacks: a request that its endpoint refuses is not sent elsewhere",
    "shadow": "makes no copies of requests: a shadowed candidate gets none from there",
    "sessions": "splits requests, not sessions: one session may see both versions",
}


@dataclass(frozen=True)
class Served:
    """One route as a target can serve it. `whole` = nothing of its variants is missing, so its step counts as served."""

    variants: tuple[Mapping[str, Any], ...]
    whole: bool


def served(
    target: str, table: Mapping[str, Any], faults: Mapping[str, str], model_names: Mapping[str, str]
) -> tuple[dict[str, Served], list[Wait]]:
    """Every route with the variants that may be served, and a condition for each that may not.

    `faults` = why an endpoint cannot be used, by name. A route whose first variant is refused is left out; without one of the
    others the first gets its share, as before a rollout.
    """
    routes: dict[str, Served] = {}
    said: list[Wait] = []
    for agent, route in sorted(table["routes"].items()):
        kept: list[Mapping[str, Any]] = []
        for variant in route["variants"]:
            why = faults.get(variant["endpoint"], "") or _wrong_model(agent, variant, kept, model_names)
            if not why:
                kept.append(variant)
                continue
            first = variant is route["variants"][0]
            what = "there is no route of it" if first else "all sessions stay with the first variant, and the step does not count"
            shown = f"{variant['model']} {variant['version']} at {variant['endpoint']}"
            said.append(Wait(UNSERVED, f"{target} {agent} {variant['name']}", f"{target}: {agent}: {shown}: {why}; {what}"))
            if first:
                break
        if kept:
            routes[agent] = Served(tuple(kept), len(kept) == len(route["variants"]))
    return routes, said


def _wrong_model(agent: str, variant: Mapping[str, Any], beside: list[Mapping[str, Any]], model_names: Mapping[str, str]) -> str:
    """Why this endpoint would be asked for another model than the variant's; nothing when it would not."""
    endpoint, model = variant["endpoint"], variant["model"]
    if any(_CONTROL.search(variant[key]) for key in ("name", "model", "version")):
        return "its name, model or version has control characters"
    how = model_names.get(endpoint)
    if how == "header":
        return ""
    other = next((each["model"] for each in beside if each["endpoint"] == endpoint and each["model"] != model), None)
    if how == "agent" and other is not None:
        return f"{endpoint} answers to the name {agent} with one model only, and {other} is beside it"
    if how == "agent" or model == agent:
        return ""
    return (
        f"{endpoint} would be asked for the model {agent!r}, as a body is not rewritten there; "
        f"say in modelNames that it answers to that name (agent) or reads X-Turnout-Model (header)"
    )


def unfit_shadow(agent: str, route: Mapping[str, Any], faults: Mapping[str, str], model_names: Mapping[str, str]) -> str:
    """Why copies of requests cannot go to the route's shadow: a copy is the client's own bytes and gets no header."""
    variant = route["shadow"]["variant"]
    endpoint = variant["endpoint"]
    if faults.get(endpoint):
        return faults[endpoint]
    if model_names.get(endpoint) == "header":
        return f"a copy gets no header, and {endpoint} reads the model from one"
    return _wrong_model(agent, variant, list(route["variants"]), model_names)


def missing(target: str, table: Mapping[str, Any], can: frozenset[str] = frozenset()) -> Iterator[Wait]:
    """A condition for each part of the table that the target does not carry out, naming the agents that it concerns."""
    asked: dict[str, list[str]] = {}
    for agent, route in table["routes"].items():
        weighed = [variant for variant in route["variants"] if variant["weight"] > 0]
        wants = {**route, "sessions": len(weighed) > 1}
        for feature in _LACKS:
            if feature not in can and wants.get(feature):
                asked.setdefault(feature, []).append(agent)
    for feature, agents in sorted(asked.items()):
        yield Wait(UNSUPPORTED, f"{target} {feature}", f"{target} {_LACKS[feature]} ({listed(agents, 4)})")
    for field, names in sorted(_unknown(table).items()):
        yield Wait(UNSUPPORTED, f"{target} {field}", f"{target} does not carry out {field} ({listed(names, 4)})")


def _unknown(table: Mapping[str, Any]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    parts = [("endpoint", name, each) for name, each in table["endpoints"].items()]
    for agent, route in table["routes"].items():
        parts.append(("route", agent, route))
        parts += [("variant", agent, variant) for variant in route["variants"]]
    for part, name, each in parts:
        for field, value in each.items():
            if field not in _KNOWN[part] and value:
                found.setdefault(f"{part}.{field}", set()).add(name)
    return found
