"""What a rehearsal takes along: the commit of this clone, without runs that are over."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from controller.app import Controller
from controller.errors import TurnoutError
from controller.rehearsal import run

ENVIRONMENT = "apiVersion: turnout/v1\nkind: Environment\nmetadata: {name: local}\nspec: {endpoints: {here: {url: 'http://127.0.0.1:9/v1'}}}\n"
BINDING = "apiVersion: turnout/v1\nkind: ModelBinding\nmetadata: {name: docs}\nspec: {model: a/b, endpoint: here, version: v1}\n"
ROLLOUT = """\
apiVersion: turnout/v1
kind: Rollout
metadata: {name: docs-v2}
spec: {binding: docs, candidate: {model: a/c, endpoint: here, version: v2}, strategy: immediate}
"""


def commit(repo: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (repo / path).parent.mkdir(parents=True, exist_ok=True)
        (repo / path).write_text(text)
    for args in (("add", "-A"), ("-c", "user.name=Ada", "-c", "user.email=a@b.example", "commit", "-q", "-m", "Change")):
        subprocess.run(["git", "-C", str(repo), *args], check=True, capture_output=True)


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", "-b", "main", str(tmp_path / "repo")], check=True, capture_output=True)
    environment = ENVIRONMENT.replace("spec: {", "spec: {writeBack: hold, ")
    commit(tmp_path / "repo", {"environments/local/environment.yaml": environment, "state/bindings/docs.yaml": BINDING})
    return tmp_path / "repo"


def test_runs_that_are_over_do_not_begin_again(repo: Path) -> None:
    commit(repo, {"state/rollouts/docs-v2.yaml": ROLLOUT})
    assert [str(each.address) for each in run._scene(repo, "local").resources] == ["ModelBinding/docs", "Rollout/docs-v2"]
    controller = Controller(repo)
    controller.settle()
    controller.close()
    scene = run._scene(repo, "local")
    assert [str(each.address) for each in scene.resources] == ["ModelBinding/docs"]
    assert scene.over == ("state/rollouts/docs-v2.yaml",)


def test_it_is_the_commit_of_this_clone_pushed_or_not(repo: Path) -> None:
    commit(repo, {"state/bindings/docs.yaml": BINDING.replace("v1}", "v7}")})
    (resource,) = run._scene(repo, "local").resources
    assert resource.written["version"] == "v7"


def test_files_that_cannot_be_read_are_told(repo: Path) -> None:
    commit(repo, {"state/bindings/docs.yaml": BINDING.replace("version", "vresion")})
    with pytest.raises(TurnoutError, match=r"state/bindings/docs\.yaml:4"):
        run._scene(repo, "local")
