"""Every guide in docs/guides works as it is written: its commands run in one shell, and say what the guide shows.

A guide begins in an empty folder. Its blocks marked `sh` run in order in one bash with `set -euo pipefail`; those marked `sh real`
need a vendor and are not run (tests/front_ends/test_docs_commands.py checks that their commands and options exist). A block
marked `text` right after one that ran is what that block says: lines in this order, where `...` stands for any text in a line, and
alone in a line for any lines.

Nobody outside is asked: https leads nowhere here, doubles are on loopback. Guides that train need a Python
(TURNOUT_TRAINING_PYTHON) with the packages of requirements-training.txt; in CI its absence is a failure.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from controller.clients.local_process import identity

GUIDES = sorted((Path(__file__).parents[2] / "docs" / "guides").glob("*.md"))
BLOCK = re.compile(r"^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$(?P<after>\n*)", re.MULTILINE | re.DOTALL)
MARK = "=== block {} of the guide ==="
HANGS_SECONDS = 600
OURS = ("TURNOUT_", "HF_", "HUGGINGFACE_", "LANGSMITH_", "OPENROUTER_", "MODELOPS_", "GIT_", "OPENAI_")


@dataclass(frozen=True)
class Block:
    """One block that runs, the line where it begins, and what it is to say."""

    line: int
    commands: str
    said: str


def blocks(text: str) -> list[Block]:
    found: list[Block] = []
    last = -1
    for each in BLOCK.finditer(text):
        if each["info"] == "sh":
            found.append(Block(text.count("\n", 0, each.start()) + 1, each["text"], ""))
            last = each.end()
        elif each["info"] == "text" and each.start() == last:
            found[-1] = Block(found[-1].line, found[-1].commands, each["text"])
    return found


def pattern(said: str) -> re.Pattern[str]:
    """`...` alone in a line is any lines, in a line any text."""
    lines = []
    for line in said.splitlines():
        if line.strip() == "...":
            lines.append(r"(?:[^\n]*\n)*?")
        else:
            lines.append(r"[^\n]*?".join(re.escape(part.rstrip() if not rest else part) for part, rest in _parts(line)) + r"[ ]*\n")
    return re.compile("^" + "".join(lines), re.MULTILINE)


def _parts(line: str) -> list[tuple[str, bool]]:
    """Pieces between wildcards, and whether one follows."""
    pieces = line.split("...")
    return [(piece, number < len(pieces) - 1) for number, piece in enumerate(pieces)]


def environment(folder: Path) -> dict[str, str]:
    """That of a newcomer who has an identity in git and no key of any vendor."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    (folder / "gitconfig").write_text("[user]\n\tname = Ada\n\temail = ada@example.org\n[init]\n\tdefaultBranch = main\n")
    nowhere = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "no_proxy": "127.0.0.1,localhost"}
    own = {"GIT_CONFIG_GLOBAL": str(folder / "gitconfig"), "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
    trains = {"TURNOUT_TRAINING_PYTHON": os.environ.get("TURNOUT_TRAINING_PYTHON", "")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, **nowhere, **own, **{name: value for name, value in trains.items() if value}, "PATH": path}


def processes(folder: Path) -> Iterator[tuple[Path, str, int]]:
    """What `turnout up` of the guide has started and still lives: the repository, its name, its id."""
    for path in folder.rglob("processes.json"):
        for name, (pid, _) in json.loads(path.read_text()).items():
            if identity(pid):
                yield path.parents[3], name, pid


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """An empty folder; whatever a guide that broke has left running is stopped."""
    folder = tmp_path / "empty"
    folder.mkdir()
    yield folder
    for repository in {repository for repository, _, _ in processes(folder)}:
        subprocess.run(
            [str(Path(sys.executable).with_name("turnout")), "--repo", str(repository), "down"], check=False, capture_output=True
        )
    for _, _, pid in processes(folder):
        os.killpg(pid, signal.SIGKILL)


def test_there_are_guides() -> None:
    assert {path.stem for path in GUIDES} >= {"fine-tuning", "training", "datasets", "evaluation", "costs", "rollback"}


def test_what_is_shown_is_compared() -> None:
    found = blocks("```sh\necho a\n```\n\n```text\na ... c\n...\nlast\n```\n```sh real\nx\n```\n```text\nnot compared\n```\n")
    assert [(block.line, block.commands) for block in found] == [(1, "echo a\n")]
    shown = pattern(found[0].said)
    assert shown.search("before\na b c\nother\nlast\nmore\n")
    assert shown.search("a  c\nlast\n")
    assert not shown.search("a b d\nlast\n")
    assert not shown.search("a b c\nlast words\n")
    assert not shown.search("x a b c\nlast\n")


def trains(guide: Path) -> bool:
    """Whether its rehearsal makes a base model or trains one."""
    return "--rehearse" in guide.read_text() and "kind: TrainingRequest" in guide.read_text()


MARKED = [pytest.param(guide, id=guide.stem, marks=[pytest.mark.training] if trains(guide) else []) for guide in GUIDES]


@pytest.mark.parametrize("guide", MARKED)
def test_the_guide_works(guide: Path, place: Path, tmp_path: Path) -> None:
    parts = blocks(guide.read_text())
    assert parts, "a guide without a command that runs"
    if trains(guide) and not os.environ.get("TURNOUT_TRAINING_PYTHON"):
        why = "TURNOUT_TRAINING_PYTHON is not set"
        assert not os.environ.get("CI"), why
        pytest.skip(why)
    script = "set -euo pipefail\n" + "".join(f"echo '{MARK.format(n)}'\n{part.commands}" for n, part in enumerate(parts))
    with subprocess.Popen(
        ["bash", "-c", script],
        cwd=place,
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as shell:
        try:
            said, _ = shell.communicate(timeout=HANGS_SECONDS)
        except BaseException:
            os.killpg(shell.pid, signal.SIGKILL)
            raise
    outputs = re.split(r"^=== block \d+ of the guide ===\n", said, flags=re.MULTILINE)[1:]
    where = f"docs/guides/{guide.name}:{parts[max(len(outputs) - 1, 0)].line}"
    assert shell.returncode == 0, f"{where}: this block ended with {shell.returncode}; all that was said:\n{said}"
    for part, output in zip(parts, outputs, strict=True):
        missing = part.said and not pattern(part.said).search(output)
        assert not missing, f"docs/guides/{guide.name}:{part.line}: shown\n{part.said}\nbut it said\n{output}"
    assert not [f"{name} of {repository}" for repository, name, _ in processes(place)], "the guide leaves processes behind"
