"""The commands that only look: validate, plan, log, why, status, registry, schemas."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

Place = Result = Any  # of conftest.py
ROOT = Path(__file__).parents[2]


# -- validate --------------------------------------------------------------------------------------------------------


def test_validate(place: Place) -> None:
    assert place("validate").out == "4 resources, no problems\n"
    assert place("validate", "--json").json == {"resources": 4, "problems": []}


def test_validate_finds_every_problem(place: Place) -> None:
    head = place.git("rev-parse", "HEAD")
    place.replace("state/bindings/docs.yaml", "version:", "versoin:")
    place.replace("state/bindings/cicd.yaml", "endpoint: huggingface", "endpoint: hugingface")
    place.write("state/bindigs/x.yaml", "kind: ModelBinding\n")
    result = place("validate")
    assert result.code == 1
    assert 'did you mean "version"?' in result.out
    assert 'did you mean "huggingface"?' in result.out
    assert 'did you mean "bindings"?' in result.out
    assert "state/bindings/docs.yaml:9" in result.out
    found = place("validate", "--json")
    assert found.code == 1
    assert {problem["path"] for problem in found.json["problems"]} >= {"state/bindings/docs.yaml", "state/bindigs/x.yaml"}
    assert place("validate", "--commit", head).code == 0
    assert place("validate", "--commit", "nothing").code == 1


def test_validate_broken_settings(place: Place) -> None:
    place.replace("environments/local/environment.yaml", "writeBack: direct", "writeBack: maybe")
    result = place("validate")
    assert result.code == 1
    assert "spec.writeBack" in result.out
    assert place("validate", "--json").code == 1


# -- plan ------------------------------------------------------------------------------------------------------------


def test_plan(place: Place) -> None:
    result = place("plan")
    assert result.code == 2
    assert "ModelBinding" in result.out
    assert "+ docs" in result.out
    assert "Plan: 4 to create, 0 to delete. Estimated cost 0.00 USD (at most 0.00). Digest" in result.out
    head = place.git("rev-parse", "--short=7", "HEAD")
    assert f"reversible: git revert {head}" in result.out


def test_plan_json_is_what_the_schema_says(with_gateway: Place) -> None:
    result = with_gateway("plan", "--json")
    assert result.code == 2
    jsonschema.validate(result.json, json.loads((ROOT / "schemas/plan.json").read_text()))
    assert result.json["summary"] == {"create": 5}


def test_plan_of_nothing(applied: Place) -> None:
    result = applied("plan")
    assert result.code == 0
    assert "nothing to do" in result.out
    everything = applied("plan", "--all")
    assert everything.code == 0
    assert "=  ModelBinding/docs" in everything.out


def test_plan_of_the_work_tree(applied: Place) -> None:
    applied.replace("state/bindings/docs.yaml", "version: v1.0.0", "version: v1.0.1")
    assert applied("plan").code == 0
    result = applied("plan", "--worktree")
    assert result.code == 2
    assert "version  v1.0.0 -> v1.0.1" in result.out
    assert "the files of the work tree" in result.out
    assert "1 to update" in result.out


def test_plan_of_a_commit(applied: Place) -> None:
    begin = applied.git("rev-parse", "HEAD")
    newer = applied.version("docs", "v9")
    assert applied("plan", "--commit", newer).code == 2
    assert applied("plan", "--commit", begin).code == 0
    assert applied("plan", "--commit", "no-such").code == 1


def test_plan_tells_what_waits_and_what_to_do(applied: Place) -> None:
    applied.replace("state/bindings/docs.yaml", "endpoint: openrouter", "endpoint: openruter")
    applied.commit("Typo")
    result = applied("plan")
    assert result.code == 2
    assert "waits: " in result.out
    assert 'did you mean "openrouter"?' in result.out
    assert "to do: correct the field" in result.out
    assert "1 waits" in result.out


def test_plan_with_a_broken_file(applied: Place) -> None:
    applied.write("state/bindings/docs.yaml", "kind: [broken\n")
    applied.version("cicd", "v2")
    result = applied("plan")
    assert result.code == 1
    assert "~ cicd" in result.out
    assert "state/bindings/docs.yaml" in result.out
    assert "(Quarantined)" in result.out


def test_plan_of_a_rollout_and_a_removal(applied: Place) -> None:
    applied.rollout(strategy="{canary: [{weight: 20, hold: 1h}]}")
    (applied.path / "state/bindings/cicd.yaml").unlink()
    applied.commit("Remove cicd")
    result = applied("plan")
    assert result.code == 2
    assert "> docs-v2  20 % of sessions to v2.0.0 (was v1.0.0)" in result.out
    assert "- cicd" in result.out
    assert "turnout rollback ModelBinding/cicd" in result.out
    assert "1 to run, 1 to delete" in result.out


def test_no_secret_is_shown() -> None:
    from controller.cli.text import masked, shown

    assert shown("sk-12345", "spec.apiKey") == "(hidden)"
    assert shown("env:OPENROUTER_API_KEY", "spec.apiKey") == "env:OPENROUTER_API_KEY"
    assert shown("https://me:pw@example.org/v1", "url") == "https://(hidden)@example.org/v1"
    assert masked({"a": [{"token": "x", "url": "http://h"}]}) == {"a": [{"token": "(hidden)", "url": "http://h"}]}


# -- log -------------------------------------------------------------------------------------------------------------


def test_log(applied: Place) -> None:
    result = applied("log")
    assert result.code == 0
    assert result.out.startswith("0001  ")
    assert "opened the log of local" in result.out
    assert len(applied("log", "--limit", "2").out.splitlines()) == 2


def test_log_filters(applied: Place) -> None:
    applied.version("docs", "v2")
    applied("apply")
    about = applied("log", "--subject", "docs", "--json").lines
    assert {event["subject"] for event in about} == {"ModelBinding/docs"}
    assert applied("log", "--subject", "ModelBinding/docs", "--json").lines == about
    types = {event["type"] for event in applied("log", "--type", "action.succeeded", "--json").lines}
    assert types == {"turnout.action.succeeded.v1"}
    assert len({event["type"] for event in applied("log", "--type", "lease", "--json").lines}) == 2
    wrong = applied("log", "--subject", "dosc")
    assert wrong.code == 1
    assert 'did you mean "docs"?' in wrong.err


def test_log_as_cloudevents(applied: Place) -> None:
    schema = json.loads((ROOT / "schemas/event.json").read_text())
    events = applied("log", "--json").lines
    for event in events:
        jsonschema.validate(event, schema)
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))


def test_log_verify(applied: Place) -> None:
    count = len(applied("log", "--json").lines)
    assert applied("log", "verify").out == f"{count} events, chain and sequence are whole\n"
    tree = applied.git("rev-parse", "events/local^{tree}")
    applied.git("update-ref", "refs/heads/events/local", applied.git("commit-tree", tree, "-m", "Forged"))
    result = applied("log", "verify")
    assert result.code == 1
    assert result.err.startswith("error: ")


def test_log_of_nothing(place: Place) -> None:
    result = place("log")
    assert result.code == 0
    assert "empty" in result.err


# -- why, status, registry -------------------------------------------------------------------------------------------


def test_why(applied: Place) -> None:
    applied.version("docs", "v2")
    applied("apply")
    result = applied("why", "docs")
    assert result.code == 0
    for word in ("What runs now", "version v2", '"docs to v2" by Ada <ada@example.org>', "state/bindings/docs.yaml"):
        assert word in result.out
    chain = applied("why", "docs", "--json").json
    assert chain["address"] == "ModelBinding/docs"
    assert {"runs", "event", "commit", "file"} <= {link["what"] for link in chain["chain"]}
    wrong = applied("why", "dcos")
    assert wrong.code == 1
    assert 'did you mean "docs"?' in wrong.err


def test_status(applied: Place) -> None:
    result = applied("status")
    assert result.code == 0
    assert result.out.splitlines()[0].split() == ["KIND", "NAME", "HEALTH", "SINCE", "WHAT", "AND", "CONDITIONS"]
    assert "openai/gpt-4o-mini v1.0.0 at openrouter" in result.out
    assert {each["health"] for each in applied("status", "--json").json} == {"Healthy"}
    one = applied("status", "docs")
    assert "ModelBinding/docs" in one.out
    assert "cicd" not in one.out
    assert applied("status", "dcos").code == 1


def test_status_of_nothing(place: Place) -> None:
    assert "nothing is there yet" in place("status").out
    assert place("status", "--json").json == []


def test_status_at(applied: Place) -> None:
    begin = applied.git("rev-parse", "HEAD")
    before = applied("log", "--json").lines[-1]
    applied.version("docs", "v2")
    applied("apply")

    def version(*at: str) -> str:
        return str(applied("status", "docs", "--json", *at).json[0]["state"]["version"])

    assert version() == "v2"
    assert version("--at", begin) == "v1.0.0"
    assert version("--at", "HEAD") == "v2"
    assert version("--at", before["time"]) == "v1.0.0"
    assert version("--at", str(before["sequence"])) == "v1.0.0"
    assert "nothing was there" in applied("status", "--at", "1").out
    assert applied("status", "docs", "--at", "1").code == 1
    wrong = applied("status", "--at", "yesterday")
    assert wrong.code == 1
    assert "yesterday" in wrong.err


def test_status_shows_conditions(applied: Place) -> None:
    applied.write("state/bindings/docs.yaml", "kind: [broken\n")
    applied.commit("Break docs")
    assert applied("apply").code == 3
    result = applied("status")
    assert "! Quarantined: state/bindings/docs.yaml" in result.out
    docs = next(each for each in applied("status", "--json").json if each["name"] == "docs")
    assert "Quarantined" in docs["conditions"]


def test_registry(applied: Place) -> None:
    commit = applied.version("docs", "v2")
    applied("apply")
    result = applied("registry", "docs")
    newest, older = result.out.splitlines()[1:]
    assert newest.split()[:4] == ["docs", "v2", "champion", "deployed"]
    assert "Ada" in newest
    assert commit[:7] in newest
    assert older.split()[:4] == ["docs", "v1.0.0", "previous", "retired"]
    flat = applied("registry", "--format", "registry.json").json["models"]
    assert {"agent", "model_id", "version", "deployed_at", "evaluation_score", "training_job_id"} == set(flat[0])
    assert len(flat) == 4
    per_agent = applied("registry", "docs", "--json").json
    assert per_agent == applied("registry", "docs", "--format", "per-agent.json").json
    assert per_agent["docs"]["current"]["version"] == "v2"
    assert [each["version"] for each in per_agent["docs"]["history"]] == ["v1.0.0", "v2"]
    wrong = applied("registry", "dcos")
    assert wrong.code == 1
    assert 'did you mean "docs"?' in wrong.err


def test_registry_of_nothing(place: Place) -> None:
    assert "no agent" in place("registry").out
    assert place("registry", "--json").json == {}


# -- schemas ---------------------------------------------------------------------------------------------------------


def test_schemas(turnout: Callable[..., Result], tmp_path: Path) -> None:
    everything = turnout("schemas").json
    assert {"ModelBinding.json", "Rollout.json", "Gateway.json", "event.json", "plan.json"} <= set(everything)
    assert turnout("schemas", "--check", str(tmp_path / "none")).code == 1
    assert turnout("schemas", "--write", str(tmp_path / "s")).code == 0
    assert turnout("schemas", "--check", str(tmp_path / "s")).code == 0
    (tmp_path / "s/plan.json").write_text("{}")
    stale = turnout("schemas", "--check", str(tmp_path / "s"))
    assert stale.code == 1
    assert "plan.json" in stale.err


@pytest.mark.parametrize("command", ["plan", "validate", "why", "status", "registry", "log"])
def test_looking_changes_nothing(applied: Place, command: str) -> None:
    before = applied.git("for-each-ref"), applied.git("status", "--porcelain")
    applied(command, *(["docs"] if command == "why" else []))
    assert (applied.git("for-each-ref"), applied.git("status", "--porcelain")) == before
