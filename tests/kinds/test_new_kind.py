"""The promise of DESIGN.md section 2: a kind is new files only. One is dropped into a temporary package and run for real."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import controller
from controller.app import Controller
from controller.kinds import find
from controller.testing.cases import contract, load_cases, run_case

PACKAGE = "kinds_of_somebody"
FOUR = {
    "__init__.py": '''\
"""Note: a file with a text, kept as git says."""

from kinds_of_somebody.note.plan import plan
from kinds_of_somebody.note.spec import NoteSpec, NoteState

from controller.kind import Kind


def _provider(clients):
    from kinds_of_somebody.note.provider import NoteProvider

    return NoteProvider()


KIND = Kind(name="Note", plural="notes", spec=NoteSpec, state=NoteState, plan=plan, references=lambda spec: [], provider=_provider,
            summary="A file with a text.")
''',
    "spec.py": """\
from pydantic import Field

from controller.model import Spec, Text


class NoteSpec(Spec):
    path: Text = Field(title="Path", description="Where the note lies.", examples=["/tmp/note"])
    text: Text = Field(title="Text", description="What it says.", examples=["hello"])


class NoteState(Spec):
    path: str
    text: str
""",
    "plan.py": """\
from controller.change import Action, Change
from controller.kind import Observed, Unknown


def plan(situation):
    seen = situation.observed
    before = seen.state.full() if isinstance(seen, Observed) else None
    if situation.desired is None:
        if before or situation.past.after:
            return Change(Action.DELETE, "removed from git", before=before or situation.past.after)
        return Change(Action.NOOP, "not there, and not wanted")
    if isinstance(seen, Unknown):
        return Change(Action.NOOP, f"cannot be seen: {seen.reason}", before=situation.past.after, after=situation.past.after)
    after = situation.desired.spec.full()
    if before == after:
        return Change(Action.NOOP, "says what git says", before=before, after=after)
    return Change(Action.UPDATE if before else Action.CREATE, f"says {after['text']!r}", before=before, after=after)
""",
    "provider.py": """\
from pathlib import Path

from controller.change import Action
from controller.kind import Observed, Outcome
from kinds_of_somebody.note.spec import NoteState


class NoteProvider:
    def observe(self, known):
        paths = {one.address: Path((one.past.after or one.resource.written)["path"]) for one in known}
        return {name: Observed(NoteState(path=str(path), text=path.read_text())) for name, path in paths.items() if path.exists()}

    def apply(self, change, report):
        if change.action is Action.DELETE:
            Path(change.before["path"]).unlink(missing_ok=True)
        else:
            Path(change.after["path"]).write_text(change.after["text"])
        return Outcome()
""",
}
CASE = """\
story: A note is written, and then left alone.
steps:
  - given: {name: hello, spec: {path: /tmp/hello, text: hi}}
    expect: {action: create, reason: says 'hi', after: {text: hi}}
  - expect: {action: noop, reason: says what git says}
  - given: {spec: removed}
    expect: {action: delete, reason: removed from git}
"""
ENVIRONMENT = """\
apiVersion: turnout/v1
kind: Environment
metadata: {name: local}
spec: {branch: main}
"""


def existing() -> str:
    """Digest of every source file of the package."""
    found = hashlib.sha256()
    for path in sorted(Path(controller.__file__).parent.rglob("*.py")):
        found.update(str(path).encode() + path.read_bytes())
    return found.hexdigest()


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Path]:
    """A package of somebody's own, with one folder of four files."""
    folder = tmp_path / PACKAGE
    (folder / "note").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    for name, text in FOUR.items():
        (folder / "note" / name).write_text(text)
    sys.path.insert(0, str(tmp_path))
    try:
        yield folder
    finally:
        sys.path.remove(str(tmp_path))
        for module in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            del sys.modules[module]


def git(repo: Path, *args: str) -> str:
    who = {f"GIT_{role}_{what}": "ada@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    run = subprocess.run(
        ["git", "-C", str(repo), *args],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **who, "GIT_CONFIG_GLOBAL": "/dev/null"},
    )
    return run.stdout.strip()


def commit(repo: Path, files: dict[str, str | None], message: str) -> None:
    for name, text in files.items():
        path = repo / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", message)


def test_a_new_kind_is_new_files_only(package: Path, tmp_path: Path) -> None:
    before = existing()
    new = find([str(package)], PACKAGE)
    assert list(new) == ["Note"]

    repo, note = tmp_path / "repo", tmp_path / "note.txt"
    repo.mkdir()
    git(repo, "init", "-q", "-b", "main")
    spec = "apiVersion: turnout/v1\nkind: Note\nmetadata: {name: hello}\nspec: {path: %s, text: %s}\n"
    stays = spec.replace("hello", "stays") % (tmp_path / "stays.txt", "here")  # an empty state would be refused
    commit(repo, {"environments/local/environment.yaml": ENVIRONMENT, "state/notes/stays.yaml": stays}, "Begin")
    commit(repo, {"state/notes/hello.yaml": spec % (note, "one")}, "One")
    there = Controller(repo, kinds={**find(), **new})
    try:
        plan, _ = there.plan()
        assert [(change.address, change.action.value, change.reason) for change in plan.changes] == [
            ("Note/hello", "create", "says 'one'"),
            ("Note/stays", "create", "says 'here'"),
        ]
        assert not note.exists()
        there.settle()
        assert note.read_text() == "one"
        commit(repo, {"state/notes/hello.yaml": spec % (note, "two")}, "Two")
        there.settle()
        assert note.read_text() == "two"
        git(repo, "revert", "--no-edit", "HEAD")
        there.settle()
        assert note.read_text() == "one"
        note.write_text("somebody was here")
        there.settle()
        assert note.read_text() == "one"
        assert there.settle().events == ()
        commit(repo, {"state/notes/hello.yaml": None}, "No more")
        there.settle()
        assert not note.exists()
        assert (tmp_path / "stays.txt").read_text() == "here"
        started = [event.data["action"] for event in there.events("hello") if event.type == "turnout.action.started.v1"]
        assert started == ["create", "update", "update", "update", "delete"]
    finally:
        there.close()
    assert existing() == before


def test_a_new_kind_keeps_the_laws_and_has_cases(package: Path, tmp_path: Path) -> None:
    kind = find([str(package)], PACKAGE)["Note"]
    (tmp_path / "written.yaml").write_text(CASE)
    cases = load_cases(tmp_path)
    assert len(run_case(kind, cases[0])) == 3
    assert contract(kind, cases) == []


def test_laws_are_told_where_they_are_broken(package: Path, tmp_path: Path) -> None:
    plan = package / "note" / "plan.py"
    plan.write_text(
        FOUR["plan.py"]
        .replace('"not there, and not wanted"', '""')
        .replace("if situation.desired is None:", "if situation.desired is None and not isinstance(seen, Unknown):")
        .replace('f"cannot be seen: {seen.reason}"', '"blind"')
    )
    (package / "note" / "spec.py").write_text(FOUR["spec.py"].replace(', examples=["hello"]', ""))
    kind = find([str(package)], PACKAGE)["Note"]
    (tmp_path / "written.yaml").write_text(CASE)
    told = contract(kind, load_cases(tmp_path))
    assert "Note: schema: spec.text has no examples" in told
    assert any("removal needs signals" in fault and "written.yaml, step 2" in fault for fault in told)
    assert any("what is removed from git stays" in fault for fault in told)


def test_two_kinds_of_one_name_are_refused(package: Path) -> None:
    other = package / "twin"
    other.mkdir()
    (other / "__init__.py").write_text("from kinds_of_somebody.note import KIND")
    with pytest.raises(ValueError) as error:
        find([str(package)], PACKAGE)
    assert "share a name or the folder state/notes/" in str(error.value)
