"""A controller that does not stay, and work that only this machine can do: it waits for it, and passes a SIGTERM on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from controller.testing.openrouter_api import OpenRouterApi, Rules

CHAT = "POST */chat/completions"
ENVIRONMENT = """\
apiVersion: turnout/v1
kind: Environment
metadata: {{name: local}}
spec:
  endpoints: {{router: {{url: "{url}", apiKey: "env:ROUTER_KEY", timeout: 10.0}}}}
  prices: {{acme/v1: {{input: 1.0, output: 2.0}}, acme/v2: {{input: 1.0, output: 2.0}}}}
"""
EVALUATION = """\
apiVersion: turnout/v1
kind: Evaluation
metadata: {name: docs-v2}
spec:
  agent: docs
  candidate: {model: acme/v2, endpoint: router, version: v2}
  baseline: {model: acme/v1, endpoint: router, version: v1}
  dataset: {files: [docs.jsonl]}
  evaluators: [{name: accuracy, kind: exact, field: outputs.answer}]
  thresholds: {watch: {}}
  concurrency: 2
"""
ROWS = [{"inputs": {"task": f"say {number}"}, "outputs": {"answer": str(number)}} for number in range(40)]


def answering(delay: float) -> Rules:
    return Rules.model_validate({"models": {"acme/v1": {}, "acme/v2": {}}, "rules": [{"text": "no", "delay": delay}]})


def git(repo: Path, *args: str) -> str:
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    return subprocess.run(["git", "-C", str(repo), *who, *args], check=True, capture_output=True, text=True).stdout


def made(repo: Path, url: str) -> Path:
    git(repo.parent, "init", "-q", "-b", "main", str(repo))
    files = {"environments/local/environment.yaml": ENVIRONMENT.format(url=url), "state/evaluations/docs-v2.yaml": EVALUATION}
    files["docs.jsonl"] = "".join(f"{json.dumps(row)}\n" for row in ROWS)
    for path, text in files.items():
        (repo / path).parent.mkdir(parents=True, exist_ok=True)
        (repo / path).write_text(text)
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "Evaluate")
    return repo


def once(repo: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "controller", "--repo", str(repo), "reconcile", "--once", "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def waited(found: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not found():
        assert time.monotonic() < end
        time.sleep(0.05)


def children(repo: Path) -> list[str]:
    found = subprocess.run(["pgrep", "-f", f"controller.evaluating --order {repo}"], capture_output=True, text=True, check=False)
    return found.stdout.split()


def test_one_short_lived_controller_sees_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OpenRouterApi(answers=answering(0.0)) as api:
        monkeypatch.setenv("ROUTER_KEY", api.key)
        repo = made(tmp_path / "repo", api.base_url)
        said, _ = once(repo).communicate(timeout=120)
    ends = [event["data"].get("ends") for event in json.loads(said)["events"]]
    assert "completed" in ends
    assert children(repo) == []


def test_a_sigterm_is_passed_on_and_the_next_controller_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with OpenRouterApi(answers=answering(0.2)) as api:
        monkeypatch.setenv("ROUTER_KEY", api.key)
        repo = made(tmp_path / "repo", api.base_url)
        first = once(repo)
        waited(lambda: len(api.asked(CHAT)) > 4)
        first.send_signal(signal.SIGTERM)
        first.communicate(timeout=60)
        assert first.returncode == 130
        assert children(repo) == []
        asked = len(api.asked(CHAT))
        assert asked < 80
        time.sleep(0.5)
        assert len(api.asked(CHAT)) == asked
        said, _ = once(repo).communicate(timeout=120)
        if "completed" not in [event["data"].get("ends") for event in json.loads(said)["events"]]:  # it was not due yet
            time.sleep(6)
            said, _ = once(repo).communicate(timeout=120)
        assert "completed" in [event["data"].get("ends") for event in json.loads(said)["events"]]
        assert len(api.asked(CHAT)) == 80  # nothing is paid twice
