"""The double of a Kubernetes API server, judged by what a real server (1.36) answered: its recorded pairs, replayed in order."""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from controller.testing.kubernetes_api import ADMIN, KubernetesApi

GOLDEN = [json.loads(line) for line in (Path(__file__).parent / "k8s-golden.jsonl").read_text().splitlines()]
NOT_KNOWN = {
    "discovery": {"version", "api", "apis", "apis apps", "core resources"},
    "tables and watches": {"table", "watch from rv", "watch no rv", "watch future rv"},
    "workloads and their controllers": {
        "deploy ssa",
        "deploy ssa again",
        "deploy strategic env",
        "deploy immut",
        "deploy neg",
        "scale get",
        "scale patch",
        "status patch",
        "no image",
        "deploy get",
        "rs list",
        "pods",
        "service",
        "secret",
        "delete deploy fg",
    },
}
"""Pairs that the double does not answer; whoever needs one of these teaches it and takes it off this list."""
SKIPPED = frozenset().union(*NOT_KNOWN.values())
TOKENS = {"unauth": "nobody", "forbidden": "dev"}
"""The recording does not hold the headers by which these were refused."""


def sent(pair: Mapping[str, Any]) -> tuple[str, bytes]:
    request = pair["req"]
    query = "&".join(f"{key}={str(value).replace(' ', '%20')}" for key, value in (request["params"] or {}).items())
    body = request["body"]
    raw = b"" if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return request["path"] + (f"?{query}" if query else ""), raw


def comparable(value: Any, versions: Mapping[str, str]) -> Any:
    """Without what differs between two servers: ids, times, and the numbers of versions (their order is kept by `versions`)."""
    if isinstance(value, list):
        return [comparable(each, versions) for each in value]
    if not isinstance(value, dict):
        return value
    out = {}
    for key, child in value.items():
        if key in ("uid", "creationTimestamp", "deletionTimestamp", "time"):
            out[key] = "<some>"
        elif key == "resourceVersion":
            out[key] = versions.get(child, child)
        elif key == "message":
            out[key] = re.sub(r"current: \d+", "current: <some>", child)
        elif key == "continue":
            raw = base64.urlsafe_b64decode(child + "=" * (-len(child) % 4))
            out[key] = json.loads(raw)["start"]
        else:
            out[key] = comparable(child, versions)
    return out


class Replay:
    """One double that gets the recorded requests, with its own ids in place of the recorded ones."""

    def __init__(self) -> None:
        self.now = "2026-11-21T00:59:52Z"
        self.api = KubernetesApi(lambda: datetime.fromisoformat(self.now))
        self.api.users["dev"] = ("dev", lambda verb, plural, namespace: False)
        self.ids: dict[str, str] = {}  # recorded -> ours
        self.versions: dict[str, str] = {}

    def __call__(self, pair: Mapping[str, Any]) -> tuple[Any, Any]:
        """(recorded, ours), comparable."""
        target, raw = sent(pair)
        self.now = max([self.now, *re.findall(r'"time": "([^"]+)"', json.dumps(pair["resp"]))])
        for recorded, ours in {**self.ids, **self.versions}.items():
            raw = raw.replace(f'"{recorded}"'.encode(), f'"{ours}"'.encode())
        token = TOKENS.get(pair["name"], ADMIN)
        done = self.api.handle(pair["req"]["method"], target, raw, pair["req"]["ctype"] or "", token, "python-httpx/0.28")
        wanted = pair["resp"]["body"]
        self._learn(wanted, done.body)
        mine = {"status": done.status, "warning": done.warnings, "body": comparable(done.body, {})}
        real = {"status": pair["resp"]["status"], "warning": pair["resp"]["warning"], "body": comparable(wanted, self.versions)}
        for recorded, ours in self.ids.items():
            real = json.loads(json.dumps(real).replace(recorded, ours))
        if pair["name"] == "create ns":
            self._controllers()
        return real, mine

    def _learn(self, real: Any, ours: Any) -> None:
        """Which of our ids and versions stands for which recorded one; a new version must be above all before it."""
        if not isinstance(real, dict) or not isinstance(ours, dict):
            return
        for one, other in [(real, ours), *zip(real.get("items", ()), ours.get("items", ()), strict=False)]:
            there, here = one.get("metadata", {}), other.get("metadata", {})
            if "uid" in there and "uid" in here:
                assert self.ids.setdefault(there["uid"], here["uid"]) == here["uid"]
            if "resourceVersion" in there and "resourceVersion" in here and there["resourceVersion"] not in self.versions:
                older = [mine for theirs, mine in self.versions.items() if int(theirs) < int(there["resourceVersion"])]
                assert all(int(mine) <= int(here["resourceVersion"]) for mine in older)
                self.versions[there["resourceVersion"]] = here["resourceVersion"]

    def _controllers(self) -> None:
        """What the controllers of the recorded cluster put into a new namespace."""
        listed = next(pair for pair in GOLDEN if pair["name"] == "list")["resp"]["body"]["items"]
        for item in listed:
            if item["metadata"]["name"] not in ("a", "s", "u"):
                made = {"metadata": {key: item["metadata"][key] for key in ("name", "annotations") if key in item["metadata"]}}
                self.api.handle(
                    "POST",
                    "/api/v1/namespaces/g1/configmaps",
                    json.dumps({**made, "data": item["data"]}).encode(),
                    agent=item["metadata"]["managedFields"][0]["manager"],
                )


@pytest.fixture(scope="module")
def replayed() -> dict[str, tuple[Any, Any]]:
    replay = Replay()
    return {pair["name"]: replay(pair) for pair in GOLDEN if pair["name"] not in SKIPPED}


@pytest.mark.parametrize("name", [pair["name"] for pair in GOLDEN if pair["name"] not in SKIPPED])
def test_it_answers_as_the_real_server_did(replayed: dict[str, tuple[Any, Any]], name: str) -> None:
    real, ours = replayed[name]
    assert ours == real


def test_every_pair_is_replayed_or_named_as_not_known() -> None:
    names = [pair["name"] for pair in GOLDEN]
    assert len(set(names)) == len(names) == 77
    assert set(names) >= SKIPPED
    assert len(names) - len(SKIPPED) == 53


def test_what_it_does_not_know_it_says() -> None:
    api = KubernetesApi()
    api.namespace("g1")
    for method, target, kind in (
        ("GET", "/api/v1/namespaces/g1/configmaps?watch=1", ""),
        ("GET", "/api/v1/namespaces/g1/configmaps/a/log", ""),
        ("PATCH", "/api/v1/namespaces/g1/configmaps/a", "application/strategic-merge-patch+json"),
    ):
        assert api.handle(method, target, b"{}", kind).status == 501
    assert api.handle("GET", "/apis/apps/v1/namespaces/g1/deployments").status == 404


# -- HTTPRoute: no recording has it; the reference of the Gateway API does ---------------------------------------------

PATH = "/apis/gateway.networking.k8s.io/v1/namespaces/agents/httproutes"
ROUTE: dict[str, Any] = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"name": "docs"},
    "spec": {"parentRefs": [{"name": "inference"}], "rules": [{"backendRefs": [{"name": "vllm", "port": 8000}]}]},
}


@pytest.fixture
def cluster() -> KubernetesApi:
    api = KubernetesApi()
    api.namespace("agents")
    return api


def apply(api: KubernetesApi, route: Mapping[str, Any], manager: str = "turnout", more: str = "") -> Any:
    target = f"{PATH}/{route['metadata']['name']}?fieldManager={manager}{more}"
    return api.handle("PATCH", target, json.dumps(route).encode(), "application/apply-patch+yaml")


def changed(change: Any) -> dict[str, Any]:
    route = copy.deepcopy(ROUTE)
    change(route["spec"])
    return route


def test_defaults_are_added_and_are_nobodys(cluster: KubernetesApi) -> None:
    made = apply(cluster, ROUTE)
    assert made.status == 201
    rule = made.body["spec"]["rules"][0]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/"}}]
    assert rule["backendRefs"] == [{"name": "vllm", "port": 8000, "group": "", "kind": "Service", "weight": 1}]
    assert made.body["metadata"]["generation"] == 1
    (entry,) = made.body["metadata"]["managedFields"]
    assert entry["fieldsV1"] == {"f:spec": {"f:parentRefs": {}, "f:rules": {}}}
    again = apply(cluster, ROUTE)
    assert again.status == 200
    assert again.body == made.body, "the same again makes no new version"


def test_a_dry_run_keeps_nothing(cluster: KubernetesApi) -> None:
    assert apply(cluster, ROUTE, more="&dryRun=All").status == 201
    assert cluster.see("httproutes", "agents", "docs") is None
    made = apply(cluster, ROUTE).body
    other = changed(lambda spec: spec.update(hostnames=["x.example.org"]))
    dry = apply(cluster, other, more="&dryRun=All").body
    assert dry["spec"]["hostnames"] == ["x.example.org"]
    assert dry["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
    assert cluster.see("httproutes", "agents", "docs") == made


def test_who_edits_a_list_owns_it_and_an_apply_conflicts(cluster: KubernetesApi) -> None:
    made = apply(cluster, ROUTE).body
    made["spec"]["rules"][0]["backendRefs"][0]["weight"] = 7
    edit = cluster.handle("PUT", f"{PATH}/docs?fieldManager=kubectl-edit", json.dumps(made).encode())
    assert edit.status == 200
    assert edit.body["metadata"]["generation"] == 2
    owners = {entry["manager"]: entry["fieldsV1"] for entry in edit.body["metadata"]["managedFields"]}
    assert owners == {"turnout": {"f:spec": {"f:parentRefs": {}}}, "kubectl-edit": {"f:spec": {"f:rules": {}}}}
    refused = apply(cluster, ROUTE)
    assert refused.status == 409
    text = 'Apply failed with 1 conflict: conflict with "kubectl-edit" using gateway.networking.k8s.io/v1: .spec.rules'
    assert refused.body["message"] == text
    forced = apply(cluster, ROUTE, more="&force=true")
    assert forced.body["spec"]["rules"][0]["backendRefs"][0]["weight"] == 1
    assert [entry["manager"] for entry in forced.body["metadata"]["managedFields"]] == ["turnout"]


def test_status_is_written_by_itself(cluster: KubernetesApi) -> None:
    apply(cluster, ROUTE)
    parents = [{"parentRef": {"name": "inference"}, "controllerName": "x/y", "conditions": []}]
    patch = json.dumps({"status": {"parents": parents}, "spec": {"hostnames": ["no.example.org"]}}).encode()
    done = cluster.handle("PATCH", f"{PATH}/docs/status", patch, "application/merge-patch+json")
    assert done.body["status"]["parents"][0]["controllerName"] == "x/y"
    assert "hostnames" not in done.body["spec"]
    assert done.body["metadata"]["generation"] == 1
    apply(cluster, changed(lambda spec: spec.update(hostnames=["x.example.org"])))
    stored = cluster.see("httproutes", "agents", "docs")
    assert stored is not None
    assert stored["status"]["parents"], "an apply of the spec leaves the status"


REWRITE = {"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v1"}}}


def rule(**more: Any) -> Any:
    return lambda spec: spec["rules"][0].update(more)


def backend(**more: Any) -> Any:
    kept = {key: value for key, value in {"name": "vllm", "port": 8000, **more}.items() if value is not None}
    return lambda spec: spec["rules"][0].update(backendRefs=[kept])


@pytest.mark.parametrize(
    ("change", "field", "text"),
    [
        (backend(weight=-1), "spec.rules[0].backendRefs[0].weight", "greater than or equal to 0"),
        (backend(weight=1.5), "spec.rules[0].backendRefs[0].weight", "must be of type integer"),
        (backend(port=None), "spec.rules[0].backendRefs[0]", "Must have port"),
        (backend(name=None), "spec.rules[0].backendRefs[0].name", "Required value"),
        (rule(matches=[{"path": {"value": "v1"}}]), "spec.rules[0].matches[0].path", "start with '/'"),
        (rule(filters=[{"type": "URLRewrite"}]), "spec.rules[0].filters[0]", "urlRewrite must be"),
        (rule(filters=[REWRITE, REWRITE]), "spec.rules[0].filters", "cannot be repeated"),
        (rule(filters=[REWRITE], matches=[{}, {}]), "spec.rules[0]", "exactly one PathPrefix match"),
        (lambda spec: spec.update(rules=[{}] * 17), "spec.rules", "at most 16"),
        (lambda spec: spec.update(hostnames=["not a host"]), "spec.hostnames[0]", "should match"),
    ],
)
def test_what_the_gateway_api_forbids_is_refused(cluster: KubernetesApi, change: Any, field: str, text: str) -> None:
    refused = apply(cluster, changed(change))
    assert refused.status == 422
    assert refused.body["reason"] == "Invalid"
    assert refused.body["message"].startswith('HTTPRoute.gateway.networking.k8s.io "docs" is invalid: ')
    assert any(cause["field"] == field and text in cause["message"] for cause in refused.body["details"]["causes"])


def test_a_field_that_is_not_declared_is_refused(cluster: KubernetesApi) -> None:
    refused = apply(cluster, changed(lambda spec: spec["rules"][0].update(weights=[1])))
    assert refused.status == 500
    assert refused.body["message"].endswith("Kind=HTTPRoute): .spec.rules[0].weights: field not declared in schema")
