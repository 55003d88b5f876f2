"""Lineage over events as the executor writes them: run events that OpenLineage accepts, endings of all kinds, trees."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import jsonschema
import pytest

from controller.events import Event
from controller.projections.lineage import PARENT, Lineage, RunEvent, run_events
from controller.projections.lineage_data import KINDS
from controller.projections.lineage_tree import Graph

FACET = {
    "type": "object",
    "required": ["_producer", "_schemaURL"],
    "properties": {name: {"type": "string", "pattern": "^(https?://|urn:)"} for name in ("_producer", "_schemaURL")},
}
FACETS = {"type": "object", "additionalProperties": FACET}
DATASET = {
    "type": "object",
    "required": ["namespace", "name"],
    "additionalProperties": False,
    "properties": {
        "namespace": {"type": "string", "minLength": 1},
        "name": {"type": "string", "minLength": 1},
        "facets": FACETS,
        "inputFacets": FACETS,
        "outputFacets": FACETS,
    },
}
RUN_EVENT = {
    "type": "object",
    "required": ["eventType", "eventTime", "producer", "schemaURL", "run", "job", "inputs", "outputs"],
    "additionalProperties": False,
    "properties": {
        "eventType": {"enum": ["START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER"]},
        "eventTime": {"type": "string", "format": "date-time"},
        "producer": {"type": "string", "pattern": "^(https?://|urn:)"},
        "schemaURL": {"const": "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"},
        "run": {
            "type": "object",
            "required": ["runId"],
            "properties": {"runId": {"type": "string", "pattern": "^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$"}, "facets": FACETS},
        },
        "job": {"type": "object", "required": ["namespace", "name"], "properties": {"facets": FACETS}},
        "inputs": {"type": "array", "items": DATASET},
        "outputs": {"type": "array", "items": DATASET},
    },
}
"""What version 2-0-2 of the specification asks of a run event, written from its text."""
SPEC_FACETS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "parent": ("ParentRunFacet", ("run", "job")),
    "nominalTime": ("NominalTimeRunFacet", ("nominalStartTime",)),
    "errorMessage": ("ErrorMessageRunFacet", ("message", "programmingLanguage")),
    "version": ("DatasetVersionDatasetFacet", ("datasetVersion",)),
    "dataSource": ("DatasourceDatasetFacet", ("name", "uri")),
    "jobType": ("JobTypeJobFacet", ("processingType", "integration")),
    "outputStatistics": ("OutputStatisticsOutputDatasetFacet", ()),
}


class Log:
    """Events as they come; `story` is one chain with every ending."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(self, kind: str, subject: str = "", **data: Any) -> None:
        number = len(self.events) + 1
        self.events.append(
            Event(
                id=str(uuid.UUID(int=number)),
                source="turnout/local/m",
                type=f"turnout.{kind}.v1",
                subject=subject,
                time=f"2026-11-01T00:{number // 60:02d}:{number % 60:02d}.000000Z",
                sequence=number,
                statecommit="a" * 40,
                actor="turnout",
                data=data,
            )
        )

    def run(self, subject: str, after: Any, ends: str = "", action: str = "run", last: Any = None, **spec: Any) -> None:
        key = f"{subject} {len(self.events)}"
        self.add("action.started", subject, action=action, intent=key, reason=f"begins {subject}", after=after, spec=spec)
        if not ends:
            self.add("action.succeeded", subject, action=action, intent=key, after=after, running=action == "run")
            return
        self.add("action.succeeded", subject, action=action, intent=key, after=after, running=True)
        self.add("action.started", subject, action="step", intent=f"{key}-end", reason=f"ends {subject}", after=last or after)
        self.add("action.succeeded", subject, action="step", intent=f"{key}-end", after=last or after, ends=ends)


def target(version: str, model: str = "acme/docs", endpoint: str = "huggingface") -> dict[str, str]:
    return {"model": model, "version": version, "endpoint": endpoint}


def training(version: str = "v2", **more: Any) -> dict[str, Any]:
    rows = {"source": "ls://rows", "revision": "r7", "rows": 9, "digest": "d1"}
    state = {"phase": "queued", "agent": "docs", "version": version, "method": "sft", "base_model": "acme/base-7B", "dataset": rows}
    return {**state, "repo": "acme/docs", **more}


def story() -> list[Event]:
    log = Log()
    log.add("log.opened", environment="local")
    log.add("plan.made", summary="1 to create")
    log.run("ModelBinding/docs", target("v1", "acme/old"), action="create")
    done = training(phase="succeeded", revision="c" * 40, result="f" * 32, files=3, bytes=1000, cost_usd=1.5)
    log.run("TrainingRequest/docs-v2", training(), "completed", last=done)
    judged = {
        "agent": "docs",
        "phase": "running",
        "candidate": target("v2"),
        "baseline": target("v1", "acme/old"),
        "dataset": "q.jsonl",
    }
    log.run("Evaluation/docs-v2", judged, "completed", last={**judged, "verdict": "deploy", "cost": 0.2})
    files = [{"name": "docs.gguf", "quantization": "Q8_0", "bytes": 5, "sha256": "e" * 64}]
    made = {"phase": "succeeded", "source": {"training": "docs-v2"}, "files": files, "repo": "acme/docs-gguf"}
    log.run("Conversion/docs-v2", {"phase": "running", "source": {"training": "docs-v2"}}, "completed", last=made)
    tried = {"binding": "docs", "phase": "progressing", "candidate": target("v2"), "stable": target("v1", "acme/old")}
    log.run("Rollout/docs-v2", tried, "promoted", last={**tried, "phase": "promoted"}, evaluation="docs-v2")
    log.run("ModelBinding/docs", target("v2"), action="update")
    return log.events


def check(events: list[RunEvent]) -> None:
    """What the specification asks of every event and of every run."""
    for event in events:
        jsonschema.validate(json.loads(json.dumps(event)), RUN_EVENT)
        datetime.fromisoformat(event["eventTime"])
        parts = [event["run"]["facets"], event["job"]["facets"]]
        parts += [each.get(key, {}) for each in (*event["inputs"], *event["outputs"]) for key in ("facets", "outputFacets")]
        for name, facet in ((name, facet) for part in parts for name, facet in part.items()):
            if name.startswith("turnout_"):
                assert facet["_schemaURL"].startswith("urn:turnout:facet:")
                continue
            title, needed = SPEC_FACETS[name]
            assert facet["_schemaURL"].endswith(f"/{title}.json#/$defs/{title}")
            assert set(needed) <= set(facet)
    runs: dict[str, list[str]] = {}
    for event in events:
        runs.setdefault(event["run"]["runId"], []).append(event["eventType"])
    for states in runs.values():
        assert states[0] == "START"
        assert states.count("START") == 1
        assert sum(state in ("COMPLETE", "FAIL", "ABORT") for state in states) <= 1


def test_a_chain_as_openlineage() -> None:
    events = list(run_events(story(), "local"))
    check(events)
    ended = {(event["job"]["name"], event["eventType"]) for event in events}
    kinds = ("TrainingRequest", "Evaluation", "Conversion", "Rollout", "ModelBinding")
    assert set(kinds) == set(KINDS)
    for kind in kinds:
        name = "docs" if kind == "ModelBinding" else "docs-v2"
        assert {(f"{kind}/{name}", "START"), (f"{kind}/{name}", "COMPLETE")} <= ended
    parents = {event["run"]["facets"].get("parent", {}).get("run", {}).get("runId") for event in events} - {None}
    assert parents == {event["run"]["runId"] for event in events if event["job"]["name"] == PARENT}


def test_the_clients_own_models_take_every_event() -> None:
    """openlineage-python is what other tools read such events with."""
    client = pytest.importorskip("openlineage.client.event_v2")
    facets = pytest.importorskip("openlineage.client.facet_v2")
    by_title = {
        each.__name__: each
        for module in vars(facets).values()
        if hasattr(module, "__name__") and str(getattr(module, "__name__", "")).startswith("openlineage.client.generated.")
        for each in vars(module).values()
        if isinstance(each, type)
    }

    def made(given: Mapping[str, Any]) -> dict[str, Any]:
        out = {}
        for name, facet in given.items():
            if name.startswith("turnout_"):
                continue
            known = by_title[SPEC_FACETS[name][0]]
            fields = {key: value for key, value in facet.items() if not key.startswith("_")}
            out[name] = known(**fields, producer=facet["_producer"])
            assert out[name]._get_schema() == facet["_schemaURL"]
        return out

    for event in run_events(story(), "local"):
        run, job = event["run"], event["job"]
        inputs = [client.InputDataset(one["namespace"], one["name"], facets=made(one["facets"])) for one in event["inputs"]]
        outputs = [
            client.OutputDataset(one["namespace"], one["name"], made(one.get("outputFacets", {})), facets=made(one["facets"]))
            for one in event["outputs"]
        ]
        taken = client.RunEvent(
            eventType=client.RunState(event["eventType"]),
            eventTime=event["eventTime"],
            run=client.Run(run["runId"], made(run["facets"])),
            job=client.Job(job["namespace"], job["name"], made(job["facets"])),
            producer=event["producer"],
            inputs=inputs,
            outputs=outputs,
        )
        assert taken.schemaURL == event["schemaURL"]


def test_the_same_log_gives_the_same_runs_and_another_log_others() -> None:
    events = story()
    ids = [event["run"]["runId"] for event in run_events(events, "local")]
    assert ids == [event["run"]["runId"] for event in run_events(events, "local")]
    other = Log()
    other.add("log.opened", environment="local")
    other.events[0] = Event(id="another", source="t", type="turnout.log.opened.v1", sequence=1)
    assert not set(ids) & {event["run"]["runId"] for event in run_events([*other.events, *events[1:]], "local")}


@pytest.mark.parametrize(
    ("ends", "state", "message"),
    [
        ("failed", {"phase": "failed", "said": "out of memory"}, ("FAIL", "out of memory")),
        ("cancelled", {"phase": "cancelled", "said": "its file is gone"}, ("ABORT", "its file is gone")),
        ("aborted", {"phase": "aborted", "reasons": ["worse", "by far"]}, ("ABORT", "worse by far")),
        ("superseded", None, ("ABORT", "ends TrainingRequest/docs-v2")),
    ],
)
def test_bad_endings_say_why(ends: str, state: Any, message: tuple[str, str]) -> None:
    log = Log()
    log.run("TrainingRequest/docs-v2", training(), ends, last=training(**state) if state else training())
    events = list(run_events(log.events, "local"))
    check(events)
    assert (events[-1]["eventType"], events[-1]["run"]["facets"]["errorMessage"]["message"]) == message
    assert "outputStatistics" not in events[-1]["outputs"][0].get("outputFacets", {})


def test_a_start_that_is_tried_again_is_one_start_and_one_that_fails_for_good_ends() -> None:
    log = Log()
    lineage = Lineage("local")
    told: list[RunEvent] = []
    for temporary in (True, True, False):
        log.add("action.started", "TrainingRequest/t", action="run", intent="one", after=training())
        log.add("action.failed", "TrainingRequest/t", action="run", intent="one", error="no such base model", temporary=temporary)
    for event in log.events:
        told += lineage.feed(event)
    check(told)
    assert [event["eventType"] for event in told] == ["START", "FAIL"]
    assert told[-1]["run"]["facets"]["errorMessage"]["message"] == "no such base model"
    assert lineage.open == {}


def test_an_intent_that_is_given_up_is_aborted_and_the_next_is_a_run_of_its_own() -> None:
    log = Log()
    log.add("action.started", "ModelBinding/docs", action="create", intent="one", after=target("v1"))
    log.add("action.superseded", "ModelBinding/docs", action="create", intent="one")
    log.add("action.started", "ModelBinding/docs", action="create", intent="two", after=target("v2"))
    log.add("action.succeeded", "ModelBinding/docs", action="create", intent="two", after=target("v2"))
    log.add("action.started", "ModelBinding/docs", action="delete", intent="three", before=target("v2"), after=None)
    log.add("action.succeeded", "ModelBinding/docs", action="delete", intent="three", after=None)
    events = list(run_events(log.events, "local"))
    check(events)
    assert [event["eventType"] for event in events] == ["START", "ABORT", "START", "COMPLETE", "START", "COMPLETE"]
    assert len({event["run"]["runId"] for event in events}) == 3


def test_a_failed_step_ends_nothing() -> None:
    log = Log()
    log.run("TrainingRequest/t", training())
    log.add("action.started", "TrainingRequest/t", action="step", intent="one-2", after=training())
    log.add("action.failed", "TrainingRequest/t", action="step", intent="one-2", error="no", temporary=False)
    assert [event["eventType"] for event in run_events(log.events, "local")] == ["START"]


def test_what_was_not_pushed_is_still_one_dataset() -> None:
    log = Log()
    log.run("TrainingRequest/t", training(repo=""), "completed", last=training(repo="", phase="succeeded", result="f" * 32))
    log.run("ModelBinding/docs", target("v2", "served-here", "pool"), action="create")
    events = list(run_events(log.events, "local"))
    made = next(e for e in events if e["eventType"] == "COMPLETE")["outputs"][0]
    read = next(e for e in events if e["job"]["name"] == "ModelBinding/docs")["inputs"][0]
    assert (made["namespace"], made["name"]) == (read["namespace"], read["name"]) == ("turnout", "artefacts/t")
    assert read["facets"]["turnout_model"]["endpoint"] == "pool"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_states_of_a_newer_writer_do_not_break_it(kind: str) -> None:
    log = Log()
    for after in ({}, {"phase": 3, "candidate": "x", "dataset": 7, "files": 3, "source": [], "base_model": None}):
        log.run(f"{kind}/x", after, "completed")
    check(list(run_events(log.events, "local")))


def test_trees_up_and_down() -> None:
    graph = Graph(run_events(story(), "local"))
    start = graph.newest("ModelBinding/docs")
    assert start is not None
    up = [(line.depth, line.text.partition(":")[0]) for line in graph.upstream(start) if line.what == "run" and not line.seen]
    assert up == [(0, "ModelBinding/docs"), (1, "Rollout/docs-v2"), (2, "Evaluation/docs-v2"), (4, "TrainingRequest/docs-v2")]
    shown = [line.text for line in graph.upstream(start) if line.what == "data"]
    assert shown[:2] == ["git:q.jsonl", "https://huggingface.co/acme/docs@cccccccccccc"]
    assert shown[2:4] == ["langsmith:rows@r7", "https://huggingface.co/acme/base-7B"]
    training_run = graph.newest("TrainingRequest/docs-v2")
    assert training_run is not None
    down = {line.text.partition(":")[0] for line in graph.downstream(training_run) if line.what == "run"}
    assert down == {"Evaluation/docs-v2", "Conversion/docs-v2", "Rollout/docs-v2", "ModelBinding/docs"}
    assert len(graph.connected(training_run)) == 5  # the first binding had nothing to do with it
    assert graph.newest("TrainingRequest/none") is None
    assert graph.jobs("ModelBinding") == ["ModelBinding/docs"]
