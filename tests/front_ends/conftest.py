"""A real repository with the sample state and nothing behind it, and the command line called in this process."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from controller.cli import main

ROOT = Path(__file__).parents[2]


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
