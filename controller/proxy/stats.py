"""The figures that rollouts are judged by: per agent, step and variant, cumulative, and kept over restarts.

Every attempt at an upstream ends in `Stats.record`; `/stats` shows the sum of them. The guard is judged here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from .table import Guard, RouteTable
from .usage import Usage

GROWTH = 1.05
FIRST_UPPER_S = 0.001
_LOG_GROWTH = math.log(GROWTH)
_STEPS = 20  # kept beside "" and the current one
_ABSENT = 200  # agents without a route whose figures are kept


def bucket_upper_seconds(i: int) -> float:
    """The longest time that falls into bucket `i`."""
    return FIRST_UPPER_S * GROWTH**i


def bucket_of(seconds: float) -> int:
    """The bucket of a time. Bucket 0 has everything up to 1 ms."""
    if seconds <= FIRST_UPPER_S:
        return 0
    return math.ceil(math.log(seconds / FIRST_UPPER_S) / _LOG_GROWTH - 1e-9)


def percentile(histogram: Mapping[int, int] | Mapping[str, int], q: float) -> float | None:
    """The time in seconds that the share `q` (0 to 1) stayed within, at most 5 % too long; None without any samples."""
    counts = sorted((int(bucket), count) for bucket, count in histogram.items() if count > 0)
    total = sum(count for _, count in counts)
    if not total:
        return None
    wanted, seen = q * total, 0
    for bucket, count in counts:
        seen += count
        if seen >= wanted:
            return bucket_upper_seconds(bucket)
    return bucket_upper_seconds(counts[-1][0])


class Cell(msgspec.Struct):
    """What one variant did within one step."""

    version: str = ""
    requests: int = 0
    errors: int = 0
    cost_usd: float = 0.0
    costed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    latency: dict[int, int] = {}
    latency_sum_s: float = 0.0


class Trip(msgspec.Struct, frozen=True):
    """The moment at which a guard sent everything back to the first variant."""

    step: str
    at: float
    requests: int
    errors: int


class AgentFigures(msgspec.Struct):
    """One agent: its current step, when each step came into service, its trips, its cells by step and variant."""

    step: str = ""
    since: dict[str, float] = {}
    trips: dict[str, Trip] = {}
    steps: dict[str, dict[str, Cell]] = {}


class Kept(msgspec.Struct):
    """What `stats.json` holds."""

    started_at: float
    agents: dict[str, AgentFigures] = {}


class Stats:
    """The figures in memory. `clock` is the wall clock, because steps outlive the process."""

    def __init__(self, clock: Callable[[], float], kept: Kept | None = None) -> None:
        self._clock = clock
        self._started_at = clock()
        self._agents: dict[str, AgentFigures] = kept.agents if kept is not None else {}
        self.changed = False

    def adopt(self, table: RouteTable) -> None:
        """A table goes into service: new steps begin, old ones beyond the last few are forgotten."""
        now = self._clock()
        for agent, route in table.routes.items():
            figures = self._agents.setdefault(agent, AgentFigures())
            if figures.step != route.step or route.step not in figures.since:
                figures.since.setdefault(route.step, now)
                figures.step = route.step
                self._forget_steps(figures)
        absent = [agent for agent in self._agents if agent not in table.routes]
        for agent in absent[:-_ABSENT]:
            del self._agents[agent]
        self.changed = True

    def _forget_steps(self, figures: AgentFigures) -> None:
        others = [step for step in figures.since if step not in ("", figures.step)]
        others.sort(key=lambda step: figures.since[step])
        for step in others[:-_STEPS]:
            del figures.since[step]
            figures.steps.pop(step, None)
            figures.trips.pop(step, None)

    def tripped(self, agent: str, step: str) -> Trip | None:
        figures = self._agents.get(agent)
        return None if figures is None else figures.trips.get(step)

    def record(
        self,
        agent: str,
        step: str,
        variant: str,
        version: str,
        *,
        error: bool,
        seconds: float | None,
        usage: Usage | None,
    ) -> Cell:
        """One attempt ended. `seconds` is the time to the last byte of a success, None otherwise."""
        cell = self._cell(agent, step, variant)
        cell.version = version
        cell.requests += 1
        if error:
            cell.errors += 1
        if seconds is not None:
            bucket = bucket_of(seconds)
            cell.latency[bucket] = cell.latency.get(bucket, 0) + 1
            cell.latency_sum_s += seconds
        if usage is not None:
            cell.input_tokens += usage.input_tokens
            cell.output_tokens += usage.output_tokens
            if usage.cost_usd is not None:
                cell.cost_usd += usage.cost_usd
                cell.costed += 1
        self.changed = True
        return cell

    def _cell(self, agent: str, step: str, variant: str) -> Cell:
        figures = self._agents.get(agent)
        if figures is None:
            figures = self._agents[agent] = AgentFigures()
        cells = figures.steps.get(step)
        if cells is None:
            cells = figures.steps[step] = {}
            figures.since.setdefault(step, self._clock())
        cell = cells.get(variant)
        if cell is None:
            cell = cells[variant] = Cell()
        return cell

    def judge(self, agent: str, step: str, cell: Cell, guard: Guard) -> bool:
        """Whether this cell trips the guard now, for the first time in this step."""
        if cell.requests < guard.minimum or not cell.errors or cell.errors < guard.error_rate * cell.requests:
            return False
        trips = self._agents[agent].trips
        if step in trips:
            return False
        trips[step] = Trip(step, self._clock(), cell.requests, cell.errors)
        return True

    def shown(self, table: RouteTable | None) -> dict[str, Any]:
        """What `/stats` answers."""
        now = self._clock()
        agents = {
            agent: {
                "step": figures.step,
                "step_seconds": max(0.0, now - figures.since.get(figures.step, now)),
                "tripped": figures.trips.get(figures.step),
                "steps": figures.steps,
            }
            for agent, figures in self._agents.items()
        }
        digest, serial = (table.digest, table.serial) if table is not None else ("", 0)
        return {"digest": digest, "serial": serial, "started_at": self._started_at, "agents": agents}

    def kept(self) -> bytes:
        """The content of `stats.json`."""
        return msgspec.json.encode(Kept(self._started_at, self._agents))
