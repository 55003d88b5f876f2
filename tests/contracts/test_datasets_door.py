"""The door to rows: LangSmith, the Hub and files of the repository give the same rows for a revision, or say what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pygit2
import pytest

from controller.clients.datasets import Datasets, objects_of
from controller.clients.git import Identity, Repository
from controller.clients.huggingface import connect
from controller.clients.langsmith import LangSmith
from controller.environment import EnvironmentSpec
from controller.errors import Permanent
from controller.settings import Settings
from controller.testing.hugging_face import HuggingFaceDouble
from controller.testing.langsmith_api import LangSmithApi
from controller.vendors import HuggingFace, LangSmithSpec

ROWS = [{"inputs": {"task": f"task {n}"}, "outputs": {"code": f"x = {n}"}, "metadata": {"agent": "docs"}} for n in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def _nobody(*_: Any) -> Any:
    raise AssertionError("nobody asks it here")


def committed(repository: Repository, files: dict[str, bytes | None]) -> dict[str, str]:
    """Path -> object id."""
    tip = repository.tip("refs/heads/main")
    tree = repository.write_tree(tip, files)
    commit = repository.write_commit(tree, [tip] if tip else [], "Rows\n", Identity("a", "a@b"), 0.0, "refs/heads/main")
    return {path: str(repository.blob_at(commit, path)) for path in files}


@pytest.fixture
def here(tmp_path: Path) -> tuple[Repository, Datasets]:
    pygit2.init_repository(str(tmp_path / "repo"), initial_head="main")
    repository = Repository(tmp_path / "repo")
    data = repository.common_dir / "turnout" / "local"
    data.mkdir(parents=True)
    datasets = Datasets(data / "datasets", _nobody, _nobody, objects_of(Settings("local", EnvironmentSpec(), data)))
    datasets.fresh_seconds = -1.0
    return repository, datasets


def test_a_line_separator_inside_a_text_ends_no_line(here: tuple[Repository, Datasets]) -> None:
    repository, datasets = here
    row = {"inputs": {"task": "one\u2028two\u0085three"}, "outputs": {"code": "x"}}
    files = committed(repository, {"data/a.jsonl": json.dumps(row, ensure_ascii=False).encode() + b"\n" + LINES})
    assert list(datasets.read(None, files).rows) == [row, *ROWS]


def test_files_are_those_of_the_commit_not_of_the_checkout_or_the_tip(here: tuple[Repository, Datasets]) -> None:
    repository, datasets = here
    first = committed(repository, {"data/a.jsonl": LINES})
    assert repository.work_dir is not None
    assert not (repository.work_dir / "data").exists()
    second = committed(repository, {"data/a.jsonl": LINES + LINES})
    found = datasets.read(None, first)
    assert list(found.rows) == ROWS
    assert found.path.read_bytes().count(b"\n") == 3
    assert len(datasets.read(None, second).rows) == 6
    assert datasets.read(None, second).revision != found.revision


def test_what_was_checked_is_what_is_trained_on(here: tuple[Repository, Datasets]) -> None:
    repository, datasets = here
    first = committed(repository, {"a.jsonl": LINES})
    found = datasets.read(None, first)
    committed(repository, {"a.jsonl": LINES + LINES})
    assert datasets.path(None, ["a.jsonl"], None, found.revision, found.digest) == found.path
    found.path.unlink()  # a fresh machine
    assert datasets.path(None, ["a.jsonl"], None, found.revision, found.digest).read_bytes().count(b"\n") == 3
    found.path.unlink()
    with pytest.raises(Permanent, match="is not what it was when it was checked"):
        datasets.path(None, ["a.jsonl"], None, found.revision, "0" * 64)


def test_an_object_that_is_not_there_and_a_line_that_is_not_json_are_named(here: tuple[Repository, Datasets]) -> None:
    repository, datasets = here
    with pytest.raises(Permanent, match=r"a\.jsonl:5: is not JSON"):
        datasets.read(None, committed(repository, {"a.jsonl": LINES + b"\n{oops\n"}))
    with pytest.raises(Permanent, match=r"b\.jsonl \(0123456789\) is not in this clone"):
        datasets.read(None, {"b.jsonl": "0123456789" * 4})
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
    with pytest.raises(Permanent, match=r"c\.jsonl is a pointer of Git LFS"):
        datasets.read(None, committed(repository, {"c.jsonl": pointer}))


def test_a_data_set_of_the_hub_at_a_revision(tmp_path: Path) -> None:
    with HuggingFaceDouble(tmp_path / "double") as double:
        first = double.seed("dataset", "acme/rows", {"train.jsonl": LINES})
        (tmp_path / "token").write_text(double.token)
        hub = connect(HuggingFace(url=double.url, namespace="acme", token="file:token"), tmp_path)
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "train.jsonl").write_bytes(LINES + LINES)
        hub.repositories.upload_folder("acme/rows", tmp_path / "new", "More", kind="dataset")
        datasets = Datasets(tmp_path / "datasets", _nobody, lambda: hub, _nobody)
        assert len(datasets.read("hf://acme/rows").rows) == 6
        found = datasets.read(f"hf://acme/rows@{first}", None, "train")
        assert (list(found.rows), found.revision) == (ROWS, first)
        with pytest.raises(Permanent, match="acme/none"):
            datasets.read("hf://acme/none")


def test_a_data_set_of_langsmith_at_the_revision_that_was_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LANGSMITH_ENDPOINT", "LANGSMITH_API_KEY", "LANGSMITH_TRACING"):
        monkeypatch.delenv(name, raising=False)
    with LangSmithApi(tmp_path / "langsmith", keys=["key-of-tests"]) as api:
        (tmp_path / "key").write_text("key-of-tests")
        door = LangSmith(LangSmithSpec(url=api.url, api_key="file:key"), tmp_path)
        door.push("docs", ROWS)
        datasets = Datasets(tmp_path / "datasets", lambda: door, _nobody, _nobody)
        datasets.fresh_seconds = -1.0
        found = datasets.read("ls://docs")
        assert sorted(row["inputs"]["task"] for row in found.rows) == ["task 0", "task 1", "task 2"]
        door.push("docs", [{"inputs": {"task": "new"}, "outputs": {"code": "y"}}])
        assert len(datasets.read("ls://docs").rows) == 4
        found.path.unlink()
        assert datasets.path("ls://docs", (), None, found.revision, found.digest).exists()
        with pytest.raises(Permanent, match="no data set 'dosc'"):
            datasets.read("ls://dosc")
        door.close()
