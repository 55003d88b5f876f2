"""The page of the data plane cannot rot: its files are read as the proxy and the controller would, its tables are complete."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from controller.client import DEFAULT_HEADERS
from controller.environment import Endpoint, SessionHeaders, UsageLimits
from controller.proxy import metrics, table
from controller.proxy.config import Agent, Config, Model, read_config
from controller.proxy.record import PARTS, Record
from controller.settings import load

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "data-plane.md").read_text()
ENVELOPE = "apiVersion: turnout/v1\nkind: Environment\nmetadata: {name: production}\nspec:\n"


def environments() -> list[str]:
    """Every example of an environment, whole or as the lines below `spec`."""
    found = []
    for page in (DOCS / "data-plane.md", DOCS / "environment.md"):
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            if "kind: Environment" in block:
                found.append(re.sub(r"metadata: \{name: \w+\}", "metadata: {name: production}", block))
            elif block.startswith("  "):
                found.append(ENVELOPE + block)
    return found


def section(title: str) -> str:
    prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", prose, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/data-plane.md has no section {title!r}"
    return found[1]


def test_there_are_environments() -> None:
    assert len(environments()) >= 5


@pytest.mark.parametrize("text", environments(), ids=lambda text: text.strip().splitlines()[-1].strip()[:40])
def test_an_environment_validates(text: str) -> None:
    settings = load("production", {"environments/production/environment.yaml": text.encode()}, Path())
    assert settings.spec.written()


def test_the_file_of_the_five_minutes_is_served(tmp_path: Path) -> None:
    found = re.search(r"cat > gateway\.yaml <<'YAML'\n(.*?)^YAML$", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    path = tmp_path / "gateway.yaml"
    path.write_text(found[1])
    routes, _ = read_config(path)
    assert {"feature_dev", "code_review", "docs"} == set(routes.routes)


def test_the_program_has_a_config_that_is_served() -> None:
    from controller.proxy import LoadBalancingProxy

    found = re.search(r"^CONFIG = (\{.*?^\})", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None
    assert LoadBalancingProxy(eval(textwrap.dedent(found[1]))).config.agents


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("Metrics", sorted(metrics._HELP)),
        ("A request's record", sorted(Record.__struct_fields__)),
        ("Strategies", list(table.STRATEGIES)),
        ("The static file", sorted({*Config.__struct_fields__, *Agent.__struct_fields__, *Model.__struct_fields__} - {"health"})),
        ("The static file", sorted(table.Limits.__struct_fields__)),
        ("Sessions and timing", [*PARTS, *DEFAULT_HEADERS, *DEFAULT_HEADERS.values(), *SessionHeaders.model_fields]),
    ],
    ids=["metrics", "record", "strategies", "file", "limits", "headers"],
)
def test_a_table_names_everything(title: str, names: list[str]) -> None:
    told = {name for quoted in re.findall(r"`([^`]+)`", section(title)) for name in re.split(r"[^\w-]+", quoted)}
    assert not [name for name in names if name not in told]


def test_the_fields_of_endpoints_have_both_names() -> None:
    told = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", section("Endpoints")))))
    fields = {*table.Endpoint.__struct_fields__, *table.Health.__struct_fields__, *table.Ejection.__struct_fields__}
    names = {field.alias or name for name, field in Endpoint.model_fields.items()} - {"simulated"}
    assert not (fields | names) - told


def test_the_page_of_environments_has_every_field() -> None:
    text = (DOCS / "environment.md").read_text()
    fields = {field.alias or name for model in (Endpoint, UsageLimits) for name, field in model.model_fields.items()}
    assert not [name for name in sorted(fields) if f"`{name}" not in text]


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_into_pages_meet_a_heading(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    broken = []
    for target, anchor in re.findall(r"\]\(([\w./-]*\.md)?#([\w-]+)\)", text):
        other = (page.parent / target).read_text() if target else page.read_text()
        headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", other, flags=re.DOTALL), re.MULTILINE)
        if anchor not in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}:
            broken.append(f"{target}#{anchor}")
    assert not broken
