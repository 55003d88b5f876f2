"""What the benchmark takes from the machine: cores, open files, free ports, and a folder for what it builds and installs."""

from __future__ import annotations

import os
import resource
import socket
from dataclasses import dataclass
from pathlib import Path

_OPEN_FILES = 65536  # 10,000 idle connections need as many in the gateway, in the generator and perhaps in the stub


@dataclass(frozen=True)
class Cores:
    """One core each where there are three; with two the generator and the stub share one, the measured process never shares."""

    measured: int
    stub: int
    generator: int


def cores() -> Cores:
    """The cores that this process may use, the last one for what is measured."""
    usable = sorted(os.sched_getaffinity(0))
    rest = usable[:-1] or usable
    return Cores(measured=usable[-1], stub=rest[0], generator=rest[1] if len(rest) > 1 else rest[0])


def pinned(core: int, *command: str) -> list[str]:
    """The command on one core, children and threads included."""
    return ["taskset", "--cpu-list", str(core), *command]


def allow_open_files() -> int:
    """Raise the limit of open files for this process and its children as far as it goes; the limit then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _OPEN_FILES:
        for limit in ((_OPEN_FILES, max(hard, _OPEN_FILES)), (hard, hard)):
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, limit)
                break
            except (ValueError, OSError):
                continue
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def free_port() -> int:
    """A port of the loopback that nobody listens on; who is given it should listen soon."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def cache() -> Path:
    """Where programs are built and peers installed: TURNOUT_BENCHMARK_CACHE, or a folder in the user's cache."""
    named = os.environ.get("TURNOUT_BENCHMARK_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(named) if named else base / "turnout-benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
