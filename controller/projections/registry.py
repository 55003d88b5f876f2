"""Which versions each agent has had: where they run, who brought them, from which commit, and how their rollouts ended.

A projection: nothing else stores it. `flat` and `per_agent` are the documents that other tools of a fleet read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controller.events import Event
from controller.projections import Projection, States

HISTORY_KEPT = 200


def _succeeded(states: States, event: Event) -> str:
    kind, _, name = event.subject.partition("/")
    after = event.data.get("after")
    if kind == "ModelBinding":
        _bound(states[name], event, after)
        return name
    if kind == "Rollout" and isinstance(after, Mapping) and "binding" in after:
        _tried(states[after["binding"]], event, name, after)
        return str(after["binding"])
    return ""


def _bound(state: dict[str, Any], event: Event, after: Mapping[str, Any] | None) -> None:
    old = state.get("versions", {}).get(state.get("current"))
    if old is not None and old["status"] == "deployed":
        old["status"] = "retired"
    if after is None:
        state["current"] = None
        return
    version = _version(state, after, event.sequence)
    version.update(status="deployed", deployed_at=event.time, commit=event.statecommit, event=event.id)
    state["current"] = _key(after)


def _tried(state: dict[str, Any], event: Event, name: str, after: Mapping[str, Any]) -> None:
    version = _version(state, after["candidate"], event.sequence)
    version["rollout"] = name
    if version["status"] != "deployed":
        version["status"] = {"progressing": "canary", "promoted": "promoted"}.get(after["phase"], after["phase"])
    version.setdefault("commit", event.statecommit)


def _key(target: Mapping[str, Any]) -> str:
    return f"{target['model']} {target['version']} {target['endpoint']}"


def _version(state: dict[str, Any], target: Mapping[str, Any], sequence: int) -> dict[str, Any]:
    """The entry of a version; those that were touched longest ago go when there are too many."""
    versions: dict[str, dict[str, Any]] = state.setdefault("versions", {})
    key = _key(target)
    found = versions.get(key)
    if found is None:
        if len(versions) >= 2 * HISTORY_KEPT:  # in batches, so that a long history stays cheap to fold
            oldest = sorted(versions, key=lambda each: int(versions[each]["touched"]))
            for gone in oldest[:HISTORY_KEPT]:
                del versions[gone]
        found = versions[key] = {
            "model": target["model"],
            "endpoint": target["endpoint"],
            "version": target["version"],
            "status": "known",
        }
    found["touched"] = sequence
    return found


def versions_of(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Oldest first."""
    return sorted(state.get("versions", {}).values(), key=lambda version: version["touched"])


def _started(states: States, event: Event) -> str:
    """A rollout that is cancelled leaves no state behind: its candidate is told from what was before."""
    before = event.data.get("before")
    if event.data["action"] != "delete" or not event.subject.startswith("Rollout/") or not isinstance(before, Mapping):
        return ""
    if before.get("phase") != "progressing":
        return ""
    version = _version(states[before["binding"]], before["candidate"], event.sequence)
    version["status"] = "cancelled"
    return str(before["binding"])


REGISTRY = Projection("registry", {"turnout.action.succeeded.v1": _succeeded, "turnout.action.started.v1": _started})


def aliases(state: Mapping[str, Any]) -> dict[str, str]:
    """`champion` is what answers, `candidate` what is being tried."""
    out = {}
    for version in versions_of(state):
        if version["status"] == "deployed":
            out["champion"] = version["version"]
        elif version["status"] in ("canary", "promoted"):
            out["candidate"] = version["version"]
    return out


def flat(agents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`{"models": [{agent, model_id, version, deployed_at, evaluation_score, training_job_id}]}`, what answers now."""
    models = []
    for agent, state in sorted(agents.items()):
        for version in versions_of(state):
            if version["status"] == "deployed":
                models.append(
                    {
                        "agent": agent,
                        "model_id": version["model"],
                        "version": version["version"],
                        "deployed_at": version.get("deployed_at"),
                        "evaluation_score": version.get("evaluation_score"),
                        "training_job_id": version.get("training_job_id"),
                    }
                )
    return {"models": models}


def per_agent(agents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """`{agent: {current: {version, model, endpoint, deployed_at}, history: [...]}}`, newest last."""
    out = {}
    for agent, state in sorted(agents.items()):
        current = next((each for each in versions_of(state) if each["status"] == "deployed"), None)
        out[agent] = {
            "current": {key: current.get(key) for key in ("version", "model", "endpoint", "deployed_at")} if current else None,
            "history": [_history(each) for each in versions_of(state)],
        }
    return out


def _history(version: Mapping[str, Any]) -> dict[str, Any]:
    known = (
        "version",
        "model",
        "endpoint",
        "deployed_at",
        "base_model",
        "training_method",
        "training_dataset",
        "eval_dataset",
        "eval_scores",
        "trained_at",
        "hub_repo",
    )
    return {**{key: version.get(key) for key in known}, "deployment_status": version["status"], "commit": version.get("commit")}
