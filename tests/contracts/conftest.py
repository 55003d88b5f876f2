"""A gateway with a real HAProxy and model servers behind it, driven by the real plan and the real provider."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from controller.address import Address
from controller.change import Change
from controller.clients import Clients
from controller.clients.haproxy import Haproxies
from controller.environment import EnvironmentSpec
from controller.errors import Temporary
from controller.kind import Known, Past, Refs, Situation
from controller.kinds.gateway import KIND
from controller.kinds.gateway.spec import GatewaySpec
from controller.resource import Resource, digest
from controller.settings import Settings
from controller.testing.cases import completed

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin") or ""
GATEWAY = Address("Gateway/main")
NOW = datetime(2026, 1, 5, 9, tzinfo=UTC)
STABLE = {"model": "docs", "endpoint": "old", "version": "v1"}
CANDIDATE = {"model": "docs", "endpoint": "new", "version": "v2"}


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


# -- upstreams -------------------------------------------------------------------------------------------------------


class Upstream:
    """A model server: tells its name and what it got; `/v1/stream` goes on until `finish` is set."""

    def __init__(self, name: str, context: ssl.SSLContext | None = None) -> None:
        self.name, self.finish = name, threading.Event()
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet
            disable_nagle_algorithm = True

            def handle(self) -> None:
                with contextlib.suppress(ConnectionError):
                    super().handle()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                if self.path.endswith("/stream"):
                    upstream.stream(self)
                else:
                    self.answer()

            def answer(self) -> None:
                body = json.dumps({"who": name, "path": self.path, "headers": dict(self.headers.items())}).encode()
                self.send_response(int(self.headers.get("x-wanted-status") or 200))
                self.send_header("X-Turnout-Variant", "forged")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stream(self, handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for number in range(10_000):
            last = self.finish.wait(0.01)
            data = f"data: {self.name} {'end' if last else number}\n\n".encode()
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
            handler.wfile.flush()
            if last:
                break
        handler.wfile.write(b"0\r\n\r\n")

    def close(self) -> None:
        self.finish.set()
        self.server.shutdown()
        self.server.server_close()


# -- a gateway, by the real plan and the real provider -----------------------------------------------------------------


class Edge:
    """One Gateway with one HAProxy: `step` is what a pass does to it; what came of it is the past of the next."""

    def __init__(self, folder: Path, endpoints: Mapping[str, Any], **target: Any) -> None:
        self.folder, self.port = folder, free_port()
        self.endpoints = dict(endpoints)
        self.target = {
            "name": "edge",
            "config": str(folder / "turnout.cfg"),
            "bind": f"127.0.0.1:{self.port}",
            "modelNames": {"old": "agent", "new": "agent"},
            **target,
        }
        self.states: dict[Address, dict[str, Any]] = {Address("ModelBinding/docs"): {**STABLE, "fallbacks": []}}
        self.rollout: dict[str, Any] | None = None
        self.past = Past()
        self.process: subprocess.Popen[bytes] | None = None
        self.by_hand = False  # the files are not the gateway's

    def settings(self) -> Settings:
        sockets = {"socket": str(self.folder / "run.sock"), "masterSocket": str(self.folder / "master.sock")}
        spec = {"endpoints": self.endpoints, "haproxies": {"edge": sockets}}
        return Settings("local", EnvironmentSpec.model_validate(spec), self.folder)

    @property
    def door(self) -> Haproxies:
        return Haproxies(self.settings())

    def canary(self, weight: float, step: int = 0) -> None:
        self.rollout = {
            "binding": "docs",
            "phase": "progressing",
            "weight": weight,
            "shadow": 0,
            "step_id": f"docs-v2/{step}-ab12",
            "salt": "docs-v2-ab12",
            "stable": STABLE,
            "candidate": CANDIDATE,
            "guard": None,
            "settled": False,
        }

    def planned(self) -> Change:
        settings = self.settings()
        clients = Clients(settings)
        assert KIND.provider is not None
        self.provider = KIND.provider(clients)
        spec = GatewaySpec.model_validate({"haproxy": [self.target]})
        resource = Resource(GATEWAY, spec, spec.written(), digest(spec.written()))
        observed = self.provider.observe([Known(GATEWAY, resource, self.past)]).get(GATEWAY)
        rollouts = {Address("Rollout/docs-v2"): self.rollout} if self.rollout else {}
        refs = Refs({}, settings.as_refs, kinds={"ModelBinding": self.states, "Rollout": rollouts})
        self.observed = observed
        return completed(KIND, GATEWAY, Situation(resource, observed, self.past, refs, NOW))

    def step(self) -> Change:
        change = self.planned()
        if not change.is_noop:
            self.outcome = self.provider.apply(change, lambda text: None)
            self.past = replace(self.past, exists=True, after=change.after, spec_digest=change.spec_digest)
        return change

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """The files first, as a person would see it: the gateway says what to start."""
        if not (self.folder / "turnout.cfg").exists():
            with pytest.raises(Temporary, match="start it with haproxy"):
                self.step()
        command = [HAPROXY, "-W", "-S", str(self.folder / "master.sock"), "-f", self.target["config"]]
        with (self.folder / "haproxy.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **(environment or {})})
        for _ in range(500):
            with contextlib.suppress(Temporary):
                self.door.running("edge", "turnout.routes")
                break
            assert self.process.poll() is None, (self.folder / "haproxy.log").read_text()
            time.sleep(0.01)
        else:
            raise AssertionError((self.folder / "haproxy.log").read_text())
        if not self.past.exists and not self.by_hand:
            assert self.step().action == "create"

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)
            self.process = None

    def worker(self) -> str:
        return next(line for line in self.door.ask("edge", "show info").splitlines() if line.startswith("Pid:"))

    def ask(self, path: str = "/agents/docs/v1/chat/completions", **headers: str) -> tuple[int, Mapping[str, str], Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("POST", path, b"{}", {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, json.loads(answer.read())
        finally:
            connection.close()

    def who(self, sessions: list[str]) -> dict[str, str]:
        """Session -> the variant that answered it, over a few connections."""
        return asyncio.run(self._who(sessions))

    async def _who(self, sessions: list[str]) -> dict[str, str]:
        out: dict[str, str] = {}

        async def some(mine: list[str]) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            for session in mine:
                writer.write(b"GET /agents/docs/v1/models HTTP/1.1\r\nhost: x\r\nx-session-id: %b\r\n\r\n" % session.encode())
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
                await reader.readexactly(int(fields["content-length"]))
                out[session] = fields["x-turnout-variant"]
            writer.close()

        await asyncio.gather(*(some(sessions[i::8]) for i in range(8)))
        return out


# -- fixtures --------------------------------------------------------------------------------------------------------


@pytest.fixture
def haproxy() -> str:
    """The program; without it the test is skipped, but not in CI."""
    if not HAPROXY and os.environ.get("CI") != "true":
        pytest.skip("haproxy is not installed (apt-get install haproxy)")
    assert HAPROXY, "haproxy is not installed"
    return HAPROXY


@pytest.fixture
def port() -> Callable[[], int]:
    return free_port


@pytest.fixture
def an_upstream() -> Iterator[Callable[..., Upstream]]:
    made: list[Upstream] = []

    def make(name: str, context: ssl.SSLContext | None = None) -> Upstream:
        made.append(Upstream(name, context))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def upstreams(an_upstream: Callable[..., Upstream]) -> dict[str, Upstream]:
    return {name: an_upstream(name) for name in ("old", "new")}


@pytest.fixture
def an_edge(tmp_path: Path, haproxy: str) -> Iterator[Callable[..., Edge]]:
    made: list[Edge] = []

    def make(endpoints: Mapping[str, Any], **target: Any) -> Edge:
        made.append(Edge(tmp_path, endpoints, **target))
        return made[-1]

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def edge(an_edge: Callable[..., Edge], upstreams: dict[str, Upstream]) -> Edge:
    return an_edge({name: {"url": f"http://127.0.0.1:{each.port}/v1"} for name, each in upstreams.items()})
