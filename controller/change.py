"""What a plan is made of: a Change is a small value that knows before, after and why; a Plan is their ordered set.

The life of a change: a kind's `plan` makes it, `plan.py` completes it (address, digests, intent), `policy.py` checks it,
`apply.py` carries it out, `log.py` keeps what became of it. `reason` is for people and never decides anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from controller.address import Address
from controller.diff import FieldDiff
from controller.errors import Problem
from controller.resource import digest

Edits = Mapping[Address, Mapping[str, Any] | None]
"""Desired state to write: dotted spec fields of a resource, or None to remove its file."""


NOWHERE = Address("")


class Action(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    REPLACE = "replace"
    DELETE = "delete"
    RUN = "run"
    STEP = "step"
    NOOP = "noop"


@dataclass(frozen=True, slots=True)
class Cost:
    """US dollars: the estimate, and the ceiling that an approval names."""

    usd: float = 0.0
    ceiling: float = 0.0


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a change does not go now. `code` and `on` identify it; `reason` may carry numbers and never counts.

    Codes: Reference, Exclusive, Invalid, Approval, Budget, Brake, Denied, Blind, Named, Inconclusive, Held, Failed, Retry,
    Unknown. Those that hold nothing up: Quarantined, FrozenEdit, JudgedBad, Unserved, Unsupported, Refused, Blind of a part.
    """

    code: str
    on: str
    reason: str


@dataclass(frozen=True, slots=True)
class Change:
    """One resource's next move. The first block comes from its kind, the second is filled in by `plan.py`."""

    action: Action
    reason: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None
    cost: Cost = Cost()
    irreversible: str = ""  # why a revert will not undo it; empty = reversible
    risk: str = "low"
    approvals: tuple[str, ...] = ()
    waits: tuple[Wait, ...] = ()
    conditions: tuple[Wait, ...] = ()  # worth knowing, but they hold nothing up
    edits: Edits = field(default_factory=dict)
    again: datetime | None = None
    payload: Any = None  # for the provider; not logged, its digest is part of `after`
    ends: str = ""  # a run that ends with this change: promoted, aborted, superseded, cancelled, completed
    running: bool = False  # a run that goes on after this change
    healthy: bool = False  # `after` is a state to go back to
    bad: Mapping[Address, str] = field(default_factory=dict)  # digests of what this change judges bad, by whom it concerns
    urgent: bool = False  # back to a healthy version: needs neither lease nor wait
    evidence: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""  # of a run: which of its steps; a suffix of the intent key
    message: str = ""  # of the commit that writes `edits`; empty = the revert of the commit that brought the resource

    address: Address = NOWHERE
    spec_digest: str = ""
    written: Mapping[str, Any] | None = None
    generation: int = 0
    commit: str = ""  # of the desired state that is planned; no part of any digest
    intent: str = ""
    diffs: tuple[FieldDiff, ...] = ()
    needs: tuple[Address, ...] = ()
    declared: bool = False

    @property
    def is_noop(self) -> bool:
        return self.action is Action.NOOP

    @property
    def may_go(self) -> bool:
        return not self.is_noop and not self.waits

    @property
    def digest(self) -> str:
        """What an approval names: everything that makes this change what it is, and nothing that only moves."""
        return digest([self.address, self.action, self.spec_digest, self.irreversible, self.after is None])


@dataclass(frozen=True, slots=True)
class Plan:
    """Changes in graph order, kept noops only counted. Two plans of the same world are equal."""

    environment: str
    commit: str
    changes: tuple[Change, ...]
    kept: int = 0
    problems: tuple[Problem, ...] = ()
    total: int = 0

    @property
    def active(self) -> tuple[Change, ...]:
        """What would be done now."""
        return tuple(change for change in self.changes if change.may_go)

    @property
    def pending(self) -> tuple[Change, ...]:
        """What would be done, and waits."""
        return tuple(change for change in self.changes if not change.is_noop and change.waits)

    @property
    def digest(self) -> str:
        return digest(sorted(change.digest for change in self.changes if not change.is_noop))

    def counts(self) -> dict[str, int]:
        """How many of each action, only those that occur."""
        out: dict[str, int] = {}
        for change in self.changes:
            if not change.is_noop:
                out[change.action.value] = out.get(change.action.value, 0) + 1
        return out


@dataclass(frozen=True, slots=True)
class Approval:
    """A person's yes to one digest up to one ceiling (US dollars)."""

    address: Address
    digest: str
    ceiling: float
    by: str


@dataclass(frozen=True, slots=True)
class Budget:
    """US dollars of the current month: the limit, what is spent, what running work has reserved. No limit = None."""

    limit: float | None = None
    spent: float = 0.0
    reserved: float = 0.0
    name: str = "month"  # whose: of the month as a whole, or of one agent


@dataclass(frozen=True, slots=True)
class Verdict:
    """Policy's answer for one change: no waits = it may go."""

    waits: tuple[Wait, ...] = ()
