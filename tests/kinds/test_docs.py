"""The pages of the kinds cannot rot: every example is read as git would have it, every table and every error is the real one.

`python tests/kinds/test_docs.py` writes the tables of fields and the errors anew.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller import tree
from controller.document import parse, plain
from controller.environment import EnvironmentSpec
from controller.kind import Kind, Past
from controller.kinds import find
from controller.settings import Settings
from controller.source import FilesSource
from controller.testing.cases import contract, load_cases, run_case

DOCS = Path(__file__).parents[2] / "docs"
KINDS = {kind.name.lower(): kind for kind in find().values()}
TABLE = re.compile(r"(<!-- fields: made from the schema -->\n).*?(<!-- end -->)", re.DOTALL)
WRONG = re.compile(r"```yaml wrong\n(.*?)```\n+```text\n(.*?)```", re.DOTALL)
BLOCK = re.compile(r"```yaml(?P<wrong> wrong)?\n(?P<text>.*?)```", re.DOTALL)


def page(name: str) -> str:
    return (DOCS / "kinds" / f"{name}.md").read_text()


ENVIRONMENTS = {f"environments/{name}/environment.yaml": b"" for name in ("example", "local", "production")}


DATA = {"data/docs.jsonl": b"", "datasets/feature-dev-evaluation.jsonl": b""}
"""What examples name of a repository."""


def told(text: str) -> str:
    """What `turnout validate` says about a file; nothing = it is fine. The file lies where its own text says."""
    data = plain(parse(text.encode()).data)
    kind = KINDS[data["kind"].lower()]
    path = f"state/{kind.plural}/{data['metadata']['name']}.yaml"
    name = data["metadata"].get("environment", "example")
    settings = Settings(name if f"environments/{name}/environment.yaml" in ENVIRONMENTS else "example", EnvironmentSpec(), Path())
    source = FilesSource({path: text.encode(), **ENVIRONMENTS, **DATA})
    found = tree.read(source, settings, {kind.name: kind}, lambda address: None, "")
    problems = [problem for entry in found.entries.values() for problem in entry.load(Past()).problems]
    return "".join(f"{problem}\n" for problem in [*found.problems, *problems])


def rows(schema: dict[str, Any], models: dict[str, Any], prefix: str = "spec") -> Iterator[str]:
    """A line a field, nested ones below."""
    for name, about in schema.get("properties", {}).items():
        kind, inner = spoken(about, models)
        default = "required" if name in schema.get("required", ()) else quoted(about["default"]) if "default" in about else "none"
        example = quoted(about["examples"][0])
        place = f"{prefix}.{name}"
        yield f"| `{place}` | {kind} | {default} | {about['description']} | {example} |"
        if inner:
            yield from rows(models[inner], models, place + ("[]" if kind.startswith("list") else ""))


def spoken(about: dict[str, Any], models: dict[str, Any]) -> tuple[str, str]:
    """The type of a field in words, and the model inside of it."""
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        return "map", name
    if "anyOf" in about:
        found = [spoken(each, models) for each in about["anyOf"] if each.get("type") != "null"]
        return " or ".join(dict.fromkeys(kind for kind, _ in found)), next((inner for _, inner in found if inner), "")
    if about.get("type") == "array":
        kind, inner = spoken(about["items"], models)
        return f"list of {'maps' if inner else kind}", inner
    if "enum" in about:
        return ", ".join(f"`{each}`" for each in about["enum"]), ""
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "object": "map"}
    return duration_or_percent(about) or words[about["type"]], ""


def duration_or_percent(about: dict[str, Any]) -> str:
    pattern = about.get("pattern", "")
    if "smhdw" in pattern:
        return "duration"
    return "percentage" if "%" in pattern else ""


def quoted(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def table(kind: Kind[Any, Any]) -> str:
    schema = kind.spec.model_json_schema(by_alias=True)
    head = "| Field | Type | Default | Meaning | Example |\n|---|---|---|---|---|\n"
    return head + "".join(f"{row}\n" for row in rows(schema, schema.get("$defs", {})))


def current(name: str) -> str:
    """The page with its tables and errors made anew."""
    text = TABLE.sub(lambda found: found[1] + table(KINDS[name]) + found[2], page(name))
    return WRONG.sub(lambda found: f"```yaml wrong\n{found[1]}```\n\n```text\n{told(found[1])}```", text)


@pytest.mark.parametrize("name", KINDS)
def test_tables_and_errors_are_the_real_ones(name: str) -> None:
    assert page(name) == current(name), "run `python tests/kinds/test_docs.py`"


@pytest.mark.parametrize("name", KINDS)
def test_every_example_is_valid_or_said_to_be_wrong(name: str) -> None:
    blocks = list(BLOCK.finditer(page(name)))
    assert sum(1 for block in blocks if not block["wrong"]) >= 2
    assert any(block["wrong"] for block in blocks)
    for block in blocks:
        assert bool(told(block["text"])) is bool(block["wrong"]), block["text"]


@pytest.mark.parametrize("name", KINDS)
def test_every_page_follows_the_template(name: str) -> None:
    wanted = re.findall(r"^## .*$", page("_template"), re.MULTILINE)
    assert re.findall(r"^## .*$", page(name), re.MULTILINE) == wanted


def test_the_kind_in_writing_a_kind_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The four files and the case of the page, put where the page says, work."""
    text = (DOCS / "writing-a-kind.md").read_text()
    files = dict(re.findall(r"```(?:python|yaml)\n# ([\w/.]+)\n(.*?)```", text, re.DOTALL))
    four = {f"note/{name}.py" for name in ("__init__", "spec", "plan", "provider")}
    assert {name for name in files if name.endswith(".py")} == four
    package = tmp_path / "kinds_of_the_page"
    for name, content in {"__init__.py": "", **files}.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(content.replace("controller.kinds.note", "kinds_of_the_page.note"))
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        kind = find([str(package)], "kinds_of_the_page")["Note"]
        cases = load_cases(package / "note" / "cases")
        assert len(cases) == 1
        run_case(kind, cases[0])
        assert contract(kind, cases) == []
        assert kind.provider is not None
    finally:
        for module in [module for module in sys.modules if module.startswith("kinds_of_the_page")]:
            del sys.modules[module]


if __name__ == "__main__":
    for each in KINDS:
        (DOCS / "kinds" / f"{each}.md").write_text(current(each))
