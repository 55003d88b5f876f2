"""Asks replicas how they are: active health checks, and vLLM's figures for least_load. Off the path of requests."""

from __future__ import annotations

import asyncio
import random
import re
import ssl
from collections.abc import Iterable
from time import monotonic

from .pool import Pool, Pools
from .replica import Replica

_POLL_S = 1.0
_POLL_TIMEOUT_S = 2.0
_MOST_BYTES = 4 << 20
_TICK_S = 0.25
_GAUGE = re.compile(
    rb"^vllm:(num_requests_running|num_requests_waiting|kv_cache_usage_perc|gpu_cache_usage_perc)"
    rb"""(?:\{(?:[^"}\n]|"(?:[^"\\\n]|\\.)*")*\})?[ \t]+(\S+)""",
    re.MULTILINE,
)


class Probes:
    """One task a replica that has to be asked, for as long as a table wants it."""

    def __init__(self, pools: Pools, loop: asyncio.AbstractEventLoop) -> None:
        self._pools = pools
        self._loop = loop
        self._due: dict[tuple[Replica, str], float] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._busy: set[tuple[Replica, str]] = set()

    async def keep(self) -> None:
        """Ask whom it is time to ask, until cancelled."""
        try:
            while True:
                self._look(monotonic())
                await asyncio.sleep(_TICK_S)
        finally:
            for task in self._running:
                task.cancel()

    def _look(self, now: float) -> None:
        wanted: set[tuple[Replica, str]] = set()
        for pool in self._pools.by_name.values():
            endpoint = pool.endpoint
            for replica in pool.replicas:
                if endpoint.health.path:
                    wanted.add((replica, "health"))
                    self._ask(pool, replica, "health", endpoint.health.interval_s, now)
                if endpoint.load_path and endpoint.strategy == "least_load" and len(pool.replicas) > 1:
                    wanted.add((replica, "load"))
                    self._ask(pool, replica, "load", _POLL_S, now)
        for key in [key for key in self._due if key not in wanted]:
            del self._due[key]

    def _ask(self, pool: Pool, replica: Replica, what: str, every: float, now: float) -> None:
        key = (replica, what)
        due = self._due.get(key)
        if due is None:
            # a new replica is asked at once, but not all of them in the same moment
            due = self._due[key] = now + random.random() * min(every, _TICK_S)
        if now < due or key in self._busy:
            return
        self._due[key] = now + every
        self._busy.add(key)
        task = self._loop.create_task(self._checked(pool, replica) if what == "health" else self._polled(pool, replica))
        self._running.add(task)
        task.add_done_callback(lambda done: self._done(done, key))

    def _done(self, task: asyncio.Task[None], key: tuple[Replica, str]) -> None:
        self._running.discard(task)
        self._busy.discard(key)

    async def _checked(self, pool: Pool, replica: Replica) -> None:
        health = pool.endpoint.health
        status, _ = await fetch(replica, health.path, health.timeout_s)
        if not replica.draining:
            pool.checked(replica, well=200 <= status < 300)

    async def _polled(self, pool: Pool, replica: Replica) -> None:
        in_flight = replica.in_flight
        status, body = await fetch(replica, pool.endpoint.load_path, _POLL_TIMEOUT_S)
        figures = vllm_figures(body) if status == 200 else None
        if figures is not None:
            replica.polled, replica.kv_usage = figures
            replica.in_flight_at_poll = in_flight
            replica.polled_at = monotonic()


def vllm_figures(text: bytes) -> tuple[float, float] | None:
    """Requests running and waiting, and the used share (0 to 1) of the KV cache; None where the text does not have them.

    The names are those of vLLM's /metrics. Several models or engines in one process are summed; the fullest cache counts.
    """
    load, usage, found = 0.0, 0.0, False
    for name, value in _GAUGE.findall(text):
        try:
            number = float(value)
        except ValueError:
            continue
        if not 0 <= number < 1e9:
            continue
        if name.startswith(b"num_"):
            load, found = load + number, True
        else:
            usage = max(usage, min(number, 1.0))
    return (load, usage) if found else None


async def fetch(replica: Replica, path: str, seconds: float) -> tuple[int, bytes]:
    """GET from the origin of a replica; status 0 where nothing proper came in time."""
    try:
        async with asyncio.timeout(seconds):
            tls = ssl.create_default_context() if replica.tls else None
            reader, writer = await asyncio.open_connection(replica.host, replica.port, ssl=tls)
            try:
                head = b"GET %b HTTP/1.1\r\n%bconnection: close\r\naccept-encoding: identity\r\n\r\n" % (
                    path.encode("ascii"),
                    replica.host_line,
                )
                writer.write(head)
                return _parsed(await _read(reader))
            finally:
                writer.close()
    except (OSError, ValueError, TimeoutError, EOFError):
        return 0, b""


async def _read(reader: asyncio.StreamReader) -> Iterable[bytes]:
    parts, size = [], 0
    while data := await reader.read(1 << 16):
        parts.append(data)
        size += len(data)
        if size > _MOST_BYTES:
            break
    return parts


def _parsed(parts: Iterable[bytes]) -> tuple[int, bytes]:
    answer = _Answer()
    for data in parts:
        answer.parser.feed_data(data)
    return answer.parser.get_status_code() if answer.headed else 0, b"".join(answer.body)


class _Answer:
    """Collects one answer; httptools calls it."""

    def __init__(self) -> None:
        import httptools

        self.headed = False
        self.body: list[bytes] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_headers_complete(self) -> None:
        self.headed = True

    def on_body(self, data: bytes) -> None:
        self.body.append(data)
