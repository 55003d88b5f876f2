"""How long a training takes and what it costs, before it starts: a range, its basis, and the hardware that fits. Pure.

Hours = set-up + F 4 P T epochs / (peak u) / 3600. A LoRA step costs about 4 FLOP a parameter and token: 2 forward, 2 back through
the frozen weights (Kaplan et al., arXiv 2001.08361, section 2.1, without the third of full fine-tuning that makes gradients of
weights). P parameters, T tokens an epoch, peak = dense 16-bit FLOP/s of one accelerator by NVIDIA's data sheets, u = share of it
that is reached: 0.30 follows from Qwen's published 3,150 tokens/s for 7B with LoRA on an A100, 0.34 for 14B, 0.23 with QLoRA;
they are the ends of the range. One accelerator counts even where there are several: the program spreads layers over them, which
makes a model fit and not faster. F: dpo sees two answers and asks the base model too (3), orpo sees two answers (2).

Once this repository has runs of the same base model, method and hardware, their own tokens a second replace the formula.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controller.kinds.training.spec import TINY

PEAK_TFLOPS = {
    "T4": 65.0, "L4": 121.0, "A10G": 70.0, "L40S": 362.0, "A100": 312.0, "RTX PRO 6000": 503.0, "H100": 989.0, "H200": 989.0,
}  # fmt: skip
"""Dense FP16 or BF16 of one accelerator, in 10^12 FLOP/s; as read in November 2026."""
USED_MOST, USED_LIKELY, USED_LEAST = 0.34, 0.30, 0.23
PASSES = {"sft": 1.0, "orpo": 2.0, "dpo": 3.0}
PAST_RANGE = 1.25
"""Runs of the same kind on the same hardware differ by about a quarter."""
_BILLIONS = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)\s*([bBmM])(?![A-Za-z0-9])")


@dataclass(frozen=True, slots=True)
class Estimate:
    """Hours and US dollars of one attempt. `basis` says what it rests on; `known` False = up to the time-out, nothing better."""

    hours: tuple[float, float, float]  # least, likely, most
    usd: tuple[float, float, float]
    basis: str
    known: bool = True

    def told(self) -> str:
        """`0.42-0.71 USD in 25-43 min`."""
        low, _, high = self.usd
        money = f"{low:.2f}-{high:.2f} USD" if high - low >= 0.005 else f"{high:.2f} USD"
        return f"{money} in {_span(self.hours[0], self.hours[2])}"


def billions(base_model: str, said: float | None = None) -> float | None:
    """Parameters of a base model in billions: as said, else from its name (`7B`, `0.5B`, `135M`), else not known."""
    if said is not None:
        return said
    if base_model == TINY:
        return 0.0013
    found = _BILLIONS.findall(base_model)
    if not found:
        return None
    number, unit = found[-1]
    return float(number) / (1000 if unit in "mM" else 1)


def chosen(choices: Iterable[Mapping[str, Any]], size: float | None, listed: Iterable[str]) -> str:
    """The first hardware for this size (billions) that is listed; empty = none."""
    there = set(listed)
    for choice in choices:
        if choice["below"] is None or (size is not None and size < choice["below"]):
            return next((name for name in choice["names"] if name in there), "")
    return ""


def estimate(
    *,
    method: str,
    size: float | None,
    tokens: float,
    epochs: float,
    gpu: str,
    usd_per_hour: float,
    setup: float,
    timeout: float,
    speeds: Iterable[float] = (),
) -> Estimate:
    """One attempt. `tokens` an epoch, `setup` and `timeout` in seconds, `speeds` (tokens/s) of own runs that are comparable."""
    own, peak = sorted(speeds), PEAK_TFLOPS.get(gpu)
    if own:
        middle = tokens * epochs / statistics.median(own)
        seconds = (middle / PAST_RANGE, middle, middle * PAST_RANGE)
        basis = f"by {len(own)} own run{'s' if len(own) > 1 else ''} like it"
    elif peak is not None and size is not None:
        flop = 4 * size * 1e9 * tokens * epochs * PASSES[method]
        least, likely, most = (flop / (peak * 1e12 * used) for used in (USED_MOST, USED_LIKELY, USED_LEAST))
        seconds, basis = (least, likely, most), f"by the throughput of one {gpu}"
    else:
        lacking = (
            "the size of the base model is not known" if size is None else f"no throughput of {gpu or 'this hardware'} is known"
        )
        whole = timeout / 3600
        return Estimate(
            (0.0, whole, whole), (0.0, whole * usd_per_hour, whole * usd_per_hour), f"{lacking}: up to the time-out", False
        )
    low, mid, high = (min(setup + each, timeout) / 3600 for each in seconds)
    return Estimate((low, mid, high), (low * usd_per_hour, mid * usd_per_hour, high * usd_per_hour), basis)


def _span(low: float, high: float) -> str:
    if high < 1.5:
        return f"{low * 60:.0f}-{high * 60:.0f} min"
    return f"{low:.1f}-{high:.1f} h"
