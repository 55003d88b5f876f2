"""From `git commit` (and `git revert`) to the first answer of the other version, with the real controller, proxy and endpoints."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import table
from controller.document_edit import edit

ROOT = Path(__file__).parents[1]
ROUNDS = 40


@dataclass
class There:
    """A running environment on free ports."""

    repo: Path
    port: int
    controller: subprocess.Popen[bytes]

    def git(self, *args: str) -> None:
        subprocess.run(
            ["git", "-C", str(self.repo), "-c", "user.name=b", "-c", "user.email=b@b", *args], check=True, stdout=subprocess.DEVNULL
        )


@contextlib.contextmanager
def running() -> Iterator[There]:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        (folder / "token").write_text("secret")
        endpoints = _start(
            stack, folder, "controller.testing.model_server", "--endpoint", "openrouter=0", "--endpoint", "huggingface=0"
        )
        proxy = _start(
            stack, folder, "controller.proxy", "--port", "0", "--data", str(folder / "proxy"), "--token-file", str(folder / "token")
        )
        ports, (port,) = _ports(endpoints, 2), _ports(proxy, 1)
        repo = folder / "repo"
        shutil.copytree(ROOT / "state", repo / "state")
        shutil.copytree(ROOT / "environments", repo / "environments")
        path = repo / "environments/local/environment.yaml"
        path.write_bytes(
            edit(
                path.read_bytes(),
                {
                    ("spec", "proxies", "main", "url"): f"http://127.0.0.1:{port}",
                    ("spec", "proxies", "main", "token"): f"file:{folder / 'token'}",
                    ("spec", "endpoints", "openrouter", "url"): f"http://127.0.0.1:{ports[0]}/v1",
                    ("spec", "endpoints", "huggingface", "url"): f"http://127.0.0.1:{ports[1]}/v1",
                },
            )
        )
        there = There(repo, port, endpoints)
        there.git("init", "-q", "-b", "main")
        there.git("add", "-A")
        there.git("commit", "-qm", "Begin")
        there.controller = _start(stack, folder, "controller", "--repo", str(repo), "reconcile")
        _await(there, "v1.4.0")
        yield there


def _start(stack: contextlib.ExitStack, folder: Path, module: str, *args: str) -> subprocess.Popen[bytes]:
    log = stack.enter_context(open(folder / f"{module}.log", "wb"))  # noqa: SIM115 - kept open for the child
    process = subprocess.Popen([sys.executable, "-u", "-m", module, *args], stdout=log, stderr=log)
    process.log = Path(log.name)  # type: ignore[attr-defined]
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process


def _ports(process: subprocess.Popen[bytes], wanted: int) -> list[int]:
    for _ in range(400):
        found = re.findall(r"listening on http://127\.0\.0\.1:(\d+)", process.log.read_text())  # type: ignore[attr-defined]
        if len(found) >= wanted:
            return [int(port) for port in found]
        time.sleep(0.05)
    raise SystemExit("a process did not start")


def _version(connection: http.client.HTTPConnection) -> str:
    body = json.dumps({"model": "feature_dev", "messages": [{"role": "user", "content": "hi"}]})
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return answer.headers.get("x-turnout-version", "")


def _await(there: There, version: str) -> float:
    """Seconds until the gateway answers with a version."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", there.port, timeout=10)
    while _version(connection) != version:
        if time.perf_counter() - start > 30:
            raise SystemExit(f"{version} never answered")
        time.sleep(0.002)
    return time.perf_counter() - start


def main() -> None:
    switches: list[float] = []
    reverts: list[float] = []
    with running() as there:
        path = there.repo / "state/bindings/feature_dev.yaml"
        for number in range(ROUNDS):
            path.write_text(path.read_text().replace("v1.4.0", f"v2.{number}.0"))
            there.git("commit", "-qam", f"v2.{number}.0")
            switches.append(_await(there, f"v2.{number}.0"))
            there.git("revert", "--no-edit", "HEAD")
            reverts.append(_await(there, "v1.4.0"))
    rows = [["from the end of", "p50 ms", "p95 ms", "max ms"]]
    for name, found in (("git commit to the new version's answer", switches), ("git revert to the old version's answer", reverts)):
        ordered = sorted(found)
        rows.append([name, *(f"{1000 * ordered[min(len(ordered) - 1, int(q * len(ordered)))]:.0f}" for q in (0.5, 0.95, 1.0))])
    table(f"Switching ({ROUNDS} rounds)", rows)
