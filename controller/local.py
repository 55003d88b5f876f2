"""The embedded environment on one machine: which processes it has, where their data is, and how they start and stop.

`up` starts simulated endpoints, the proxies that listen on loopback, and the controller, each a process of its own in its own
session; `down` stops them. Everything they keep is in `.git/turnout/<environment>/`: caches, logs, the proxy's last routes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from controller.app import Controller, data_folder
from controller.clients.git import Repository
from controller.clients.secrets import resolve
from controller.environment import ProxyAddress
from controller.errors import TurnoutError
from controller.settings import Settings

READY_SECONDS = 30.0
STOP_SECONDS = 15.0
ANSWERS = "answers.json"
"""Rules of what simulated endpoints answer (`controller.testing.openrouter_api.rules`), where there are any."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the environment: its name, how it is started, and the address that it will listen on."""

    name: str
    command: tuple[str, ...]
    port: int = 0


def up(repo: Path, environment: str, told: Told, beside: Sequence[Process] = ()) -> None:
    """Starts what does not run yet, and `beside` it more, and returns when the gateway answers. Raises TurnoutError."""
    controller = Controller(repo, environment)
    data = controller.data
    data.mkdir(parents=True, exist_ok=True)
    settings = controller.settings()
    controller.close()
    make_secrets(settings, data)
    running = _running(data)
    for process in (*processes(settings, controller.repository, data), *beside):
        if process.name in running:
            told(f"{process.name} runs already (pid {running[process.name]})")
            continue
        if process.port and _taken(process.port):
            raise TurnoutError(
                f"port {process.port} is taken by another program, {process.name} needs it",
                f"stop it, or choose another port in environments/{environment}/environment.yaml",
            )
        running[process.name] = _start(process, data)
        _remember(data, running)
        told(f"started {process.name} (pid {running[process.name]}, log {_log(data, process.name)})")
    _await_ready(settings, data, running)
    told("ready")


def down(repo: Path, environment: str, told: Told) -> None:
    """Stops what `up` started, the controller first. What it knows stays in git."""
    data = data_folder(Repository(repo), environment)
    running = _running(data)
    if not running:
        told("nothing runs")
        return
    for name, pid in sorted(running.items(), key=lambda item: item[0] != "controller"):
        _stop(pid)
        told(f"stopped {name}")
    _remember(data, {})
    controller = Controller(repo, environment)
    stopped = controller.stop_all()
    controller.close()
    if stopped:
        told(f"stopped {stopped} run{'s' if stopped > 1 else ''} of this machine; `turnout up` goes on with what they kept")
    told(f"caches and logs are in {data}; the desired state and the event log are in git")


def runs(repo: Path, environment: str) -> bool:
    """Whether anything that `up` started lives."""
    return bool(_running(data_folder(Repository(repo), environment)))


def processes(settings: Settings, repository: Repository, data: Path) -> list[Process]:
    """What the environment consists of on this machine."""
    python = sys.executable
    out = []
    simulated = {
        name: _port(endpoint.url) for name, endpoint in settings.spec.endpoints.items() if endpoint.simulated and endpoint.url
    }
    if simulated:
        ports = [f"--endpoint={name}={port}" for name, port in sorted(simulated.items())]
        answers = ("--answers", str(data / ANSWERS)) if (data / ANSWERS).exists() else ()
        out.append(
            Process("endpoints", (python, "-m", "controller.testing.model_server", *ports, *answers), min(simulated.values()))
        )
    out += vendors(settings, data, simulated)
    for name, proxy in sorted(settings.spec.proxies.items()):
        url = urlsplit(proxy.url)
        if url.hostname in _LOOPBACK:
            token = ("--token-file", str(_token_file(name, proxy.token, data))) if proxy.token else ()
            out.append(
                Process(
                    f"proxy-{name}",
                    (
                        python,
                        "-m",
                        "controller.proxy",
                        "--host",
                        url.hostname,
                        "--port",
                        str(_port(proxy.url)),
                        "--data",
                        str(data / f"proxy-{name}"),
                        *token,
                        *_proxy_options(proxy),
                    ),
                    _port(proxy.url),
                )
            )
    where = str(repository.work_dir or repository.git_dir)
    out.append(Process("controller", (python, "-m", "controller", "--repo", where, "--env", settings.environment, "reconcile")))
    return out


def vendors(settings: Settings, data: Path, endpoints: Mapping[str, int]) -> list[Process]:
    """Doubles of vendors that are simulated. What an Inference Endpoint of the double serves is a simulated endpoint's."""
    python, spec, out = sys.executable, settings.spec, []
    if spec.huggingface.simulated:
        port, token = _port(spec.huggingface.url), _secret_file(spec.huggingface.token, data)
        served = min(endpoints.values(), default=9)
        trains = spec.training.python or os.environ.get("TURNOUT_TRAINING_PYTHON") or python
        command = [python, "-m", "controller.testing.hugging_face", "--port", str(port), "--data", str(data / "huggingface")]
        command += ["--token-file", str(token), "--python", trains, "--serving-url", f"http://127.0.0.1:{served}"]
        command += ["--org", spec.huggingface.namespace] if spec.huggingface.namespace else []
        command += ["--org", spec.training.org] if spec.training.org and spec.training.org != spec.huggingface.namespace else []
        out.append(Process("huggingface", tuple(command), port))
    if spec.langsmith is not None and spec.langsmith.simulated:
        port, key = _port(spec.langsmith.url), _secret_file(spec.langsmith.api_key, data).read_text().strip()
        command = [python, "-m", "controller.testing.langsmith_api", "--port", str(port), "--data", str(data / "langsmith")]
        out.append(Process("langsmith", (*command, "--key", key), port))
    return out


def _secret_file(reference: str | None, data: Path) -> Path:
    """Of a `file:` reference; the settings let no other stand where a vendor is simulated."""
    return data / (reference or "").removeprefix("file:")


def _proxy_options(proxy: ProxyAddress) -> list[str]:
    """How a proxy of this machine is started, beyond its port."""
    given = {"--workers": proxy.workers if proxy.workers > 1 else None, "--access-log": proxy.access_log, "--otel": proxy.otel}
    return [part for option, value in given.items() if value is not None for part in (option, str(value))]


def _token_file(name: str, reference: str, data: Path) -> Path:
    """The proxy reads its token from a file; that of an `env:` reference is written beside its data."""
    return data / (reference.removeprefix("file:") if reference.startswith("file:") else f"proxy-{name}.token")


def make_secrets(settings: Settings, data: Path) -> None:
    """Admin tokens of local proxies: made once, or copied from the process environment; readable by this user only.

    Keys of simulated vendors too: only their doubles know them.
    """
    langsmith = settings.spec.langsmith
    simulated = [settings.spec.huggingface.token] if settings.spec.huggingface.simulated else []
    simulated += [langsmith.api_key] if langsmith is not None and langsmith.simulated else []
    for reference in simulated:
        _write_secret(_secret_file(reference, data), f"hf_{secrets.token_hex(17)}")
    for name, proxy in settings.spec.proxies.items():
        if not proxy.token:
            continue
        path = _token_file(name, proxy.token, data)
        given = proxy.token.startswith("env:")
        if given:
            path.unlink(missing_ok=True)
        text = resolve(proxy.token, data) if given else secrets.token_urlsafe(32)
        _write_secret(path, text)


def _write_secret(path: Path, text: str) -> None:
    """Unless it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(text + "\n")


def _port(url: str) -> int:
    parts = urlsplit(url)
    return parts.port or (443 if parts.scheme == "https" else 80)


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _start(process: Process, data: Path) -> int:
    with open(_log(data, process.name), "ab") as log:
        child = subprocess.Popen(
            process.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=str(data),
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    return child.pid


def _log(data: Path, name: str) -> Path:
    return data / f"{name}.log"


def _state_file(data: Path) -> Path:
    return data / "processes.json"


def _running(data: Path) -> dict[str, int]:
    """Processes that `up` started and that still live; a process id that another program has by now does not count."""
    try:
        kept = json.loads(_state_file(data).read_text())
    except (OSError, ValueError):
        return {}
    return {name: pid for name, (pid, born) in kept.items() if _born(pid) == born}


def _remember(data: Path, running: dict[str, int]) -> None:
    kept = {name: (pid, _born(pid)) for name, pid in running.items()}
    temporary = _state_file(data).with_suffix(".tmp")
    temporary.write_text(json.dumps(kept))
    os.replace(temporary, _state_file(data))


def _born(pid: int) -> str | None:
    """Start time of a process, to tell a reused id apart; None when it does not live."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return None
    run = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return run.stdout.strip() or None


def _stop(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + STOP_SECONDS
    while time.monotonic() < end:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        if _born(pid) is None:
            return
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _await_ready(settings: Settings, data: Path, running: dict[str, int]) -> None:
    """Until every local proxy serves routes; a process that died tells its last words."""
    local = {name: proxy for name, proxy in settings.spec.proxies.items() if urlsplit(proxy.url).hostname in _LOOPBACK}
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end:
        for name, pid in running.items():
            if _born(pid) is None:
                raise TurnoutError(f"{name} ended: {_last_words(_log(data, name))}", f"its log is {_log(data, name)}")
        if all(_healthy(proxy.url) for proxy in local.values()):
            return
        time.sleep(0.1)
    raise TurnoutError(
        f"the gateway serves no routes after {READY_SECONDS:.0f} s", f"look at {_log(data, 'controller')} and `turnout status`"
    )


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/healthz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _last_words(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "no log"
    return lines[-1] if lines else "it said nothing"
