"""Pure folds over events, cached on disk by log position and rebuilt from nothing when in doubt.

A projection is a name and a fold for each event type: `fold(states, event)` changes one state of its own in place and returns
its key. `Folds` feeds every event once to every projection, reads states by key when they are asked for, and writes back what
changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from controller.clients.cache import Cache
from controller.events import Event
from controller.log import EventLog
from controller.resource import digest, encode_json

States = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Projection:
    """Each fold returns the key (or keys) that it changed, or nothing; `states[key]` of a missing key is an empty mapping."""

    name: str
    folds: Mapping[str, Callable[[States, Event], str | tuple[str, ...]]]
    version: int = 1  # of the form of its states: a cache of another form is folded again
    mark: Callable[[Mapping[str, Any]], str] = lambda state: ""  # put before the digest, so that keys can be told apart by it

    def fold(self, states: States, event: Event) -> str | tuple[str, ...]:
        """One event; returns the keys that changed, or nothing."""
        step = self.folds.get(event.type)
        return step(states, event) if step else ""


class _Table(States):
    """States of one projection: read from the cache by key when first touched; knows what changed."""

    def __init__(self, cache: Cache, name: str) -> None:
        super().__init__()
        self.cache, self.name = cache, name
        self.changed: set[str] = set()

    def __missing__(self, key: str) -> dict[str, Any]:
        found = self.cache.fold(self.name, key)
        self[key] = found if found is not None else {}
        return self[key]


class Folds:
    """All projections at one position of one log."""

    def __init__(self, log: EventLog, cache: Cache, projections: Iterable[Projection]) -> None:
        self.log, self.cache = log, cache
        self.projections = tuple(projections)
        self.forms = " ".join(f"{each.name}:{each.version}" for each in self.projections)
        if cache.meta("forms") != self.forms:
            cache.forget_folds()
        self.position = int(cache.meta("position") or 0)
        self._open_tables()

    def _open_tables(self) -> None:
        self.tables = {p.name: _Table(self.cache, p.name) for p in self.projections}

    def catch_up(self, until: int | None = None) -> int:
        """Folds what is new (up to a position); returns how many events. The log has been refreshed by the caller."""
        with self.cache.lock():
            return self._catch_up(until)

    def _catch_up(self, until: int | None) -> int:
        kept = int(self.cache.meta("position") or 0)
        if kept != self.position:  # another process has folded on: go on from there
            self._open_tables()
            self.position = kept
        before = self.position
        steps: dict[str, list[tuple[Callable[[States, Event], str | tuple[str, ...]], _Table]]] = {}
        for projection in self.projections:
            for name, fold in projection.folds.items():
                steps.setdefault(name, []).append((fold, self.tables[projection.name]))
        for event in self.log.read(self.position):
            if until is not None and event.sequence > until:
                break
            for fold, table in steps.get(event.type, ()):
                key = fold(table, event)
                if isinstance(key, tuple):
                    table.changed.update(key)
                elif key:
                    table.changed.add(key)
            self.position = event.sequence
        if self.position != before:
            self._keep()
        return self.position - before

    def _keep(self) -> None:
        changed = []
        for projection in self.projections:
            table = self.tables[projection.name]
            for key in sorted(table.changed):
                state = table[key]
                changed.append((projection.name, key, encode_json(state), projection.mark(state) + digest(state)))
            table.changed.clear()
            if len(table) > 50_000:
                table.clear()
        tip = getattr(self.log, "tip", "") or ""
        self.cache.keep_folds(changed, position=str(self.position), tip=tip, forms=self.forms)

    def state(self, name: str, key: str) -> Mapping[str, Any]:
        return self.tables[name][key]

    def keys(self, name: str) -> list[str]:
        return self.cache.fold_keys(name)

    def digests(self, name: str) -> dict[str, str]:
        return self.cache.fold_digests(name)
