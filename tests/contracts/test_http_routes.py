"""The HTTPRoute target: the real kubernetes client against the double of an API server, by the real plan and provider."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from controller.address import Address
from controller.change import Change
from controller.clients import Clients
from controller.clients import kubernetes as door_module
from controller.environment import EnvironmentSpec
from controller.errors import Permanent, Temporary
from controller.kind import Known, Past, Refs, Situation
from controller.kinds.gateway import KIND
from controller.kinds.gateway.spec import GatewaySpec
from controller.resource import Resource, digest
from controller.settings import Settings
from controller.testing.cases import completed
from controller.testing.kubernetes_api import KubernetesApi
from controller.testing.kubernetes_server import kubeconfig, serving

IN_CI = os.environ.get("CI") == "true"
GATEWAY = Address("Gateway/main")
NOW = datetime(2026, 1, 5, 9, tzinfo=UTC)
ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/agents/httproutes"
V1 = {"model": "acme/docs", "endpoint": "old", "version": "v1"}
V2 = {"model": "acme/docs-2", "endpoint": "new", "version": "v2"}


class Cluster:
    """One Gateway with one cluster: `step` is what a pass does to it."""

    def __init__(self, folder: Path, api: KubernetesApi, **target: Any) -> None:
        self.folder, self.api = folder, api
        self.endpoints = {name: {"url": f"http://{name}.example/v1"} for name in ("old", "new")}
        self.target = {
            "name": "cluster",
            "namespace": "agents",
            "parentRefs": [{"name": "inference", "namespace": "infra"}],
            "backends": {name: {"service": name, "port": 8000} for name in ("old", "new")},
            "modelNames": {"old": "agent", "new": "agent"},
            **target,
        }
        self.states: dict[Address, dict[str, Any]] = {}
        self.rollout: dict[str, Any] | None = None
        self.past = Past()
        self.bind("docs")
        self.bind("feature_dev")

    def bind(self, agent: str, **more: Any) -> None:
        self.states[Address.of("ModelBinding", agent)] = {**V1, "fallbacks": [], **more}

    def canary(self, weight: float, **more: Any) -> None:
        self.rollout = {
            "binding": "docs",
            "phase": "progressing",
            "weight": weight,
            "shadow": 0,
            "step_id": "docs-v2/0-ab12",
            "salt": "docs-v2-ab12",
            "stable": V1,
            "candidate": V2,
            "guard": None,
            "settled": False,
            **more,
        }

    def planned(self) -> Change:
        settings = Settings("local", EnvironmentSpec.model_validate({"endpoints": self.endpoints}), self.folder)
        assert KIND.provider is not None
        self.provider = KIND.provider(Clients(settings))
        spec = GatewaySpec.model_validate({"httpRoutes": [self.target], "files": [{"path": "models.yaml"}]})
        resource = Resource(GATEWAY, spec, spec.written(), digest(spec.written()))
        observed = self.provider.observe([Known(GATEWAY, resource, self.past)]).get(GATEWAY)
        rollouts = {Address("Rollout/docs-v2"): self.rollout} if self.rollout else {}
        refs = Refs({}, settings.as_refs, kinds={"ModelBinding": self.states, "Rollout": rollouts})
        return completed(KIND, GATEWAY, Situation(resource, observed, self.past, refs, NOW))

    def step(self) -> Change:
        change = self.planned()
        if not change.is_noop:
            self.outcome = self.provider.apply(change, lambda text: None)
            self.past = replace(self.past, exists=True, after=change.after, spec_digest=change.spec_digest)
        return change

    def see(self, name: str = "docs") -> dict[str, Any]:
        found = self.api.see("httproutes", "agents", name)
        assert found is not None
        return found

    def names(self) -> list[str]:
        return sorted(name for plural, _, name in self.api.objects if plural == "httproutes")

    def weights(self, name: str = "docs") -> dict[str, int]:
        return {ref["name"]: ref["weight"] for ref in self.see(name)["spec"]["rules"][0]["backendRefs"]}

    def writes(self) -> list[str]:
        """Method and name of every call since the last question that was not a look."""
        calls = [f"{method} {target.partition('?')[0].rpartition('/')[2]}" for method, target in self.api.calls if method != "GET"]
        self.api.calls.clear()
        return calls

    def kubectl(self, method: str, name: str, body: Mapping[str, Any], kind: str = "application/merge-patch+json") -> None:
        target = f"{ROUTES}/{name}?fieldManager=kubectl-edit"
        assert self.api.handle(method, target, json.dumps(body).encode(), kind).status == 200

    def told(self, name: str, kind: str, status: str, reason: str, message: str) -> None:
        """What the controller of the cluster's Gateway writes into a route's status."""
        condition = {"type": kind, "status": status, "reason": reason, "message": message}
        condition["lastTransitionTime"] = "2026-01-01T00:00:00Z"
        parent = {"parentRef": {"name": "inference"}, "controllerName": "x/y", "conditions": [condition]}
        self.kubectl("PATCH", f"{name}/status", {"status": {"parents": [parent]}})


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    missing = importlib.util.find_spec("kubernetes") is None
    if missing and not IN_CI:
        pytest.skip("the package kubernetes is not installed (pip install 'turnout[kubernetes]')")
    assert not missing, "the package kubernetes is not installed"
    api = KubernetesApi()
    api.namespace("agents")
    with serving(api) as address:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path / "kubeconfig", address)))
        yield Cluster(tmp_path, api)


# -- what is written ---------------------------------------------------------------------------------------------------


def test_every_agent_gets_a_route_that_the_api_takes(cluster: Cluster) -> None:
    assert cluster.step().action == "create"
    (feature_dev,) = (name for name in cluster.names() if name.startswith("feature-dev-"))
    assert cluster.names() == sorted(["docs", feature_dev]), "an underscore is no name in Kubernetes"
    route = cluster.see(feature_dev)
    assert route["metadata"]["annotations"]["turnout/agent"] == "feature_dev"
    assert route["metadata"]["annotations"]["turnout/serves"] == "acme/docs v1 at old"
    assert route["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "turnout"
    assert route["spec"]["parentRefs"] == [
        {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "inference", "namespace": "infra"}
    ]
    (rule,) = route["spec"]["rules"]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/agents/feature_dev/v1"}}]
    assert rule["filters"][0]["urlRewrite"]["path"] == {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/v1"}
    assert rule["backendRefs"] == [{"group": "", "kind": "Service", "name": "old", "port": 8000, "weight": 1}]
    (entry,) = route["metadata"]["managedFields"]
    assert (entry["manager"], entry["operation"]) == ("turnout", "Apply")


def test_what_is_there_is_looked_at_with_one_call_and_left_alone(cluster: Cluster) -> None:
    cluster.step()
    cluster.api.calls.clear()
    assert cluster.step().is_noop
    assert [method for method, _ in cluster.api.calls] == ["GET"]


def test_a_canary_writes_its_own_route_only(cluster: Cluster) -> None:
    cluster.step()
    cluster.writes()
    for weight, shares in ((20, {"old": 80, "new": 20}), (0.5, {"old": 99500, "new": 500}), (100, {"old": 0, "new": 100})):
        cluster.canary(weight)
        assert cluster.step().action == "update"
        assert cluster.weights() == shares
        assert cluster.writes() == ["PATCH docs"]
        assert cluster.step().is_noop
    testers = [rule["matches"][0]["headers"][0]["value"] for rule in cluster.see()["spec"]["rules"][1:]]
    assert testers == ["stable", "candidate"]
    assert cluster.see()["metadata"]["annotations"]["turnout/serves"].endswith("100 % acme/docs-2 v2 at new")
    cluster.rollout = None
    assert cluster.step().urgent, "the way back to the version that served before"
    assert cluster.weights() == {"old": 1}


def test_a_shadow_is_a_mirror(cluster: Cluster) -> None:
    cluster.canary(0, shadow=10.0)
    cluster.step()
    mirror = cluster.see()["spec"]["rules"][0]["filters"][1]["requestMirror"]
    assert (mirror["backendRef"]["name"], mirror["percent"]) == ("new", 10)
    cluster.canary(0, shadow=0.5)
    cluster.step()
    mirror = cluster.see()["spec"]["rules"][0]["filters"][1]["requestMirror"]
    assert mirror["fraction"] == {"numerator": 500, "denominator": 100000}
    assert cluster.step().is_noop


def test_agents_may_be_named_by_a_header(cluster: Cluster) -> None:
    cluster.target |= {"match": "header", "hostnames": ["models.example.org"], "modelNames": {"old": "header"}}
    cluster.step()
    spec = cluster.see()["spec"]
    assert spec["hostnames"] == ["models.example.org"]
    assert spec["rules"][0]["matches"] == [
        {
            "path": {"type": "PathPrefix", "value": "/v1"},
            "headers": [{"type": "Exact", "name": "X-Turnout-Agent", "value": "docs"}],
        }
    ]
    assert "filters" not in spec["rules"][0]
    (ref,) = spec["rules"][0]["backendRefs"]
    assert ref["filters"][0]["requestHeaderModifier"]["set"] == [{"name": "X-Turnout-Model", "value": "acme/docs"}]


def test_a_removed_agent_takes_its_route_along_and_nobody_elses(cluster: Cluster) -> None:
    cluster.step()
    theirs = {"metadata": {"name": "theirs", "labels": {"app.kubernetes.io/managed-by": "turnout"}}, "spec": {}}
    cluster.api.handle("POST", ROUTES, json.dumps(theirs).encode())
    cluster.writes()
    del cluster.states[Address("ModelBinding/feature_dev")]
    cluster.step()
    assert cluster.names() == ["docs", "theirs"]
    assert [call.split()[0] for call in cluster.writes()] == ["DELETE"]


def test_somebody_elses_object_of_that_name_is_not_touched_and_holds_up_no_other(cluster: Cluster) -> None:
    mine = {"metadata": {"name": "docs"}, "spec": {"hostnames": ["theirs.example.org"]}}
    cluster.api.handle("POST", ROUTES, json.dumps(mine).encode())
    with pytest.raises(Permanent, match=r"httproutes agents/docs exists and is not ours"):
        cluster.step()
    assert cluster.see()["spec"]["hostnames"] == ["theirs.example.org"]
    assert len(cluster.names()) == 2
    assert (cluster.folder / "models.yaml").exists(), "the other targets are written"


def test_many_agents_come_page_by_page(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "PAGE", 7)
    for number in range(30):
        cluster.bind(f"agent-{number}")
    cluster.step()
    assert len(cluster.names()) == 32
    assert cluster.step().is_noop


# -- drift -----------------------------------------------------------------------------------------------------------


def test_what_somebody_changes_is_seen_and_taken_back(cluster: Cluster) -> None:
    cluster.canary(20)
    cluster.step()
    rules = cluster.see()["spec"]["rules"]
    rules[0]["backendRefs"][1]["weight"] = 90
    for edit in (
        {"spec": {"rules": rules}},
        {"spec": {"parentRefs": None}},
        {"metadata": {"annotations": {"turnout/serves": "x"}}},
    ):
        cluster.kubectl("PATCH", "docs", edit)
        cluster.writes()
        change = cluster.step()
        assert change.reason == "drift: httpRoutes cluster is not as it was left; written again", edit
        assert cluster.weights() == {"old": 80, "new": 20}
        assert {call.split()[1] for call in cluster.writes()} == {"docs"}
        assert cluster.step().is_noop
    assert "kubectl-edit" in cluster.outcome.notes["httpRoutes cluster docs"]


def test_what_others_add_beside_ours_is_no_drift(cluster: Cluster) -> None:
    cluster.step()
    cluster.kubectl("PATCH", "docs", {"metadata": {"labels": {"team": "docs"}, "annotations": {"note": "x"}}})
    condition = {
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    parent = {"parentRef": {"name": "inference"}, "controllerName": "x/y", "conditions": [condition]}
    cluster.kubectl("PATCH", "docs/status", {"status": {"parents": [parent]}})
    assert cluster.step().is_noop


def test_a_deleted_route_comes_back(cluster: Cluster) -> None:
    cluster.step()
    cluster.api.handle("DELETE", f"{ROUTES}/docs")
    assert "drift" in cluster.step().reason
    assert "docs" in cluster.names()


def test_nothing_is_written_over_what_was_not_planned_against(cluster: Cluster) -> None:
    cluster.step()
    cluster.canary(20)
    change = cluster.planned()
    cluster.kubectl("PATCH", "docs", {"spec": {"hostnames": ["x.example.org"]}})
    with pytest.raises(Temporary, match="planned again"):
        cluster.provider.apply(change, lambda text: None)


def test_a_dry_run_of_ours_changes_nothing(cluster: Cluster) -> None:
    cluster.step()
    change = cluster.planned()
    assert change.is_noop
    cluster.canary(20)
    wanted = cluster.planned().payload["httpRoutes"]["cluster"]
    door = door_module.Kubernetes(Settings("local", EnvironmentSpec(), cluster.folder))
    shown, taken = door.apply("", "httproutes", wanted["objects"]["docs"], {"turnout/owner": wanted["owner"]}, dry_run=True)
    assert [ref["weight"] for ref in shown["spec"]["rules"][0]["backendRefs"]] == [80, 20]
    assert taken == ""
    assert cluster.weights() == {"old": 1}


# -- what cannot be seen or done ---------------------------------------------------------------------------------------


def test_a_cluster_that_does_not_answer_hides_no_other_target(cluster: Cluster) -> None:
    cluster.step()
    cluster.api.down = "no leader"
    change = cluster.planned()
    assert change.is_noop
    assert [(wait.code, wait.on) for wait in change.conditions] == [("Blind", "httpRoutes cluster")]
    assert "503: no leader" in change.conditions[0].reason
    (cluster.folder / "models.yaml").write_text("mine\n")
    with pytest.raises(Temporary, match="no leader"):
        cluster.step()
    assert "acme/docs" in (cluster.folder / "models.yaml").read_text()
    cluster.api.down = ""
    assert cluster.step().is_noop


@pytest.mark.parametrize("token", ["nobody", "dev"])
def test_missing_rights_are_told_and_pass_when_they_are_given(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    cluster.api.users["dev"] = ("dev", lambda verb, plural, namespace: verb in ("get", "list"))
    path = Path(os.environ["KUBECONFIG"])
    right = path.read_text()
    path.write_text(right.replace("token: admin", f"token: {token}"))
    with pytest.raises(Temporary, match="401: Unauthorized" if token == "nobody" else '403: .*User "dev" cannot patch'):
        cluster.step()
    path.write_text(right)
    cluster.step()
    assert cluster.step().is_noop


def test_a_cluster_without_the_gateway_api_says_so(cluster: Cluster) -> None:
    cluster.api.kinds = {key: kind for key, kind in cluster.api.kinds.items() if kind.plural != "httproutes"}
    change = cluster.planned()
    assert "is the Gateway API installed?" in change.conditions[0].reason


def test_a_context_that_does_not_exist_says_so(cluster: Cluster) -> None:
    cluster.target["context"] = "prodution"
    change = cluster.planned()
    assert "context prodution" in change.conditions[0].reason


def test_what_the_api_refuses_is_permanent(cluster: Cluster) -> None:
    cluster.endpoints["old"]["url"] = "http://old.example/" + "v" * 2000
    with pytest.raises(Permanent, match=r"422: HTTPRoute\.gateway\.networking\.k8s\.io .* is invalid"):
        cluster.step()


def test_what_a_route_cannot_express_is_said(cluster: Cluster) -> None:
    cluster.bind("docs", fallbacks=["feature_dev"])
    cluster.bind("code", endpoint="vendor")
    cluster.endpoints |= {"vendor": {"url": "https://vendor.example/api/v1", "apiKey": "env:KEY"}}
    cluster.endpoints["new"]["apiKey"] = "env:KEY"
    cluster.canary(20, guard={"errorRate": 50.0, "minimum": 20})
    change = cluster.step()
    said = {wait.on: wait.reason for wait in change.conditions}
    assert {wait.on for wait in change.conditions if wait.code == "Unserved"} == {"httpRoutes cluster code stable"}
    assert set(said) == {
        "httpRoutes cluster code stable",
        "httpRoutes cluster fallbacks",
        "httpRoutes cluster guard",
        "httpRoutes cluster keys",
        "httpRoutes cluster sessions",
    }
    assert "backends names no Service for the endpoint vendor; there is no route of it" in said["httpRoutes cluster code stable"]
    assert "one session may see both versions (docs)" in said["httpRoutes cluster sessions"]
    assert "code" not in cluster.names()


def test_what_the_gateway_of_the_cluster_refuses_is_said(cluster: Cluster) -> None:
    cluster.step()
    cluster.told("docs", "ResolvedRefs", "False", "BackendNotFound", "Service old not found")
    change = cluster.step()
    assert change.is_noop
    (wait,) = change.conditions
    assert (wait.code, wait.on) == ("Refused", "httpRoutes cluster docs")
    assert "BackendNotFound: Service old not found" in wait.reason
