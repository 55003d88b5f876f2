"""THE interface: what a kind of resource is, what it may know, and what it must promise.

Laws of a kind
    `plan` is pure: no clock, no I/O, the same Situation gives the same Change. Every noop says why.
    `observe` changes nothing and never raises for one resource: what it cannot know is `Unknown`.
    `apply` is idempotent under `change.intent` and takes seconds; it starts things, `observe` follows them.
    What is created outside carries the intent key, so that `find` can answer after a crash.
    When signals are Unknown a kind does what is safe blind: back to stable and removal, never forward.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from controller.address import Address
from controller.change import Change
from controller.resource import Resource

S = TypeVar("S")
O = TypeVar("O")  # noqa: E741 - S and O are the two sides of the whole product


@dataclass(frozen=True, slots=True)
class Observed(Generic[O]):
    """`state` is compared, digested and logged; `signals` inform decisions and are compared with nothing."""

    state: O | None
    signals: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """It could not be found out; `reason` says why and what to look for."""

    reason: str


@dataclass(frozen=True, slots=True)
class Intent:
    """An action that has started and has no outcome yet."""

    key: str
    action: str
    spec_digest: str
    at: datetime
    careful: bool = False  # paid or irreversible: never called again unless it provably did not happen
    failed: bool = False  # its last attempt provably brought nothing about
    after: Mapping[str, Any] | None = None  # of a run: what it was to bring about, and so where it is to be looked for


@dataclass(frozen=True, slots=True)
class Past:
    """One resource's own history, folded and bounded. `generation` counts intents closed ever."""

    generation: int = 0
    exists: bool = False
    after: Mapping[str, Any] | None = None
    spec: Mapping[str, Any] | None = None
    spec_digest: str = ""
    frozen: Mapping[str, Any] | None = None  # of a run: the spec with the defaults it started with
    running: bool = False
    ended: str = ""
    since: datetime | None = None
    started_at: datetime | None = None
    started_commit: str = ""
    attempts: int = 0
    retry_at: datetime | None = None
    failed: str = ""  # the permanent error that stops it
    failed_digest: str = ""  # spec and references it failed with
    intents: tuple[Intent, ...] = ()
    handle: str = ""
    healthy: Mapping[str, Any] | None = None
    been_healthy: tuple[str, ...] = ()  # digests of healthy states that were left
    bad: tuple[str, ...] = ()
    written: bool = False  # its edits are in git
    writing: str = ""  # key of a write-back that has started
    event: str = ""  # id of the last outcome
    conditions: Mapping[str, str] = field(default_factory=dict)  # code -> cause


@dataclass(frozen=True, slots=True)
class Reference:
    """To an address or a whole kind. `orders`: plan after it. `exclusive`: one running run at a time."""

    to: Address
    orders: bool = True
    exclusive: bool = False


class Refs(Mapping[Address, Mapping[str, Any] | None]):
    """What a resource references, as plain mappings, and the environment.

    `refs[address]` is the certain state (None = not there); `refs.all("Kind")` a whole kind, sorted; `refs.past(address)`
    the history of what it references; `address in refs.named` whether a name-only reference exists.
    """

    def __init__(
        self,
        states: Mapping[Address, Mapping[str, Any] | None],
        environment: Mapping[str, Any],
        named: frozenset[Address] = frozenset(),
        kinds: Mapping[str, Mapping[Address, Mapping[str, Any]]] | None = None,
        pasts: Callable[[Address], Past] = lambda _: Past(),
    ) -> None:
        self._states, self._kinds, self._pasts = states, kinds or {}, pasts
        self.environment, self.named = environment, named

    def __getitem__(self, address: Address) -> Mapping[str, Any] | None:
        return self._states[address]

    def __iter__(self) -> Any:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    def all(self, kind: str) -> Mapping[Address, Mapping[str, Any]]:
        return self._kinds.get(kind, {})

    def past(self, address: Address) -> Past:
        return self._pasts(address)


@dataclass(frozen=True, slots=True)
class Situation(Generic[S, O]):
    """Everything that `plan` may know."""

    desired: Resource[S] | None
    observed: Observed[O] | Unknown | None
    past: Past
    refs: Refs
    now: datetime


@dataclass(frozen=True, slots=True)
class Known(Generic[S]):
    """What a provider is asked about: the resource as desired (None = removed from git) and its history."""

    address: Address
    resource: Resource[S] | None
    past: Past


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `apply` brought about. `after` None = as planned."""

    after: Mapping[str, Any] | None = None
    handle: str = ""
    said: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)


Report = Callable[[str], None]
"""Progress for people while a call runs."""


class Clients(Protocol):
    """The doors to the outside, opened on first use. `clients/__init__.py` has them all."""

    def open(self, name: str) -> Any: ...


class Provider(Protocol[S, O]):
    """Reality of one kind. Raises `Temporary` or `Permanent` from `apply`; anything else is a bug and counts as temporary."""

    def observe(self, known: Sequence[Known[S]]) -> Mapping[Address, Observed[O] | Unknown]:
        """In bulk. No key = not there."""
        ...

    def apply(self, change: Change, report: Report) -> Outcome: ...


@runtime_checkable
class Findable(Protocol):
    """After a crash: what did this intent bring about? None = provably nothing."""

    def find(self, intent: Intent) -> Outcome | Unknown | None: ...


@runtime_checkable
class LocalWork(Protocol):
    """Of a provider whose runs are processes of this machine. A short-lived controller does not end before they do."""

    def working(self) -> Collection[str]:
        """Handles of those that live here now, whoever started them."""
        ...

    def stop_all(self) -> None:
        """SIGTERM: each keeps what it has and ends by itself; a later pass goes on with it."""
        ...


@dataclass(frozen=True)
class Kind(Generic[S, O]):
    """One folder under `kinds/`. `declared`: no object of its own, the gateway carries it out."""

    name: str
    plural: str
    spec: type[S]
    state: type[O]
    plan: Callable[[Situation[S, O]], Change]
    references: Callable[[S], Iterable[Reference]]
    provider: Callable[[Clients], Provider[S, O]] | None = None
    declared: bool = False
    once: bool = False
    paths: Callable[[S], Iterable[str]] | None = None  # of this repository that a spec names; one that ends in / is a folder
    mutable: frozenset[str] = frozenset()  # top-level spec fields that a running run lets a person edit
    summary: str = ""
