"""Situations of all resources -> Plan, in graph order, each change checked as it is planned. Pure.

Plan and check walk the graph together, because what a resource may rely on depends on what was allowed before it: a reference
holds the *after* of a declared kind whose change may go (its *before* if it waits) and the *actual* state of every other kind.

A resource that is unchanged in everything its last noop depended on keeps that noop without `plan` being called: its `Row`
says so. That is how ten thousand resources stay cheap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

from controller.address import Address
from controller.change import Action, Change, Plan, Verdict, Wait
from controller.diff import ABSENT as NO_FIELD
from controller.diff import FieldDiff, diff, flat
from controller.errors import Problem
from controller.graph import order
from controller.kind import Kind, Observed, Past, Reference, Refs, Situation, Unknown
from controller.resource import Resource, digest, encode_json

ABSENT = "absent"
Brake = Callable[[int, int, bool], Wait | None]
"""(removals, population, desired state is empty) -> why mass removal has to wait."""


class Row(NamedTuple):
    """What the last plan of an address depended on, and what it came to. Cached on disk, read without decoding."""

    address: Address
    blobs: str  # object ids of the files that make its spec
    release: str
    past: str  # digest of its history
    refs: str  # digest of what it references, environment included
    observed: str  # digest of the observed state
    keep: bool  # the plan was a noop that may be kept
    again: float  # look again at (Unix seconds); 0 = never by itself
    certain: str  # digest of what others may rely on
    state: str  # that, as JSON
    references: str  # JSON [[address, orders, exclusive], ...]
    written: str  # the spec as written, JSON; "" = none
    spec_digest: str
    labels: str
    reason: str


@dataclass(frozen=True, slots=True)
class Effective:
    """The one spec of an address and why: git, frozen (a run that has started), quarantined (its file is unusable)."""

    resource: Resource[Any] | None
    why: str = "git"
    problems: tuple[Problem, ...] = ()
    refused: tuple[str, ...] = ()  # fields of a running run that were edited and do not count


@dataclass(frozen=True, slots=True)
class Entry:
    """An address that has a file. `load` gives its effective spec for a history; called only when it is needed."""

    address: Address
    blobs: str
    load: Callable[[Past], Effective]


@dataclass(frozen=True)
class World:
    """Everything a plan is made of. `signalled` are addresses whose kind has signals: they are planned every time."""

    environment: str
    commit: str
    settings: Mapping[str, Any]
    settings_digest: str
    kinds: Mapping[str, Kind[Any, Any]]
    entries: Mapping[Address, Entry]
    inventory: frozenset[Address]
    past: Callable[[Address], Past]
    past_digests: Mapping[str, str]
    now: datetime
    log_id: str
    release: str
    observed: Mapping[Address, Observed[Any] | Unknown] = field(default_factory=dict)
    rows: Mapping[Address, Row] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    brake: Brake | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan, and the rows that the next pass may rely on."""

    plan: Plan
    rows: Mapping[Address, Row]
    again: datetime | None
    effective: Mapping[Address, Effective]


Check = Callable[[Change], Verdict]


def plan(world: World, check: Check) -> Planned:
    """Walks the graph once. `check` is policy with its rules, budget, approvals and clock already given."""
    return _Walk(world, check).run()


class _Walk:
    """The state of one walk: what is certain so far, and what came out."""

    def __init__(self, world: World, check: Check) -> None:
        self.world, self.check = world, check
        self.effective: dict[Address, Effective] = {}
        self.pasts: dict[Address, Past] = {}
        self.certain: dict[Address, str] = {}
        self.states: dict[Address, Mapping[str, Any] | None] = {}
        self.by_kind: dict[str, dict[Address, Mapping[str, Any]]] = {}
        self.kind_digest: dict[str, str] = {}
        self.exclusive: dict[Address, Address] = {}
        self.references: dict[Address, tuple[Reference, ...]] = {}
        self.rows: dict[Address, Row] = {}
        self.changes: list[Change] = []
        self.kept = 0
        self.again: float = 0.0

    def run(self) -> Planned:
        world = self.world
        removed = sorted(a for a in world.inventory if a not in world.entries and a.kind in world.kinds)
        addresses = {*(a for a in world.entries if a.kind in world.kinds), *removed}
        self.namers = self._namers(removed)
        lost = [address for address in removed if not self._past(address).ended]
        self.brake = world.brake(len(lost), len(addresses), not world.entries) if world.brake else None
        self.members = {kind: sorted(a for a in addresses if a.kind == kind) for kind in world.kinds}
        needs = self._needs(addresses, removed)
        ordered, cycles = order(addresses, needs)
        self._claims(addresses)
        for address in ordered:
            self._visit(address)
        for cycle in cycles:
            for address in cycle:
                self._refuse_cycle(address, cycle)
        plan = Plan(world.environment, world.commit, tuple(self.changes), self.kept, world.problems, len(addresses))
        again = datetime.fromtimestamp(self.again, world.now.tzinfo) if self.again else None
        return Planned(plan, self.rows, again, self.effective)

    # -- the graph -----------------------------------------------------------------------------------------------

    def _needs(self, addresses: Iterable[Address], removed: Iterable[Address]) -> dict[Address, list[Address]]:
        """Ordering references; and a removed address comes after everything that named it."""
        needs: dict[Address, list[Address]] = {}
        gone = set(removed)
        for address in addresses:
            if address in gone:
                needs[address] = sorted(self.namers.get(address, ()))
                continue
            wanted = [ref.to for ref in self._references(address) if ref.orders and ref.to not in gone]
            if wanted:
                needs[address] = wanted
        return needs

    def _namers(self, removed: Iterable[Address]) -> dict[Address, set[Address]]:
        """Who named a removed address before, by the log; wildcards do not count."""
        gone = set(removed)
        out: dict[Address, set[Address]] = {}
        if not gone:
            return out
        for address in {*self.world.entries, *gone}:
            kind = self.world.kinds.get(address.kind)
            if kind is None:
                continue
            row = self.world.rows.get(address)
            before = _decode_references(row.references) if row and row.past == self._past_digest(address) else None
            if before is None:
                before = self._references_of_spec(kind, self._past(address).spec)
            for ref in before:
                if ref.to in gone and ref.to != address:
                    out.setdefault(ref.to, set()).add(address)
        return out

    def _references(self, address: Address) -> tuple[Reference, ...]:
        if address not in self.references:
            row = self._row(address)
            if row is not None:
                self.references[address] = _decode_references(row.references)
            else:
                resource = self._effective(address).resource
                kind = self.world.kinds[address.kind]
                self.references[address] = tuple(kind.references(resource.spec)) if resource else ()
        return self.references[address]

    def _references_of_spec(self, kind: Kind[Any, Any], written: Mapping[str, Any] | None) -> tuple[Reference, ...]:
        if written is None:
            return ()
        try:
            return tuple(kind.references(kind.spec.model_validate(written, strict=False)))
        except Exception:  # an old spec that this release cannot read names nobody
            return ()

    def _claims(self, addresses: Iterable[Address]) -> None:
        """Of the runs that reference one address exclusively the started one goes first; the others by address, when they may."""
        for address in sorted(addresses):
            if not self.world.kinds[address.kind].once:
                continue
            past = self._past(address)
            if past.running or (
                past.ended and past.exists and not past.written
            ):  # what has ended keeps its effect until git has it
                for ref in self._references_or_past(address):
                    if ref.exclusive and (past.running or ref.to not in self.exclusive):
                        self.exclusive[ref.to] = address

    def _references_or_past(self, address: Address) -> tuple[Reference, ...]:
        if address in self.world.entries:
            return self._references(address)
        return self._references_of_spec(self.world.kinds[address.kind], self._past(address).spec)

    # -- one address ---------------------------------------------------------------------------------------------

    def _visit(self, address: Address) -> None:
        row = self._row(address)
        refs = self._refs_digest(self._references(address)) if address in self.world.entries else ""
        if row is not None and self._may_keep(row, refs):
            self.kept += 1
            self.certain[address] = row.certain
            self.rows[address] = row
            self._wake(row.again)
            return
        change = self._plan_one(address)
        self._conclude(address, change, refs)

    def _may_keep(self, row: Row, refs: str) -> bool:
        world = self.world
        if not row.keep or row.refs != refs or row.past != self._past_digest(row.address):
            return False
        if row.again and row.again <= world.now.timestamp():
            return False
        seen = world.observed.get(row.address)
        if isinstance(seen, Unknown) or (seen is not None and seen.signals is not None):
            return False
        return row.observed == _observed_digest(seen)

    def _plan_one(self, address: Address) -> Change:
        kind = self.world.kinds[address.kind]
        effective = self._effective(address)
        past = self._past(address)
        observed: Observed[Any] | Unknown | None = self.world.observed.get(address)
        if kind.declared and not isinstance(observed, Unknown):
            signals = observed.signals if observed else None
            observed = Observed(past.after, signals) if past.after is not None or signals else None
        elif kind.declared:
            observed = Observed(past.after, None) if past.after is not None else None
        if effective.why == "quarantined" and effective.resource is None and past.exists:
            kept = Change(Action.NOOP, "its file and its last spec cannot be read; it stays", before=past.after, after=past.after)
            return self._complete(address, kept, effective, past)
        refs = self._refs(address)
        change = kind.plan(Situation(effective.resource, observed, past, refs, self.world.now))
        return self._complete(address, change, effective, past)

    def _complete(self, address: Address, change: Change, effective: Effective, past: Past) -> Change:
        """Address, digests, intent, diffs; then everything that may hold it up."""
        kind = self.world.kinds[address.kind]
        resource = effective.resource
        spec_digest = resource.spec_digest if resource else ""
        intent = intent_key(self.world.log_id, address, past.generation, spec_digest)
        ordering = [ref.to for ref in self._references(address) if ref.orders] if resource else []
        change = replace(
            change,
            address=address,
            declared=kind.declared,
            spec_digest=spec_digest,
            written=resource.written if resource else None,
            generation=past.generation,
            commit=self.world.commit,
            intent=f"{intent}/{change.part}" if change.part else intent,
            diffs=change.diffs or _diffs(change),
            needs=(*ordering, *sorted(self.namers.get(address, ()))),
        )
        waits = list(change.waits)
        if not change.is_noop:
            if effective.why == "quarantined" and kind.once and not change.urgent:
                waits.append(Wait("Quarantined", "forward", "it does not go on while its file cannot be read"))
            waits += self._holds(address, change, past)
            waits += self.check(replace(change, waits=tuple(waits))).waits
            if change.action is Action.RUN and not waits:
                self.exclusive.update({ref.to: address for ref in self._references(address) if ref.exclusive})
        conditions = (*change.conditions, *self._conditions(address, effective))
        again = _earliest(change.again, self._retry_at(change, past))
        return replace(change, waits=tuple(dict.fromkeys(waits)), conditions=tuple(dict.fromkeys(conditions)), again=again)

    def _conditions(self, address: Address, effective: Effective) -> list[Wait]:
        """What is worth knowing about an address even when nothing is to be done."""
        if effective.why == "quarantined":
            told = "; ".join(str(problem) for problem in effective.problems)
            keeps = "its last accepted spec stays in force" if effective.resource else "it has no earlier spec"
            return [Wait("Quarantined", told, f"{told}; {keeps}")]
        if effective.refused:
            fields = ", ".join(effective.refused)
            return [Wait("FrozenEdit", fields, f"it is running: the edit of {fields} does not count; use a new name")]
        return []

    def _holds(self, address: Address, change: Change, past: Past) -> list[Wait]:
        waits: list[Wait] = []
        if change.action in (Action.DELETE, Action.REPLACE) and self.brake and not change.urgent:
            waits.append(self.brake)
        if change.action is Action.DELETE:
            naming = sorted(a for a in self.world.entries if a != address and self._names(a, address))
            if naming:
                waits.append(Wait("Named", ",".join(naming), f"still named by {', '.join(naming)}"))
        if change.action is Action.RUN:
            for ref in self._references(address):
                owner = self.exclusive.get(ref.to)
                if ref.exclusive and owner not in (None, address):
                    waits.append(Wait("Exclusive", str(owner), f"waits for {owner}, which has {ref.to}"))
        if past.failed and past.failed_digest == failure_digest(change):
            waits.append(Wait("Failed", past.failed, f"failed: {past.failed}; change it, or `turnout retry {address}`"))
        elif self._retry_at(change, past) and not change.urgent:
            assert past.retry_at
            waits.append(Wait("Retry", "backoff", f"tried {past.attempts} times, next after {past.retry_at:%H:%M:%S}"))
        return waits

    def _retry_at(self, change: Change, past: Past) -> datetime | None:
        """A backoff holds for the change that failed, not for another one."""
        due = past.retry_at is not None and past.retry_at > self.world.now and past.attempts
        same = past.failed_digest in ("", failure_digest(change))
        return past.retry_at if due and same and not change.is_noop else None

    def _names(self, address: Address, target: Address) -> bool:
        """Whether an effective spec names the target. A run that has ended names nobody any more."""
        if address.kind not in self.world.kinds or not any(ref.to == target for ref in self._references(address)):
            return False
        return not self._past(address).ended

    def _conclude(self, address: Address, change: Change, refs: str) -> None:
        """What others may rely on from here on, and the row for the next pass."""
        if change.declared:
            state = change.after if change.may_go or change.is_noop else change.before
        else:
            seen = self.world.observed.get(address)
            state = as_json(seen.state) if isinstance(seen, Observed) else None
            past = self._past(address)
            if state is None and past.ended:
                state = past.after  # what has ended is not looked at any more; what it came to stays
        self.states[address] = state
        self.certain[address] = ABSENT if state is None else digest(state)
        self.changes.append(change)
        self._wake(change.again.timestamp() if change.again else 0.0)
        if address in self.world.entries:
            self.rows[address] = self._new_row(address, change, refs)

    def _new_row(self, address: Address, change: Change, refs: str) -> Row:
        resource = self._effective(address).resource
        seen = self.world.observed.get(address)
        state = self.states[address]
        return Row(
            address=address,
            blobs=self.world.entries[address].blobs,
            release=self.world.release,
            past=self._past_digest(address),
            refs=refs,
            observed=_observed_digest(seen),
            keep=change.is_noop
            and not change.edits
            and not isinstance(seen, Unknown)
            and not change.waits
            and not change.conditions,
            again=change.again.timestamp() if change.again else 0.0,
            certain=self.certain[address],
            state=_json(state),
            references=_encode_references(self._references(address)),
            written=_json(resource.written) if resource and resource.why == "git" else "",
            spec_digest=resource.spec_digest if resource else "",
            labels=_json(dict(resource.labels)) if resource else "{}",
            reason=change.reason,
        )

    def _refuse_cycle(self, address: Address, cycle: list[Address]) -> None:
        path = " -> ".join([*cycle, cycle[0]])
        past = self._past(address)
        self.states[address] = past.after
        self.certain[address] = ABSENT if past.after is None else digest(past.after)
        self.changes.append(
            Change(
                Action.NOOP,
                f"references form a cycle: {path}",
                before=past.after,
                after=past.after,
                address=address,
                waits=(Wait("Invalid", path, f"references form a cycle: {path}"),),
            )
        )

    # -- what a resource may see ---------------------------------------------------------------------------------

    def _refs(self, address: Address) -> Refs:
        states: dict[Address, Mapping[str, Any] | None] = {}
        kinds: dict[str, Mapping[Address, Mapping[str, Any]]] = {}
        named: set[Address] = set()
        references = self._references(address) if address in self.world.entries else self._references_or_past(address)
        for ref in references:
            if ref.to.is_wildcard:
                kinds[ref.to.kind] = self._kind_states(ref.to.kind)
            elif not ref.orders:
                if ref.to in self.world.entries:
                    named.add(ref.to)
            else:
                states[ref.to] = self._state(ref.to)
        return Refs(states, self.world.settings, frozenset(named), kinds, self._past)

    def _state(self, address: Address) -> Mapping[str, Any] | None:
        if address not in self.states:
            row = self.rows.get(address)
            if row is None:  # not planned yet: what is removed is asked for nothing, and nobody else may hear this answer
                return None
            self.states[address] = msgspec.json.decode(row.state) if row.state else None
        return self.states[address]

    def _kind_states(self, kind: str) -> Mapping[Address, Mapping[str, Any]]:
        if kind not in self.by_kind:
            members = self.members.get(kind, ())
            found = {a: state for a in members if (state := self._state(a)) is not None}
            if any(a not in self.certain for a in members):  # of a reference that orders nothing
                return found
            self.by_kind[kind] = found
        return self.by_kind[kind]

    def _refs_digest(self, references: tuple[Reference, ...]) -> str:
        if not references:
            return self.world.settings_digest
        parts = [self.world.settings_digest]
        for ref in references:
            if ref.to.is_wildcard:
                parts.append(self._digest_of_kind(ref.to.kind))
            elif ref.orders:
                parts.append(f"{ref.to}={self.certain.get(ref.to, ABSENT)}")
            else:
                parts.append(f"{ref.to}?{ref.to in self.world.entries}")
        return _short(parts)

    def _digest_of_kind(self, kind: str) -> str:
        if kind not in self.kind_digest:
            self.kind_digest[kind] = _short([f"{a}={self.certain.get(a, ABSENT)}" for a in self.members.get(kind, ())])
        return self.kind_digest[kind]

    # -- lazy reads ----------------------------------------------------------------------------------------------

    def _row(self, address: Address) -> Row | None:
        """The row, if it was made from the same files by the same release."""
        row = self.world.rows.get(address)
        entry = self.world.entries.get(address)
        same = row is not None and entry is not None and row.blobs == entry.blobs and row.release == self.world.release
        return row if same and row is not None and row.keep else None

    def _effective(self, address: Address) -> Effective:
        if address not in self.effective:
            entry = self.world.entries.get(address)
            self.effective[address] = entry.load(self._past(address)) if entry else Effective(None)
        return self.effective[address]

    def _past(self, address: Address) -> Past:
        if address not in self.pasts:
            self.pasts[address] = self.world.past(address)
        return self.pasts[address]

    def _past_digest(self, address: Address) -> str:
        return self.world.past_digests.get(address, "")

    def _wake(self, moment: float) -> None:
        if moment and (not self.again or moment < self.again):
            self.again = moment


def intent_key(log_id: str, address: Address, generation: int, spec_digest: str) -> str:
    """Never random: the same intent has the same key over every attempt, process and machine."""
    return digest([log_id, address, generation, spec_digest])


def failure_digest(change: Change) -> str:
    """What must change before something that failed for good is tried again."""
    return digest([change.spec_digest, change.action, change.after])


def as_json(state: Any) -> Mapping[str, Any] | None:
    """An observed state as a plain mapping."""
    if state is None or isinstance(state, Mapping):
        return state
    found: Mapping[str, Any] = state.full()
    return found


def _diffs(change: Change) -> tuple[FieldDiff, ...]:
    if change.is_noop:
        return ()
    before, after = (NO_FIELD if side is None else side for side in (change.before, change.after))
    return flat(diff(before, after))


def _observed_digest(seen: Observed[Any] | Unknown | None) -> str:
    if seen is None:
        return ""
    return "unknown" if isinstance(seen, Unknown) else digest(as_json(seen.state))


def _short(parts: Iterable[str]) -> str:
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _json(value: Any) -> str:
    return "" if value is None else encode_json(value).decode()


def _encode_references(references: Iterable[Reference]) -> str:
    found = [[ref.to, ref.orders, ref.exclusive] for ref in references]
    return _json(found) if found else ""


def _decode_references(text: str) -> tuple[Reference, ...]:
    if not text:
        return ()
    return tuple(Reference(Address(to), orders, exclusive) for to, orders, exclusive in msgspec.json.decode(text))


def _earliest(*moments: datetime | None) -> datetime | None:
    given = [moment for moment in moments if moment]
    return min(given) if given else None
