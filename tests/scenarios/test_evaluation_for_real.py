"""A whole controller on this machine, two models over HTTP, the command line: from a commit to the report, from the log alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from controller.app import Controller
from controller.cli import main
from controller.clients.evaluation_work import Work
from controller.testing.openrouter_api import OpenRouterApi, Rules

CHAT = "POST */chat/completions"
ROWS = [{"inputs": {"task": f"what is {n} plus 1?"}, "outputs": {"answer": str(n + 1)}} for n in range(60)]
ENVIRONMENT = """\
apiVersion: turnout/v1
kind: Environment
metadata: {{name: local}}
spec:
  endpoints: {{router: {{url: "{url}", apiKey: "env:ROUTER_KEY", timeout: 10.0}}}}
  prices:
    acme/v1: {{input: 1.0, output: 2.0}}
    acme/v2: {{input: 1.0, output: 2.0}}
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
  dataset: {files: [datasets/docs.jsonl]}
  evaluators: [{name: accuracy, kind: exact, field: outputs.answer}]
  thresholds: {watch: {}}
  maxTokens: 1024
  examples: 60
"""
ROLLOUT = """\
apiVersion: turnout/v1
kind: Rollout
metadata: {name: docs-v2}
spec:
  binding: docs
  candidate: {model: acme/v2, endpoint: router, version: v2}
  evaluation: docs-v2
  strategy: canary_20pct
"""


def answers(candidate: float, baseline: float) -> Rules:
    shares = {"acme/v2": candidate, "acme/v1": baseline}
    right = [
        {"model": model, "contains": row["inputs"]["task"], "share": share, "text": row["outputs"]["answer"]}  # type: ignore[index]
        for model, share in shares.items()
        for row in ROWS
    ]
    return Rules.model_validate({"models": {"acme/v1": {}, "acme/v2": {}}, "rules": [*right, {"text": "I do not know " * 200}]})


def git(repo: Path, *args: str) -> None:
    subprocess.run(["git", "-C", str(repo), *args], check=True, capture_output=True)


def commit(repo: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (repo / path).parent.mkdir(parents=True, exist_ok=True)
        (repo / path).write_text(text)
    git(repo, "add", "-A")
    git(repo, "-c", "user.name=Ada", "-c", "user.email=ada@example.org", "commit", "-q", "-m", "Change")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "-q", "-b", "main", str(tmp_path / "repo")], check=True, capture_output=True)
    return tmp_path / "repo"


def settled(repo: Path) -> None:
    """As CI jobs do: a new controller each time, until the evaluation has ended."""
    for _ in range(200):
        controller = Controller(repo)
        controller.settle()
        past = next(each.past for each in controller.status(live=False) if each.address.kind == "Evaluation")
        folders = [Work(path) for path in (controller.data / "evaluations").iterdir()]
        controller.close()
        if past.ended:
            return
        for _ in range(50):  # a pass is due when the child has ended
            if not any(work.alive() for work in folders):
                break
            time.sleep(0.1)
    raise AssertionError("it never ended")


@pytest.mark.parametrize(("candidate", "baseline", "verdict"), [(0.95, 0.4, "deploy"), (0.4, 0.95, "reject")])
def test_from_a_commit_to_the_report(
    repo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    candidate: float,
    baseline: float,
    verdict: str,
) -> None:
    with OpenRouterApi(answers=answers(candidate, baseline)) as api:
        monkeypatch.setenv("ROUTER_KEY", api.key)
        commit(
            repo,
            {
                "environments/local/environment.yaml": ENVIRONMENT.format(url=api.base_url),
                "datasets/docs.jsonl": "".join(f"{json.dumps(row)}\n" for row in ROWS),
                "state/bindings/docs.yaml": BINDING,
                "state/evaluations/docs-v2.yaml": EVALUATION,
                "state/rollouts/docs-v2.yaml": ROLLOUT,
            },
        )
        settled(repo)
        assert len(api.asked(CHAT)) == 120
    controller = Controller(repo)
    controller.settle()
    known = {str(each.address): each for each in controller.status(live=False)}
    assert known["Evaluation/docs-v2"].past.ended == "completed"
    assert (known["Evaluation/docs-v2"].past.after or {})["verdict"].startswith(verdict)
    assert known["Rollout/docs-v2"].past.running is (verdict == "deploy")
    shutil.rmtree(controller.data / "evaluations")  # nothing of this machine is needed any more
    assert controller.verify_log() > 0
    listed = subprocess.run(
        ["git", "-C", str(repo), "ls-tree", "-r", "--name-only", "events/local"], capture_output=True, text=True
    )
    assert any(path.startswith("blobs/") for path in listed.stdout.split())  # over 64 KB: beside the event, in the same commit
    controller.close()
    page = tmp_path / "report.html"
    assert main(["--repo", str(repo), "report", "docs-v2"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("### Deploy" if verdict == "deploy" else "### Do not deploy")
    assert "| **Weighted score** |" in told
    assert main(["--repo", str(repo), "report", "docs-v2", "--html", str(page)]) == 0
    assert "<h2>Answers side by side</h2>" in page.read_text()
    assert str(tmp_path) not in page.read_text()


def test_a_report_that_is_not_there(repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"environments/local/environment.yaml": ENVIRONMENT.format(url="http://127.0.0.1:9/v1")}
    commit(repo, {**files, "state/bindings/docs.yaml": BINDING})
    assert main(["--repo", str(repo), "report", "docs-v2"]) == 1
    assert "there is no evaluation" in capsys.readouterr().err
    commit(repo, {"state/evaluations/docs-v2.yaml": EVALUATION})
    assert main(["--repo", str(repo), "report", "docs-v2"]) == 1
    assert "Evaluation/docs-v2 has no report yet" in capsys.readouterr().err
