"""`turnout dataset`: the report of a TrainingRequest before there is one, and two files that share no question."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.testing.hugging_face import DEFAULT_TOKEN, HuggingFaceDouble

Place = Any  # of conftest.py


def row(number: int | str, **more: Any) -> dict[str, Any]:
    return {"inputs": {"task": f"Write function {number}."}, "outputs": {"code": f"x = {number}"}, **more}


def lines(*rows: Any) -> str:
    return "".join(f"{json.dumps(each)}\n" for each in rows)


@pytest.fixture
def inside(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Paths are those of the shell."""
    monkeypatch.chdir(place.path)
    return place


def test_files_that_nobody_has_committed_are_checked(inside: Place) -> None:
    inside.write("data/a.jsonl", lines(*(row(n) for n in range(300))))
    inside.write("data/b.jsonl", lines(*(row(n) for n in range(300, 600))))
    found = inside("dataset", "check", "data/a.jsonl", "data/b.jsonl")
    assert (found.code, found.err) == (0, "")
    assert "600 rows (600 example), 600 usable, 600 distinct" in found.out
    assert found.out.endswith("Training can start.\n")


def test_what_would_stop_a_training_ends_with_1_and_says_what_to_collect(inside: Place) -> None:
    inside.write("a.jsonl", lines(*(row(n) for n in range(30))))
    found = inside("dataset", "check", "a.jsonl")
    assert found.code == 1
    assert "collect 20 more examples" in found.out
    assert inside("dataset", "check", "a.jsonl", "--mode", "demo").code == 0
    assert "collect 70 more pairs" not in found.out
    told = inside("dataset", "check", "a.jsonl", "--method", "orpo", "--json")
    assert told.code == 1
    assert told.json["stops"] is True
    assert told.json["more"] == 100
    assert {each["code"] for each in told.json["findings"]} == {"TooFew", "WrongForMethod"}


def test_it_finds_what_the_training_finds(inside: Place) -> None:
    """The same sentences that hold a TrainingRequest up."""
    inside.write("data/rows.jsonl", lines(*(row(n) for n in range(80)), row(999, metadata={"key": "AKIA" + "Q2W3E4R5T6Y7U2I3"})))
    inside.write("data/questions.jsonl", lines(row(3), row(2000)))
    inside.write(
        "state/trainings/docs-v1.yaml",
        """\
apiVersion: turnout/v1
kind: TrainingRequest
metadata: {name: docs-v1}
spec:
  {agent: docs, version: v1.0.0, method: sft, baseModel: tiny, dataset: {files: [data/rows.jsonl]},
   evaluation: {files: [data/questions.jsonl]}}
""",
    )
    inside.commit("Train docs")
    change = next(each for each in inside("plan", "--json").json["changes"] if each["address"] == "TrainingRequest/docs-v1")
    reasons = " ".join(wait["reason"] for wait in change["waits"])
    found = inside("dataset", "check", "data/rows.jsonl", "--evaluation", "data/questions.jsonl", "--json")
    assert found.code == 1
    stops = [each for each in found.json["findings"] if each["severity"] == "stop"]
    assert {each["code"] for each in stops} == {"Overlap", "Secret"}
    for each in stops:
        assert f"{each['message']}: {each['advice']}" in reasons
    assert "AKIA" not in inside("dataset", "check", "data/rows.jsonl").out


def test_the_length_is_the_environments_unless_one_is_given(inside: Place) -> None:
    inside.write("a.jsonl", lines(*(row(f"{n} {'long ' * 20}") for n in range(600))))
    assert inside("dataset", "check", "a.jsonl", "--length", "4").code == 1
    assert inside("dataset", "check", "a.jsonl").code == 0
    path = "environments/local/environment.yaml"
    inside.write(path, (inside.path / path).read_text() + "  training: {hyperparameters: {maxLength: 16}}\n")
    assert "the sequence length of 16 tokens" in inside("dataset", "check", "a.jsonl").out
    assert inside("dataset", "check", "a.jsonl", "--length", "1000").code == 0


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["none.jsonl"], 1, "none.jsonl cannot be read: No such file"),
        (["s3://bucket/a"], 1, "'s3://bucket/a' is no data set"),
        (["broken.jsonl"], 1, "broken.jsonl:2: is not JSON"),
        (["lfs.jsonl"], 1, "is a pointer of Git LFS"),
        (["ls://rows"], 1, "has no spec.langsmith"),
        (["ls://rows", "broken.jsonl"], 64, "stands alone"),
        (["broken.jsonl", "--split", "train"], 64, "files have no split"),
        ([], 64, "Missing argument"),
    ],
)
def test_what_cannot_be_read_is_said(inside: Place, args: list[str], code: int, said: str) -> None:
    inside.write("broken.jsonl", '{"messages": []}\n{\n')
    inside.write("lfs.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    found = inside("dataset", "check", *args)
    assert found.code == code
    assert said in found.err
    assert found.out == ""


@pytest.fixture
def double(tmp_path: Path) -> Iterator[HuggingFaceDouble]:
    with HuggingFaceDouble(tmp_path / "hub") as double:
        double.seed(
            "dataset",
            "acme/rows",
            {"train.jsonl": lines(*(row(n) for n in range(70))).encode(), "test.jsonl": lines(row(1)).encode()},
        )
        yield double


def test_a_data_set_of_the_hub_is_read_through_the_environment(
    inside: Place, double: HuggingFaceDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", DEFAULT_TOKEN)
    path = "environments/local/environment.yaml"
    inside.write(path, (inside.path / path).read_text() + f"  huggingface: {{url: '{double.url}'}}\n")
    found = inside("dataset", "check", "hf://acme/rows@main", "--split", "train")
    assert (found.code, found.err) == (0, "")
    assert found.out.startswith("70 rows")
    both = inside(
        "dataset", "check", "hf://acme/rows", "--split", "train", "--evaluation", "hf://acme/rows", "--evaluation-split", "test"
    )
    assert both.code == 1
    assert "the training set asks the same" in both.out


# -- split ---------------------------------------------------------------------------------------------------------------


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["metadata"]["n"] for line in path.read_text().splitlines()]


def test_a_question_is_on_one_side_however_it_is_spelt(inside: Place) -> None:
    spelt = [
        lambda n: f"Write function {n}.",
        lambda n: f"write   FUNCTION {n}",
    ]
    rows = [{**row(n), "inputs": {"task": spell(n)}, "metadata": {"n": n}} for n in range(200) for spell in spelt]
    inside.write("all.jsonl", lines(*rows))
    found = inside(
        "dataset", "split", "all.jsonl", "--held-out", "20%", "--seed", "7", "--train", "a/t.jsonl", "--evaluation", "a/e.jsonl"
    )
    assert (found.code, found.err) == (0, "")
    train, evaluation = numbers(inside.path / "a/t.jsonl"), numbers(inside.path / "a/e.jsonl")
    assert not set(train) & set(evaluation)
    assert sorted(train + evaluation) == sorted([*range(200), *range(200)])
    assert 40 < len(evaluation) < 130
    assert found.out == f"{len(train)} rows to a/t.jsonl\n{len(evaluation)} rows to a/e.jsonl\n"
    checked = inside("dataset", "check", "a/t.jsonl", "--evaluation", "a/e.jsonl", "--json")
    assert "Overlap" not in {each["code"] for each in checked.json["findings"]}


def test_rows_that_come_later_move_none_and_another_seed_is_another_split(inside: Place) -> None:
    def split(count: int, seed: str) -> set[int]:
        inside.write("all.jsonl", lines(*(row(n, metadata={"n": n}) for n in range(count))))
        args = ("--held-out", "25", "--seed", seed, "--train", "t.jsonl", "--evaluation", "e.jsonl", "--force")
        assert inside("dataset", "split", "all.jsonl", *args).code == 0
        return set(numbers(inside.path / "e.jsonl"))

    before, after = split(100, "a"), split(300, "a")
    assert {n for n in after if n < 100} == before
    assert split(100, "b") != before


def test_lines_stay_as_they_are(inside: Place) -> None:
    text = '{"inputs":{"task": "ä\u2028"} , "outputs":{"code":"1"}}\n'
    inside.write("all.jsonl", text + lines(*(row(n) for n in range(50))))
    inside("dataset", "split", "all.jsonl", "--held-out", "50%", "--train", "t.jsonl", "--evaluation", "e.jsonl")
    both = [(inside.path / name).read_bytes() for name in ("t.jsonl", "e.jsonl")]
    assert sum(text.encode() in each for each in both) == 1


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["--held-out", "0"], 64, "between 0 and 100"),
        (["--held-out", "ten"], 64, "between 0 and 100"),
        (["--evaluation", "all.jsonl"], 64, "three files"),
        (["--train", "there.jsonl"], 1, "there.jsonl exists already"),
        (["--held-out", "0.0001%"], 1, "none would be for evaluation"),
    ],
)
def test_what_makes_no_sense_is_refused(inside: Place, args: list[str], code: int, said: str) -> None:
    inside.write("all.jsonl", lines(*(row(n) for n in range(10))))
    inside.write("there.jsonl", "")
    defaults = ["--train", "t.jsonl", "--evaluation", "e.jsonl"]
    found = inside("dataset", "split", "all.jsonl", *defaults, *args)
    assert (found.code, found.out) == (code, "")
    assert said in found.err
    assert not (inside.path / "t.jsonl").exists()


def test_a_row_without_a_question_stops_the_split(inside: Place) -> None:
    inside.write("all.jsonl", lines(row(1), {"text": "x"}, {"text": "y"}))
    found = inside("dataset", "split", "all.jsonl", "--train", "t.jsonl", "--evaluation", "e.jsonl")
    assert found.code == 1
    assert "all.jsonl: row 2: found text; allowed is" in found.err
    assert "and 1 more" in found.err


def test_the_group_tells_its_commands(turnout: Callable[..., Any]) -> None:
    found = turnout("dataset", "chek")
    assert found.code == 64
    assert 'did you mean "check"' in found.err
