"""The stub and the generator: built from C at first use, started, and read. Their own costs are the same for every gateway."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from benchmarks.gateway.machine import cache, pinned

_FOLDER = Path(__file__).parent
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")


Options = dict[str, float | str]


class CannotBuild(Exception):
    """There is no C compiler, or it refused; the text says so in one line."""


def build(name: str) -> Path:
    """The program `stub` or `load`, compiled if its sources are new. Raises CannotBuild."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    source = _FOLDER / f"{name}.c"
    texts = [path.read_bytes() for path in (source, *sorted(_FOLDER.glob("*.h")))]
    program = cache() / "programs" / f"{name}-{hashlib.sha256(b''.join(texts)).hexdigest()[:12]}"
    if program.exists():
        return program
    if compiler is None:
        raise CannotBuild("the stub and the generator are C: install gcc (Debian: apt-get install gcc libc6-dev)")
    program.parent.mkdir(exist_ok=True)
    made = program.with_suffix(".new")
    done = subprocess.run([compiler, *_FLAGS, "-o", str(made), str(source)], capture_output=True, text=True)
    if done.returncode:
        raise CannotBuild(f"{source.name} does not compile: {done.stderr.strip()[:2000]}")
    made.rename(program)
    return program


@dataclass(frozen=True)
class Stub:
    """A model server that runs."""

    port: int

    def counts(self) -> dict[str, int]:
        """What it has seen: requests, plain, streams, tokens, bad, cancelled, open, peak_open, peak_streaming."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/stub/counts")
            return cast(dict[str, int], json.loads(connection.getresponse().read()))
        finally:
            connection.close()


@contextlib.contextmanager
def stub(core: int, **options: int | str) -> Iterator[Stub]:
    """The upstream with options like tokens=64, gap_us=20_000, on a free port."""
    process = subprocess.Popen(pinned(core, str(build("stub")), *_as_options(options)), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        if not said.startswith("listening on"):
            raise RuntimeError("the stub did not start; its reason is above")
        yield Stub(int(said.rpartition(":")[2]))
    finally:
        process.terminate()
        process.communicate()


@dataclass(frozen=True)
class Spread:
    """A distribution in microseconds."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True)
class Load:
    """What the generator counted. `latency`: a whole answer; `first`: to its first token; `token`: on its way, later tokens."""

    seconds: float
    requests: int
    answered: int
    unanswered: int
    tokens: int
    peak: int
    errors: int
    kinds: dict[str, int]
    gave_up: bool
    latency: Spread
    first: Spread
    token: Spread

    @property
    def failed(self) -> int:
        return self.errors + self.unanswered


def _read(text: str) -> Load:
    found: dict[str, Any] = json.loads(text)
    same = ("seconds", "requests", "answered", "unanswered", "tokens", "peak", "errors", "gave_up")
    values: dict[str, Any] = {name: found[name] for name in same}
    values |= {name: Spread(**found[f"{name}_us"]) for name in ("latency", "first", "token")}
    return Load(**values, kinds=found["error_kinds"])


class Generator:
    """A generator at work; `result` waits for its end."""

    def __init__(self, core: int, port: int, mode: str, **options: float | str) -> None:
        command = [str(build("load")), "--port", str(port), "--mode", mode, *_as_options(options)]
        self._process = subprocess.Popen(
            pinned(core, *command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def held(self) -> tuple[int, int]:
        """In idle mode, when all connections are open: how many hold, and the errors until then."""
        assert self._process.stdout is not None
        found = json.loads(self._process.stdout.readline())
        return found["held"], found["errors"]

    def running(self) -> bool:
        return self._process.poll() is None

    def result(self) -> Load:
        """Ends the idle phase if there is one. Raises RuntimeError with what the generator said, if it failed."""
        out, errors = self._process.communicate("\n")
        if self._process.returncode:
            raise RuntimeError(errors.strip())
        return _read(out.splitlines()[-1])

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def load(core: int, port: int, mode: str, **options: float | str) -> Load:
    """One run of the generator: mode closed, open or stream; options like connections=32, seconds=5, rate=1000, size=300."""
    generator = Generator(core, port, mode, **options)
    try:
        return generator.result()
    finally:
        generator.stop()


def _as_options(options: dict[str, Any]) -> list[str]:
    return [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
