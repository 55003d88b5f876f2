"""Rows of dataset repositories through the real SDK: JSON lines, JSON, Parquet; which split, which commit, what is wrong where."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from controller.clients.huggingface import Hub
from controller.errors import Permanent
from controller.testing.hugging_face import HuggingFaceDouble

ROW = {"inputs": {"task": "t"}, "outputs": {"code": "c"}, "metadata": {"agent": "docs", "success": True}}


def fetched(double: HuggingFaceDouble) -> int:
    """How many files of the dataset were downloaded."""
    return sum(count for name, count in double.ledger()["requests"].items() if name.startswith("GET /datasets/acme/tasks/resolve/"))


def test_rows_of_a_split_at_a_commit(hub: Hub, double: HuggingFaceDouble) -> None:
    first = double.seed(
        "dataset",
        "acme/tasks",
        {
            "data/train-00000-of-00002.jsonl": (json.dumps(ROW) + "\n\n" + json.dumps(ROW) + "\n").encode(),
            "data/train-00001-of-00002.jsonl": json.dumps({"n": 3}).encode(),
            "test.json": json.dumps({"data": [{"n": 4}]}).encode(),
            "dataset_infos.json": b"{}",
        },
    )
    rows = hub.repositories.rows("tasks", split="train")
    assert (rows.revision, rows.rows) == (first, (ROW, ROW, {"n": 3}))
    assert hub.repositories.rows("tasks", split="test").rows == ({"n": 4},)
    assert len(hub.repositories.rows("tasks", revision=first).rows) == 4
    before = fetched(double)
    hub.repositories.rows("tasks", revision=first)
    assert fetched(double) == before
    with pytest.raises(Permanent, match=r"no file of the split 'validation'.*data/train-00000"):
        hub.repositories.rows("tasks", split="validation")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"n": 1}\n{"n": \n', r"acme/tasks: a.jsonl:2 is not JSON"),
        ("a.jsonl", b"[1]\n", r"a.jsonl:1 is not an object but list"),
        ("a.jsonl", b'{"n": "\xff"}\n', r"a.jsonl is not UTF-8"),
        ("a.json", b'{"n": 1}', r"a.json is neither a list of rows"),
        ("a.csv", b"n\n1\n", r"has no .jsonl, .json, .parquet file .*found .gitattributes, a.csv"),
    ],
)
def test_rows_that_are_none(hub: Hub, double: HuggingFaceDouble, name: str, content: bytes, said: str) -> None:
    double.seed("dataset", "acme/tasks", {name: content})
    with pytest.raises(Permanent, match=said):
        hub.repositories.rows("tasks")


def test_parquet_needs_pyarrow(hub: Hub, double: HuggingFaceDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    double.seed("dataset", "acme/tasks", {"train.parquet": b"PAR1"}, large=("train.parquet",))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Permanent, match=r"pip install pyarrow"):
        hub.repositories.rows("tasks")


def test_parquet_rows(hub: Hub, double: HuggingFaceDouble, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist([ROW, ROW]), tmp_path / "rows.parquet")
    files = {"train.parquet": (tmp_path / "rows.parquet").read_bytes(), "test.parquet": b"PAR1 not really"}
    double.seed("dataset", "acme/tasks", files, large=("train.parquet", "test.parquet"))
    assert hub.repositories.rows("tasks", split="train").rows == (ROW, ROW)
    with pytest.raises(Permanent, match=r"test.parquet is not a Parquet file"):
        hub.repositories.rows("tasks", split="test")
