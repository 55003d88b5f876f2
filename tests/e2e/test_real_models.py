"""Two real models over HTTP: trained here, converted and quantized here, served by llama.cpp, asked and judged. No doubles.

One has learned its lesson, the other has not; the verdict has to find out which.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PYTHON = os.environ.get("TURNOUT_TRAINING_PYTHON", "")
pytestmark = pytest.mark.skipif(
    not PYTHON and not os.environ.get("CI"), reason="TURNOUT_TRAINING_PYTHON names no Python with torch and llama.cpp"
)
SERVE = """\
import sys, time
import xllamacpp
given = xllamacpp.CommonParams()
given.model.path, given.hostnames, given.port = sys.argv[1], ["127.0.0.1"], 0
given.n_ctx, given.n_parallel, given.cpuparams.n_threads = 512, 2, 1
server = xllamacpp.Server(given)
print("LISTENING " + server.listening_address, flush=True)
sys.stdin.read()
"""
ENVIRONMENT = """\
apiVersion: turnout/v1
kind: Environment
metadata: {name: local}
spec:
  branch: main
  training: {backend: local}
"""
TRAINING = """\
apiVersion: turnout/v1
kind: TrainingRequest
metadata: {{name: {name}}}
spec:
  agent: docs
  version: v1.0.0-{name}
  method: sft
  mode: demo
  baseModel: tiny
  dataset: {{files: [data/train.jsonl]}}
  evaluation: {{files: [data/judge.jsonl]}}
  overrides: {{learningRate: {rate}, epochs: {epochs}, maxLength: 128, accumulation: 1}}
"""
CONVERSION = """\
apiVersion: turnout/v1
kind: Conversion
metadata: {{name: {name}}}
spec: {{agent: docs, version: v1.0.0-{name}, source: {{training: {name}}}, quantizations: [Q8_0]}}
"""
EVALUATION = """\
apiVersion: turnout/v1
kind: Evaluation
metadata: {name: docs}
spec:
  agent: docs
  candidate: {model: good, endpoint: good, version: v1.0.0-good}
  baseline: {model: weak, endpoint: weak, version: v1.0.0-weak}
  dataset: {files: [data/judge.jsonl]}
  evaluators: [{name: accuracy, kind: exact, field: outputs.answer}]
  thresholds: {watch: {}}
  maxTokens: 8
  concurrency: 2
"""


def rows(first: int, count: int) -> str:
    return "".join(
        json.dumps({"inputs": {"task": f"Is {number} a number?"}, "outputs": {"answer": "yes"}}) + "\n"
        for number in range(first, first + count)
    )


class Place:
    """A repository, and the command line in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.git("init", "-q", "-b", "main")

    def git(self, *args: str) -> None:
        who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
        subprocess.run(["git", "-C", str(self.folder), *who, *args], check=True, capture_output=True)

    def commit(self, files: dict[str, str]) -> None:
        for path, text in files.items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "Change")

    def once(self) -> dict[str, dict[str, Any]]:
        """A controller that stays until all is done. What each run came to."""
        command = [sys.executable, "-m", "controller", "--repo", str(self.folder), "reconcile", "--once", "--json"]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
        assert run.returncode == 0, run.stdout[-3000:] + run.stderr
        events = json.loads(run.stdout)["events"]
        return {each["subject"]: each["data"]["after"] for each in events if each["data"].get("ends")}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "fleet").mkdir()
    return Place(tmp_path / "fleet")


@pytest.fixture
def serving() -> Iterator[Any]:
    running: list[subprocess.Popen[str]] = []

    def serve(file: Path) -> str:
        child = subprocess.Popen([PYTHON, "-c", SERVE, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        running.append(child)
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith("LISTENING "):
                return f"{line.split()[1]}/v1"
        raise AssertionError("the server ended")

    yield serve
    for child in running:
        child.kill()
        child.wait()


def test_the_model_that_has_learned_is_found(place: Place, serving: Any) -> None:
    files = {
        "environments/local/environment.yaml": ENVIRONMENT,
        "data/train.jsonl": rows(0, 96),
        "data/judge.jsonl": rows(1000, 60),
    }
    for name, rate, epochs in (("good", 0.01, 6), ("weak", 1e-6, 0.1)):
        files[f"state/trainings/{name}.yaml"] = TRAINING.format(name=name, rate=f"{rate:f}", epochs=epochs)
        files[f"state/conversions/{name}.yaml"] = CONVERSION.format(name=name)
    place.commit(files)
    ended = place.once()
    losses = {name: ended[f"TrainingRequest/{name}"]["metrics"]["after"]["loss"] for name in ("good", "weak")}
    assert losses["good"] < 1 < losses["weak"]
    made = {name: ended[f"Conversion/{name}"] for name in ("good", "weak")}
    assert [(one["phase"], one["files"][0]["quantization"]) for one in made.values()] == [("succeeded", "Q8_0")] * 2
    folder = place.folder / ".git/turnout/local/conversions"
    urls = {name: serving(next(folder.glob(f"*/out/{one['files'][0]['name']}"))) for name, one in made.items()}
    endpoints = "".join(f"    {name}: {{url: {url}}}\n" for name, url in urls.items())
    prices = "  prices: {good: {input: 0.0, output: 0.0}, weak: {input: 0.0, output: 0.0}}\n"
    place.commit(
        {
            "environments/local/environment.yaml": f"{ENVIRONMENT}  endpoints:\n{endpoints}{prices}",
            "state/evaluations/docs.yaml": EVALUATION,
        }
    )
    judged = place.once()["Evaluation/docs"]
    assert judged["verdict"].startswith("deploy"), judged["reasons"]
    assert judged["examples"] == 60
    assert judged["score"]["candidate"] - judged["score"]["baseline"] > 0.2
