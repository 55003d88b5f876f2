"""A whole controller whose only data plane is a real HAProxy: its figures promote a good candidate and abort a bad one."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from controller.app import Controller
from controller.clients.haproxy import Haproxies
from controller.errors import Temporary

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin") or ""
WHO = {f"GIT_{who}_{what}": "someone@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@contextlib.contextmanager
def model(status: int) -> Iterator[int]:
    """A model server that answers every request so; its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


class Site:
    """A repository with one agent, an HAProxy, and controllers over them."""

    def __init__(self, folder: Path, stable: int, candidate: int) -> None:
        self.folder, self.repo = folder, folder / "repository"
        self.repo.mkdir()
        self.process: subprocess.Popen[bytes] | None = None
        sockets = {"socket": f"{folder}/run.sock", "masterSocket": f"{folder}/master.sock"}
        ports = {"old": stable, "new": candidate}
        endpoints = {name: {"url": f"http://127.0.0.1:{port}/v1"} for name, port in ports.items()}
        spec = {"branch": "main", "haproxies": {"edge": sockets}, "endpoints": endpoints}
        self.write("environments/local/environment.yaml", "Environment", "local", spec)
        names = {"old": "agent", "new": "agent"}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.config = f"{folder}/turnout.cfg"
        edge = {"name": "edge", "config": self.config, "bind": f"127.0.0.1:{self.port}", "modelNames": names}
        self.write("state/gateways/main.yaml", "Gateway", "main", {"haproxy": [edge]})
        self.write("state/bindings/docs.yaml", "ModelBinding", "docs", {"model": "docs", "endpoint": "old", "version": "v1"})
        self.git("init", "-q", "-b", "main")
        self.commit("Bind docs")

    def write(self, path: str, kind: str, name: str, spec: Any) -> None:
        (self.repo / path).parent.mkdir(parents=True, exist_ok=True)
        content = {"apiVersion": "turnout/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        (self.repo / path).write_text(json.dumps(content, indent=2))

    def git(self, *args: str) -> str:
        done = subprocess.run(
            ["git", "-C", self.repo, *args], env={**os.environ, **WHO}, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self, message: str) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", message)

    def settle(self) -> None:
        """Controllers that live as long as one CI job, until nothing waits for its next attempt."""
        for _ in range(100):
            if not Controller(self.repo, "local").settle().plan.pending:
                return
            time.sleep(0.05)
        raise AssertionError("something waits for ever")

    def start(self) -> None:
        Controller(self.repo, "local").settle()  # writes the files, and finds nobody there
        with (self.folder / "haproxy.log").open("ab") as log:
            command = [HAPROXY, "-W", "-S", f"{self.folder}/master.sock", "-f", self.config]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        door = Haproxies(Controller(self.repo, "local").settings())
        for _ in range(500):
            with contextlib.suppress(Temporary):
                door.worker("edge")
                break
            time.sleep(0.01)
        self.settle()

    def ask(self, requests: int) -> dict[str, int]:
        """Variant -> how many sessions it answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        answered: dict[str, int] = {}
        for number in range(requests):
            connection.request("POST", "/agents/docs/v1/chat/completions", b"{}", {"X-Session-ID": f"s-{number}"})
            answer = connection.getresponse()
            answer.read()
            variant = answer.getheader("x-turnout-version") or ""
            answered[variant] = answered.get(variant, 0) + 1
        connection.close()
        return answered

    def rollout(self) -> None:
        canary = {"canary": [{"weight": 50, "hold": "0s"}]}
        candidate = {"model": "docs", "endpoint": "new", "version": "v2"}
        analysis = {"errorRate": {"worseBy": "5%"}, "minimumSamples": 20}
        spec = {"binding": "docs", "candidate": candidate, "strategy": canary, "analysis": analysis}
        self.write("state/rollouts/docs-v2.yaml", "Rollout", "docs-v2", spec)
        self.commit("Roll v2 out")


@pytest.fixture
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    if not HAPROXY and os.environ.get("CI") != "true":
        pytest.skip("haproxy is not installed (apt-get install haproxy)")
    assert HAPROXY, "haproxy is not installed"
    with model(200) as stable, model(request.param) as candidate:
        made = Site(tmp_path, stable, candidate)
        yield made
        if made.process is not None:
            made.process.send_signal(signal.SIGTERM)
            made.process.wait(10)


@pytest.mark.parametrize("site", [200], indirect=True)
def test_a_good_candidate_is_promoted_by_haproxys_figures(site: Site) -> None:
    site.start()
    assert site.ask(10) == {"v1": 10}
    site.rollout()
    site.settle()
    answered = site.ask(200)
    assert 60 < answered["v2"] < 140
    site.settle()
    assert site.ask(50) == {"v2": 50}
    assert "v2" in site.git("show", "main:state/bindings/docs.yaml"), "the promotion is in git"
    assert not site.git("ls-tree", "main", "state/rollouts/")


@pytest.mark.parametrize("site", [500], indirect=True)
def test_a_bad_candidate_is_aborted_by_haproxys_figures(site: Site) -> None:
    site.start()
    site.rollout()
    site.settle()
    site.ask(200)
    site.settle()
    assert site.ask(50) == {"v1": 50}
    assert '"v1"' in site.git("show", "main:state/bindings/docs.yaml")
    assert not site.git("ls-tree", "main", "state/rollouts/"), "the rollout is reverted in git"
