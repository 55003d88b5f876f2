"""What a simulated model (`model_server.py`) is busy with: places and a queue as in a real server, time, and its metrics.

The numbers of `/metrics` come from here: who is served now, who waits, how many tokens they hold.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from .model_answer import Answer, Stream
from .model_behaviour import Behaviour

_KV_TOKENS = 65_536


class QueueFull(Exception):
    """There is neither a place nor room to wait for one."""


class Slots:
    """The places of one model. Who finds none waits in turn."""

    def __init__(self) -> None:
        self.running = 0
        self.tokens = 0  # in the KV cache, of those who are served
        self._limit: int | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def limit(self, limit: int | None) -> None:
        """How many are served at once, from now on. Who is being served is not interrupted."""
        self._limit = limit
        while self._waiting and self._free():
            turn = self._waiting.popleft()
            if not turn.done():  # else its client has just left
                self.running += 1
                turn.set_result(None)

    async def enter(self, queue: int | None) -> None:
        """Take a place, or wait for one behind at most `queue` others; raises QueueFull."""
        if self._free() and not self._waiting:
            self.running += 1
            return
        if queue is not None and len(self._waiting) >= queue:
            raise QueueFull
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.leave()  # the place came in the moment of leaving
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def leave(self) -> None:
        self.running -= 1
        self.limit(self._limit)

    def _free(self) -> bool:
        return self._limit is None or self.running < self._limit

    @contextmanager
    def holding(self) -> Iterator[Held]:
        """What a request holds, until it is over."""
        held = Held(self)
        try:
            yield held
        finally:
            self.tokens -= held.tokens


class Held:
    """The tokens that one request holds in the KV cache."""

    __slots__ = ("_slots", "tokens")

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.tokens = 0

    def more(self, tokens: int) -> None:
        self.tokens += tokens
        self._slots.tokens += tokens


class Pace:
    """The time that a model takes. A late token does not make the next ones late: each is due at its own time."""

    def __init__(self, behaviour: Behaviour, held: Held) -> None:
        speed = behaviour.speed or 1.0
        self._latency = behaviour.latency_ms / 1000 / speed
        self._first = (behaviour.first_token_ms or 0) / 1000 / speed
        self._gap = (behaviour.token_ms or 0) / 1000 / speed
        self._held = held
        self._due = 0.0

    async def prepare(self) -> None:
        """What passes before anything is answered."""
        if self._latency:
            await asyncio.sleep(self._latency)

    async def think(self, answer: Answer) -> None:
        """The whole time of an answer that is not streamed."""
        self._held.more(answer.output_tokens)
        if seconds := self._first + self._gap * max(0, answer.output_tokens - 1):
            await asyncio.sleep(seconds)

    async def before(self, i: int, stream: Stream) -> None:
        """What passes before the event `i` of a stream."""
        loop = asyncio.get_running_loop()
        if i == stream.first:
            self._due = loop.time() + self._first
        elif i in stream.tokens and i != stream.tokens.start:
            self._due += self._gap
        if i in stream.tokens:
            self._held.more(1)
        await asyncio.sleep(max(0.0, self._due - loop.time()))


@dataclass(frozen=True)
class Reading:
    """What `/metrics` says of one model."""

    model: str
    running: float
    waiting: float
    kv_cache: float  # a share
    totals: tuple[int, int, int]  # finished requests, input tokens, output tokens


def reading(model: str, slots: Slots, behaviour: Behaviour, totals: tuple[int, int, int]) -> Reading:
    """The truth, or what the behaviour says instead of it."""

    def said(override: float | None, truth: float) -> float:
        return truth if override is None else override

    return Reading(
        model,
        said(behaviour.metrics_running, slots.running),
        said(behaviour.metrics_waiting, slots.waiting),
        said(behaviour.metrics_kv_cache, min(1.0, slots.tokens / (behaviour.kv_tokens or _KV_TOKENS))),
        totals,
    )


def metrics_text(readings: Iterable[Reading], *, old_names: bool = False) -> str:
    """The page of a vLLM server, in Prometheus form. Old servers call the share of the cache by another name."""
    rows = list(readings)
    cache = "vllm:gpu_cache_usage_perc" if old_names else "vllm:kv_cache_usage_perc"
    families: list[tuple[str, str, str, list[float]]] = [
        ("vllm:num_requests_running", "gauge", "Number of requests in model execution batches.", [row.running for row in rows]),
        ("vllm:num_requests_waiting", "gauge", "Number of requests waiting to be processed.", [row.waiting for row in rows]),
        (cache, "gauge", "KV-cache usage. 1 means 100 percent usage.", [row.kv_cache for row in rows]),
        ("vllm:request_success_total", "counter", "Count of successfully answered requests.", [row.totals[0] for row in rows]),
        ("vllm:prompt_tokens_total", "counter", "Number of prefill tokens processed.", [row.totals[1] for row in rows]),
        ("vllm:generation_tokens_total", "counter", "Number of generation tokens processed.", [row.totals[2] for row in rows]),
    ]
    lines: list[str] = []
    for name, kind, what, values in families:
        family = name.removesuffix("_total") if kind == "counter" else name
        lines += [f"# HELP {family} {what}", f"# TYPE {family} {kind}"]
        for row, value in zip(rows, values, strict=True):
            lines.append(f'{name}{{engine="0",model_name="{_escaped(row.model)}"}} {float(value)}')
    return "\n".join(lines) + "\n"


def _escaped(label: str) -> str:
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
