"""The Prometheus figures of this process: every name is defined here, and `/metrics` is rendered from here.

Names with `gen_ai` follow OpenTelemetry's semantic conventions for generative AI, as Prometheus spells them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from .pool import Pool
from .usage import Usage

REQUESTS = "turnout_requests_total"
RETRIES = "turnout_retries_total"
DURATION = "gen_ai_server_request_duration_seconds"
FIRST_TOKEN = "gen_ai_server_time_to_first_token_seconds"
PER_TOKEN = "gen_ai_server_time_per_output_token_seconds"
TOKENS = "gen_ai_client_token_usage"
COST = "turnout_cost_usd_total"
REFUSED = "turnout_refused_total"
SHADOW_DROPPED = "turnout_shadow_dropped_total"
GUARD_TRIPS = "turnout_guard_trips_total"
BOTTLENECKS = "turnout_bottleneck_total"
IN_FLIGHT = "turnout_replica_in_flight"
UP = "turnout_replica_up"
SENT = "turnout_replica_sent_total"
FAILED = "turnout_replica_failed_total"
WAITING = "turnout_queue_waiting"
SESSIONS = "turnout_sessions"
CONNECTIONS = "turnout_client_connections"
TABLE_SERIAL = "turnout_route_table_serial"

_SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68)
_TOKEN_COUNTS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
_HELP = {
    REQUESTS: ("counter", "Visits to a variant, by what became of them (499: the client left, died: mid-answer)."),
    RETRIES: ("counter", "Further tries of these visits before the first byte."),
    DURATION: ("histogram", "Seconds to the last byte of a successful answer."),
    FIRST_TOKEN: ("histogram", "Seconds from the request sent to the first byte of the answer's body."),
    PER_TOKEN: ("histogram", "Seconds per event of a stream after the first."),
    TOKENS: ("histogram", "Tokens that the answers reported."),
    COST: ("counter", "USD that the answers cost, as reported or by the price of the variant."),
    REFUSED: ("counter", "Requests that were answered by the proxy itself, by why."),
    SHADOW_DROPPED: ("counter", "Requests that were not copied because too many copies were in flight."),
    GUARD_TRIPS: ("counter", "Guards that sent everything back to the first variant."),
    BOTTLENECKS: ("counter", "Requests by the part in which most of their time went."),
    IN_FLIGHT: ("gauge", "Requests at a replica."),
    UP: ("gauge", "1 where a replica may get requests."),
    SENT: ("counter", "Requests sent to a replica."),
    FAILED: ("counter", "Requests in which a replica failed."),
    WAITING: ("gauge", "Requests that wait for a replica of an endpoint."),
    SESSIONS: ("gauge", "Sessions remembered."),
    CONNECTIONS: ("gauge", "Open client connections."),
    TABLE_SERIAL: ("gauge", "Serial of the route table in service."),
}
_LABELS = ("gen_ai_agent_name", "turnout_variant", "turnout_version", "gen_ai_request_model")
_VISIT = ("agent", "variant", "version")
_REPLICA = ("endpoint", "replica")


class Histogram:
    """Counts by upper bound; the last count has what lies above all bounds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Series:
    """The figures of one variant: a request finds them at its target, without a search."""

    __slots__ = ("codes", "cost_usd", "duration", "first_token", "input_tokens", "output_tokens", "per_token", "retries")

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self.retries = 0
        self.cost_usd = 0.0
        self.duration = Histogram(_SECONDS)
        self.first_token = Histogram(_SECONDS)
        self.per_token = Histogram(_SECONDS)
        self.input_tokens = Histogram(_TOKEN_COUNTS)
        self.output_tokens = Histogram(_TOKEN_COUNTS)

    def add(self, code: str, tries: int, usage: Usage | None) -> None:
        """A visit ended."""
        self.codes[code] = self.codes.get(code, 0) + 1
        if tries > 1:
            self.retries += tries - 1
        if usage is not None and not usage.estimated:
            self.input_tokens.add(usage.input_tokens)
            self.output_tokens.add(usage.output_tokens)
            self.cost_usd += usage.cost_usd or 0.0

    def timed(self, seconds: float, first_token: float, per_token: float | None) -> None:
        """It was a success."""
        self.duration.add(seconds)
        self.first_token.add(first_token)
        if per_token is not None:
            self.per_token.add(per_token)


class Metrics:
    """All figures of the process; labels are turned into text only when somebody asks."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, str, str], Series] = {}
        self._dropped: dict[tuple[str], int] = {}
        self._trips: dict[tuple[str, str], int] = {}
        self._refused: dict[tuple[str], int] = {}
        self._bottlenecks: dict[tuple[str, str], int] = {}

    def series(self, agent: str, variant: str, version: str, model: str) -> Series:
        key = (agent, variant, version, model)
        found = self._series.get(key)
        if found is None:
            found = self._series[key] = Series()
        return found

    def shadow_dropped(self, agent: str) -> None:
        self._dropped[agent,] = self._dropped.get((agent,), 0) + 1

    def guard_tripped(self, agent: str, step: str) -> None:
        self._trips[agent, step] = self._trips.get((agent, step), 0) + 1

    def refused(self, code: str) -> None:
        self._refused[code,] = self._refused.get((code,), 0) + 1

    def bottleneck(self, agent: str, part: str) -> None:
        self._bottlenecks[agent, part] = self._bottlenecks.get((agent, part), 0) + 1

    def text(self, serial: int, connections: int, sessions: int, pools: Collection[Pool]) -> bytes:
        """The exposition format, version 0.0.4."""
        replicas = {(pool.name, replica.url): replica for pool in pools for replica in pool.replicas}
        lines = [
            *_family(REQUESTS, (*_VISIT, "code"), self._codes()),
            *_family(RETRIES, (*_VISIT, "model"), {key: series.retries for key, series in self._series.items()}),
            *_histograms(DURATION, _LABELS, {key: series.duration for key, series in self._series.items()}),
            *_histograms(FIRST_TOKEN, _LABELS, {key: series.first_token for key, series in self._series.items()}),
            *_histograms(PER_TOKEN, _LABELS, {key: series.per_token for key, series in self._series.items()}),
            *_histograms(TOKENS, (*_LABELS, "gen_ai_token_type"), self._tokens()),
            *_family(COST, (*_VISIT, "model"), {key: series.cost_usd for key, series in self._series.items()}),
            *_family(REFUSED, ("reason",), self._refused),
            *_family(SHADOW_DROPPED, ("agent",), self._dropped),
            *_family(GUARD_TRIPS, ("agent", "step"), self._trips),
            *_family(BOTTLENECKS, ("agent", "part"), self._bottlenecks),
            *_family(IN_FLIGHT, _REPLICA, {at: each.in_flight for at, each in replicas.items()}),
            *_family(UP, _REPLICA, {at: int(each.usable) for at, each in replicas.items()}),
            *_family(SENT, _REPLICA, {at: each.sent for at, each in replicas.items()}),
            *_family(FAILED, _REPLICA, {at: each.failed for at, each in replicas.items()}),
            *_family(WAITING, ("endpoint",), {(pool.name,): pool.waiting for pool in pools}),
            *_family(SESSIONS, (), {(): sessions}),
            *_family(CONNECTIONS, (), {(): connections}),
            *_family(TABLE_SERIAL, (), {(): serial}),
        ]
        return ("\n".join(lines) + "\n").encode()

    def _codes(self) -> dict[tuple[str, str, str, str], int]:
        found: dict[tuple[str, str, str, str], int] = {}
        for (agent, variant, version, _), series in self._series.items():
            for code, count in series.codes.items():
                key = (agent, variant, version, code)
                found[key] = found.get(key, 0) + count
        return found

    def _tokens(self) -> dict[tuple[str, ...], Histogram]:
        found: dict[tuple[str, ...], Histogram] = {}
        for key, series in self._series.items():
            found[*key, "input"] = series.input_tokens
            found[*key, "output"] = series.output_tokens
        return found


def _histograms(name: str, labels: tuple[str, ...], values: Mapping[tuple[str, ...], Histogram]) -> Iterator[str]:
    yield from _head(name)
    for key, histogram in values.items():
        shown = _shown(labels, key)
        seen = 0
        for upper, count in zip((*histogram.bounds, "+Inf"), histogram.counts, strict=True):
            seen += count
            yield f'{name}_bucket{{{shown},le="{upper}"}} {seen}'
        yield f"{name}_sum{{{shown}}} {histogram.sum!r}"
        yield f"{name}_count{{{shown}}} {seen}"


def _head(name: str) -> Iterator[str]:
    kind, text = _HELP[name]
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _family(name: str, labels: tuple[str, ...], values: Mapping[Any, float]) -> Iterator[str]:
    yield from _head(name)
    for key, value in values.items():
        shown = _shown(labels, key)
        yield f"{name}{{{shown}}} {value!r}" if shown else f"{name} {value!r}"


def _shown(labels: tuple[str, ...], key: tuple[str, ...]) -> str:
    return ",".join(f'{label}="{_escaped(text)}"' for label, text in zip(labels, key, strict=True))


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def merged(texts: Sequence[str]) -> bytes:
    """The figures of several workers as one: sums, but for what is the same in all of them, where the largest counts."""
    values: dict[str, float] = {}
    lines: dict[str, str] = {}  # each line once, in the order of the first text that has it
    for text in texts:
        for line in text.splitlines():
            if line.startswith("#"):
                lines.setdefault(line, "")
                continue
            name, _, value = line.rpartition(" ")
            number = float(value) if "." in value or "e" in value else int(value)
            lines.setdefault(name, "sample")
            if name not in values:
                values[name] = number
            elif name.partition("{")[0] in (UP, TABLE_SERIAL):
                values[name] = max(values[name], number)
            else:
                values[name] += number
    ordered = _by_family(lines)
    return ("\n".join(f"{name} {values[name]!r}" if kind else name for name, kind in ordered) + "\n").encode()


def _by_family(lines: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """A family's samples stand together after its head, also those that only a later text has."""
    families: dict[str, list[tuple[str, str]]] = {}
    for line, kind in lines.items():
        name = line.split()[2] if not kind else line.partition("{")[0].partition(" ")[0]
        family = next(
            (each for each in (name.removesuffix(end) for end in ("_bucket", "_sum", "_count", "")) if each in _HELP), name
        )
        families.setdefault(family, []).append((line, kind))
    for members in families.values():
        yield from sorted(members, key=lambda member: bool(member[1]))
