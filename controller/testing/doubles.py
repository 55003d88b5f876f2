"""Doubles of what a flow talks to, for the simulation: they validate what they get and refuse what the real thing refuses.

`Faults` counts every call that crosses a border; at the chosen one the process "dies" before or after the effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from controller.errors import Temporary
from controller.events import Event
from controller.log import EventLog
from controller.proxy.checks import problems
from controller.proxy.stats import bucket_of
from controller.proxy.table import RouteTable
from controller.resource import digest, encode_json


class Killed(BaseException):
    """kill -9 at this very point."""


class Faults:
    """`kill_at` = number of the border crossing at which to die (each call has one before and one after its effect)."""

    def __init__(self) -> None:
        self.count = 0
        self.kill_at = -1
        self.trace: list[str] = []

    def point(self, name: str) -> None:
        self.count += 1
        self.trace.append(name)
        if self.count == self.kill_at:
            raise Killed(name)


class FaultyLog:
    """A log whose appends may be the last thing that a process does."""

    def __init__(self, log: EventLog, faults: Faults) -> None:
        self.inner, self.faults = log, faults

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def append(self, events: Sequence[Event], expect: int) -> tuple[Event, ...]:
        self.faults.point("append")
        done = self.inner.append(events, expect)
        self.faults.point("appended")
        return done


class GatewayDouble:
    """One proxy without a socket: its route table, and figures made by `traffic` under a virtual clock (Unix seconds)."""

    def __init__(self, now: Callable[[], float], faults: Faults, name: str = "main") -> None:
        self.now, self.faults, self.name = now, faults, name
        self.current: dict[str, Any] | None = None
        self.down = False
        self.puts = 0
        self.since: dict[tuple[str, str], float] = {}
        self.cells: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
        self.tripped: dict[str, dict[str, Any]] = {}

    def names(self) -> list[str]:
        return [self.name]

    def _answer(self) -> None:
        if self.down:
            raise Temporary(f"proxy {self.name} does not answer")

    def table(self, name: str, unless: str = "") -> dict[str, Any] | None:
        self._answer()
        if self.current is None:
            return {"digest": "", "serial": 0, "routes": {}} if unless else None
        return None if self.current["digest"] == unless else self.current

    def put(self, name: str, table: Mapping[str, Any]) -> None:
        self.faults.point("put")
        self._answer()
        found = problems(msgspec.json.decode(encode_json(table), type=RouteTable))
        if found:
            raise AssertionError(f"the proxy would refuse this table: {found}")
        content = {"routes": table["routes"], "endpoints": table["endpoints"]}
        if digest(content) != table["digest"]:
            raise AssertionError("the digest is not that of the content")
        there = self.current["digest"] if self.current else ""
        if table["digest"] != there:
            if table["replaces"] != there:
                raise Temporary(f"proxy {name} answered 409: it serves {there}")
            self.current = dict(table)
            self.puts += 1
            for agent, route in table["routes"].items():
                self.since.setdefault((agent, route.get("step", "")), self.now())
        self.faults.point("put done")

    def versions(self, agent: str) -> dict[str, float]:
        """Version -> percent of sessions that it answers."""
        route = (self.current or {"routes": {}})["routes"].get(agent)
        if route is None:
            return {}
        first = route["variants"][0]["version"]
        if agent in self.tripped and self.tripped[agent]["step"] == route.get("step", ""):
            return {first: 100.0}
        return {variant["version"]: variant["weight"] for variant in route["variants"] if variant["weight"]}

    def traffic(self, agent: str, requests: int, errors: Mapping[str, float] | None = None, seconds: float = 0.1) -> None:
        """Requests split by weight; `errors` maps versions to the share that fails."""
        route = (self.current or {"routes": {}})["routes"].get(agent)
        if route is None or self.down:
            return
        step = route.get("step", "")
        shadow = route.get("shadow")
        served = [(variant, variant["weight"]) for variant in route["variants"]]
        if shadow:
            served.append((shadow["variant"], shadow["percent"]))
        for variant, share in served:
            count = math.floor(requests * share / 100)
            failed = round(count * (errors or {}).get(variant["version"], 0.0))
            cell = self.cells.setdefault((agent, step), {}).setdefault(
                variant["name"],
                {
                    "version": variant["version"],
                    "requests": 0,
                    "errors": 0,
                    "cost_usd": 0.0,
                    "costed": 0,
                    "latency": {},
                },
            )
            cell["requests"] += count
            cell["errors"] += failed
            cell["costed"] += count - failed
            cell["cost_usd"] += (count - failed) * 0.001
            bucket = bucket_of(seconds)
            cell["latency"][bucket] = cell["latency"].get(bucket, 0) + count - failed
            guard = route.get("guard")
            watched = guard and variant["name"] != "stable" and cell["requests"] >= guard["minimum"]
            if watched and cell["errors"] / cell["requests"] >= guard["error_rate"]:
                self.tripped[agent] = {"step": step, "at": self.now(), "requests": cell["requests"], "errors": cell["errors"]}

    def stats(self, name: str) -> dict[str, Any]:
        self._answer()
        routes = (self.current or {"routes": {}})["routes"]
        return {
            "agents": {
                agent: {
                    "step": route.get("step", ""),
                    "step_seconds": self.now() - self.since[agent, route.get("step", "")],
                    "tripped": self.tripped.get(agent),
                    "steps": {step: cells for (who, step), cells in self.cells.items() if who == agent},
                }
                for agent, route in routes.items()
            }
        }


class FilesDouble:
    """Files in a dictionary."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def digest(self, path: str) -> str | None:
        return digest(self.texts[path]) if path in self.texts else None

    def write(self, path: str, text: str) -> str:
        backup = f"{path}.bak" if path in self.texts else ""
        self.texts[path] = text
        return backup


class ReloadDouble:
    """Remembers who was told."""

    def __init__(self) -> None:
        self.told: list[Mapping[str, Any]] = []

    def tell(self, how: Mapping[str, Any]) -> None:
        self.told.append(how)
