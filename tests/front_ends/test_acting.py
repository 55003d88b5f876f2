"""The commands that change something: apply, reconcile, watch, rollback, retry, init, up and down."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Place = Result = Any  # of conftest.py
SCRIPT = Path(sys.executable).with_name("turnout")


# -- apply and reconcile ---------------------------------------------------------------------------------------------


def test_apply(place: Place) -> None:
    result = place("apply")
    assert result.code == 0
    assert "Plan: 4 to create" in result.out
    assert "docs: openai/gpt-4o-mini v1.0.0 at openrouter answers" in result.out
    assert "local is as" in result.out
    assert place("plan").code == 0
    again = place("apply")
    assert again.code == 0
    assert "nothing to do" in again.out


def test_apply_json(place: Place) -> None:
    result = place("apply", "--json")
    assert result.code == 0
    found = result.json
    assert found["exit"] == 0
    assert found["open"] == []
    assert found["commit"] == place.git("rev-parse", "HEAD")
    assert "turnout.action.succeeded.v1" in {event["type"] for event in found["events"]}


def test_apply_waits_for_a_person(place: Place) -> None:
    place.replace(
        "environments/local/environment.yaml",
        "  branch: main",
        "  branch: main\n  rules: {deny: [{match: ModelBinding/docs, reason: frozen for the release}]}",
    )
    place.commit("Freeze docs")
    result = place("apply")
    assert result.code == 3
    assert "waits for a person: ModelBinding/docs: policy denies it: frozen for the release (Denied)" in result.out
    assert place("apply").code == 3
    found = place("apply", "--json")
    assert found.code == found.json["exit"] == 3
    assert [(each["address"], each["code"]) for each in found.json["open"]] == [("ModelBinding/docs", "Denied")]


def test_apply_with_a_proxy_that_does_not_run(with_gateway: Place) -> None:
    result = with_gateway("apply")
    assert result.code == 1
    assert "failed, is tried again: Gateway/main" in result.out
    assert "feature_dev" in with_gateway("registry").out


def test_apply_asks_only_on_a_terminal(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    asked: list[str] = []

    def no(text: str, **more: Any) -> None:
        import click

        asked.append(text)
        raise click.Abort

    monkeypatch.setattr("click.confirm", no)
    assert place("apply").code == 130
    assert asked
    assert place("log", "--json").out == ""
    assert place("apply", "--yes").code == 0


def test_reconcile_once(place: Place) -> None:
    result = place("reconcile", "--once")
    assert result.code == 0
    assert "Plan:" not in result.out
    assert "docs: openai/gpt-4o-mini v1.0.0 at openrouter answers" in result.out
    place.write("state/bindings/docs.yaml", "kind: [broken\n")
    place.commit("Break docs")
    found = place("reconcile", "--once", "--json")
    assert found.code == 3
    assert {each["code"] for each in found.json["open"]} == {"Quarantined"}


@pytest.mark.parametrize("json_", [False, True])
def test_the_controller_itself(place: Place, json_: bool) -> None:
    command = [str(SCRIPT), "--repo", str(place.path), "reconcile", *(["--json"] if json_ else [])]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    assert child.stdout is not None
    timer = threading.Timer(60, child.kill)
    timer.start()
    try:
        begun = _until(child.stdout, "ModelBinding/docs" if json_ else "docs: create done")
        place.version("docs", "v2")
        moved = _until(child.stdout, '"version": "v2"' if json_ else "docs: update done")
        child.send_signal(signal.SIGTERM)
        rest, errors = child.communicate(timeout=30)
    finally:
        timer.cancel()
        child.kill()
    assert child.returncode == 0
    assert errors == ""
    for line in (*begun, *moved, *rest.splitlines()):
        if json_:
            assert json.loads(line)["specversion"] == "1.0"
        else:
            assert line[2] == line[5] == ":"


def _until(stream: Any, text: str) -> list[str]:
    lines = []
    for line in stream:
        lines.append(line.rstrip("\n"))
        if text in line:
            return lines
    raise AssertionError(f"{text!r} was not told: {lines}")


# -- watch -----------------------------------------------------------------------------------------------------------


def test_watch_a_rollout_to_its_good_end(applied: Place) -> None:
    applied.rollout()
    assert applied("apply").code == 0
    assert "Promote docs to v2.0.0" in applied.git("log", "--format=%s")
    result = applied("watch", "docs-v2", "--timeout", "20", "--interval", "0.05")
    assert result.code == 0
    assert "all sessions to v2.0.0 at once" in result.out
    assert all(line["specversion"] == "1.0" for line in applied("watch", "docs-v2", "--timeout", "20", "--json").lines)


def test_watch_gives_up(applied: Place) -> None:
    applied.rollout(strategy="{canary: [{weight: 20, hold: 1h}]}")
    applied("apply")
    for name in ("docs-v2", "Rollout/docs-v2", "docs"):
        result = applied("watch", name, "--timeout", "0.2", "--interval", "0.05")
        assert result.code == 1
        assert "has not ended" in result.err
    assert "docs: v1.0.0 -> v2.0.0; step 1 of 1, 20 %" in result.out
    line = applied("watch", "docs-v2", "--timeout", "0", "--json").lines[-1]
    assert line["state"]["weight"] == 20.0


def test_watch_a_rollout_to_its_bad_end(applied: Place) -> None:
    applied.rollout(strategy="{canary: [{weight: 20, hold: 1h}]}")
    applied("apply")
    applied.git("revert", "--no-edit", "HEAD")
    applied("apply")
    result = applied("watch", "docs-v2", "--timeout", "20")
    assert result.code == 1
    assert "docs-v2 was cancelled" in result.err


def test_watch_what_is_not_there(applied: Place) -> None:
    assert applied("watch", "docs").code == 1
    wrong = applied("watch", "docs-v3")
    assert wrong.code == 1
    assert wrong.err.startswith("error: ")


# -- rollback and retry ----------------------------------------------------------------------------------------------


def test_rollback_of_a_binding(applied: Place) -> None:
    commit = applied.version("docs", "v2")
    applied("apply")
    result = applied("rollback", "docs")
    assert result.code == 0
    assert f'reverts {commit[:7]} "docs to v2" by Ada' in result.out
    assert "state/bindings/docs.yaml" in result.out
    assert f"This reverts commit {commit}." in applied.git("log", "-1", "--format=%B")
    assert applied.git("status", "--porcelain") == ""
    applied("apply")
    assert applied("status", "docs", "--json").json[0]["state"]["version"] == "v1.0.0"


def test_rollback_names_the_person(applied: Place) -> None:
    applied.version("docs", "v2")
    applied.git("config", "user.name", "Grace")
    applied.git("config", "user.email", "grace@example.org")
    assert applied("rollback", "docs", "--json").json["files"] == ["state/bindings/docs.yaml"]
    assert applied.git("log", "-1", "--format=%an <%ae>") == "Grace <grace@example.org>"


def test_rollback_of_a_merge(applied: Place) -> None:
    applied.git("checkout", "-q", "-b", "work")
    applied.version("docs", "v2")
    applied.version("cicd", "v2")
    applied.git("checkout", "-q", "main")
    applied.version("code_review", "v2")
    applied.git("merge", "-q", "--no-ff", "-m", "Merge work", "work")
    merge = applied.git("rev-parse", "HEAD")
    result = applied("rollback", "--commit", "HEAD")
    assert result.code == 0
    assert "state/bindings/docs.yaml" in result.out
    assert "state/bindings/cicd.yaml" in result.out
    assert "reversing\nchanges made to" in applied.git("log", "-1", "--format=%B")
    assert "version: v1.0.0" in (applied.path / "state/bindings/docs.yaml").read_text()
    assert "version: v2" in (applied.path / "state/bindings/code_review.yaml").read_text()
    assert applied.git("rev-parse", "HEAD~1") == merge


def test_rollback_refuses_a_conflict(applied: Place) -> None:
    older = applied.version("docs", "v2")
    applied.version("docs", "v3")
    before = applied.git("rev-parse", "HEAD")
    result = applied("rollback", "--commit", older)
    assert result.code == 1
    assert "conflicts in state/bindings/docs.yaml; nothing was changed" in result.err
    assert "hint: " in result.err
    assert applied.git("rev-parse", "HEAD") == before
    assert applied("rollback", "docs").code == 0


def test_rollback_leaves_a_dirty_work_tree_alone(applied: Place) -> None:
    applied.version("docs", "v2")
    applied.replace("state/bindings/docs.yaml", "v2", "v3")
    before = applied.git("rev-parse", "HEAD")
    result = applied("rollback", "docs")
    assert result.code == 1
    assert "changes of its own" in result.err
    assert applied.git("rev-parse", "HEAD") == before
    assert "v3" in (applied.path / "state/bindings/docs.yaml").read_text()


def test_rollback_of_what_is_not_there(applied: Place) -> None:
    assert 'did you mean "docs"?' in applied("rollback", "dosc").err
    assert applied("rollback", "--commit", "0123456").code == 1


def test_retry(applied: Place) -> None:
    result = applied("retry", "docs")
    assert result.code == 0
    assert "turnout.retry.requested.v1" in {event["type"] for event in applied("log", "--json", "-n", "1").lines}
    assert applied("retry", "docs", "--json").json["address"] == "ModelBinding/docs"
    assert applied("retry", "dosc").code == 1


# -- init ------------------------------------------------------------------------------------------------------------


def commit_all(where: Path) -> None:
    subprocess.run(["git", "-C", str(where), "add", "-A"], check=True)
    subprocess.run(["git", "-C", str(where), "commit", "-q", "-m", "Begin"], check=True)


@pytest.mark.parametrize("agents", [(), ("writer", "critic")])
def test_init(turnout: Callable[..., Result], tmp_path: Path, agents: tuple[str, ...]) -> None:
    demo = tmp_path / "demo"
    result = turnout("init", str(demo), *(word for agent in agents for word in ("--agent", agent)))
    assert result.code == 0
    assert "git add -A" in result.out
    commit_all(demo)
    names = agents or ("feature_dev", "code_review", "cicd", "docs")
    assert turnout("validate", "--repo", str(demo)).out == f"{len(names) + 1} resources, no problems\n"
    assert turnout("plan", "--repo", str(demo)).code == 2
    assert turnout("validate", "--repo", str(demo), "--commit", "HEAD").code == 0
    for path in demo.rglob("*"):
        if path.is_file() and ".git/" not in path.as_posix():
            assert "@@" not in path.read_text()


def test_init_overwrites_nothing(turnout: Callable[..., Result], tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    demo.mkdir()
    (demo / "README.md").write_text("mine")
    result = turnout("init", str(demo))
    assert result.code == 1
    assert "README.md" in result.err
    assert [path.name for path in demo.iterdir()] == ["README.md"]
    assert turnout("init", str(demo), "--force").code == 0
    assert "demo" in (demo / "README.md").read_text()


def test_init_in_a_repository_with_another_branch(turnout: Callable[..., Result], tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", "-b", "trunk", str(tmp_path / "demo")], check=True)
    assert turnout("init", str(tmp_path / "demo")).code == 0
    commit_all(tmp_path / "demo")
    assert "branch: trunk" in (tmp_path / "demo/environments/local/environment.yaml").read_text()
    assert turnout("validate", "--repo", str(tmp_path / "demo")).code == 0


def test_the_example_in_the_new_readme_is_valid(turnout: Callable[..., Result], tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    turnout("init", str(demo))
    blocks = [block.partition("```")[0] for block in (demo / "README.md").read_text().split("```yaml\n")[1:]]
    rollout = next(block for block in blocks if "kind: Rollout" in block)
    environment = next(block for block in blocks if "kind: Environment" in block)
    (demo / "state/rollouts").mkdir()
    (demo / "state/rollouts/feature_dev-v2.yaml").write_text(rollout)
    (demo / "environments/production").mkdir()
    (demo / "environments/production/environment.yaml").write_text(environment.replace("remote: origin", "poll: 30s"))
    commit_all(demo)
    for name in ("local", "production"):
        result = turnout("validate", "--repo", str(demo), "--env", name)
        assert result.code == 0, result.out


def test_the_new_workflows_pass_the_linter(turnout: Callable[..., Result], tmp_path: Path) -> None:
    turnout("init", str(tmp_path / "demo"))
    linter = shutil.which("zizmor", path=str(SCRIPT.parent))
    if linter is None:
        pytest.skip("zizmor is not installed")
    run = subprocess.run(
        [linter, "--offline", "--persona", "pedantic", *map(str, (tmp_path / "demo/.github/workflows").iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


# -- up and down -----------------------------------------------------------------------------------------------------


def test_up_and_down(with_gateway: Place) -> None:
    """Through the script: its children outlive it, and must not hold this process's pipes."""

    def call(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(SCRIPT), *args, "--repo", str(with_gateway.path)], capture_output=True, text=True, check=False)

    try:
        up = call("up")
        assert up.returncode == 0, up.stderr
        assert "turnout watch" in up.stdout
        assert {each["health"] for each in with_gateway("status", "--json").json} == {"Healthy"}
        assert with_gateway("apply").code == 0
    finally:
        down = call("down")
    assert down.returncode == 0
    assert "stopped controller" in down.stdout
    assert "nothing runs" in call("down").stdout
