"""The Prometheus figures of this process: every name is defined here, and `/metrics` is rendered from here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .usage import Usage

REQUESTS = "turnout_requests_total"
DURATION = "turnout_request_duration_seconds"
TOKENS = "turnout_tokens_total"
COST = "turnout_cost_usd_total"
SHADOW_DROPPED = "turnout_shadow_dropped_total"
GUARD_TRIPS = "turnout_guard_trips_total"
CONNECTIONS = "turnout_client_connections"
TABLE_SERIAL = "turnout_route_table_serial"

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_HELP = {
    REQUESTS: ("counter", "Attempts at an upstream, by what became of them (499: the client left, died: mid-answer)."),
    DURATION: ("histogram", "Seconds to the last byte of a successful answer."),
    TOKENS: ("counter", "Tokens that the answers reported."),
    COST: ("counter", "USD that the answers cost, as reported or by the price of the variant."),
    SHADOW_DROPPED: ("counter", "Requests that were not copied because too many copies were in flight."),
    GUARD_TRIPS: ("counter", "Guards that sent everything back to the first variant."),
    CONNECTIONS: ("gauge", "Open client connections."),
    TABLE_SERIAL: ("gauge", "Serial of the route table in service."),
}


class _Histogram:
    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(_BUCKETS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        for i, upper in enumerate(_BUCKETS):
            if seconds <= upper:
                self.counts[i] += 1
                break
        else:
            self.counts[-1] += 1
        self.sum += seconds


class Metrics:
    """Counters by label values; labels are turned into text only when somebody asks."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, str, str], int] = {}
        self._durations: dict[tuple[str, str], _Histogram] = {}
        self._tokens: dict[tuple[str, str, str, str], int] = {}
        self._cost: dict[tuple[str, str, str], float] = {}
        self._dropped: dict[tuple[str], int] = {}
        self._trips: dict[tuple[str, str], int] = {}

    def record(self, agent: str, variant: str, version: str, code: str, seconds: float | None, usage: Usage | None) -> None:
        requested = (agent, variant, version, code)
        self._requests[requested] = self._requests.get(requested, 0) + 1
        if seconds is not None:
            histogram = self._durations.get((agent, variant))
            if histogram is None:
                histogram = self._durations[agent, variant] = _Histogram()
            histogram.add(seconds)
        if usage is not None:
            for direction, count in (("input", usage.input_tokens), ("output", usage.output_tokens)):
                key = (agent, variant, version, direction)
                self._tokens[key] = self._tokens.get(key, 0) + count
            if usage.cost_usd is not None:
                spent = (agent, variant, version)
                self._cost[spent] = self._cost.get(spent, 0.0) + usage.cost_usd

    def shadow_dropped(self, agent: str) -> None:
        self._dropped[agent,] = self._dropped.get((agent,), 0) + 1

    def guard_tripped(self, agent: str, step: str) -> None:
        self._trips[agent, step] = self._trips.get((agent, step), 0) + 1

    def text(self, serial: int, connections: int) -> bytes:
        """The exposition format, version 0.0.4."""
        lines = [
            *_family(REQUESTS, ("agent", "variant", "version", "code"), self._requests),
            *self._duration_lines(),
            *_family(TOKENS, ("agent", "variant", "version", "direction"), self._tokens),
            *_family(COST, ("agent", "variant", "version"), self._cost),
            *_family(SHADOW_DROPPED, ("agent",), self._dropped),
            *_family(GUARD_TRIPS, ("agent", "step"), self._trips),
            *_family(CONNECTIONS, (), {(): connections}),
            *_family(TABLE_SERIAL, (), {(): serial}),
        ]
        return ("\n".join(lines) + "\n").encode()

    def _duration_lines(self) -> Iterator[str]:
        yield from _head(DURATION)
        for (agent, variant), histogram in self._durations.items():
            labels = f'agent="{_escaped(agent)}",variant="{_escaped(variant)}"'
            seen = 0
            for upper, count in zip((*_BUCKETS, "+Inf"), histogram.counts, strict=True):
                seen += count
                yield f'{DURATION}_bucket{{{labels},le="{upper}"}} {seen}'
            yield f"{DURATION}_sum{{{labels}}} {histogram.sum!r}"
            yield f"{DURATION}_count{{{labels}}} {seen}"


def _head(name: str) -> Iterator[str]:
    kind, text = _HELP[name]
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _family(name: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Iterator[str]:
    yield from _head(name)
    for key, value in values.items():
        shown = ",".join(f'{label}="{_escaped(text)}"' for label, text in zip(labels, key, strict=True))
        yield f"{name}{{{shown}}} {value!r}" if shown else f"{name} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
