"""What the double can be told to do wrong, by route: `PUT /-/faults` with a list, or `double.fail(...)`.

A fault is `{"route": "POST /api/jobs/*", "kind": ..., "times": 1}`; `*` matches anything, `times` null means always.

hang      acts, then never answers (for `seconds`, then closes); with `before` it does not even act
lose      acts, then closes the connection without an answer
status    answers `status` with `headers` (429 and Retry-After, 503, ...): before acting, or after it with `before` false
cut       closes the connection after `bytes` bytes of the request's body; nothing is acted on
truncate  acts, promises the whole answer, and closes after `bytes` bytes of it
lag       lists leave out what is younger than `seconds`; without `seconds`, what was made since the fault was set (`times` lists)
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

_ROUTE = re.compile(r"[A-Z*]+ [/*].*")
KINDS = ("hang", "lose", "status", "cut", "truncate", "lag")


@dataclass(frozen=True)
class Fault:
    """One fault; `since` is when it was set (Unix seconds)."""

    route: str
    kind: str
    times: int | None = 1
    status: int = 503
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = "This failure was ordered"
    before: bool | None = None
    bytes: int = 0
    seconds: float | None = None
    since: float = 0.0

    def matches(self, method: str, path: str) -> bool:
        return self.times != 0 and fnmatchcase(f"{method} {path}", self.route)

    @property
    def acts_first(self) -> bool:
        """A `status` is an answer instead of acting unless told otherwise; `hang` and `lose` lose an answer."""
        if self.kind == "cut":
            return False
        return not (self.kind == "status" if self.before is None else self.before)


def parse(wanted: Any, now: float) -> list[Fault]:
    """Raises ValueError with everything that is wrong."""
    if not isinstance(wanted, list):
        raise ValueError("the body is a list of faults")
    known = {each.name for each in fields(Fault)} - {"since"}
    problems: list[str] = []
    out: list[Fault] = []
    for index, one in enumerate(wanted):
        if not isinstance(one, dict):
            problems.append(f"[{index}] is not an object")
            continue
        problems += [f"[{index}] {problem}" for problem in _problems(one, known)]
        if not problems:
            out.append(Fault(**one, since=now))
    if problems:
        raise ValueError("; ".join(problems))
    return out


def _problems(one: Mapping[str, Any], known: set[str]) -> list[str]:
    out = [f"{name} is not known; there are {', '.join(sorted(known))}" for name in one if name not in known]
    if one.get("kind") not in KINDS:
        out.append(f"kind is {one.get('kind')!r}, not one of {', '.join(KINDS)}")
    route = one.get("route")
    if not isinstance(route, str) or not _ROUTE.fullmatch(route):
        out.append(f"route is {route!r}, not of the form 'METHOD /path' (both may hold *)")
    times = one.get("times", 1)
    if times is not None and (isinstance(times, bool) or not isinstance(times, int) or times < 1):
        out.append(f"times is {times!r}, not a whole number from 1 on, nor null")
    if not isinstance(one.get("status", 503), int) or not 400 <= one.get("status", 503) <= 599:
        out.append(f"status is {one.get('status')!r}, not from 400 to 599")
    return out


class Faults:
    """The faults that are set, used up one by one, first come first served."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def set(self, faults: Sequence[Fault]) -> None:
        with self._lock:
            self._faults = list(faults)

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def shown(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(fault) for fault in self._faults]

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that this request meets, counted down."""
        return self._next(method, path, lambda fault: fault.kind != "lag")

    def hidden_after(self, method: str, path: str, now: float) -> float | None:
        """What is younger than this is left out of the list that is asked for; None = nothing."""
        lag = self._next(method, path, lambda fault: fault.kind == "lag")
        if lag is None:
            return None
        return lag.since if lag.seconds is None else now - lag.seconds

    def _next(self, method: str, path: str, wanted: Any) -> Fault | None:
        with self._lock:
            for index, fault in enumerate(self._faults):
                if wanted(fault) and fault.matches(method, path):
                    if fault.times is not None:
                        self._faults[index] = replace(fault, times=fault.times - 1)
                    return fault
        return None
