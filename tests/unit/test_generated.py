"""What is generated from the code is what is committed: schemas and the event reference."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from controller import events
from controller.document import parse, plain
from controller.reference import events_page
from controller.schemas import all_schemas, plan_as_json, text_of
from controller.testing.simulation import Simulation, binding, rollout

ROOT = Path(__file__).parents[2]


def test_schemas_are_fresh() -> None:
    made = {name: text_of(schema) for name, schema in all_schemas().items()}
    kept = {path.name: path.read_text() for path in (ROOT / "schemas").glob("*.json")}
    assert kept == made, "run `make schemas`"


def test_the_event_reference_is_fresh() -> None:
    assert (ROOT / "docs/events.md").read_text() == events_page(), "run `make schemas`"


@pytest.mark.parametrize("name", sorted(all_schemas()))
def test_schemas_are_valid_and_speak(name: str) -> None:
    schema = all_schemas()[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    if name not in ("event.json", "plan.json"):
        silent = list(_silent(schema, name))
        assert not silent


def _silent(schema: Any, where: str) -> Any:
    """Fields without title, description or examples."""
    if not isinstance(schema, dict):
        return
    for name, field in schema.get("properties", {}).items():
        missing = [key for key in ("title", "description", "examples") if key not in field]
        if missing and not (name == "spec" and missing == ["examples"]):
            yield f"{where}.{name} lacks {', '.join(missing)}"
        yield from _silent(field, f"{where}.{name}")
    for name, inner in schema.get("$defs", {}).items():
        yield from _silent(inner, f"{where}#{name}")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "state").rglob("*.yaml")) + sorted((ROOT / "environments").rglob("*.yaml")), ids=str
)
def test_the_sample_is_valid_by_its_schema(path: Path) -> None:
    data = plain(parse(path.read_bytes()).data)
    jsonschema.validate(data, all_schemas()[f"{data['kind']}.json"])
    line = path.read_text().splitlines()[0]
    assert line.startswith("# yaml-language-server: $schema=")
    assert (path.parent / line.partition("=")[2]).resolve() == ROOT / "schemas" / f"{data['kind']}.json"


def test_events_and_plans_are_valid_by_their_schemas(tmp_path: Path) -> None:
    sim = Simulation(tmp_path)
    sim.commit(binding("docs", "v1"), "Bind")
    flow = sim.survive()
    sim.commit({**rollout("docs-v2", "docs", "v2"), "state/bindings/bad.yaml": "["}, "Try")
    result = sim.settle(flow)
    for event in sim.check_log():
        jsonschema.validate(json.loads(events.encode(event)), all_schemas()["event.json"])
        known = set(events.BY_NAME[event.type].fields)
        assert set(event.data) <= known, f"{event.type} carries undocumented {set(event.data) - known}"
    jsonschema.validate(json.loads(json.dumps(plan_as_json(result.plan))), all_schemas()["plan.json"])


def test_no_registry_address_is_committed() -> None:
    hosts = ("pypi" + ".org", "registry.npm" + "js.org", "files.python" + "hosted.org", "deb." + "debian.org")
    found = subprocess.run(
        ["git", "-C", str(ROOT), "grep", "-lE", "|".join(h.replace(".", r"\.") for h in hosts)],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.split()
    assert found == []
