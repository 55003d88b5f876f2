"""`turnout up --rehearse` as a newcomer uses it: one commit of a production repository, carried to its end on this machine.

Everything here is real but the vendors: git, processes, the gateway, the SDKs, the training program, the questions that are asked.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PYTHON = os.environ.get("TURNOUT_TRAINING_PYTHON", "")
needs_torch = pytest.mark.skipif(
    not PYTHON and not os.environ.get("CI"), reason="TURNOUT_TRAINING_PYTHON names no Python with torch"
)
FILES = {
    "environments/production/environment.yaml": """\
apiVersion: turnout/v1
kind: Environment
metadata: {name: production}
spec:
  branch: main
  remote: origin
  proxies: {main: {url: "https://gateway.acme.example", token: "env:GATEWAY_TOKEN"}}
  endpoints:
    openrouter: {url: "https://openrouter.ai/api/v1", apiKey: "env:OPENROUTER_API_KEY"}
    huggingface: {url: "https://router.huggingface.co/v1", apiKey: "env:HF_TOKEN"}
  prices:
    anthropic/claude-3.5-sonnet: {input: 3.0, output: 15.0}
    acme/code-chef-feature_dev-v2.0.0: {input: 0.2, output: 0.2}
  langsmith: {apiKey: "env:LANGSMITH_API_KEY"}
  budget: {monthlyUsd: 100}
""",
    "environments/production/training_defaults.yaml": """\
apiVersion: turnout/v1
kind: Environment
metadata: {name: production}
spec:
  training: {backend: hf_jobs, org: acme, prefix: code-chef, baseModel: Qwen/Qwen2.5-Coder-7B}
""",
    "state/bindings/feature_dev.yaml": """\
apiVersion: turnout/v1
kind: ModelBinding
metadata: {name: feature_dev}
spec: {model: anthropic/claude-3.5-sonnet, endpoint: openrouter, version: v1.4.0}
""",
    "state/gateways/main.yaml": """\
apiVersion: turnout/v1
kind: Gateway
metadata: {name: main}
spec: {proxies: [main], files: [{path: FOLDER/models.yaml}]}
""",
    "state/trainings/feature_dev-v2.yaml": """\
apiVersion: turnout/v1
kind: TrainingRequest
metadata: {name: feature_dev-v2}
spec:
  agent: feature_dev
  version: v2.0.0
  method: sft
  dataset: ls://feature-dev-2026
  evaluation: ls://feature-dev-eval
  mode: demo
""",
    "state/evaluations/feature_dev-v2.yaml": """\
apiVersion: turnout/v1
kind: Evaluation
metadata: {name: feature_dev-v2}
spec:
  agent: feature_dev
  candidate: {training: feature_dev-v2, endpoint: huggingface}
  dataset: ls://feature-dev-eval
  evaluators: [{name: accuracy, kind: exact, field: outputs.code}]
  thresholds: {watch: {}}
""",
    "state/rollouts/feature_dev-v2.yaml": """\
apiVersion: turnout/v1
kind: Rollout
metadata: {name: feature_dev-v2}
spec:
  binding: feature_dev
  evaluation: feature_dev-v2
  strategy: {canary: [{weight: 20, hold: 24h}]}
""",
}


class Place:
    """A repository of a team, and the command line in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        subprocess.run(["git", "init", "-q", "-b", "main", str(folder)], check=True)
        for path, text in FILES.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text.replace("FOLDER", str(folder.parent)))
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "Train, evaluate and roll out feature_dev v2")

    def git(self, *args: str, where: Path | None = None) -> str:
        who = ("-c", "user.name=Ada", "-c", "user.email=ada@acme.example")
        run = subprocess.run(["git", "-C", str(where or self.folder), *who, *args], capture_output=True, text=True, check=True)
        return run.stdout

    def __call__(self, *args: str, where: Path | None = None) -> str:
        command = [sys.executable, "-m", "controller", "--repo", str(where or self.folder), "--env", "production", *args]
        run = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})
        assert run.returncode in (0, 1), run.stderr
        return run.stdout + run.stderr

    @property
    def copy(self) -> Path:
        return self.folder / ".git/turnout/production/rehearsal"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path / "fleet")
    yield found
    found("down", "--rehearse")


def events(place: Place) -> list[Any]:
    return [json.loads(line) for line in place("log", "--json", where=place.copy).splitlines() if line.startswith("{")]


def ended(place: Place, subject: str) -> str:
    return next((each["data"]["ends"] for each in events(place) if each.get("subject") == subject and each["data"].get("ends")), "")


def waited(place: Place, subject: str, seconds: float = 150) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = ended(place, subject)
        if found:
            return found
        time.sleep(1)
    raise AssertionError(place("status", where=place.copy) + place("log", where=place.copy))


@needs_torch
@pytest.mark.parametrize("candidate", ["better", "worse"])
def test_one_commit_to_its_end(place: Place, candidate: str) -> None:
    before = place.git("for-each-ref") + place.git("status", "--porcelain")
    told = place("up", "--rehearse", "--candidate", candidate)
    assert "making a tiny model that stands for Qwen/Qwen2.5-Coder-7B" in told
    assert "ready" in told
    assert waited(place, "TrainingRequest/feature_dev-v2") == "completed"
    assert waited(place, "Evaluation/feature_dev-v2") == "completed"
    verdict = next(
        each["data"]["after"]["verdict"]
        for each in events(place)
        if each["data"].get("ends") == "completed" and "verdict" in each["data"].get("after", {})
    )
    binding = place.copy / "state/bindings/feature_dev.yaml"
    if candidate == "better":
        assert verdict in ("deploy", "deploy_canary")
        assert waited(place, "Rollout/feature_dev-v2") == "promoted"
        for _ in range(20):
            if "v2.0.0" in binding.read_text():
                break
            time.sleep(0.5)
        assert "model: acme/code-chef-feature_dev-v2.0.0" in binding.read_text()
        assert place.git("log", "-1", "--format=%s", where=place.copy).strip() == "Promote feature_dev to v2.0.0"
        assert "Qwen/Qwen2.5-Coder-7B" in place("registry", "feature_dev", "v2.0.0", where=place.copy)
    else:
        assert verdict == "reject"
        assert "v1.4.0" in binding.read_text()
        assert not any(each.get("subject") == "Rollout/feature_dev-v2" and ".action." in each["type"] for each in events(place))
    trained = [
        each for each in events(place) if each["type"].startswith("turnout.action.started") and each["data"]["action"] == "run"
    ]
    assert sorted(each["subject"].partition("/")[0] for each in trained)[:2] == [
        "Evaluation",
        "Rollout" if candidate == "better" else "TrainingRequest",
    ]
    assert "up to 4.50" in place("log", where=place.copy) or "at most 4.50 USD" in place(
        "log", where=place.copy
    )  # priced as the 7B
    assert place.git("for-each-ref") + place.git("status", "--porcelain") == before  # the original is as it was
    assert not (place.folder.parent / "models.yaml").exists()  # no target outside is touched


def test_what_is_wrong_is_said_before_anything_starts(place: Place) -> None:
    path = place.folder / "state/rollouts/feature_dev-v2.yaml"
    path.write_text(path.read_text().replace("binding: feature_dev", "bindnig: feature_dev"))
    place.git("commit", "-qam", "A typing error")
    told = place("up", "--rehearse")
    assert "state/rollouts/feature_dev-v2.yaml:4: spec.binding: is required" in told
    assert not place.copy.exists()
    assert "there is no rehearsal of production" in place("down", "--rehearse")
