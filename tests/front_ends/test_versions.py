"""registry, lineage, why and costs on a real repository: what people see and what scripts get."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from controller import reconcile
from controller.app import Controller
from controller.events import Event
from controller.kinds.evaluation.spec import EvaluationState
from controller.kinds.training.spec import TrainingState
from controller.registry_file import Flat, PerAgent
from controller.writer import Writer

Place = Any  # of conftest.py
OLD = {
    "docs": {
        "current": {"version": "v0.9-finetuned", "model": "acme/docs-old", "endpoint": "huggingface", "deployed_at": "2025-12-09"},
        "history": [
            {
                "version": "v0.9-finetuned",
                "model": "acme/docs-old",
                "base_model": "Qwen/Qwen2.5-Coder-7B",
                "training_method": "sft",
                "training_dataset": "ls://rows",
                "eval_scores": {"accuracy": 0.8, "baseline_improvement": "+12%", "avg_latency_ms": 450.0, "cost_per_1k": 0.003},
                "trained_at": "2025-12-08T10:00:00Z",
                "hub_repo": "acme/docs-old",
                "deployment_status": "deployed",
            }
        ],
    }
}


def happened(writer: Writer) -> Iterable[Event]:
    """A training and an evaluation as the executor writes them."""
    training = TrainingState(
        phase="succeeded",
        agent="docs",
        version="v2.0.0",
        method="dpo",
        base_model="acme/base-7B",
        backend="hf_jobs",
        repo="acme/docs-v2",
        revision="c" * 40,
        result="f" * 32,
        dataset={"source": "ls://rows", "revision": "r7", "rows": 900},
        cost_usd=3.2,
    ).full()
    judged = EvaluationState(
        agent="docs",
        phase="completed",
        candidate={"model": "acme/docs-v2", "endpoint": "huggingface", "version": "v2.0.0"},
        baseline={"model": "openai/gpt-4o-mini", "endpoint": "openrouter", "version": "v1.0.0"},
        dataset="ls://questions",
        verdict="deploy",
        score={"candidate": 0.56, "baseline": 0.5},
        examples=120,
        cost=0.25,
    ).full()
    evidence = [
        {"measure": "accuracy", "n": 120, "candidate": 0.9, "baseline": 0.6, "difference": 0.3, "low": 0.17, "high": 0.42}
        | {"state": "better", "role": "gain"}
    ]
    report = {"verdict": {"verdict": "deploy", "rules": {}, "evidence": evidence}, "answers": []}
    for subject, after, more in (
        ("TrainingRequest/docs-v2", training, {}),
        ("Evaluation/docs-v2", judged, {"evidence": {"report": report}}),
    ):
        base = {"action": "run", "intent": f"i-{subject}", "generation": 0}
        cost = {"usd": 4.0, "ceiling": 5.0}
        yield writer.event("action.started", subject, {**base, "after": after, "cost": cost, "reason": f"begins {subject}", **more})
        yield writer.event("action.succeeded", subject, {**base, "after": after, "ends": "completed"})


@pytest.fixture
def proven(applied: Place) -> Place:
    """docs v1.0.0 answers; v2.0.0 was trained and judged."""
    controller = Controller(applied.path)
    controller.addresses()
    flow = controller.flow
    writer = reconcile.open_writer(flow, applied.git("rev-parse", "HEAD"))
    writer.facts(list(happened(writer)))
    controller.close()
    return applied


def row(place: Place, version: str) -> list[str]:
    """The table's row of a version of docs."""
    found: list[str] = next(line.split() for line in place("registry", "docs").out.splitlines() if f" {version} " in line)
    return found


# -- versions --------------------------------------------------------------------------------------------------------


def test_a_version_that_was_trained_and_judged(proven: Place) -> None:
    assert row(proven, "v2.0.0")[:5] == ["docs", "v2.0.0", "candidate", "trained", "acme/docs-v2"]
    assert row(proven, "v2.0.0")[-2:] == ["deploy", "3.45"]
    shown = proven("registry", "docs", "candidate").out
    for text in (
        "docs v2.0.0 (candidate)",
        "ls://rows@r7 (900 rows)",
        "acme/base-7B",
        "90.0 against 60.0, +30.0 points (95 % +17.0 to +42.0 points)",
        "acme/docs-v2@cccccccccccc",
        "TrainingRequest/docs-v2  3.20 USD",
    ):
        assert text in shown
    found = proven("registry", "docs", "v2.0.0", "--json").json
    assert (found["agent"], found["verdict"], found["aliases"], found["cost_usd"]) == ("docs", "deploy", ["candidate"], 3.45)
    assert found["scores"]["accuracy"]["low"] == 0.17


def test_the_history_of_a_version_over_a_deployment_and_its_rollback(proven: Place) -> None:
    proven.replace("state/bindings/docs.yaml", "model: openai/gpt-4o-mini", "model: acme/docs-v2")
    deployed = proven.version("docs", "v2.0.0")
    proven("apply")
    assert row(proven, "v2.0.0")[:4] == ["docs", "v2.0.0", "champion", "deployed"]
    assert proven("rollback", "docs").code == 0
    proven("apply")
    assert row(proven, "v1.0.0")[:4] == ["docs", "v1.0.0", "champion", "deployed"]
    found = proven("registry", "docs", "previous", "--json").json
    assert (found["version"], found["status"], found["rollbacks"]) == ("v2.0.0", "rolled_back", 1)
    (one,) = found["deployments"]
    assert (one["commit"], one["ended"], one["ended_commit"]) == (deployed, "rolled_back", proven.git("rev-parse", "HEAD"))
    assert "rolled back" in proven("registry", "docs", "v2.0.0").out


def test_two_versions_side_by_side(proven: Place) -> None:
    result = proven("registry", "docs", "--compare", "champion", "v2.0.0")
    lines = {line.split("  ")[1].strip(): line for line in result.out.splitlines()[2:]}
    assert "openai/gpt-4o-mini" in lines["model"]
    assert "acme/docs-v2" in lines["model"]
    assert "dpo" in lines["method"]
    assert "90.0 against 60.0" in lines["accuracy"]
    found = proven("registry", "docs", "--compare", "v1.0.0", "v2.0.0", "--json").json
    assert [each["version"] for each in found["versions"]] == ["v1.0.0", "v2.0.0"]
    assert {"model", "training", "scores", "cost_usd"} <= set(found["differ"])


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["docs", "v2.0"], 1, 'did you mean "v2.0.0"?'),
        (["docs", "--compare", "v1.0.0", "v7"], 1, "no version 'v7'"),
        (["--compare", "v1.0.0", "v2.0.0"], 64, "--compare needs the agent"),
        (["docs", "v1.0.0", "--compare", "v1.0.0", "v2.0.0"], 64, "either VERSION or"),
        (["docs", "v1.0.0", "--format", "registry.json"], 64, "whole documents"),
        (["docs", "--import", "/dev/null"], 64, "--import stands alone"),
        (["--import", "no-such.json"], 64, "does not exist"),
    ],
)
def test_registry_called_wrongly(proven: Place, arguments: list[str], code: int, told: str) -> None:
    result = proven("registry", *arguments)
    assert result.code == code
    assert told in result.err


# -- import and export -----------------------------------------------------------------------------------------------


def test_an_import_is_one_event_and_the_same_file_is_nothing_new(proven: Place, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps(OLD))
    before = len(proven("log", "--json").lines)
    result = proven("registry", "--import", str(path))
    assert result.code == 0
    assert "imported 1 version of 1 agent from old.json" in result.out
    events = proven("log", "--json").lines
    assert len(events) == before + 1
    assert events[-1]["type"] == "turnout.registry.imported.v1"
    assert events[-1]["data"]["by"]
    assert "imported 1 version from old.json" in proven("log", "--limit", "1").out
    assert row(proven, "v0.9-finetuned")[:4] == ["docs", "v0.9-finetuned", "imported", "acme/docs-old"]
    again = proven("registry", "--import", str(path), "--json").json
    assert (again["already"], again["sequence"]) == (True, events[-1]["sequence"])
    assert "imported before" in proven("registry", "--import", str(path)).out
    assert len(proven("log", "--json").lines) == before + 1
    assert proven("log", "verify").code == 0
    assert proven("registry", "docs", "champion", "--json").json["version"] == "v1.0.0"


def test_a_registry_with_mistakes_changes_nothing(proven: Place, tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"models": [{"agent": "docs", "model_id": "m", "version": 3}, {"agent": "docs", "modelid": "m"}]}))
    before = proven("log", "--json").out
    result = proven("registry", "--import", str(path))
    assert result.code == 1
    for text in (
        "$.models[0].version",
        "$.models[1].model_id",
        "$.models[1].modelid",
        "$.models[1].version",
        "nothing was imported",
    ):
        assert text in result.err
    assert proven("log", "--json").out == before


def test_a_large_registry_is_a_blob_of_its_commit(proven: Place, tmp_path: Path) -> None:
    models = [
        {"agent": f"agent-{number % 40}", "model_id": f"acme/{'m' * 60}", "version": f"v{number}", "deployed_at": "2025-01-01"}
        for number in range(2000)
    ]
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"models": models}))
    assert proven("registry", "--import", str(path)).code == 0
    kept = proven.git("ls-tree", "-r", "--name-only", "events/local")
    assert "blobs/" in kept
    assert len(proven("registry", "agent-7", "--json").json["agent-7"]["history"]) == 50
    assert proven("log", "verify").code == 0


def test_exports_are_files_that_other_tools_read(proven: Place, tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    path.write_text("old")
    assert proven("registry", "--format", "per-agent.json", "--output", str(path)).out == ""
    document = json.loads(path.read_text())
    PerAgent.model_validate(document)
    assert document == proven("registry", "--json").json
    new = next(each for each in document["docs"]["history"] if each["version"] == "v2.0.0")
    assert (new["base_model"], new["training_method"], new["training_dataset"]) == ("acme/base-7B", "dpo", "ls://rows@r7")
    assert new["eval_scores"] == {
        "accuracy": 0.9,
        "baseline_improvement": "+12%",
        "avg_latency_ms": None,
        "cost_per_1k": None,
    }
    assert (new["eval_dataset"], new["hub_repo"], new["deployment_status"]) == ("ls://questions", "acme/docs-v2", "trained")
    assert proven("registry", "--format", "registry.json", "--output", str(path)).code == 0
    assert len(Flat.model_validate_json(path.read_text()).models) == 4
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".registry")] == []
    assert proven("registry", "--format", "registry.json", "--output", str(tmp_path / "no" / "x")).code == 1


def test_what_one_place_exports_another_imports(proven: Place, tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    assert proven("registry", "--format", "per-agent.json", "--output", str(first)).code == 0
    result = proven("registry", "--import", str(first))
    assert result.code == 0
    assert proven("registry", "--format", "per-agent.json", "--output", str(second)).code == 0
    assert json.loads(second.read_text()) == json.loads(first.read_text())


# -- lineage and why -------------------------------------------------------------------------------------------------


def test_lineage_as_a_tree(proven: Place) -> None:
    result = proven("lineage", "Evaluation/docs-v2")
    assert result.code == 0
    for text in ("Came from", "TrainingRequest/docs-v2", "langsmith:rows@r7", "langsmith:questions", "acme/base-7B"):
        assert text in result.out
    assert "Evaluation/docs-v2" in proven("lineage", "TrainingRequest/docs-v2").out.partition("Led to")[2]
    everything = proven("lineage").out
    for agent in ("docs", "cicd"):
        assert f"ModelBinding/{agent}" in everything
    assert proven("lineage", "dosc").code == 1


def test_lineage_for_other_tools(proven: Place, tmp_path: Path) -> None:
    events = proven("lineage", "--format", "openlineage").lines
    assert {event["eventType"] for event in events} == {"START", "COMPLETE"}
    assert {event["job"]["name"] for event in events} >= {"TrainingRequest/docs-v2", "Evaluation/docs-v2", "ModelBinding/docs"}
    path = tmp_path / "lineage.jsonl"
    assert proven("lineage", "--output", str(path)).code == 0
    assert [json.loads(line) for line in path.read_text().splitlines()] == events
    some = proven("lineage", "ModelBinding/cicd", "--format", "openlineage").lines
    assert {event["job"]["name"] for event in some} == {"ModelBinding/cicd"}


def test_lineage_of_nothing(place: Place) -> None:
    assert "nothing has run yet" in place("lineage").out
    assert place("lineage", "--format", "openlineage").out == ""
    assert "has no lineage" in place("lineage", "docs").err


def test_why_tells_what_let_a_version_be_there(proven: Place) -> None:
    proven.replace("state/bindings/docs.yaml", "model: openai/gpt-4o-mini", "model: acme/docs-v2")
    proven.version("docs", "v2.0.0")
    proven("apply")
    shown = proven("why", "docs").out
    assert "What let it be there" in shown
    assert "evaluation: docs-v2: deploy, score 56.0 against 50.0 on ls://questions, 0.25 USD" in shown
    assert "training: docs-v2: dpo of acme/base-7B on ls://rows@r7, 3.20 USD, result ffff" in shown
    chain = proven("why", "docs", "--json").json["chain"]
    assert [link["what"] for link in chain if link["what"] in ("evaluation", "training")] == ["evaluation", "training"]
    assert "What let it be there" not in proven("why", "cicd").out


# -- costs -----------------------------------------------------------------------------------------------------------


def test_costs(proven: Place) -> None:
    shown = proven("costs").out
    assert "3.45 USD spent, 0.00 reserved, no limit is set" in shown
    assert "  docs: 3.45 USD spent" in shown
    assert "  TrainingRequest: 3.20 USD spent" in proven("costs", "--by", "kind").out
    assert "Evaluation/docs-v2" in proven("costs", "--by", "resource").out
    assert "Evaluation/docs-v2" not in proven("costs", "--by", "agent").out
    found = proven("costs", "--json").json
    assert (found["spent"], found["left"], found["kinds"]["Evaluation"]["spent"]) == (3.45, None, 0.25)
    months = proven("costs", "--months", "3", "--json").json["months"]
    assert [month["spent"] for month in months] == [0, 0, 3.45]
    assert proven("costs", "--month", "last").code == 64


def test_costs_as_bars(proven: Place) -> None:
    shown = proven("costs", "--plot", "--by", "kind").out.splitlines()
    bar = shown[0].split("  ")[1]
    assert bar.rstrip(" 3.45").strip("█▓") == ""
    assert bar.count("█") == round(50 * 3.2 / 3.45)
    assert shown[1:3] == ["██ TrainingRequest: 3.20 USD", "▓▓ Evaluation: 0.25 USD"]
    assert "nothing was spent in 2020-01" in proven("costs", "--plot", "--month", "2020-01").out
    assert len(proven("costs", "--plot", "--months", "12").out.splitlines()) == 14


def test_costs_as_a_page(proven: Place, tmp_path: Path) -> None:
    path = tmp_path / "costs.html"
    assert proven("costs", "--html", str(path), "--months", "2").out == f"wrote {path}\n"
    page = path.read_text()
    assert page.count("<svg") == 1
    assert "TrainingRequest/docs-v2" in page


@pytest.mark.parametrize("command", [["registry", "docs", "champion"], ["lineage"], ["costs", "--plot"]])
def test_looking_at_versions_changes_nothing(proven: Place, command: list[str]) -> None:
    before = proven.git("for-each-ref"), proven.git("status", "--porcelain")
    assert proven(*command).code == 0
    assert (proven.git("for-each-ref"), proven.git("status", "--porcelain")) == before


# -- an OpenLineage server -------------------------------------------------------------------------------------------


class Server:
    """Takes events on loopback until it has `most`, then refuses."""

    def __init__(self, most: int) -> None:
        taken: list[tuple[str, str, dict[str, Any]]] = []

        class Answers(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                good = len(taken) < most
                if good:
                    taken.append((self.path, self.headers.get("Authorization", ""), json.loads(body)))
                self.send_response(201 if good else 422)
                self.end_headers()
                self.wfile.write(b"" if good else b"no more \x1b[31m")

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.taken = taken
        self.http = HTTPServer(("127.0.0.1", 0), Answers)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever)

    def __enter__(self) -> Server:
        self.thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.mark.parametrize("path", ["", "/", "/api/v1/lineage"])
def test_lineage_is_sent_to_a_server(proven: Place, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "k-1")
    with Server(1000) as server:
        result = proven("lineage", "--post", server.url + path)
    assert (result.code, result.out) == (0, "")
    assert [event for _, _, event in server.taken] == proven("lineage", "--format", "openlineage").lines
    assert {(where, key) for where, key, _ in server.taken} == {("/api/v1/lineage", "Bearer k-1")}


def test_a_server_that_refuses_or_is_not_there_is_told(proven: Place) -> None:
    with Server(2) as server:
        result = proven("lineage", "--post", server.url)
    assert result.code == 1
    assert "answered 422 to event 3 of" in result.err
    assert "2 were sent" in result.err
    assert "\x1b" not in result.err
    assert "could not be asked for event 1" in proven("lineage", "--post", server.url).err
    for wrong in ("ftp://x", "marquez:5000", "http://", "http://me:secret@host"):
        result = proven("lineage", "--post", wrong)
        assert result.code == 1
        assert "is not the address" in result.err
        assert "secret" not in result.err
