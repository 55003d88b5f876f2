"""Real proxies, real simulated endpoints and raw upstreams, each on a free port of the loopback."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a-token-of-the-tests"


def until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Wait for something to become true; the limit is there to fail, never to pass."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not come true in time")


def variant(name: str, model: str, weight: float, endpoint: str = "one", **more: Any) -> dict[str, Any]:
    version = {"stable": "v1", "candidate": "v2"}.get(name, "v3")
    return {"name": name, "model": model, "version": version, "endpoint": endpoint, "weight": weight, **more}


class Process:
    """A child whose first line of output says where it listens."""

    def __init__(self, *arguments: str, lines: int = 1, env: dict[str, str] | None = None, errors: Any = None) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **(env or {})},
        )
        assert self.child.stdout is not None
        self.ready = [self.child.stdout.readline().strip() for _ in range(lines)]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.child.send_signal(number)
        try:
            return self.child.wait(30)
        finally:
            assert self.child.stdout is not None
            self.child.stdout.close()


class Web:
    """One-shot HTTP requests to a port."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def request(
        self, method: str, path: str, content: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            body = content if content is None or isinstance(content, bytes) else json.dumps(content).encode()
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        return json.loads(self.request("GET", path)[2])


class Models:
    """The simulated endpoints `one` and `two`."""

    def __init__(self) -> None:
        arguments = ("--endpoint", "one=0", "--endpoint", "two=0")
        self.process = Process("controller.testing.model_server", *arguments, lines=2)
        self.web = {line.split()[2]: Web(int(line.rpartition(":")[2])) for line in self.process.ready}

    def behave(self, endpoint: str, patch: Any) -> None:
        status, _, body = self.web[endpoint].request("PUT", "/-/behaviour", patch)
        assert status == 200, body

    def counts(self, endpoint: str) -> Any:
        return self.web[endpoint].json("/-/counts")

    def endpoints(self, **more: Any) -> dict[str, Any]:
        return {name: {"url": f"{web.url}/v1", **more} for name, web in self.web.items()}


class ProxyProcess(Web):
    """A proxy on a data directory; `restart` keeps the directory and gets a new port."""

    def __init__(self, data: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.data = data
        self._token = data.with_name(data.name + ".token")
        self._token.write_text(TOKEN + "\n")
        self.errors = data.with_name(data.name + ".stderr")
        self._arguments = arguments
        self._env = env
        self.serial = 0
        self.digest = ""
        self.start()

    def start(self) -> None:
        arguments = ("--port", "0", "--data", str(self.data), "--token-file", str(self._token), *self._arguments)
        with self.errors.open("a") as errors:
            self.process = Process("controller.proxy", *arguments, env=self._env, errors=errors)
        if not self.process.ready[0].startswith("proxy listening on http://127.0.0.1:"):
            self.process.stop(signal.SIGKILL)
            raise AssertionError(f"the proxy does not say that it listens, but {self.process.ready[0]!r}")
        super().__init__(int(self.process.ready[0].rpartition(":")[2].split()[0]))  # "... with 2 workers"

    def restart(self, number: int = signal.SIGTERM) -> None:
        self.process.stop(number)
        self.start()

    def admin(self, method: str, content: Any = None, **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
        return self.request(method, "/-/routes", content, {"Authorization": f"Bearer {TOKEN}", **headers})

    def table(self, routes: Any, endpoints: Any) -> dict[str, Any]:
        serial = self.serial + 1
        head = {"serial": serial, "digest": f"d{serial}", "replaces": self.digest}
        return {**head, "routes": routes, "endpoints": endpoints}

    def put(self, routes: Any, endpoints: Any) -> None:
        table = self.table(routes, endpoints)
        status, _, body = self.admin("PUT", table)
        assert status == 200, body
        self.serial, self.digest = table["serial"], table["digest"]

    def stats(self) -> Any:
        return self.json("/stats")

    until = staticmethod(until)
    variant = staticmethod(variant)
    token = TOKEN

    def cell(self, agent: str, name: str = "stable", step: str = "") -> Any:
        return self.stats()["agents"][agent]["steps"][step][name]

    def chat(self, model: str = "dev", headers: dict[str, str] | None = None, **more: Any) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **more}
        return self.request("POST", "/v1/chat/completions", body, headers)

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="client-key", max_retries=0, timeout=30)


class RawUpstream:
    """An upstream that answers with given bytes, one list a connection: sends each item, then closes."""

    def __init__(self, *scripts: list[bytes], tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.connections = 0
        self.scripts = list(scripts)
        self.requests: list[bytes] = []
        self.closed = threading.Event()  # a client of ours went away before we did
        self.release = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def endpoint(self, **more: Any) -> dict[str, Any]:
        return {"url": f"http://127.0.0.1:{self.port}/v1", **more}

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        if self._tls is not None:
            try:
                connection = self._tls.wrap_socket(connection, server_side=True)
            except OSError:
                connection.close()
                return
        with connection:
            script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
            self.requests.append(self._read(connection))
            for item in script:
                if item == b"WAIT":
                    self.release.wait(30)
                elif item == b"READ":
                    self.requests.append(self._read(connection))
                elif item == b"UNTIL-CLOSED":
                    connection.settimeout(30)
                    try:
                        if not connection.recv(1):
                            self.closed.set()
                    except OSError:
                        self.closed.set()
                else:
                    connection.sendall(item)

    @staticmethod
    def _read(connection: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        while len(body) < length:
            body += connection.recv(65536)
        return head + b"\r\n\r\n" + body

    def close(self) -> None:
        self.release.set()
        self._socket.close()


@pytest.fixture
def models() -> Iterator[Models]:
    models = Models()
    yield models
    models.process.stop()


@pytest.fixture
def start_proxy(tmp_path: Path) -> Iterator[Callable[..., ProxyProcess]]:
    started: list[ProxyProcess] = []

    def start(*arguments: str, name: str = "data", env: dict[str, str] | None = None) -> ProxyProcess:
        started.append(ProxyProcess(tmp_path / name, *arguments, env=env))
        return started[-1]

    yield start
    for proxy in started:
        if proxy.process.child.poll() is None:
            proxy.process.stop(signal.SIGKILL)
        assert "Traceback" not in proxy.errors.read_text()


@pytest.fixture
def proxy(start_proxy: Callable[..., ProxyProcess]) -> ProxyProcess:
    return start_proxy()


@pytest.fixture
def upstream() -> Iterator[Callable[..., RawUpstream]]:
    made: list[RawUpstream] = []

    def make(*scripts: list[bytes], tls: ssl.SSLContext | None = None) -> RawUpstream:
        made.append(RawUpstream(*scripts, tls=tls))
        return made[-1]

    yield make
    for one in made:
        one.close()
