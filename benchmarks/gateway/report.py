"""The figures of a run as tables, medians over the rounds, each target of Turnout with what was asked and whether it is met."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from benchmarks.gateway.measures import Delay, Figures, Most, Reloads, Size, Streams
from benchmarks.measure import table

# What is asked of Turnout. Times in microseconds, memory in MB; ratios are Turnout to the peer.
CPU_US = 100.0
ADDED_P50_US = 300.0
OF_THROUGHPUT = {"haproxy": 0.4, "vllm-router": 1.5, "litellm": 200.0}
BIG_OF_HAPROXY = 2.5
FIRST_TOKEN_US = 200.0
TOKEN_OF_NGINX = 1.5
START_MB = 40.0
FLAT_P50, FLAT_P99 = 1.1, 1.5  # latency across reloads is called flat up to here

All = Mapping[str, Figures]


def show(figures: All, direct: Figures, reloads: Sequence[Reloads], size: Size) -> None:
    """All tables. A peer without figures has a row with the reason."""
    _show_most(f"Small chat request, {size.connections} connections", figures, lambda found: found.chat, _small_verdict)
    _show_most(f"64 KB request, {size.connections} connections", figures, lambda found: found.big, _big_verdict)
    _show_delay(figures, direct, size)
    _show_streams(figures, direct, size)
    _show_memory(figures, size)
    _show_reloads(reloads, figures, size)
    for name, found in figures.items():
        if found.missing and (found.chat or found.memory):
            print(f"\n{name} was not measured to the end: {found.missing}")


def _middle(values: Sequence[float]) -> float:
    return median(values) if values else 0.0


def _verdict(value: float, limit: float, *, least: bool = False, unit: str = "x") -> str:
    met = value >= limit if least else value <= limit
    return f"{_short(value)}{unit}, asked {'at least' if least else 'at most'} {_short(limit)}{unit}: {'met' if met else 'missed'}"


def _short(value: float) -> str:
    return f"{value:,.2f}" if value < 10 else f"{value:,.0f}"


def _rows(
    head: Sequence[str], figures: All, measured: Callable[[Figures], bool], cells: Callable[[str, Figures], list[str]]
) -> list[list[str]]:
    """A row for each peer; the last cell of one without figures says why."""
    rows = [list(head)]
    for name, found in figures.items():
        if measured(found):
            rows.append([name, *cells(name, found)])
        else:
            rows.append([name, *[""] * (len(head) - 2), f"not measured: {found.missing or 'it failed before'}"])
    return rows


# the most


def _cpu(found: Sequence[Most]) -> float:
    return _middle([one.cpu_us for one in found])


def _show_most(title: str, figures: All, of: Callable[[Figures], list[Most]], verdict: Callable[[str, float, float], str]) -> None:
    head = ["", "req/s", "its core %", "CPU us/req", "req per CPU s", "errors", "Turnout to it"]
    ours = _cpu(of(figures["turnout"])) if "turnout" in figures else 0.0

    def cells(name: str, found: Figures) -> list[str]:
        rounds = of(found)
        cpu = _cpu(rounds)
        rate, busy = _middle([one.rate for one in rounds]), _middle([one.busy for one in rounds])
        per_second = f"{1e6 / cpu:,.0f}" if cpu else "-"
        errors = sum(one.errors for one in rounds)
        return [f"{rate:,.0f}", f"{100 * busy:.0f}", f"{cpu:,.1f}", per_second, str(errors), verdict(name, ours, cpu)]

    table(title + ": the most on one core", _rows(head, figures, lambda found: bool(of(found)), cells))


def _small_verdict(name: str, ours: float, theirs: float) -> str:
    if name == "turnout":
        return _verdict(ours, CPU_US, unit=" us")
    if not ours:
        return ""
    ratio = theirs / ours  # of throughput per CPU
    return _verdict(ratio, OF_THROUGHPUT[name], least=True) if name in OF_THROUGHPUT else f"{_short(ratio)}x"


def _big_verdict(name: str, ours: float, theirs: float) -> str:
    if name == "turnout" or not theirs or not ours:
        return ""
    if name == "haproxy":
        return _verdict(ours / theirs, BIG_OF_HAPROXY, unit="x the cost")
    return f"{_short(ours / theirs)}x the cost"


# delay


def _show_delay(figures: All, direct: Figures, size: Size) -> None:
    head = ["", "p50 us", "p99 us", "added p50", "added p99", "errors", "target"]
    base50, base99 = _middle([one.p50 for one in direct.delay]), _middle([one.p99 for one in direct.delay])

    def cells(name: str, found: Figures) -> list[str]:
        p50, p99 = _middle([one.p50 for one in found.delay]), _middle([one.p99 for one in found.delay])
        errors = str(sum(one.errors for one in found.delay))
        share = _middle([one.share for one in found.delay])
        last = ""
        if share < 0.99:
            last = f"does not hold the rate: {100 * share:.0f} % answered"
        elif name == "turnout":
            last = _verdict(p50 - base50, ADDED_P50_US, unit=" us")
        added = ["-", "-"] if name == "direct" else [f"{p50 - base50:,.0f}", f"{p99 - base99:,.0f}"]
        return [f"{p50:,.0f}", f"{p99:,.0f}", *added, errors, last]

    both = {"direct": direct, **figures}
    table(
        f"Added latency at {size.rate:,} requests/s (open loop, from the moment a request is due)",
        _rows(head, both, lambda found: bool(found.delay), cells),
    )


# streams


def _stream_cells(found: Sequence[Streams]) -> tuple[float, float, float, float]:
    return (
        _middle([one.first for one in found]),
        _middle([one.token for one in found]),
        _middle([one.cpu_us for one in found]),
        _middle([one.rate for one in found]),
    )


def _show_streams(figures: All, direct: Figures, size: Size) -> None:
    head = ["", "tokens/s", "first token us", "added", "a token us", "added", "CPU us/token", "errors", "target"]
    base_first, base_token, _, _ = _stream_cells(direct.streams)
    nginx = _stream_cells(figures["nginx"].streams)[2] if "nginx" in figures else 0.0

    def cells(name: str, found: Figures) -> list[str]:
        first, token, cpu, rate = _stream_cells(found.streams)
        errors = str(sum(one.errors for one in found.streams))
        if name == "direct":
            return [f"{rate:,.0f}", f"{first:,.0f}", "-", f"{token:,.0f}", "-", "-", errors, ""]
        last = ""
        if name == "turnout":
            last = "first token " + _verdict(first - base_first, FIRST_TOKEN_US, unit=" us")
            if nginx:
                last += "; CPU " + _verdict(cpu / nginx, TOKEN_OF_NGINX, unit="x nginx")
        added = (f"{first - base_first:,.0f}", f"{token - base_token:,.0f}")
        return [f"{rate:,.0f}", f"{first:,.0f}", added[0], f"{token:,.0f}", added[1], f"{cpu:,.1f}", errors, last]

    both = {"direct": direct, **figures}
    table(
        f"{size.streams} streams of {size.tokens} tokens at a time, p50",
        _rows(head, both, lambda found: bool(found.streams), cells),
    )


# memory


def _show_memory(figures: All, size: Size) -> None:
    head = ["", "start MB", "idle conns", "with them MB", "KB each", "errors", "streams", "with them MB", "errors", "target"]

    def cells(name: str, found: Figures) -> list[str]:
        kept = found.memory
        assert kept is not None
        each = 1000 * (kept.idle - kept.start) / max(1, kept.connections)
        last = ""
        if name == "turnout":
            held = kept.connections == size.idle and kept.streams == size.held and not kept.idle_errors and not kept.stream_errors
            last = _verdict(kept.start, START_MB, unit=" MB")
            last += f"; {size.idle:,} idle and {size.held:,} streams without errors: {'met' if held else 'missed'}"
        return [
            f"{kept.start:.0f}",
            f"{kept.connections:,}",
            f"{kept.idle:.0f}",
            f"{each:.1f}",
            str(kept.idle_errors),
            f"{kept.streams:,}",
            f"{kept.streaming:.0f}",
            str(kept.stream_errors),
            last,
        ]

    table("Memory (resident, all processes) and what is held", _rows(head, figures, lambda found: found.memory is not None, cells))


# reloads


def _show_reloads(reloads: Sequence[Reloads], figures: All, size: Size) -> None:
    head = ["", "p50 us", "p99 us", "p50 reloading", "p99 reloading", "PUT ms", "errors", "target"]
    rows = [head]
    for one in reloads:
        rows.append([f"{one.routes:,} routes", *_reload_cells(one)])
    if not reloads:
        why = figures["turnout"].missing if "turnout" in figures else "turnout is not among --only"
        rows.append(["", *[""] * (len(head) - 2), f"not measured: {why}"])
    table(f"Turnout's latency without and with {size.reloads} reloads at {size.rate:,} requests/s", rows)


def _reload_cells(one: Reloads) -> list[str]:
    errors = one.calm.errors + one.reloading.errors
    whole = min(one.calm.share, one.reloading.share) >= 1
    flat = _flat(one.calm, one.reloading)
    return [
        f"{one.calm.p50:,.0f}",
        f"{one.calm.p99:,.0f}",
        f"{one.reloading.p50:,.0f}",
        f"{one.reloading.p99:,.0f}",
        f"{one.put_ms:.1f}",
        str(errors),
        f"flat: {'met' if flat else 'missed'}; no request lost: {'met' if whole and not errors else 'missed'}",
    ]


def _flat(calm: Delay, reloading: Delay) -> bool:
    return reloading.p50 <= FLAT_P50 * calm.p50 and reloading.p99 <= FLAT_P99 * calm.p99
