"""What a run read and what it made, as datasets of OpenLineage: names that are the same whoever tells of them.

Why by `after` and not by types of the kinds: a projection sees events only, perhaps of a newer release. What another run made is
known from `Known`, so that a model that was trained, judged, tried and bound is one dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

HUB = "https://huggingface.co"
OURS = "turnout"
"""Namespace of what only the event log has: decisions, and what answers an agent."""
State = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Data:
    """One dataset. `version` is a revision, a digest or a label; `facets` are our own, by name."""

    namespace: str
    name: str
    version: str = ""
    facets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)  # output statistics

    @property
    def key(self) -> tuple[str, str]:
        return self.namespace, self.name

    @property
    def uri(self) -> str:
        if self.namespace.startswith(HUB):
            return f"{self.namespace}/{self.name}"
        return f"{self.namespace}:{self.name}"


@dataclass(slots=True)
class Known:
    """What earlier runs made: by repository, by training, by version of an agent; and what each agent was promoted to."""

    repositories: dict[str, Data] = field(default_factory=dict)
    trainings: dict[str, Data] = field(default_factory=dict)
    labels: dict[tuple[str, str], Data] = field(default_factory=dict)
    promoted: dict[str, tuple[Any, Any, str]] = field(default_factory=dict)  # agent -> model, version, rollout


Sides = tuple[list[Data], list[Data]]
"""Inputs and outputs."""


def sides_of(kind: str, name: str, after: State, spec: State, known: Known) -> Sides:
    """Of a run that is, or was, in this state."""
    found = KINDS.get(kind)
    return found(name, after, spec, known) if found else ([], [])


def remember(kind: str, name: str, after: State, outputs: Iterable[Data], known: Known) -> None:
    """A run that has ended well: what comes after it knows what it made."""
    for data in outputs:
        if kind == "TrainingRequest":
            known.trainings[name] = data
            if data.namespace == OURS:
                known.labels[str(after.get("agent")), str(after.get("version"))] = data
        if data.namespace == HUB:
            known.repositories[data.name] = data
    if kind == "Rollout" and after.get("phase") == "promoted":
        candidate = _mapping(after.get("candidate"))
        known.promoted[str(after.get("binding"))] = (candidate.get("model"), candidate.get("version"), name)


# -- by kind ---------------------------------------------------------------------------------------------------------


def _training(name: str, after: State, spec: State, known: Known) -> Sides:
    base = _hub(str(after.get("base_model") or ""), str(after.get("base_revision") or ""), known)
    inputs = [*_rows(_mapping(after.get("dataset"))), *([base] if base else [])]
    told = {key: after.get(key) or None for key in ("method", "agent", "version", "metrics")}
    repo, version = str(after.get("repo") or ""), str(after.get("revision") or after.get("result") or "")
    made = {"size": after.get("bytes") or None, "fileCount": after.get("files") or None}
    facets = {"turnout_training": {**told, "result": after.get("result") or None}}
    return inputs, [Data(HUB if repo else OURS, repo or f"artefacts/{name}", version, facets, made)]


def _evaluation(name: str, after: State, spec: State, known: Known) -> Sides:
    agent = str(after.get("agent") or "")
    sides = [_model(agent, _mapping(after.get(side)), known) for side in ("candidate", "baseline")]
    told = {key: after.get(key) or None for key in ("verdict", "score", "examples", "agent")}
    report = Data(OURS, f"evaluations/{name}", str(after.get("verdict") or ""), {"turnout_evaluation": told})
    return [*_labelled(str(after.get("dataset") or "")), *(side for side in sides if side)], [report]


def _conversion(name: str, after: State, spec: State, known: Known) -> Sides:
    source = _mapping(after.get("source"))
    training, repo = str(source.get("training") or ""), str(source.get("repo") or "")
    read = known.trainings.get(training) if training else _hub(repo, str(source.get("revision") or ""), known)
    read = read or (Data(OURS, f"artefacts/{training}") if training else None)
    given = after.get("files")
    files = [each for each in given if isinstance(each, Mapping)] if isinstance(given, list | tuple) else []
    told = [{key: each.get(key) for key in ("name", "quantization", "bytes", "sha256") if each.get(key)} for each in files]
    facets = {"turnout_files": {"files": told}} if told else {}
    target = str(after.get("repo") or "")
    same = read is not None and target == read.name  # pushed beside the model: a dataset of its own all the same
    made = Data(HUB, target, str(after.get("revision") or ""), facets) if target and not same else None
    return [read] if read else [], [made or Data(OURS, f"conversions/{name}", "", facets)]


def _rollout(name: str, after: State, spec: State, known: Known) -> Sides:
    agent = str(after.get("binding") or "")
    sides = [_model(agent, _mapping(after.get(side)), known) for side in ("candidate", "stable")]
    proof = [Data(OURS, f"evaluations/{spec['evaluation']}")] if spec.get("evaluation") else []
    decision = Data(OURS, f"rollouts/{name}", str(after.get("phase") or ""))
    return [*proof, *(side for side in sides if side)], [decision]


def _binding(name: str, after: State, spec: State, known: Known) -> Sides:
    model = _model(name, after, known)
    promoted = known.promoted.get(name)
    by = [Data(OURS, f"rollouts/{promoted[2]}")] if promoted and promoted[:2] == (after.get("model"), after.get("version")) else []
    return [*by, *([model] if model else [])], [Data(OURS, f"agents/{name}", str(after.get("version") or ""))]


KINDS: Mapping[str, Callable[[str, State, State, Known], Sides]] = {
    "TrainingRequest": _training,
    "Evaluation": _evaluation,
    "Conversion": _conversion,
    "Rollout": _rollout,
    "ModelBinding": _binding,
}


# -- datasets --------------------------------------------------------------------------------------------------------


def _rows(dataset: State) -> list[Data]:
    """What was trained on: `source` is a text or the files."""
    source = dataset.get("source") or dataset.get("name") or ""
    version = str(dataset.get("revision") or dataset.get("digest") or "")
    told = {key: dataset[key] for key in ("rows", "split", "digest") if dataset.get(key)}
    texts = [source] if isinstance(source, str) else [str(each) for each in source]
    return [_source(text, version, {"turnout_dataset": told} if told else {}) for text in texts if text]


def _labelled(label: str) -> list[Data]:
    """What an evaluation asked: `ls://name`, or files with commas between."""
    texts = [label] if "://" in label else label.split(", ")
    return [_source(text, "", {}) for text in texts if text]


def _source(text: str, version: str, facets: Mapping[str, Mapping[str, Any]]) -> Data:
    scheme, found, rest = text.partition("://")
    if not found:
        return Data("git", text, version, facets)
    name, _, revision = rest.partition("@")
    if scheme == "hf":
        return Data(HUB, f"datasets/{name}", version or revision, facets)
    return Data("langsmith" if scheme == "ls" else scheme, name, version or revision, facets)


def _hub(model: str, revision: str, known: Known) -> Data | None:
    """A model by its name: on the Hub, in a folder, or made on the spot."""
    if not model:
        return None
    if model in known.repositories:
        found = known.repositories[model]
        return found if not revision or revision == found.version else Data(found.namespace, found.name, revision)
    if "/" not in model or model.startswith((".", "/")):
        return Data(OURS if "/" not in model else "file", f"models/{model}" if "/" not in model else model, revision)
    return Data(HUB, model, revision)


def _model(agent: str, target: State, known: Known) -> Data | None:
    """A model version that answers somewhere: what a training made, where that is known, else what its endpoint calls it."""
    model, version, endpoint = (str(target.get(key) or "") for key in ("model", "version", "endpoint"))
    if not model and not version:
        return None
    told = {"turnout_model": {"version": version, "endpoint": endpoint}}
    found = known.repositories.get(model) or known.labels.get((agent, version))
    if found is not None:
        return Data(found.namespace, found.name, found.version, told)
    return Data(f"endpoint:{endpoint}", model, version, told)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
