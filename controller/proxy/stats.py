"""The figures that rollouts are judged by: per agent, step and variant, cumulative, and kept over restarts.

Every visit to a variant ends in `Cell.add`; `/stats` shows the sum of them. The guard is judged here too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from .accounts import Used
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
    retries: int = 0  # further tries; a visit counts once as a request
    estimated: int = 0  # answers that did not say what they used

    def add(self, *, error: bool, seconds: float | None, usage: Usage | None, tries: int) -> None:
        """One visit ended. `seconds` is the time to the last byte of a success, None otherwise."""
        self.requests += 1
        if error:
            self.errors += 1
        if tries > 1:
            self.retries += tries - 1
        if seconds is not None:
            bucket = bucket_of(seconds)
            self.latency[bucket] = self.latency.get(bucket, 0) + 1
            self.latency_sum_s += seconds
        if usage is None:
            return
        if usage.estimated:
            self.estimated += 1  # guesses are no evidence for a rollout
            return
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        if usage.cost_usd is not None:
            self.cost_usd += usage.cost_usd
            self.costed += 1


class Compared(msgspec.Struct):
    """Answers of a shadow beside those that clients got: how many were the same, and the sum of their likeness (0 to 1)."""

    pairs: int = 0
    same: int = 0
    likeness_sum: float = 0.0


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
    compared: dict[str, Compared] = {}


class Kept(msgspec.Struct):
    """What `stats.json` holds."""

    started_at: float
    agents: dict[str, AgentFigures] = {}
    accounts: dict[str, dict[str, Used]] = {}
    included: list[str] = []  # files of other workers that are counted in here already


class Stats:
    """The figures in memory. `clock` is the wall clock, because steps outlive the process."""

    def __init__(self, clock: Callable[[], float], kept: Kept | None = None) -> None:
        self._clock = clock
        self._started_at = clock()
        self._agents: dict[str, AgentFigures] = kept.agents if kept is not None else {}
        self.included = list(kept.included) if kept is not None else []
        self.kept_accounts = kept.accounts if kept is not None else {}
        self.changed = False

    def adopt(self, table: RouteTable, agents: Iterable[str] | None = None) -> None:
        """A table goes into service: new steps begin, old ones beyond the last few are forgotten. `agents`: only those."""
        now = self._clock()
        for agent in table.routes if agents is None else agents:
            route = table.routes[agent]
            figures = self._agents.setdefault(agent, AgentFigures())
            if figures.step != route.step or route.step not in figures.since:
                figures.since.setdefault(route.step, now)
                figures.step = route.step
                self._forget_steps(figures)
        if len(self._agents) > len(table.routes) + _ABSENT:
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
            figures.compared.pop(step, None)
            figures.trips.pop(step, None)

    def tripped(self, agent: str, step: str) -> Trip | None:
        figures = self._agents.get(agent)
        return None if figures is None else figures.trips.get(step)

    def cell(self, agent: str, step: str, variant: str) -> Cell:
        """Where a variant's figures are."""
        figures = self._figures(agent)
        cells = figures.steps.get(step)
        if cells is None:
            cells = figures.steps[step] = {}
            figures.since.setdefault(step, self._clock())
        cell = cells.get(variant)
        if cell is None:
            cell = cells[variant] = Cell()
        return cell

    def compared(self, agent: str, step: str, *, same: bool, likeness: float) -> None:
        """A shadow's answer was held beside the client's."""
        compared = self._figures(agent).compared.setdefault(step, Compared())
        compared.pairs += 1
        compared.same += same
        compared.likeness_sum += likeness
        self.changed = True

    def _figures(self, agent: str) -> AgentFigures:
        figures = self._agents.get(agent)
        if figures is None:
            figures = self._agents[agent] = AgentFigures()
        return figures

    def judge(self, agent: str, step: str, requests: int, errors: int, guard: Guard) -> bool:
        """Whether these counts trip the guard now, for the first time in this step."""
        if requests < guard.minimum or not errors or errors < guard.error_rate * requests:
            return False
        return self.trip(agent, Trip(step, self._clock(), requests, errors))

    def trip(self, agent: str, trip: Trip) -> bool:
        """Remember that a guard tripped; whether that is new."""
        trips = self._figures(agent).trips
        if trip.step in trips:
            return False
        trips[trip.step] = trip
        self.changed = True
        return True

    def include(self, kept: Kept, name: str) -> None:
        """Add what another worker counted that is no longer there; `name` is that of its file."""
        self.included.append(name)
        for agent, theirs in kept.agents.items():
            ours = self._figures(agent)
            ours.steps = _sum(ours.steps, [theirs.steps])
            ours.compared = _sum_compared(ours.compared, [theirs.compared])
            ours.since = {**theirs.since, **ours.since}
            ours.trips = {**theirs.trips, **ours.trips}
            ours.step = ours.step or theirs.step
        self.changed = True

    def agents(self) -> dict[str, AgentFigures]:
        return self._agents

    def shown(self, others: Sequence[Mapping[str, AgentFigures]] = ()) -> dict[str, Any]:
        """What `/stats` answers of the agents; `others` are the figures of the other workers of this proxy."""
        now = self._clock()
        agents = {}
        for agent, figures in self._agents.items():
            steps = _sum(figures.steps, [other[agent].steps for other in others if agent in other])
            agents[agent] = {
                "step": figures.step,
                "step_seconds": max(0.0, now - figures.since.get(figures.step, now)),
                "tripped": figures.trips.get(figures.step),
                "steps": steps,
                "compared": _sum_compared(figures.compared, [other[agent].compared for other in others if agent in other]),
            }
        return agents

    @property
    def started_at(self) -> float:
        return self._started_at

    def kept(self, accounts: dict[str, dict[str, Used]]) -> bytes:
        """The content of `stats.json`."""
        return msgspec.json.encode(Kept(self._started_at, self._agents, accounts, self.included))


Steps = dict[str, dict[str, Cell]]


def _sum(own: Steps, others: Sequence[Steps]) -> Steps:
    if not others:
        return own
    total: Steps = {}
    for steps in (own, *others):
        for step, cells in steps.items():
            into = total.setdefault(step, {})
            for variant, cell in cells.items():
                into[variant] = _plus(into[variant], cell) if variant in into else cell
    return total


def _plus(one: Cell, other: Cell) -> Cell:
    latency = dict(one.latency)
    for bucket, count in other.latency.items():
        latency[bucket] = latency.get(bucket, 0) + count
    numbers = {
        field: getattr(one, field) + getattr(other, field)
        for field in Cell.__struct_fields__
        if field not in ("version", "latency")
    }
    return Cell(version=one.version, latency=latency, **numbers)


def _sum_compared(own: dict[str, Compared], others: Sequence[dict[str, Compared]]) -> dict[str, Compared]:
    total = dict(own)
    for compared in others:
        for step, one in compared.items():
            so_far = total.get(step, Compared())
            total[step] = Compared(so_far.pairs + one.pairs, so_far.same + one.same, so_far.likeness_sum + one.likeness_sum)
    return total
