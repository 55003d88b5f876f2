"""What a double of a vendor can be told to do wrong, as data (`vendor_http.py` carries it out)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from .vendor_tables import Tables

KINDS: Mapping[str, str] = {
    "status": "answers `status` with `headers`; nothing is done",
    "drop": "closes the connection; nothing is done",
    "slow": "waits `seconds`, then does it and answers",
    "lose": "does it, and closes the connection without an answer",
    "hang": "does it, and leaves the client without an answer for `seconds`",
    "cut": "does it, and closes the connection in the middle of the answer",
    "lag": "answers from the world as it was when the fault was added",
}


class FaultError(ValueError):
    """A fault that does not exist; says which do."""


@dataclass(frozen=True)
class Fault:
    """Hits requests whose `METHOD /path` matches the pattern `match`: after `after` of them, `times` times (0 = always)."""

    kind: str
    match: str = "*"
    times: int = 1
    after: int = 0
    status: int = 503
    seconds: float = 3600.0
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise FaultError(f"{self.kind!r} is no kind of fault; there are {', '.join(KINDS)}")
        if not 400 <= self.status <= 599:
            raise FaultError(f"status is {self.status}; a failure has 400 to 599")

    @classmethod
    def read(cls, value: Any) -> Fault:
        known = {one.name for one in fields(cls)}
        if not isinstance(value, dict) or not set(value) <= known or "kind" not in value:
            raise FaultError(f"a fault is an object with `kind` and any of {', '.join(sorted(known - {'kind'}))}")
        return cls(**value)

    def hits(self, method: str, path: str) -> bool:
        return fnmatchcase(f"{method} {path}", self.match)


class Faults:
    """The faults that are set, in the order in which they were added; the first that fits a request hits it."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._all: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> None:
        if fault.kind == "lag":
            self._tables.freeze()
        with self._lock:
            self._all.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._all.clear()

    def shown(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(fault) for fault in self._all]

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that hits this request, counted down."""
        with self._lock:
            for index, fault in enumerate(self._all):
                if not fault.hits(method, path):
                    continue
                if fault.after:
                    self._all[index] = replace(fault, after=fault.after - 1)
                    continue
                if fault.times == 1:
                    del self._all[index]
                elif fault.times:
                    self._all[index] = replace(fault, times=fault.times - 1)
                return fault
        return None
