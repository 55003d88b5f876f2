"""A whole world on loopback: a real repository, the real proxy process, simulated endpoints, and controllers over them."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.app import Controller
from controller.document_edit import edit

ROOT = Path(__file__).parents[2]
GIT_ENV = {
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "LC_ALL": "C",
}


def git(where: Path, *args: str, check: bool = True) -> str:
    run = subprocess.run(
        ["git", "-C", str(where), *args], capture_output=True, text=True, env={**os.environ, **GIT_ENV}, check=False
    )
    if check and run.returncode:
        raise AssertionError(f"git {' '.join(args)}: {run.stderr}")
    return run.stdout.strip()


class Process:
    """A child that says where it listens."""

    def __init__(self, *command: str, ready: int, log: Path) -> None:
        self.log = open(log, "w+")  # noqa: SIM115 - closed with the process
        self.child = subprocess.Popen([sys.executable, "-m", *command], stdout=self.log, stderr=subprocess.STDOUT)
        self.ports = self._ports(ready)

    def _ports(self, wanted: int) -> list[int]:
        for _ in range(600):
            text = Path(self.log.name).read_text()
            found = re.findall(r"listening on http://127\.0\.0\.1:(\d+)", text)
            if len(found) >= wanted:
                return [int(port) for port in found]
            if self.child.poll() is not None:
                raise AssertionError(f"process ended: {text}")
            time.sleep(0.05)
        raise AssertionError("process is not ready")

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.child.poll() is None:
            self.child.send_signal(how)
            self.child.wait(20)


class World:
    """One repository and one data plane. Controllers are made by `controller()`; `settle()` uses the first."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.repo = root / "repo"
        self.repo.mkdir()
        self.token = root / "token"
        self.token.write_text("secret")
        self.endpoints = Process(
            "controller.testing.model_server",
            "--endpoint",
            "openrouter=0",
            "--endpoint",
            "huggingface=0",
            ready=2,
            log=root / "endpoints.log",
        )
        self.proxy = self.start_proxy(0)
        self.port = self.proxy.ports[0]
        git(self.repo, "init", "-q", "-b", "main")
        shutil.copytree(ROOT / "state", self.repo / "state")
        shutil.copytree(ROOT / "environments", self.repo / "environments")
        environment = self.repo / "environments/local/environment.yaml"
        text = environment.read_bytes()
        environment.write_bytes(
            edit(
                text,
                {
                    ("spec", "proxies", "main", "url"): f"http://127.0.0.1:{self.port}",
                    ("spec", "proxies", "main", "token"): f"file:{self.token}",
                    ("spec", "endpoints", "openrouter", "url"): f"http://127.0.0.1:{self.endpoints.ports[0]}/v1",
                    ("spec", "endpoints", "huggingface", "url"): f"http://127.0.0.1:{self.endpoints.ports[1]}/v1",
                },
            )
        )
        self.commit("Begin")
        self._first: Controller | None = None

    def start_proxy(self, port: int) -> Process:
        return Process(
            "controller.proxy",
            "--port",
            str(port),
            "--data",
            str(self.root / "proxy"),
            "--token-file",
            str(self.token),
            ready=1,
            log=self.root / "proxy.log",
        )

    # -- git -----------------------------------------------------------------------------------------------------

    def git(self, *args: str, check: bool = True) -> str:
        return git(self.repo, *args, check=check)

    def commit(self, message: str) -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def write(self, path: str, text: str) -> None:
        (self.repo / path).parent.mkdir(parents=True, exist_ok=True)
        (self.repo / path).write_text(text)

    def bind(self, agent: str, version: str, model: str = "", message: str = "") -> str:
        path = self.repo / f"state/bindings/{agent}.yaml"
        changes: dict[tuple[str | int, ...], Any] = {("spec", "version"): version}
        if model:
            changes["spec", "model"] = model
        path.write_bytes(edit(path.read_bytes(), changes))
        return self.commit(message or f"{agent} to {version}")

    def rollout(
        self,
        name: str = "feature_dev-v2",
        *,
        strategy: str = "{canary: [{weight: 50, hold: 0s}]}",
        samples: int = 5,
        version: str = "v2.0.0",
        binding: str = "feature_dev",
        model: str = "acme/feature-dev-v2",
        extra: str = "",
    ) -> str:
        self.write(
            f"state/rollouts/{name}.yaml",
            f"""\
apiVersion: turnout/v1
kind: Rollout
metadata: {{name: {name}}}
spec:
  binding: {binding}
  candidate: {{model: {model}, endpoint: huggingface, version: {version}}}
  strategy: {strategy}
  analysis: {{errorRate: {{worseBy: 1%}}, minimumSamples: {samples}}}
{extra}""",
        )
        return self.commit(f"Try {version} for {binding}")

    # -- controllers ---------------------------------------------------------------------------------------------

    def controller(self, repo: Path | None = None, **more: Any) -> Controller:
        return Controller(repo or self.repo, "local", **more)

    @property
    def first(self) -> Controller:
        if self._first is None:
            self._first = self.controller()
        return self._first

    def settle(self) -> Any:
        return self.first.settle()

    def settle_until(self, done: Callable[[], bool], *, traffic: int = 0, agent: str = "feature_dev") -> None:
        """Passes (and requests between them) until something is true."""
        for _ in range(200):
            self.settle()
            if done():
                return
            if traffic:
                self.send(traffic, agent)
            time.sleep(0.05)
        raise AssertionError(f"did not happen; the log says:\n{self.story()}")

    def story(self) -> str:
        return self.git("log", "--reverse", "--format=%B", "events/local", check=False)

    def types(self, subject: str = "") -> Counter[str]:
        return Counter(event.type.removeprefix("turnout.").removesuffix(".v1") for event in self.first.events(subject))

    # -- data plane ----------------------------------------------------------------------------------------------

    def ask(self, agent: str = "feature_dev", session: str = "", variant: str = "") -> tuple[int, str, str]:
        """Status, version and answer of one request."""
        headers = {"Content-Type": "application/json"}
        headers |= {"X-Session-ID": session} if session else {}
        headers |= {"X-Turnout-Variant": variant} if variant else {}
        body = json.dumps({"model": agent, "messages": [{"role": "user", "content": "hi"}]}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/chat/completions", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.headers.get("x-turnout-version", ""), answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers.get("x-turnout-version", ""), error.read().decode()

    def versions(self, agent: str = "feature_dev", count: int = 40) -> Counter[str]:
        return Counter(self.ask(agent, session=f"s{number}")[1] for number in range(count))

    def send(self, count: int, agent: str = "feature_dev") -> None:
        for _ in range(count):
            self.ask(agent, session=f"t{random.random()}")

    def behave(self, endpoint: int, behaviour: dict[str, Any]) -> None:
        """How the simulated models of an endpoint answer (0 openrouter, 1 huggingface)."""
        url = f"http://127.0.0.1:{self.endpoints.ports[endpoint]}/-/behaviour"
        request = urllib.request.Request(url, json.dumps(behaviour).encode(), method="PUT")
        urllib.request.urlopen(request, timeout=10).close()

    def close(self) -> None:
        self.proxy.stop()
        self.endpoints.stop()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    there = World(tmp_path)
    try:
        yield there
    finally:
        there.close()
