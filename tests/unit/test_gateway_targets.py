"""The pure parts of a gateway's other targets: URLs, lines of the map, names and ownership of objects, what cannot be said."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.address import Address
from controller.clients.kubernetes import owned
from controller.kind import Refs
from controller.kinds import find
from controller.kinds.gateway import haproxy, httproute, limits
from controller.kinds.gateway.limits import Served
from controller.kinds.gateway.plan import render as route_table
from controller.kinds.gateway.spec import HaproxyTarget, HttpRouteTarget
from controller.kinds.gateway.urls import base, encoded
from controller.testing.cases import load_cases, walk
from controller.testing.kubernetes_schemas import KINDS, faults

HTTP_ROUTE = next(kind for kind in KINDS if kind.plural == "httproutes")
TESTS = Path(__file__).parents[1]
EDGE = HaproxyTarget.model_validate({"name": "edge", "config": "/etc/haproxy/turnout.cfg", "bind": "*:5810"})
CLUSTER: dict[str, Any] = {"name": "c", "namespace": "agents", "parentRefs": [{"name": "inference"}], "backends": {}}


def variant(name: str, weight: float, endpoint: str = "a", model: str = "docs", version: str = "v1") -> dict[str, Any]:
    return {"name": name, "model": model, "version": version, "endpoint": endpoint, "weight": weight}


def table(*variants: dict[str, Any], endpoint: dict[str, Any] | None = None, **route: Any) -> dict[str, Any]:
    named = {each["endpoint"] for each in variants}
    settings = {"url": "http://10.0.0.1:8000/v1", "timeout_s": 300.0, **(endpoint or {})}
    return {"routes": {"docs": {"variants": list(variants), **route}}, "endpoints": dict.fromkeys(named, settings)}


# -- URLs and words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("https://openrouter.ai/api/v1", (True, "openrouter.ai", 443, "openrouter.ai", "/api/v1")),
        ("http://10.0.0.1:8000/v1/", (False, "10.0.0.1", 8000, "10.0.0.1:8000", "/v1")),
        ("http://[::1]:8000", (False, "::1", 8000, "[::1]:8000", "")),
        ("HTTP://Vendor.Example", (False, "vendor.example", 80, "Vendor.Example", "")),
    ],
)
def test_a_base_url_is_taken_apart(url: str, found: tuple[Any, ...]) -> None:
    made = base(url)
    assert made is not None
    assert (made.tls, made.host, made.port, made.netloc, made.path) == found


@pytest.mark.parametrize("url", ["ftp://x/", "http://user@x/", "http://x/?q", "http://x:99999/", "http://x y/", "x"])
def test_what_is_no_base_url_is_none(url: str) -> None:
    assert base(url) is None


@given(st.text())
def test_an_encoded_word_has_no_separators_and_reads_back(text: str) -> None:
    word = encoded(text)
    assert unquote(word) == text
    assert not set(word) & set("|! \n\t;#+?\"'")


# -- the split ---------------------------------------------------------------------------------------------------------


def chosen(line: str, at: int) -> str:
    """Who answers at a point, as the configuration's rules go through a line."""
    variants = [each.split("!") for each in line.split("|")[2:]]
    return next((each[2] for each in variants[1:] if at < int(each[0])), variants[0][2])


@given(st.lists(st.floats(0, 100), min_size=2, max_size=5), st.integers(0, haproxy.SCALE - 1))
def test_a_line_splits_as_the_proxy_does(shares: list[float], at: int) -> None:
    from controller.proxy.live import pick
    from controller.proxy.table import Variant

    total = sum(shares) or 1.0
    weights = [share / total * 100 for share in shares] if sum(shares) else [100.0] + [0.0] * (len(shares) - 1)
    variants = [variant(f"v{i}", weight) for i, weight in enumerate(weights)]
    line = haproxy.line({"variants": variants}, Served(tuple(variants), True))
    proxies = pick([Variant(**each) for each in variants], at / haproxy.SCALE * 100)
    edges = [int(each.split("!")[0]) for each in line.split("|")[2:]]
    if min(abs(at - edge) for edge in edges) > 2:  # beside the rounding of an edge
        assert chosen(line, at) == f"v{proxies}"


def test_a_raised_weight_moves_sessions_forward_only() -> None:
    points = [int(hashlib.sha256(f"salt:{i}".encode()).hexdigest()[:8], 16) for i in range(5000)]
    before: set[int] = set()
    for weight in (0, 0.1, 1, 20, 50, 99.9, 100):
        variants = (variant("stable", 100 - weight), variant("candidate", weight))
        line = haproxy.line({"salt": "salt"}, Served(variants, True))
        moved = {point for point in points if chosen(line, point) == "candidate"}
        assert before <= moved
        assert abs(len(moved) / len(points) * 100 - weight) < 2.5
        before = moved
    assert len(before) == len(points)


# -- HAProxy -----------------------------------------------------------------------------------------------------------


def rendered(made: dict[str, Any], **target: Any) -> haproxy.Rendered:
    wanted = HaproxyTarget.model_validate({**EDGE.written(), **target})
    return haproxy.render(wanted, made, made["endpoints"], "/run/haproxy/turnout.sock")


def test_neither_agents_nor_models_nor_weights_are_structure() -> None:
    one = rendered(table(variant("stable", 100)))
    other = table(variant("stable", 60, version="v7"), variant("candidate", 40), salt="s", step="x/1")
    other["routes"]["docs-two"] = {"variants": [variant("stable", 100, model="docs-two")]}
    assert rendered(other).config == one.config
    assert rendered(table(variant("stable", 100), endpoint={"timeout_s": 60.0})).config != one.config


def test_replicas_are_servers_that_are_balanced_as_asked() -> None:
    replicas = ["http://10.0.0.1:8000/v1", "http://10.0.0.2:8000/v1"]
    made = rendered(table(variant("stable", 100), endpoint={"replicas": replicas, "strategy": "session_affinity"}))
    assert "  balance hash var(txn.session)\n  hash-type consistent\n  hash-balance-factor 125\n" in made.config
    assert "  server 10.0.0.2:8000 10.0.0.2:8000 check inter 5s\n" in made.config
    assert made.conditions == ()
    odd = rendered(table(variant("stable", 100), endpoint={"replicas": replicas, "strategy": "least_load"}))
    assert "  balance leastconn\n" in odd.config
    assert [wait.on for wait in odd.conditions] == ["haproxy edge strategy least_load"]


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ({"api_key": "file:a.key"}, "use env:NAME"),
        ({"url": "https://10.0.0.1/v1"}, "no host name that its certificate could be checked against"),
        ({"url": 'http://x/v1"; quit'}, "characters that a configuration cannot hold"),
        ({"url": "http://x/v1%0aquit"}, "characters that a configuration cannot hold"),
        ({"url": "http://x_y/v1"}, "characters that a configuration cannot hold"),
        ({"replicas": ["http://10.0.0.1/v1", "http://10.0.0.2/v2"]}, "differ in their paths"),
    ],
)
def test_an_endpoint_that_haproxy_cannot_use_is_said_and_left_out(endpoint: dict[str, Any], why: str) -> None:
    made = rendered(table(variant("stable", 100), endpoint=endpoint))
    (wait,) = made.conditions
    assert wait.code == "Unserved"
    assert why in wait.reason
    assert made.routes == {}
    assert "backend turnout-a" not in made.config


def test_control_characters_reach_no_header() -> None:
    made = rendered(table(variant("stable", 100, version="v1\r\nX-Evil: 1")))
    assert made.routes == {}
    assert "control characters" in made.conditions[0].reason


@pytest.mark.parametrize(
    "field",
    [
        {"config": "/etc/x.cfg\nuser root"},
        {"bind": "*:80 user root"},
        {"caFile": "x y"},
        {"agentHeader": "X-A) if"},
        {"sessionHeader": ""},
        {"modelNames": {"a": "body"}},
    ],
)
def test_a_spec_cannot_smuggle_words_into_the_configuration(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        HaproxyTarget.model_validate({**EDGE.written(), **field})


# -- what cannot be said -------------------------------------------------------------------------------------------------


def test_a_setting_that_no_renderer_knows_is_said() -> None:
    made = table(variant("stable", 100), endpoint={"health": {"path": "/health"}, "region": ""}, retries=2)
    made["routes"]["docs"]["variants"][0]["priority"] = 1
    said = {wait.on: wait.reason for wait in limits.missing("haproxy edge", made)}
    assert said == {
        "haproxy edge endpoint.health": "haproxy edge does not carry out endpoint.health (a)",
        "haproxy edge route.retries": "haproxy edge does not carry out route.retries (docs)",
        "haproxy edge variant.priority": "haproxy edge does not carry out variant.priority (docs)",
    }


def rollout_tables() -> list[Any]:
    """What the gateway makes of every state of a rollout that a case of the kind leads to."""
    kind = find()["Rollout"]
    found = []
    for case in load_cases(TESTS / "kinds" / "rollout" / "cases"):
        for ran in walk(kind, case):
            after = ran.change.after if ran.change and (ran.change.may_go or ran.change.is_noop) else None
            if after is not None and ran.situation is not None:
                states = {Address.of("ModelBinding", after["binding"]): {**after["stable"], "fallbacks": []}}
                kinds = {"ModelBinding": states, "Rollout": {Address.of("Rollout", "run"): after}}
                found.append(route_table(Refs({}, ran.situation.refs.environment, kinds=kinds)))
    return found


def test_both_targets_take_the_routes_of_every_state_of_a_rollout() -> None:
    tables = rollout_tables()
    assert len(tables) > 50
    for made in tables:
        names = dict.fromkeys(made["endpoints"], "header")
        edge = HaproxyTarget.model_validate({**EDGE.written(), "modelNames": names})
        (line,) = haproxy.render(edge, made, {}, "/run/x.sock").routes.values()
        ((agent, route),) = made["routes"].items()
        assert line.split("|")[1] == encoded(route.get("step", ""))
        assert len(line.split("|")) == 2 + len(route["variants"])
        backends = {name: {"service": name, "port": 80} for name in made["endpoints"]}
        cluster = HttpRouteTarget.model_validate({**CLUSTER, "backends": backends, "modelNames": names})
        for each in httproute.render(cluster, made, {agent: "words"}, "mine").objects.values():
            assert list(faults(each, HTTP_ROUTE.schema)) == []


# -- objects of Kubernetes -----------------------------------------------------------------------------------------------


def test_every_agent_has_a_name_of_its_own_that_kubernetes_takes() -> None:
    letters = "ab-_.0"
    chance = random.Random(1)
    agents = {"a" + "".join(chance.choices(letters, k=chance.randint(0, 6))) for _ in range(3000)} | {"feature_dev", "feature-dev"}
    names = {agent: httproute.object_name(agent) for agent in agents}
    assert len(set(names.values())) == len(agents)
    assert names["feature-dev"] == "feature-dev"
    assert all(httproute._NAME.fullmatch(name) for name in names.values())


def test_what_is_ours_is_what_the_server_says_is_ours() -> None:
    """On a Deployment as a real server keeps it: items of lists by their keys, sets by their values."""
    golden = [json.loads(line) for line in (TESTS / "contracts" / "k8s-golden.jsonl").read_text().splitlines()]
    live = next(pair["resp"]["body"] for pair in golden if pair["name"] == "deploy ssa again")
    ours = owned(live, "m1")
    limits_ = {"cpu": "500m", "memory": "1Gi", "nvidia.com/gpu": "1"}
    container = {"name": "c", "image": "i", "resources": {"limits": limits_}}
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container]}}
    assert ours == {"spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}}
    assert owned(live, "nobody") == {}
    finalized = next(pair["resp"]["body"] for pair in golden if pair["name"] == "finalizer")
    entry = copy.deepcopy(finalized["metadata"]["managedFields"][0])
    finalized["metadata"]["managedFields"] = [{**entry, "manager": "turnout", "operation": "Apply"}]
    assert owned(finalized)["metadata"]["finalizers"] == ["x.y/z"]


def test_what_was_sent_covers_what_the_server_adds() -> None:
    sent = {"rules": [{"weight": 1, "refs": []}], "names": ["a"]}
    assert httproute.covers({"rules": [{"weight": 1, "refs": [], "kind": "x"}], "names": ["a"], "more": 1}, sent)
    for other in ({"rules": [{"weight": 2, "refs": []}], "names": ["a"]}, {"rules": sent["rules"]}, {**sent, "names": ["a", "b"]}):
        assert not httproute.covers(other, sent)
