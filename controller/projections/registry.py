"""Which versions each agent has had: what they were made from, how they were judged, where they ran, what they cost.

A projection: nothing else stores it. A version is an agent's by its label and its model: a training's repository, a rollout's or a
binding's model and an evaluation's candidate with the same label are one version, also where one of them does not know the model.
`version_views.py` makes aliases, comparisons and the documents that other tools of a fleet read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from controller.events import Event
from controller.projections import Projection, States
from controller.projections import version_facts as facts

HISTORY_KEPT = 200
DEPLOYMENTS_KEPT = 20  # of one version
ROLLOUTS_KEPT = 20
EVALUATIONS_KEPT = 10
TRAIL_KEPT = 50
INDEX_KEPT = 500
RUNS, REPOS, IMPORTS = "/runs", "/repos", "/imports"
"""States that are no agent's (no agent has a slash): which version a run or a repository is about; what was imported."""

UNTRAINED = frozenset({"known", "training", "failed", "cancelled"})
"""States of a version that a training changes; a successful one also ends those below."""
FOUND = frozenset({"imported", "evaluated", "converted"})

Step = Callable[[States, Event, Mapping[str, Any] | None], tuple[str, ...]]


def is_agent(key: str) -> bool:
    """Whether a state of this projection is an agent's."""
    return not key.startswith("/")


# -- one version of an agent -----------------------------------------------------------------------------------------


def _version(state: dict[str, Any], target: Mapping[str, Any], sequence: int) -> tuple[str, dict[str, Any]]:
    """Key and entry of a version, made where it is not there yet."""
    versions: dict[str, dict[str, Any]] = state.setdefault("versions", {})
    version, model = str(target.get("version", "")), str(target.get("model") or "")
    key = f"{version} {model}"
    if key not in versions:
        same = [each for each in versions if _is(versions[each], version, model)]
        if same:
            key = max(same, key=lambda each: (int(versions[each]["touched"]), each))
        else:
            _forget(state, versions)
            versions[key] = {"version": version, "model": "", "endpoint": "", "status": "known"}
    found = versions[key]
    found["model"], found["touched"] = found["model"] or model, sequence
    return key, found


def _is(entry: Mapping[str, Any], version: str, model: str) -> bool:
    """The same label, and no other model: a version that was not pushed is known by its label alone."""
    if entry["version"] != version:
        return False
    known = {entry["model"], entry.get("hub_repo"), *entry.get("repos", ())} - {"", None}
    return not model or not known or model in known or model == version


def _forget(state: Mapping[str, Any], versions: dict[str, dict[str, Any]]) -> None:
    """Those that were touched longest ago go when there are too many: in batches, so that a long history stays cheap to fold."""
    if len(versions) < 2 * HISTORY_KEPT:
        return
    needed = {state.get("current"), *[key for key in versions if versions[key]["status"] in ("canary", "promoted")]}
    oldest = sorted(versions, key=lambda each: (int(versions[each]["touched"]), int(versions[each].get("order", 0)), each))
    for gone in [key for key in oldest if key not in needed][:HISTORY_KEPT]:
        del versions[gone]


def _keep(items: list[Any], item: Any, most: int) -> None:
    items.append(item)
    del items[:-most]


def _index(states: States, kind: str, name: str, agent: str, key: str, sequence: int) -> None:
    """Remembers which version of which agent a run or a repository is about."""
    index = states[kind]
    index[name] = [agent, key, sequence]
    if len(index) > 2 * INDEX_KEPT:
        for gone in sorted(index, key=lambda each: (int(index[each][2]), each))[:INDEX_KEPT]:
            del index[gone]


def _indexed(states: States, kind: str, name: str) -> tuple[str, dict[str, Any]] | None:
    agent, key, _ = states[kind].get(name) or ("", "", 0)
    found = states[agent].get("versions", {}).get(key) if agent else None
    return (agent, found) if found is not None else None


def _paid(entry: dict[str, Any], event: Event) -> None:
    """What each run that made or judged this version has cost."""
    usd = facts.cost_of(event.data)
    if usd is not None:
        entry.setdefault("costs", {})[event.subject] = usd


# -- bindings and rollouts -------------------------------------------------------------------------------------------


def _bound(states: States, event: Event, after: Mapping[str, Any] | None) -> tuple[str, ...]:
    agent = facts.name_of(event)
    state = states[agent]
    old = state.get("versions", {}).get(state.get("current"))
    if after is None:
        if old is not None:
            _leave(old, event, "removed", "")
        state["current"] = None
        return (agent,)
    key, entry = _version(state, after, event.sequence)
    endpoint, deployments = str(after.get("endpoint", "")), entry.setdefault("deployments", [])
    if entry is old and deployments and deployments[-1]["endpoint"] == endpoint:
        return (agent,)  # only its fallbacks changed
    if old is not None:
        _leave(old, event, "moved" if old is entry else "rolled_back" if deployments else "retired", entry["version"])
    at = {"at": event.time, "endpoint": endpoint, "commit": event.statecommit, "event": event.id}
    if entry["status"] == "promoted":
        at["rollout"] = entry.get("rollout", "")
    _keep(deployments, at, DEPLOYMENTS_KEPT)
    entry.update(
        status="deployed",
        model=after.get("model") or entry["model"],
        endpoint=endpoint,
        deployed_at=event.time,
        commit=event.statecommit,
        event=event.id,
    )
    state["current"] = key
    if state.setdefault("trail", [])[-1:] != [key]:
        _keep(state["trail"], key, TRAIL_KEPT)
    return (agent,)


def _leave(entry: dict[str, Any], event: Event, how: str, to: str) -> None:
    """A version that answers no more: until when, why, and what answers instead."""
    if how != "moved":
        entry["status"] = "rolled_back" if how == "rolled_back" else "retired"
    if entry.get("deployments"):
        last = entry["deployments"][-1]
        last.update(until=event.time, ended=how, ended_commit=event.statecommit, ended_event=event.id)
        if to:
            last["to"] = to


def _tried(states: States, event: Event, after: Mapping[str, Any] | None) -> tuple[str, ...]:
    candidate = after.get("candidate") if after is not None else None
    if after is None or not isinstance(candidate, Mapping) or not candidate.get("version") or "binding" not in after:
        return ()
    agent, phase = str(after["binding"]), str(after.get("phase", ""))
    _, entry = _version(states[agent], candidate, event.sequence)
    name, runs = facts.name_of(event), entry.setdefault("rollouts", [])
    run = next((each for each in runs if each["name"] == name), None)
    if run is None:
        run = {"name": name, "at": event.time, "commit": event.statecommit, "event": event.id}
        _keep(runs, run, ROLLOUTS_KEPT)
    if run.get("phase") != phase:
        run["phase"] = phase
        if phase != "progressing":
            run.update(until=event.time, ended_event=event.id, said=str(after.get("verdict") or "")[: facts.TEXT_KEPT])
    entry["rollout"] = name
    entry["endpoint"] = entry["endpoint"] or str(candidate.get("endpoint", ""))
    if after.get("settled"):  # what git says counts again; whether it is this version, its binding has told
        entry["status"] = "superseded" if entry["status"] == "promoted" else entry["status"]
    elif entry["status"] != "deployed":
        entry["status"] = {"progressing": "canary"}.get(phase, phase)
    entry.setdefault("commit", event.statecommit)
    return (agent,)


def _cancelled(states: States, event: Event, before: Mapping[str, Any]) -> tuple[str, ...]:
    """A rollout that is cancelled leaves no state behind: its candidate is told from what was before."""
    if before.get("phase") != "progressing" or not isinstance(before.get("candidate"), Mapping):
        return ()
    agent = str(before.get("binding", ""))
    _, entry = _version(states[agent], before["candidate"], event.sequence)
    if entry["status"] != "deployed":
        entry["status"] = "cancelled"
    for run in entry.get("rollouts", ()):
        if run["name"] == facts.name_of(event):
            run.update(phase="cancelled", until=event.time, ended_event=event.id)
    return (agent,)


# -- what made and judged a version ----------------------------------------------------------------------------------


def _trained(states: States, event: Event, after: Mapping[str, Any] | None) -> tuple[str, ...]:
    if after is None or not after.get("agent") or not after.get("version"):
        return ()
    agent, repo, phase = str(after["agent"]), str(after.get("repo") or ""), after.get("phase")
    key, entry = _version(states[agent], {"version": after["version"], "model": repo}, event.sequence)
    _index(states, RUNS, event.subject, agent, key, event.sequence)
    _paid(entry, event)
    entry.setdefault("commit", event.statecommit)
    if phase == "succeeded":
        entry.update(facts.trained(event, after))
        entry["status"] = "trained" if entry["status"] in UNTRAINED | FOUND else entry["status"]
        if repo:
            _index(states, REPOS, repo, agent, key, event.sequence)
            return agent, RUNS, REPOS
    elif entry["status"] in UNTRAINED:
        entry.update(status=phase if phase in ("failed", "cancelled") else "training", training=facts.name_of(event))
    return agent, RUNS


def _judged(states: States, event: Event, after: Mapping[str, Any] | None) -> tuple[str, ...]:
    if after is None:  # cancelled or archived; what it had cost by then is in its notes
        found = _indexed(states, RUNS, event.subject)
        if found is None:
            return ()
        _paid(found[1], event)
        return (found[0],)
    candidate = after.get("candidate")
    if not after.get("agent") or not isinstance(candidate, Mapping) or not candidate.get("version"):
        return ()
    agent = str(after["agent"])
    key, entry = _version(states[agent], candidate, event.sequence)
    _index(states, RUNS, event.subject, agent, key, event.sequence)
    _paid(entry, event)
    entry["endpoint"] = entry["endpoint"] or str(candidate.get("endpoint", ""))
    report = states[agent].get("reports", {}).pop(event.subject, {})
    if after.get("verdict"):
        judged = facts.evaluated(event, after, report)
        entry.update(judged)
        kept = {"name": judged["evaluation"], "at": event.time, "verdict": judged["verdict"], "score": judged["evaluation_score"]}
        _keep(entry.setdefault("evaluations", []), kept, EVALUATIONS_KEPT)
        entry["status"] = "evaluated" if entry["status"] in ("known", "converted") else entry["status"]
    return agent, RUNS


def _reported(states: States, event: Event, after: Any, evidence: Mapping[str, Any]) -> tuple[str, ...]:
    """The report is evidence of the started event; it counts when the outcome is there."""
    agent = str(after.get("agent") or "") if isinstance(after, Mapping) else ""
    if not agent or not isinstance(evidence.get("report"), Mapping):
        return ()
    reports = states[agent].setdefault("reports", {})
    reports[event.subject] = facts.summary(evidence["report"])
    while len(reports) > EVALUATIONS_KEPT:
        del reports[min(reports)]
    return (agent,)


def _converted(states: States, event: Event, after: Mapping[str, Any] | None) -> tuple[str, ...]:
    if after is None:
        return ()
    given = after.get("source")
    source: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    found = _indexed(states, RUNS, f"TrainingRequest/{source.get('training')}") or _indexed(states, REPOS, str(source.get("repo")))
    if found is None and after.get("phase") == "succeeded" and after.get("agent") and after.get("version"):
        agent = str(after["agent"])  # of a model that nobody trained here
        target = {"version": after["version"], "model": source.get("repo")}
        found = agent, _version(states[agent], target, event.sequence)[1]
    if found is None:
        return ()
    agent, entry = found
    _paid(entry, event)
    if after.get("phase") == "succeeded":
        entry.update(facts.converted(event, after))
        entry["status"] = "converted" if entry["status"] == "known" else entry["status"]
        repo = after.get("repo")
        if repo and repo not in entry.setdefault("repos", []):
            _keep(entry["repos"], str(repo), DEPLOYMENTS_KEPT)
    return (agent,)


# -- what other registries knew --------------------------------------------------------------------------------------


def _imported(states: States, event: Event) -> tuple[str, ...]:
    """Fills what events do not tell; what a binding, a training or an evaluation said stays."""
    changed = [IMPORTS]
    digest, agents = str(event.data.get("digest", "")), event.data.get("agents")
    imports = states[IMPORTS]
    imports[digest] = [event.sequence, event.time, str(event.data.get("source", ""))]
    for gone in sorted(imports, key=lambda each: int(imports[each][0]))[:-INDEX_KEPT]:
        del imports[gone]
    for agent, told in (agents if isinstance(agents, Mapping) else {}).items():
        state = states[agent]
        changed.append(agent)
        for order, each in enumerate(told.get("history", ())):
            _import_version(state, each, event, order)
        if told.get("current"):
            state["imported_current"] = dict(told["current"])
    return tuple(changed)


def _import_version(state: dict[str, Any], told: Mapping[str, Any], event: Event, order: int) -> None:
    before = set(state.get("versions", ()))
    key, entry = _version(state, told, event.sequence)
    new = key not in before
    if new:
        entry.update(status="imported", imported_at=event.time, imported_by=event.id)
    entry["order"] = order
    for name, value in told.items():
        if name == "deployment_status":
            entry["imported_status"] = value
        elif new or entry["status"] == "imported" or entry.get(name) in (None, "", {}):
            entry[name] = value


# -- the projection --------------------------------------------------------------------------------------------------

STEPS: Mapping[str, Step] = {
    "ModelBinding": _bound,
    "Rollout": _tried,
    "TrainingRequest": _trained,
    "Evaluation": _judged,
    "Conversion": _converted,
}


def _succeeded(states: States, event: Event) -> tuple[str, ...]:
    step = STEPS.get(event.subject.partition("/")[0])
    after = event.data.get("after")
    return step(states, event, after if isinstance(after, Mapping) else None) if step else ()


def _started(states: States, event: Event) -> tuple[str, ...]:
    kind, data = event.subject.partition("/")[0], event.data
    if kind == "Rollout" and data.get("action") == "delete" and isinstance(data.get("before"), Mapping):
        return _cancelled(states, event, data["before"])
    if kind == "Evaluation" and isinstance(data.get("evidence"), Mapping):
        return _reported(states, event, data.get("after"), data["evidence"])
    return ()


REGISTRY = Projection(
    "registry",
    {
        "turnout.action.succeeded.v1": _succeeded,
        "turnout.action.started.v1": _started,
        "turnout.registry.imported.v1": _imported,
    },
    version=2,
)
