"""What a conversion needs and costs before it starts: disk, hours, dollars. Pure.

Nobody publishes a throughput of llama.cpp's converter, so hours are an assumption of ours and said to be one: a gigabyte of
weights is fetched, written as F16, and read and written once more for each file, by a few CPU cores. Once this repository has
finished conversions on the same hardware, their speed replaces it. What is approved is the ceiling: it rests on the time-out.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from controller.kinds.conversion.spec import BITS

DISK_GB = {"cpu-basic": 50.0, "cpu-upgrade": 50.0, "cpu-xl": 1000.0, "cpu-performance": 1024.0}
"""Disk of Hugging Face's CPU jobs by its list of November 2026. Where a name has a disk, it has the memory for that model too."""
CHOICES = ("cpu-upgrade", "cpu-xl", "cpu-performance")
PACKAGES_GB = 6.0
SECONDS_PER_GB = (6.0, 15.0, 40.0)
"""Of a file that is made: least, likely, most. An assumption."""
OWN_RANGE = 1.5


@dataclass(frozen=True, slots=True)
class Estimate:
    """Hours and US dollars of one attempt: least, likely, most. `basis`: what it rests on; `known` False = only the time-out."""

    hours: tuple[float, float, float]
    usd: tuple[float, float, float]
    basis: str
    known: bool = True

    def told(self) -> str:
        """`0.01-0.02 USD in 8-20 min`."""
        low, _, high = self.usd
        money = f"{low:.2f}-{high:.2f} USD" if high - low >= 0.005 else f"{high:.2f} USD"
        first, last = self.hours[0], self.hours[2]
        return f"{money} in {first * 60:.0f}-{last * 60:.0f} min" if last < 1.5 else f"{money} in {first:.1f}-{last:.1f} h"


def disk_gb(weights_gb: float, quantizations: Sequence[str]) -> float:
    """What a job needs at most: packages, the source, F16 on the way, and each file."""
    return PACKAGES_GB + weights_gb * (1 + sum(BITS[each] for each in {"F16", *quantizations}) / 16)


def chosen(weights_gb: float | None, quantizations: Sequence[str], there: Iterable[str]) -> str:
    """The smallest hardware that is listed and has the disk; empty = none. A model of unknown size gets the smallest."""
    names, needed = set(there), disk_gb(weights_gb or 0.0, quantizations)
    return next((name for name in CHOICES if name in names and DISK_GB[name] >= needed), "")


def work(weights_gb: float, quantizations: Sequence[str]) -> float:
    """Gigabytes of weights times files, F16 among them: what the time grows with."""
    return weights_gb * len({"F16", *quantizations})


def estimate(*, amount: float | None, usd_per_hour: float, setup: float, timeout: float, speeds: Iterable[float] = ()) -> Estimate:
    """One attempt. `amount` is that of `work` (None = not known), `speeds` seconds for one of it in own runs that are alike."""
    own = sorted(speeds)
    if amount is None:
        whole = timeout / 3600
        told = "how large the model is is not known: up to the time-out"
        return Estimate((0.0, whole, whole), (0.0, whole * usd_per_hour, whole * usd_per_hour), told, False)
    if own:
        middle = amount * statistics.median(own)
        seconds = (middle / OWN_RANGE, middle, middle * OWN_RANGE)
        basis = f"by {len(own)} own run{'s' if len(own) > 1 else ''} like it"
    else:
        seconds = (amount * SECONDS_PER_GB[0], amount * SECONDS_PER_GB[1], amount * SECONDS_PER_GB[2])
        basis = f"assuming {SECONDS_PER_GB[0]:.0f}-{SECONDS_PER_GB[2]:.0f} s for each gigabyte and file"
    low, mid, high = (min(setup + each, timeout) / 3600 for each in seconds)
    return Estimate((low, mid, high), (low * usd_per_hour, mid * usd_per_hour, high * usd_per_hour), basis)


def speed_of(state: Mapping[str, object], setup: float) -> float | None:
    """Seconds for one of `work` in a finished run; None where that cannot be told."""
    source, seconds = state.get("source"), state.get("seconds")
    size = source.get("bytes") if isinstance(source, Mapping) else None
    quantizations = state.get("quantizations")
    if not isinstance(size, int | float) or not size or not isinstance(seconds, int | float) or not isinstance(quantizations, list):
        return None
    return max(seconds - setup, 1.0) / work(size / 1e9, quantizations)
