"""Variables that teams have: written down by `init`, never read when something runs, and said where they are not written down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controller.cli.surroundings import JOBS, TEXTS, TOKENS, found, training

Place = Result = Any  # of conftest.py
MODEL, ORG = TEXTS["baseModel"], TEXTS["org"]


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (JOBS, *TEXTS.values(), *TOKENS):
        monkeypatch.delenv(name, raising=False)


def test_init_writes_down_what_is_set(turnout: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {JOBS: "true", MODEL: "Qwen/Qwen2.5-Coder-7B", ORG: "acme", "HF_TOKEN": "hf_never_written"}.items():
        monkeypatch.setenv(name, value)
    result = turnout("init", str(tmp_path / "demo"))
    assert result.code == 0
    assert (
        "training: {backend: hf_jobs, baseModel: Qwen/Qwen2.5-Coder-7B, org: acme, token: env:HF_TOKEN} is from "
        f"{JOBS}, {MODEL}, {ORG}, HF_TOKEN (its name only) of this process" in result.out
    )
    text = (tmp_path / "demo/environments/local/environment.yaml").read_text()
    assert text.endswith("    backend: hf_jobs\n    baseModel: Qwen/Qwen2.5-Coder-7B\n    org: acme\n    token: env:HF_TOKEN\n")
    assert not [path for path in (tmp_path / "demo").rglob("*") if path.is_file() and b"hf_never" in path.read_bytes()]
    assert "hf_never" not in result.out + result.err
    place = ("--repo", str(tmp_path / "demo"))
    commit_all(tmp_path / "demo")
    for command in ("validate", "plan"):
        told = turnout(command, *place)
        assert "Traceback" not in told.err
        assert "warning" not in told.err
    monkeypatch.setenv(ORG, "other")
    told = turnout("validate", *place)
    assert told.err == (
        f"warning: {ORG} of this process changes nothing; if it is meant, write `training: {{org: other}}` "
        "under spec of environments/local/environment.yaml\n"
    )
    assert told.code == 0


def commit_all(where: Path) -> None:
    import subprocess

    for words in (["add", "-A"], ["commit", "-q", "-m", "Begin"]):
        subprocess.run(["git", "-C", str(where), *words], check=True)


def test_init_writes_nothing_where_nothing_is_set(turnout: Callable[..., Result], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_never_written")  # alone it says nothing about training
    result = turnout("init", str(tmp_path / "demo"))
    assert result.code == 0
    assert "training" not in result.out
    assert "training" not in (tmp_path / "demo/environments/local/environment.yaml").read_text()


@pytest.mark.parametrize("command", [("validate",), ("plan",), ("plan", "--worktree"), ("validate", "--commit", "HEAD")])
def test_what_is_set_and_not_written_down_is_said_in_one_line(
    place: Place, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    plain = place(*command)
    assert plain.err == ""
    monkeypatch.setenv(JOBS, "1")
    monkeypatch.setenv(MODEL, "a model: with {signs}")
    told = place(*command)
    assert (told.code, told.out) == (plain.code, plain.out)  # it changes nothing
    assert told.err == (
        f"warning: {JOBS}, {MODEL} of this process changes nothing; if it is meant, write "
        '`training: {backend: hf_jobs, baseModel: "a model: with {signs}"}` under spec of environments/local/environment.yaml\n'
    )
    assert place(*command, "--json").err == told.err
    place.replace(
        "environments/local/environment.yaml",
        "  branch: main",
        '  branch: main\n  training: {backend: hf_jobs, baseModel: "a model: with {signs}"}',
    )
    place.commit("Write it down")
    assert place(*command).err == ""


def test_broken_files_are_told_as_without_variables(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write("environments/local/environment.yaml", "nonsense: [")
    before = place("validate")
    monkeypatch.setenv(JOBS, "1")
    after = place("validate")
    assert (after.code, after.out) == (before.code, before.out) == (1, before.out)


@pytest.mark.parametrize(
    ("value", "backend"), [("true", "hf_jobs"), ("ON", "hf_jobs"), ("0", "local"), ("False", "local"), ("", None), ("maybe", None)]
)
def test_what_a_switch_may_say(value: str, backend: str | None) -> None:
    assert {field: each[1] for field, each in found({JOBS: value}).items()} == ({"backend": backend} if backend else {})


@pytest.mark.parametrize("value", ["Qwen/Qwen2.5-Coder-7B", "a: b", "#x", "yes", "null", "1.5", 'quo"te', "line\nbreak", "ü", "x:"])
def test_whatever_is_set_is_read_back_as_it_was(value: str) -> None:
    import yaml

    block, _ = training({MODEL: value})
    assert yaml.safe_load(block)["training"]["baseModel"] == value
