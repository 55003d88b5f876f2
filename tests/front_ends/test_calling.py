"""How the command line is called, what its endings mean, and what it never does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Place = Result = Any  # of conftest.py
SCRIPT = Path(sys.executable).with_name("turnout")
HEAVY = ("pygit2", "pydantic", "rich", "yaml", "openai", "watchfiles", "msgspec")


def script(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(SCRIPT), *args], capture_output=True, text=True, check=False, env={**os.environ, **env})


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from controller.cli import main; main(['--help'])\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "heavy: []"


def test_help_tells_commands_and_exit_codes() -> None:
    run = script("--help")
    assert run.returncode == 0
    for word in ("plan", "rollback", "completion", "Exit codes", "64", "130"):
        assert word in run.stdout
    assert script().stdout == run.stdout


def test_every_command_has_help(turnout: Callable[..., Result]) -> None:
    from controller.cli.lazy import COMMANDS

    for name in COMMANDS:
        result = turnout(name, "--help")
        assert result.code == 0
        assert "--repo" in result.out


def test_version_and_module() -> None:
    assert script("--version").stdout.startswith("turnout ")
    run = subprocess.run([sys.executable, "-m", "controller", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout == script("--version").stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("plna",), 'did you mean "plan"?'),
        (("plan", "--wroktree"), "--worktree"),
        (("log", "verfy"), 'did you mean "verify"?'),
        (("rollback",), "--commit"),
        (("rollback", "docs", "--commit", "HEAD"), "--commit"),
        (("plan", "--worktree", "--commit", "HEAD"), "choose one"),
        (("watch", "--timeout", "soon"), "timeout"),
        (("why",), "NAME"),
        (("init", "x", "--agent", "Not A Name"), "lower-case"),
    ],
)
def test_wrong_calls(turnout: Callable[..., Result], args: tuple[str, ...], said: str) -> None:
    result = turnout(*args)
    assert result.code == 64
    assert said in result.err
    assert result.out == ""


def test_not_a_repository(turnout: Callable[..., Result], tmp_path: Path) -> None:
    result = turnout("plan", "--repo", str(tmp_path / "nothing"))
    assert result.code == 1
    assert result.err.startswith("error: ")
    assert "hint: " in result.err


def test_empty_repository(bare: Place) -> None:
    result = bare("plan")
    assert result.code == 1
    assert "no commit" in result.err


def test_unknown_environment(place: Place) -> None:
    result = place("plan", "--env", "locl")
    assert result.code == 1
    assert 'did you mean "local"?' in result.err
    for command in ("status", "log", "registry"):
        assert 'did you mean "local"?' in place("--env", "locl", command).err


def test_environment_variable(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNOUT_ENVIRONMENT", "elsewhere")
    assert "no environment 'elsewhere'" in place("plan").err
    assert place("plan", "--env", "local").code == 2


def test_options_before_and_after(place: Place, turnout: Callable[..., Result]) -> None:
    before = place("--env", "local", "plan", "--json").json
    after = turnout("plan", "--json", "--repo", str(place.path), "--env", "local").json
    assert before == after


def test_every_problem_is_a_line(place: Place) -> None:
    place.replace("environments/local/environment.yaml", "branch: main", "brunch: main\n  wirteBack: direct")
    place.git("checkout", "-q", "--orphan", "fresh")
    place.commit("Broken from the start")
    result = place("plan")
    assert result.code == 1
    assert "error: 2 problems" in result.err
    assert 'did you mean "branch"?' in result.err
    assert 'did you mean "writeBack"?' in result.err


def test_an_unexpected_error_is_one_line(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from controller.app import Controller

    def broken(*args: object, **more: object) -> None:
        raise RuntimeError("this is\na bug")

    monkeypatch.setattr(Controller, "registry", broken)
    result = place("registry")
    assert result.code == 1
    assert result.err.splitlines() == ["error: unexpected RuntimeError: this is a bug; run again with --debug"]
    with pytest.raises(RuntimeError):
        place("registry", "--debug")


def test_interrupted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from controller.app import Controller

    def interrupted(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Controller, "registry", interrupted)
    assert place("registry").code == 130


def test_a_reader_that_went_away(applied: Place) -> None:
    command = f"{SCRIPT} --repo {applied.path} log --follow | head -1"
    run = subprocess.run(["bash", "-c", f"timeout 20 {command}; true"], capture_output=True, text=True, check=False)
    assert "0001" in run.stdout
    assert "Traceback" not in run.stderr


def test_colours(place: Place) -> None:
    forced = {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    assert "\x1b[" in script("--repo", str(place.path), "plan", **forced).stdout
    assert "\x1b[" not in script("--repo", str(place.path), "plan", **forced, NO_COLOR="1").stdout
    assert "\x1b[" not in script("--repo", str(place.path), "plan", "--no-color", **forced).stdout
    assert "\x1b[" not in script("--repo", str(place.path), "plan").stdout


def test_ascii_terminal(place: Place) -> None:
    run = script("--repo", str(place.path), "plan", PYTHONIOENCODING="ascii")
    assert run.returncode == 2


def test_what_people_wrote_does_not_drive_the_terminal(place: Place) -> None:
    place.commit("Evil \x1b]0;title\x07 \u202e")
    result = place("plan")
    assert "\x1b" not in result.out
    assert "\u202e" not in result.out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(turnout: Callable[..., Result], shell: str) -> None:
    result = turnout("completion", shell)
    assert result.code == 0
    assert "_TURNOUT_COMPLETE" in result.out


def complete(place: Place, words: str) -> list[str]:
    run = subprocess.run(
        [str(SCRIPT)],
        capture_output=True,
        text=True,
        check=False,
        cwd=place.path,
        env={**os.environ, "_TURNOUT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))},
    )
    assert run.stderr == ""
    return [line.partition(",")[2] for line in run.stdout.splitlines()]


def test_names_complete(place: Place) -> None:
    assert complete(place, "turnout ro") == ["rollback"]
    assert complete(place, "turnout why fea") == ["feature_dev"]
    assert complete(place, "turnout plan --env l") == ["local"]
    assert "cicd" in complete(place, "turnout rollback ")
    assert complete(place, "turnout log ver") == ["verify"]
