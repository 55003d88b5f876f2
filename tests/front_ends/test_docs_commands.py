"""Every `turnout` command in the docs exists with the options shown, and every relative link leads somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from controller.cli import main as program

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> list[str]:
    text = page.read_text()
    found: list[str] = []
    for block in re.findall(r"^```(?:sh|console|bash)(?: real)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        joined = block.replace("\\\n", " ")
        found += [line.strip().removeprefix("$ ") for line in joined.splitlines()]
    found += re.findall(r"(?<!`)`(turnout [a-z][^`\n]*)`(?!`)", text)
    return [line for line in found if re.match(r"turnout [a-z]", line)]


LINES = sorted({(page.relative_to(ROOT).as_posix(), line) for page in PAGES for line in commands(page)})


def test_there_are_commands() -> None:
    assert len(LINES) > 20


@pytest.mark.parametrize(("page", "line"), LINES, ids=lambda value: str(value)[:60])
def test_the_command_exists(page: str, line: str) -> None:
    words = shlex.split(re.split(r"\s(?:\||\|\||&&|>|2>|#|&)(?:\s|$)", line.replace("\\|", "|"))[0], comments=True)[1:]
    words = [word for word in words if not word.startswith("<")]
    group = _group()
    context = click.Context(group, info_name="turnout")
    parsed = group.make_parser(context).parse_args(list(words))[1]
    assert parsed or words[0].startswith("-"), f"{page}: no command in {line!r}"
    current: click.Command = group
    while parsed and isinstance(current, click.Group):
        command = current.get_command(context, parsed[0])
        assert command is not None, f"{page}: {line!r}: there is no command {parsed[0]!r}"
        context, current = click.Context(command, parent=context, info_name=parsed[0]), command
        parsed = command.make_parser(context).parse_args(list(parsed[1:]))[1]


def _group() -> click.Group:
    import controller.cli as package

    found = [value for value in vars(package).values() if isinstance(value, click.Group)]
    if isinstance(program, click.Group):
        found.insert(0, program)
    return found[0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    broken = [target for target in targets if target and "://" not in target and not (page.parent / target).exists()]
    assert not broken
