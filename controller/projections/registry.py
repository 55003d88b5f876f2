"""Which versions each agent has had: where they run, who brought them, from which commit, and how their rollouts ended.

A projection: nothing else stores it. `flat` and `per_agent` are the documents that other tools of a fleet read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from controller.events import Event
from controller.projections import Projection, States

HISTORY_KEPT = 200


def fold(states: States, event: Event) -> Iterable[str] | None:
    if event.type != "turnout.action.succeeded.v1":
        return None
    kind, _, name = event.subject.partition("/")
    after = event.data.get("after")
    if kind == "ModelBinding":
        _bound(states[name], event, after)
        return (name,)
    if kind == "Rollout" and isinstance(after, Mapping) and "binding" in after:
        _tried(states[after["binding"]], event, name, after)
        return (after["binding"],)
    return None


def _bound(state: dict[str, Any], event: Event, after: Mapping[str, Any] | None) -> None:
    old = state.get("current")
    for version in state.get("versions", ()):
        if old and _same(version, old) and version["status"] == "deployed":
            version["status"] = "retired"
    if after is None:
        state["current"] = None
        return
    version = _version(state, after)
    version.update(status="deployed", deployed_at=event.time, commit=event.statecommit, event=event.id)
    state["current"] = {key: after[key] for key in ("model", "endpoint", "version")}


def _tried(state: dict[str, Any], event: Event, name: str, after: Mapping[str, Any]) -> None:
    version = _version(state, after["candidate"])
    version["rollout"] = name
    if version["status"] != "deployed":
        version["status"] = {"progressing": "canary", "promoted": "promoted"}.get(after["phase"], after["phase"])
    version.setdefault("commit", event.statecommit)


def _version(state: dict[str, Any], target: Mapping[str, Any]) -> dict[str, Any]:
    versions = state.setdefault("versions", [])
    found: dict[str, Any] | None = next((each for each in versions if _same(each, target)), None)
    if found is None:
        found = {key: target[key] for key in ("model", "endpoint", "version")}
        found.update(status="known")
        versions.append(found)
        del versions[:-HISTORY_KEPT]
    return found


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[key] == other[key] for key in ("model", "endpoint", "version"))


REGISTRY = Projection("registry", fold)


def aliases(state: Mapping[str, Any]) -> dict[str, str]:
    """`champion` is what answers, `candidate` what is being tried."""
    out = {}
    for version in state.get("versions", ()):
        if version["status"] == "deployed":
            out["champion"] = version["version"]
        elif version["status"] in ("canary", "promoted"):
            out["candidate"] = version["version"]
    return out


def flat(agents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`{"models": [{agent, model_id, version, deployed_at, evaluation_score, training_job_id}]}`, what answers now."""
    models = []
    for agent, state in sorted(agents.items()):
        for version in state.get("versions", ()):
            if version["status"] == "deployed":
                models.append({
                    "agent": agent, "model_id": version["model"], "version": version["version"],
                    "deployed_at": version.get("deployed_at"), "evaluation_score": version.get("evaluation_score"),
                    "training_job_id": version.get("training_job_id"),
                })
    return {"models": models}


def per_agent(agents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`{agent: {current: {version, model, endpoint, deployed_at}, history: [...]}}`, newest last."""
    out = {}
    for agent, state in sorted(agents.items()):
        current = next((each for each in state.get("versions", ()) if each["status"] == "deployed"), None)
        out[agent] = {
            "current": {key: current.get(key) for key in ("version", "model", "endpoint", "deployed_at")} if current else None,
            "history": [_history(each) for each in state.get("versions", ())],
        }
    return out


def _history(version: Mapping[str, Any]) -> dict[str, Any]:
    known = ("version", "model", "endpoint", "deployed_at", "base_model", "training_method", "training_dataset", "eval_dataset",
             "eval_scores", "trained_at", "hub_repo")
    return {**{key: version.get(key) for key in known}, "deployment_status": version["status"], "commit": version.get("commit")}
