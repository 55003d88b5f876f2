"""Events of trainings, evaluations, conversions, rollouts and bindings as OpenLineage run events (spec 2-0-2).

A pure fold: the same log gives the same run ids, so that events may be sent again. A run is one intent: START at its started event,
RUNNING at its steps, COMPLETE, FAIL or ABORT at its end. A change of a binding is a run too. The parent of all that one commit
asked for is the run of the job `desired-state` with the id of that commit. Facets that are ours begin with `turnout_`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import controller
from controller.events import Event
from controller.projections.lineage_data import KINDS, Data, Known, remember, sides_of
from controller.projections.version_facts import cost_of

RunEvent = dict[str, Any]
PRODUCER = f"urn:turnout:controller:{controller.__version__}"
SPEC = "https://openlineage.io/spec"
SCHEMA = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
PARENT = "desired-state"
FACETS = {
    "parent": "1-2-0/ParentRunFacet",
    "nominalTime": "1-0-1/NominalTimeRunFacet",
    "errorMessage": "1-0-1/ErrorMessageRunFacet",
    "version": "1-0-1/DatasetVersionDatasetFacet",
    "dataSource": "1-0-1/DatasourceDatasetFacet",
    "jobType": "2-0-4/JobTypeJobFacet",
    "outputStatistics": "1-0-2/OutputStatisticsOutputDatasetFacet",
}
"""Facets of the specification that are used, and their schemas."""
WELL = frozenset({"completed", "promoted"})
MOST_TEXT = 2000


@dataclass(slots=True)
class Run:
    """An intent that is carried out."""

    id: str
    subject: str
    since: str  # time of the started event
    after: Mapping[str, Any]
    spec: Mapping[str, Any]
    commit: str
    reason: str
    cost: float | None = None


@dataclass(slots=True)
class Lineage:
    """`environment` names the namespace of the jobs. `feed` returns the run events that follow from one event."""

    environment: str
    open: dict[str, Run] = field(default_factory=dict)
    known: Known = field(default_factory=Known)
    log_id: str = ""
    planned: set[str] = field(default_factory=set)

    @property
    def namespace(self) -> str:
        return f"turnout:{self.environment}"

    def feed(self, event: Event) -> list[RunEvent]:
        self.log_id = self.log_id or event.id  # of the first event: the log's
        name = event.type.removeprefix("turnout.").rpartition(".v")[0]
        if name == "plan.made" and event.statecommit:
            return self._planned(event)
        kind = event.subject.partition("/")[0]
        if kind not in KINDS:
            return []
        if name == "action.started":
            return self._started(event, kind)
        run = self.open.get(event.subject)
        if run is None:
            return []
        if name == "action.succeeded":
            return self._succeeded(event, run)
        begins = event.data.get("action") in ("run", "create", "update", "replace", "delete")
        if name == "action.failed" and begins and not event.data.get("temporary"):
            return [self._end(event, run, "FAIL", str(event.data.get("error") or "failed"))]
        if name == "action.superseded" and begins:
            return [self._end(event, run, "ABORT", "superseded before it was done")]
        return []

    # -- the life of a run ---------------------------------------------------------------------------------------

    def _planned(self, event: Event) -> list[RunEvent]:
        if event.statecommit in self.planned:
            return []  # a commit that came back
        self.planned.add(event.statecommit)
        run = Run(self._id(f"commit {event.statecommit}"), PARENT, event.time, {}, {}, event.statecommit, "")
        run.reason = str(event.data.get("summary") or "")
        return [self._event(event, run, kind) for kind in ("START", "COMPLETE")]

    def _started(self, event: Event, kind: str) -> list[RunEvent]:
        data, subject = event.data, event.subject
        run = self.open.get(subject)
        reason = str(data.get("reason") or "")
        if data.get("action") == "step" or (kind != "ModelBinding" and data.get("action") != "run"):
            if run is not None:
                run.reason = reason or run.reason
            return []
        made = self._id(f"{subject} {data.get('intent')}")
        if run is not None and run.id == made:
            return []  # tried again
        aimed = data.get("after") if isinstance(data.get("after"), Mapping) else data.get("before")
        after, spec = (each if isinstance(each, Mapping) else {} for each in (aimed, data.get("spec")))
        run = self.open[subject] = Run(made, subject, event.time, after, spec, event.statecommit, reason)
        return [self._event(event, run, "START")]

    def _succeeded(self, event: Event, run: Run) -> list[RunEvent]:
        data = event.data
        if isinstance(data.get("after"), Mapping):
            run.after = data["after"]
        run.cost = cost_of(data) if cost_of(data) is not None else run.cost
        ends = str(data.get("ends") or "")
        if run.subject.startswith("ModelBinding/"):
            return [self._end(event, run, "COMPLETE", "")]
        if ends:
            kind = "COMPLETE" if ends in WELL else "FAIL" if ends == "failed" else "ABORT"
            return [self._end(event, run, kind, "" if kind == "COMPLETE" else _said(run))]
        return [self._event(event, run, "RUNNING")] if data.get("action") == "step" else []

    def _end(self, event: Event, run: Run, kind: str, message: str) -> RunEvent:
        del self.open[run.subject]
        told = self._event(event, run, kind, message)
        if kind == "COMPLETE":
            what, _, name = run.subject.partition("/")
            remember(what, name, run.after, self._sides(run)[1], self.known)
        return told

    # -- as OpenLineage ------------------------------------------------------------------------------------------

    def _id(self, text: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"turnout:{self.log_id}:{text}"))

    def _sides(self, run: Run) -> tuple[list[Data], list[Data]]:
        what, _, name = run.subject.partition("/")
        return sides_of(what, name, run.after, run.spec, self.known)

    def _event(self, event: Event, run: Run, kind: str, message: str = "") -> RunEvent:
        inputs, outputs = self._sides(run)
        own = {
            "reason": run.reason[:MOST_TEXT],
            "commit": run.commit,
            "event": event.id,
            "sequence": event.sequence,
            "actor": event.actor,
            "costUsd": run.cost,
        }
        facets = {"turnout_run": _own("run", own), "nominalTime": _facet("nominalTime", nominalStartTime=run.since)}
        if run.commit and run.subject != PARENT:
            parent = {"runId": self._id(f"commit {run.commit}")}
            facets["parent"] = _facet("parent", run=parent, job={"namespace": self.namespace, "name": PARENT})
        if message:
            facets["errorMessage"] = _facet("errorMessage", message=message[:MOST_TEXT], programmingLanguage="Python")
        what = run.subject.partition("/")[0]
        job_type = re.sub(r"(?<=[a-z])(?=[A-Z])|-", "_", what).upper()
        job_facets = {"jobType": _facet("jobType", processingType="BATCH", integration="TURNOUT", jobType=job_type)}
        return {
            "eventType": kind,
            "eventTime": event.time,
            "producer": PRODUCER,
            "schemaURL": SCHEMA,
            "run": {"runId": run.id, "facets": facets},
            "job": {"namespace": self.namespace, "name": run.subject, "facets": job_facets},
            "inputs": [_dataset(each) for each in inputs],
            "outputs": [_output(each, done=kind == "COMPLETE") for each in outputs],
        }


def run_events(events: Iterable[Event], environment: str) -> Iterator[RunEvent]:
    """All of a log, in its order."""
    lineage = Lineage(environment)
    for event in events:
        yield from lineage.feed(event)


def _said(run: Run) -> str:
    """Why a run ended badly, as its kind says it."""
    after = run.after
    told = after.get("said") or after.get("reasons") or run.reason or after.get("phase")
    return " ".join(str(each) for each in told) if isinstance(told, list | tuple) else str(told or "ended")


def _facet(name: str, /, **fields: Any) -> dict[str, Any]:
    version, _, title = FACETS[name].partition("/")
    return {"_producer": PRODUCER, "_schemaURL": f"{SPEC}/facets/{version}/{title}.json#/$defs/{title}", **fields}


def _own(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    known = {key: value for key, value in fields.items() if value not in (None, "")}
    return {"_producer": PRODUCER, "_schemaURL": f"urn:turnout:facet:{name}:1", **known}


def _dataset(data: Data) -> dict[str, Any]:
    facets = {name: _own(name.removeprefix("turnout_"), fields) for name, fields in data.facets.items()}
    facets["dataSource"] = _facet("dataSource", name=data.namespace, uri=data.uri)
    if data.version:
        facets["version"] = _facet("version", datasetVersion=data.version)
    return {"namespace": data.namespace, "name": data.name, "facets": facets}


def _output(data: Data, *, done: bool) -> dict[str, Any]:
    made = {key: value for key, value in data.made.items() if value is not None}
    statistics = {"outputFacets": {"outputStatistics": _facet("outputStatistics", **made)}} if made and done else {}
    return {**_dataset(data), **statistics}
