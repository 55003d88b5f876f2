"""What people and other tools see of the registry: aliases, one version in full, two side by side, and both documents.

Pure functions over the states of `registry.py`; the documents follow the models of `registry_file.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from controller.errors import NotFound, TurnoutError, listed, nearest

State = Mapping[str, Any]
Entry = Mapping[str, Any]
PROVEN = ("deploy", "deploy_canary")
UNTRIED = ("trained", "evaluated", "imported", "converted")
SCORES = ("accuracy", "baseline_improvement", "avg_latency_ms", "cost_per_1k")
ALIASES = ("champion", "candidate", "previous")
HIDDEN = frozenset({"touched", "order", "flat", "only_current", "repos", "event"})
"""Fields of an entry that only the fold needs."""


def versions_of(state: State) -> list[Entry]:
    """Oldest first."""
    return sorted(state.get("versions", {}).values(), key=_age)


def _age(version: Entry) -> tuple[int, int]:
    return int(version.get("touched", 0)), int(version.get("order", 0))


def _keys(state: State) -> dict[str, str]:
    """Alias -> key of its version."""
    versions: Mapping[str, Entry] = state.get("versions", {})
    ordered = sorted(versions, key=lambda key: _age(versions[key]))
    out: dict[str, str] = {}
    for key in ordered:
        status, verdict = versions[key]["status"], versions[key].get("verdict")
        if status == "deployed":
            out["champion"] = key
        elif status in UNTRIED and verdict in PROVEN:
            out["candidate"] = key
    for key in ordered:  # what is being tried comes before what might be
        if versions[key]["status"] in ("canary", "promoted"):
            out["candidate"] = key
    before = [key for key in state.get("trail", ()) if key != state.get("current") and key in versions]
    if before:
        out["previous"] = before[-1]
    return out


def aliases(state: State) -> dict[str, str]:
    """Alias -> label of its version.

    `champion` is what answers. `candidate` is what is being tried, else the newest version that was never deployed and that an
    evaluation found fit. `previous` is what answered before: where `turnout rollback` of the binding leads.
    """
    return {alias: str(state["versions"][key]["version"]) for alias, key in _keys(state).items()}


def aliases_of(state: State, entry: Entry) -> list[str]:
    """The aliases of one version."""
    keys = _keys(state)
    return [alias for alias in ALIASES if alias in keys and state["versions"][keys[alias]] is entry]


def version_of(agent: str, state: State, name: str) -> Entry:
    """A version by its label, an alias, or `label@model` where a label is there twice. Raises NotFound, TurnoutError."""
    versions: Mapping[str, Entry] = state.get("versions", {})
    keys = _keys(state)
    if name in keys:
        return versions[keys[name]]
    found = [each for each in versions.values() if name in (each["version"], f"{each['version']}@{each['model']}")]
    if len(found) == 1:
        return found[0]
    labels = {str(each["version"]) for each in versions.values()}
    if not found:
        hint = f"known: {listed([*labels, *keys])}"
        raise NotFound(f"{agent} has no version {name!r}{nearest(name, [*labels, *ALIASES])}", hint)
    several = [f"{each['version']}@{each['model']}" for each in found]
    raise TurnoutError(f"{agent} has {len(found)} versions {name!r}", f"write one of {', '.join(sorted(several))}")


def cost_of(entry: Entry) -> float:
    """USD: all that trained, judged and converted it."""
    return float(round(sum(entry.get("costs", {}).values()), 6))


def rollbacks_of(entry: Entry) -> int:
    """How often an earlier version took its place again, and how often its rollout was aborted."""
    left = [each for each in entry.get("deployments", ()) if each.get("ended") == "rolled_back"]
    return len(left) + len([each for each in entry.get("rollouts", ()) if each.get("phase") == "aborted"])


def whole(state: State, entry: Entry) -> dict[str, Any]:
    """One version with everything that is known of it, for scripts."""
    known = {key: value for key, value in sorted(entry.items()) if key not in HIDDEN and value not in (None, "", {}, [])}
    return {**known, "aliases": aliases_of(state, entry), "cost_usd": cost_of(entry), "rollbacks": rollbacks_of(entry)}


def compared(agent: str, state: State, first: Entry, second: Entry) -> dict[str, Any]:
    """Two versions and the fields in which they differ."""
    sides = [whole(state, each) for each in (first, second)]
    names = sorted({*sides[0], *sides[1]})
    differ = [name for name in names if sides[0].get(name) != sides[1].get(name)]
    return {"agent": agent, "versions": sides, "differ": differ}


# -- documents -------------------------------------------------------------------------------------------------------


def flat(agents: Mapping[str, State]) -> dict[str, Any]:
    """`{"models": [...]}`: what answers now; of an agent without a binding, what another registry said."""
    models = []
    for agent, state in sorted(agents.items()):
        for each in _answering(state):
            models.append(
                {
                    "agent": agent,
                    "model_id": each["model"] or each["version"],
                    "version": each["version"],
                    "deployed_at": each.get("deployed_at"),
                    "evaluation_score": each.get("evaluation_score"),
                    "training_job_id": each.get("training_job_id"),
                }
            )
    return {"models": models}


def _answering(state: State) -> Iterable[Entry]:
    versions = versions_of(state)
    bound = [each for each in versions if each["status"] == "deployed"]
    if bound or "current" in state:
        return bound
    listed_flat = [each for each in versions if each.get("flat")]
    current = state.get("imported_current")
    return listed_flat or [each for each in versions if current and each["version"] == current["version"]][:1]


def per_agent(agents: Mapping[str, State]) -> dict[str, Any]:
    """`{agent: {current: {version, model, endpoint, deployed_at}, history: [...]}}`, newest last."""
    out = {}
    for agent, state in sorted(agents.items()):
        shown = [each for each in versions_of(state) if not (each.get("only_current") and each["status"] == "imported")]
        out[agent] = {"current": _current(state), "history": [_history(each) for each in shown]}
    return out


def _current(state: State) -> dict[str, Any] | None:
    """What answers. Where no binding of the agent was ever seen here, what another registry said."""
    found = next((each for each in versions_of(state) if each["status"] == "deployed"), None)
    if found is None and "current" not in state:
        found = state.get("imported_current")
    return {key: found.get(key) or None for key in ("version", "model", "endpoint", "deployed_at")} if found else None


def _history(version: Entry) -> dict[str, Any]:
    known = (
        "version",
        "model",
        "base_model",
        "training_method",
        "training_dataset",
        "eval_dataset",
        "trained_at",
        "hub_repo",
    )
    told = version.get("imported_status") if version["status"] == "imported" else None
    scores = version.get("eval_scores")
    return {
        **{key: version.get(key) or None for key in known},
        "eval_scores": {key: scores.get(key) for key in SCORES} if scores else None,
        "deployment_status": told or version["status"],
        **{key: version.get(key) or None for key in ("endpoint", "deployed_at", "commit")},
    }
