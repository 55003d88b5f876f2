"""What every place that runs a program for minutes or days has in common: stages, what an intent brought about, prices.

The programs differ (`training`, `conversions`), the life of an attempt does not: it is queued, runs and ends in one of four ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Stage = Literal["queued", "running", "succeeded", "failed", "cancelled", "lost"]


@dataclass(frozen=True, slots=True)
class Found:
    """What an intent brought about."""

    handle: str
    record: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Hardware:
    """US dollars an hour, and the accelerators it has."""

    usd_per_hour: float
    gpu: str = ""
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Prices:
    """By name. `live` False = the backend's list could not be read, these are those of `as_of`."""

    as_of: str
    live: bool
    hardware: Mapping[str, Hardware]
