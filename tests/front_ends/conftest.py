"""A real repository with the sample state and nothing behind it, and the command line called in this process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from controller.cli import main
from controller.clients.local_process import identity

ROOT = Path(__file__).parents[2]


TRAINER = """\
#!@python@
# In place of Python with torch: does as many of 100 steps as the file `wanted` says, and ends when it says `end`.
import hashlib, json, os, signal, sys, time
from pathlib import Path

if sys.argv[1] == "-c":  # which packages it lacks
    sys.exit()
request = json.loads(Path(sys.argv[3]).read_text())
out, wanted = Path(request["output"]), Path(@wanted@)
out.mkdir(parents=True, exist_ok=True)
kept = (out / "progress.jsonl").open("a")

def tell(event, **fields):
    print(json.dumps({"event": event, **fields}), file=kept, flush=True)

def stop(*_):
    tell("stopped", code="terminated", message="It was told to stop.", what_to_do="Run it again.")
    os._exit(75)

signal.signal(signal.SIGTERM, stop)
tell("started", request=request)
done = 0
while True:
    text = wanted.read_text().strip()
    if text == "fail":
        tell("failed", code="diverged", message="The loss is not a number.", what_to_do="Lower the learning rate.")
        sys.exit(7)
    while done < (100 if text == "end" else int(text or 0)):
        done += 1
        tell("step", step=done, steps=100, loss=3.0 / done, tokens_per_second=1500.0, eta_seconds=6.0 * (100 - done))
    if text == "end":
        break
    time.sleep(0.01)
(out / "model").write_bytes(b"weights")
files = [{"name": "model", "size": 7, "sha256": hashlib.sha256(b"weights").hexdigest()}]
metrics = {"before": {"loss": 3.0}, "after": {"loss": 0.5}, "seconds": 2.0, "tokens": 500}
(out / "result.json").write_text(json.dumps({"request": request, "files": files, "metrics": metrics}))
"""


@dataclass(frozen=True)
class Result:
    """How one call ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Place:
    """One repository. Calling it calls `turnout --repo` there."""

    def __init__(self, path: Path, run: Callable[..., Result]) -> None:
        self.path, self._run = path, run

    def __call__(self, *args: str) -> Result:
        return self._run("--repo", str(self.path), *args)

    def git(self, *args: str) -> str:
        run = subprocess.run(["git", "-C", str(self.path), *args], capture_output=True, text=True, check=False)
        assert run.returncode == 0, f"git {' '.join(args)}: {run.stderr}"
        return run.stdout.strip()

    def write(self, path: str, text: str) -> None:
        (self.path / path).parent.mkdir(parents=True, exist_ok=True)
        (self.path / path).write_text(text)

    def replace(self, path: str, old: str, new: str) -> None:
        text = (self.path / path).read_text()
        assert old in text
        (self.path / path).write_text(text.replace(old, new))

    def commit(self, message: str) -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def version(self, agent: str, version: str) -> str:
        path = self.path / f"state/bindings/{agent}.yaml"
        lines = [f"  version: {version}" if line.startswith("  version:") else line for line in path.read_text().splitlines()]
        path.write_text("\n".join(lines) + "\n")
        return self.commit(f"{agent} to {version}")

    def rollout(self, name: str = "docs-v2", binding: str = "docs", strategy: str = "immediate") -> str:
        self.write(
            f"state/rollouts/{name}.yaml",
            f"""\
apiVersion: turnout/v1
kind: Rollout
metadata: {{name: {name}}}
spec:
  binding: {binding}
  candidate: {{model: acme/docs-v2, endpoint: huggingface, version: v2.0.0}}
  strategy: {strategy}
""",
        )
        return self.commit(f"Try {name}")


class Trainings:
    """Trainings of one repository, run by TRAINER on this machine. `wanted` says how far they go."""

    def __init__(self, place: Place, folder: Path) -> None:
        self.place, self.wanted = place, folder / "wanted"
        self.go("0")
        program = folder / "trainer"
        text = TRAINER.replace("@python@", sys.executable).replace("@wanted@", repr(str(self.wanted)))
        program.write_text(text)
        program.chmod(0o755)
        environment = place.path / "environments/local/environment.yaml"
        environment.write_text(environment.read_text() + f"  training: {{python: {program}, backend: local}}\n")
        rows = [json.dumps({"inputs": {"task": f"task {n}"}, "outputs": {"code": f"x = {n}"}}) for n in range(60)]
        place.write("data/docs.jsonl", "\n".join(rows) + "\n")
        place.commit("Trainings on this machine")

    def go(self, how_far: str) -> None:
        """`30` steps, `end`, or `fail`."""
        draft = self.wanted.with_suffix(".draft")
        draft.write_text(how_far)
        draft.replace(self.wanted)

    def declare(self, name: str = "docs-v1", more: str = "") -> str:
        self.place.write(
            f"state/trainings/{name}.yaml",
            f"""\
apiVersion: turnout/v1
kind: TrainingRequest
metadata: {{name: {name}}}
spec: {{agent: docs, version: v1.0.0, method: sft, mode: demo, baseModel: tiny, dataset: {{files: [data/docs.jsonl]}}{more}}}
""",
        )
        return self.place.commit(f"Train {name}")

    def pids(self) -> list[int]:
        return [int(path.read_text().split()[0]) for path in self.place.path.glob(".git/turnout/local/training/*/process-*")]

    def alive(self) -> list[int]:
        """What still runs; a zombie of this process does not."""
        return [pid for pid in self.pids() if identity(pid)]

    def gone(self) -> bool:
        """Waits for the processes to end: each gets a moment to write its checkpoint."""
        for _ in range(500):
            if not self.alive():
                return True
            time.sleep(0.02)
        return False

    def until(self, how_far: str) -> None:
        """Waits until the newest step of all trainings is this one."""
        for _ in range(1000):
            told = [path.read_text() for path in self.place.path.glob(".git/turnout/local/training/*/out/progress.jsonl")]
            if told and all(f'"step": {how_far},' in each for each in told):
                return
            time.sleep(0.02)
        raise AssertionError(f"no training came to step {how_far}")


@contextlib.contextmanager
def controller_of(place: Place) -> Iterator[subprocess.Popen[str]]:
    """A controller as people start one, ended as they end it."""
    script = Path(sys.executable).with_name("turnout")
    child = subprocess.Popen(
        [str(script), "--repo", str(place.path), "reconcile"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        yield child
        child.send_signal(signal.SIGTERM)
        assert child.communicate(timeout=30)[1] == ""
    finally:
        child.kill()
        child.wait()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TURNOUT_ENVIRONMENT", "NO_COLOR", "FORCE_COLOR", "GIT_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {
        "GIT_AUTHOR_NAME": "Ada",
        "GIT_AUTHOR_EMAIL": "ada@example.org",
        "GIT_COMMITTER_NAME": "Ada",
        "LC_ALL": "C",
        "GIT_COMMITTER_EMAIL": "ada@example.org",
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def turnout(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """The command line in this process; fails on a traceback."""

    def run(*args: str) -> Result:
        capfd.readouterr()
        code = main(list(args))
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return Result(code, out, err)

    return run


@pytest.fixture
def bare(tmp_path: Path, turnout: Callable[..., Result]) -> Place:
    """A repository without any file."""
    (tmp_path / "repo").mkdir()
    place = Place(tmp_path / "repo", turnout)
    place.git("init", "-q", "-b", "main")
    return place


@pytest.fixture
def place(bare: Place) -> Place:
    """The sample state, committed, on ports where nobody listens; without the gateway, so that everything can be done."""
    shutil.copytree(ROOT / "state/bindings", bare.path / "state/bindings")
    shutil.copytree(ROOT / "environments/local", bare.path / "environments/local")
    for old, new in zip((5800, 5811, 5812), free_ports(3), strict=True):
        bare.replace("environments/local/environment.yaml", f":{old}", f":{new}")
    bare.commit("Begin")
    return bare


@pytest.fixture
def with_gateway(place: Place) -> Place:
    """Also the gateway, whose proxy does not run."""
    shutil.copytree(ROOT / "state/gateways", place.path / "state/gateways")
    place.commit("A gateway")
    return place


@pytest.fixture
def applied(place: Place) -> Place:
    """The sample state, made true."""
    assert place("apply").code == 0
    return place


@pytest.fixture
def trainings(applied: Place, tmp_path: Path) -> Iterator[Trainings]:
    """The sample state, made true, and trainings that go as far as they are let."""
    found = Trainings(applied, tmp_path)
    yield found
    for pid in found.pids():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


@pytest.fixture
def running() -> Callable[[Place], contextlib.AbstractContextManager[subprocess.Popen[str]]]:
    """A controller for a repository."""
    return controller_of
