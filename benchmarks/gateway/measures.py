"""What is measured of one gateway: its most, its delay, its streams, its memory, and (Turnout alone) its reloads.

Each function drives a gateway that already answers and returns figures; nothing here prints or compares.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

from benchmarks.gateway.machine import Cores
from benchmarks.gateway.peers import TOKEN, Gateway
from benchmarks.gateway.programs import Generator, Load, Options, load

HEADERS = "authorization: Bearer sk-benchmark"
CHAT, BIG = 300, 65536  # bytes of a request's body


@dataclass(frozen=True)
class Size:
    """How much is measured: seconds for each figure, connections and streams at a time, reloads.

    `gap` is the seconds between the tokens of a stream: 50 tokens a second. The streams that only have to be held are
    slower, so that ten times as many are no more tokens a second.
    """

    rounds: int = 3
    seconds: float = 5.0
    connections: int = 64
    rate: int = 1000
    streams: int = 200
    tokens: int = 64
    gap: float = 0.02
    idle: int = 10_000
    held: int = 2_000
    held_tokens: int = 32
    held_gap: float = 0.2
    reloads: int = 100
    reload_seconds: float = 10.0


QUICK = Size(
    rounds=1,
    seconds=0.4,
    streams=20,
    tokens=16,
    gap=0.01,
    idle=200,
    held=50,
    held_tokens=10,
    held_gap=0.05,
    reloads=10,
    reload_seconds=0.5,
)


@dataclass(frozen=True)
class Most:
    """The closed loop: answers a second, how much of its core that took, CPU us a request."""

    rate: float
    busy: float
    cpu_us: float
    errors: int


@dataclass(frozen=True)
class Delay:
    """The open loop, in us from the moment that a request was due; `share` is what of the requests was answered in time."""

    p50: float
    p99: float
    share: float
    errors: int


@dataclass(frozen=True)
class Streams:
    """p50 to the first token and p50 of each later token on its way, in us; CPU us a token; tokens a second."""

    first: float
    token: float
    cpu_us: float
    rate: float
    errors: int


@dataclass(frozen=True)
class Memory:
    """Resident MB at the start, with idle connections (so many were held), and at most while streams ran."""

    start: float
    idle: float
    connections: int
    idle_errors: int
    streaming: float
    streams: int
    stream_errors: int


@dataclass(frozen=True)
class Reloads:
    """The same load without and with reloads of a table of so many routes; PUT is the median time of one, in ms."""

    routes: int
    calm: Delay
    reloading: Delay
    done: int
    put_ms: float


@dataclass
class Figures:
    """All that is known of one gateway: a value a round, or why it was not measured."""

    chat: list[Most] = field(default_factory=list)
    big: list[Most] = field(default_factory=list)
    delay: list[Delay] = field(default_factory=list)
    streams: list[Streams] = field(default_factory=list)
    memory: Memory | None = None
    missing: str = ""


def most(gateway: Gateway, cores: Cores, size: Size, body: int) -> Most:
    """As fast as it goes, after a short warm-up."""
    options: Options = {"connections": size.connections, "size": body, "header": HEADERS}
    load(cores.generator, gateway.port, "closed", seconds=size.seconds / 5, **options)
    cpu, found = _with_cpu(gateway, lambda: load(cores.generator, gateway.port, "closed", seconds=size.seconds, **options))
    return Most(found.answered / found.seconds, cpu / found.seconds, 1e6 * cpu / max(1, found.answered), found.failed)


def delay(port: int, cores: Cores, size: Size) -> Delay:
    """At a fixed rate. What the gateway cannot hold shows as a lower share and as waiting."""
    load(cores.generator, port, "open", seconds=min(1.0, size.seconds / 2), grace=1, rate=size.rate, header=HEADERS)
    return _delay(load(cores.generator, port, "open", seconds=size.seconds, grace=1, rate=size.rate, header=HEADERS))


def _delay(found: Load) -> Delay:
    return Delay(found.latency.p50, found.latency.p99, found.answered / max(1, found.requests), found.errors)


def streams(port: int, gateway: Gateway | None, cores: Cores, size: Size) -> Streams:
    """So many streams at a time; without a gateway it is the direct way, and costs no CPU that counts."""
    spread = size.tokens * size.gap
    options: Options = {"connections": size.streams, "tokens": size.tokens, "spread": spread, "grace": 60, "header": HEADERS}
    options["seconds"] = max(size.seconds, 1.5 * spread)
    cpu, found = _with_cpu(gateway, lambda: load(cores.generator, port, "stream", **options))
    rate = found.tokens / found.seconds
    return Streams(found.first.p50, found.token.p50, 1e6 * cpu / max(1, found.tokens), rate, found.failed)


def memory(gateway: Gateway, cores: Cores, size: Size, rate: float) -> Memory:
    """Of a gateway that was just started. One that answers few requests a second gets fewer idle connections (each asks once)."""
    start = gateway.process.memory()
    idle = max(1, min(size.idle, int(rate * 10)))
    generator = Generator(cores.generator, gateway.port, "idle", connections=idle, seconds=60, header=HEADERS)
    try:
        held, _ = generator.held()
        time.sleep(1)
        resting = gateway.process.memory()
        after = generator.result()
    finally:
        generator.stop()
    peak, streaming = _hold_streams(gateway, cores, size)
    return Memory(
        start=start,
        idle=resting,
        connections=held,
        idle_errors=after.failed,
        streaming=peak,
        streams=streaming.peak,
        stream_errors=streaming.failed,
    )


def _hold_streams(gateway: Gateway, cores: Cores, size: Size) -> tuple[float, Load]:
    lasts = size.held_tokens * size.held_gap
    generator = Generator(
        cores.generator,
        gateway.port,
        "stream",
        connections=size.held,
        tokens=size.held_tokens,
        spread=lasts * 0.9,  # the last begins before the first ends: all are open at once
        seconds=lasts * 1.2,
        grace=120,
        header=HEADERS,
    )
    peak = 0.0
    try:
        while generator.running():
            peak = max(peak, gateway.process.memory())
            time.sleep(0.2)
        return peak, generator.result()
    finally:
        generator.stop()


def _with_cpu(gateway: Gateway | None, run: Callable[[], Load]) -> tuple[float, Load]:
    """CPU seconds of the gateway during the whole run, connecting and ending included: all answers of it are counted too."""
    if gateway is None:
        return 0.0, run()
    before = gateway.process.cpu()
    found = run()
    return gateway.process.cpu() - before, found


def reloads(gateway: Gateway, cores: Cores, size: Size, routes: int) -> Reloads:
    """A steady load; then the same while the table is replaced again and again. Each PUT has to be accepted."""
    table = _Table(gateway.port, routes)
    table.replace()
    options: Options = {"seconds": size.reload_seconds, "rate": size.rate, "header": HEADERS}
    load(cores.generator, gateway.port, "open", **{**options, "seconds": 1})
    calm = load(cores.generator, gateway.port, "open", **options)
    thread = threading.Thread(target=table.keep_replacing, args=(size.reloads, size.reload_seconds), daemon=True)
    generator = Generator(cores.generator, gateway.port, "open", **options)
    try:
        thread.start()
        reloading = generator.result()
        thread.join()
    finally:
        generator.stop()
    if table.error:
        raise RuntimeError(table.error)
    return Reloads(routes, _delay(calm), _delay(reloading), size.reloads, 1000 * median(table.took[1:]))


class _Table:
    """The table of a proxy with many routes, replaced by one that differs in its digest and serial."""

    def __init__(self, port: int, routes: int) -> None:
        self._port = port
        self._headers = {"Authorization": f"Bearer {TOKEN}"}
        self._table = json.loads(self._ask("GET"))
        for number in range(routes - 1):
            self._table["routes"][f"agent-{number}"] = self._table["routes"]["agent"]
        self._digest = self._table["digest"]
        self.took: list[float] = []
        self.error = ""

    def replace(self) -> None:
        self._table["serial"] += 1
        self._table["replaces"], self._table["digest"] = self._digest, f"benchmark-{self._table['serial']}"
        body = json.dumps(self._table)
        start = time.perf_counter()
        self._ask("PUT", body)
        self.took.append(time.perf_counter() - start)
        self._digest = self._table["digest"]

    def keep_replacing(self, times: int, seconds: float) -> None:
        """Evenly over the time, from a thread: the reason why it stopped early is in `error`."""
        start = time.monotonic()
        try:
            for number in range(times):
                time.sleep(max(0.0, start + seconds * (number + 0.5) / times - time.monotonic()))
                self.replace()
        except (RuntimeError, OSError, http.client.HTTPException) as error:
            self.error = f"reload {len(self.took)}: {error}"

    def _ask(self, method: str, body: str | None = None) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request(method, "/-/routes", body, self._headers)
            answer = connection.getresponse()
            found = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{method} /-/routes: {answer.status} {found[:200].decode(errors='replace')}")
        return found
