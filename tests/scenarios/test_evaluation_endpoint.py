"""A whole controller and an evaluation that creates its endpoint: from a commit to the verdict, and cancelled with its file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controller.app import Controller
from controller.clients.evaluation_work import Work
from controller.testing.hugging_face import Account, HuggingFaceDouble, Options
from controller.testing.openrouter_api import OpenRouterApi, Rules
from controller.testing.openrouter_api.rules import ModelEntry

TOKEN = "hf_secretsecretsecret"
CHAT = "POST */chat/completions"
ROWS = [{"inputs": {"task": f"what is {n} plus 1?"}, "outputs": {"answer": str(n + 1)}} for n in range(60)]
ENVIRONMENT = """\
apiVersion: turnout/v1
kind: Environment
metadata: {{name: local}}
spec:
  endpoints:
    router: {{url: "{url}", apiKey: "env:HUB_TOKEN", timeout: 10.0, fallback: dedicated}}
    dedicated: {{inferenceEndpoint: {{region: us-east-1, instanceType: nvidia-l4}}}}
  inference: {{attempts: 2, timeout: 10.0, patience: 1.0}}
  huggingface: {{url: "{hub}", inferenceEndpointsUrl: "{hub}/v2", namespace: acme, token: "env:HUB_TOKEN"}}
"""
BINDING = """\
apiVersion: turnout/v1
kind: ModelBinding
metadata: {name: docs}
spec: {model: acme/v1, endpoint: router, version: v1}
"""
EVALUATION = """\
apiVersion: turnout/v1
kind: Evaluation
metadata: {name: docs-v2}
spec:
  agent: docs
  candidate: {model: acme/v2, endpoint: router, version: v2}
  dataset: "hf://acme/questions"
  evaluators: [{name: accuracy, kind: exact, field: outputs.answer}]
  thresholds: {watch: {}}
  maxTokens: 64
  examples: 60
  deadline: 1h
"""


def git(repo: Path, *args: str) -> None:
    subprocess.run(["git", "-C", str(repo), *args], check=True, capture_output=True)


def committed(repo: Path, message: str) -> None:
    git(repo, "add", "-A")
    git(repo, "-c", "user.name=Ada", "-c", "user.email=ada@example.org", "commit", "-q", "-m", message)


@pytest.fixture
def served() -> Iterator[OpenRouterApi]:
    """What answers behind an Inference Endpoint: the candidate."""
    right = [{"contains": row["inputs"]["task"], "share": 0.95, "text": row["outputs"]["answer"]} for row in ROWS]  # type: ignore[index]
    rules = Rules.model_validate({"models": {"acme/v2": {}}, "rules": [*right, {"text": "I do not know"}]})
    with OpenRouterApi(answers=rules, keys=[TOKEN]) as running:
        yield running


@pytest.fixture
def router() -> Iterator[OpenRouterApi]:
    """Lists the baseline alone."""
    rules = Rules.model_validate({"rules": [{"text": "I do not know"}]})
    with OpenRouterApi(answers=rules, models={"acme/v1": ModelEntry()}, keys=[TOKEN]) as running:
        yield running


@pytest.fixture
def hub(tmp_path: Path, served: OpenRouterApi) -> Iterator[HuggingFaceDouble]:
    accounts = {TOKEN: Account("ada", ("acme",))}
    options = Options(accounts=accounts, boot_seconds=0.4, serving_url=f"{served.url}/api", now=time.time)
    with HuggingFaceDouble(tmp_path / "hub", options) as running:
        running.seed("dataset", "acme/questions", {"q.jsonl": "".join(f"{json.dumps(row)}\n" for row in ROWS).encode()})
        yield running


@pytest.fixture
def repo(tmp_path: Path, router: OpenRouterApi, hub: HuggingFaceDouble, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HUB_TOKEN", TOKEN)
    repo = tmp_path / "repo"
    subprocess.run(["git", "init", "-q", "-b", "main", str(repo)], check=True, capture_output=True)
    files = {
        "environments/local/environment.yaml": ENVIRONMENT.format(url=router.base_url, hub=hub.url),
        "state/bindings/docs.yaml": BINDING,
        "state/evaluations/docs-v2.yaml": EVALUATION,
    }
    for path, text in files.items():
        (repo / path).parent.mkdir(parents=True, exist_ok=True)
        (repo / path).write_text(text)
    committed(repo, "Compare")
    return repo


def until(repo: Path, found: Callable[[Controller], bool]) -> Controller:
    """Passes of a new controller each, as CI jobs do, until something is so."""
    for _ in range(300):
        controller = Controller(repo)
        controller.settle()
        if found(controller):
            return controller
        controller.close()
        time.sleep(0.1)
    raise AssertionError("it never came to that")


def ended(controller: Controller) -> str:
    return next((each.past.ended for each in controller.status(live=False) if each.address.kind == "Evaluation"), "gone")


def test_a_model_that_is_not_listed_is_served_compared_and_gone(repo: Path, hub: HuggingFaceDouble, router: OpenRouterApi) -> None:
    controller = until(repo, lambda one: ended(one) == "completed")
    after = next(each.past.after for each in controller.status(live=False) if each.address.kind == "Evaluation")
    controller.close()
    assert after is not None
    assert after["verdict"] in ("deploy", "deploy_canary")
    assert after["endpoints"] == {"candidate": "dedicated"}
    assert len(after["revision"]) == 40
    assert after["prices"]["baseline"]["input"] == 1.0
    (row,) = hub.ledger()["endpoints"]
    assert (row["state"], row["minutes"]) == ("deleted", 1)
    assert after["cost"] == pytest.approx(row["usd"] + router.spent, abs=1e-5)
    assert after["cost"] <= after["ceiling"]


def test_removing_the_file_deletes_what_a_dead_process_left(repo: Path, hub: HuggingFaceDouble, served: OpenRouterApi) -> None:
    served.fail("slow", CHAT, seconds=0.1, times=1000)
    controller = until(repo, lambda one: len(served.asked(CHAT)) >= 4)
    (folder,) = (controller.data / "evaluations").iterdir()
    controller.close()
    work = Work(folder)
    os.kill(int(work.path("pid").read_text()), signal.SIGKILL)
    git(repo, "rm", "-q", "state/evaluations/docs-v2.yaml")
    committed(repo, "Stop comparing")
    until(repo, lambda one: hub.ledger()["endpoints"][0]["state"] == "deleted").close()
    controller = until(repo, lambda one: ended(one) in ("cancelled", "gone"))
    controller.close()
    assert [row["state"] for row in hub.ledger()["endpoints"]] == ["deleted"]
    assert not work.alive()
