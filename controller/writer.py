"""The controller's hand in the log: stamps events, holds the lease, appends by compare-and-swap.

Only actions need the lease; facts (conditions, requests) need only the compare-and-swap. A lease is 30 s, no call takes more
than 20; it is taken by the first append of a pass that acts and released by the last. A holder on the same machine and data
folder is known to be dead (passes there exclude each other by a file lock), so its lease may be taken over at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from controller.address import Address
from controller.errors import LostRace, RemoteDown
from controller.events import Event, format_time, parse_time, typed, uuid7
from controller.log import EventLog

LEASE_SECONDS = 30.0
CALL_SECONDS = 20.0
SKEW_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease as the log tells it; `expires` None = nobody holds it."""

    holder: str = ""
    epoch: int = 0
    expires: datetime | None = None

    @staticmethod
    def of(state: Mapping[str, Any]) -> Lease:
        expires = state.get("expires")
        return Lease(state.get("holder", ""), state.get("epoch", 0), parse_time(expires) if expires else None)


@dataclass(frozen=True, slots=True)
class Identification:
    """Who writes: `machine` is the machine and data folder, `process` tells processes there apart."""

    environment: str
    machine: str
    process: str
    actor: str

    @property
    def holder(self) -> str:
        return f"{self.machine}#{self.process}"


class Writer:
    """One per pass. `position` is what was looked at; a lost race raises and the pass starts again."""

    def __init__(
        self,
        log: EventLog,
        who: Identification,
        now: Callable[[], datetime],
        random: Callable[[int], bytes],
        lease: Lease,
        position: int,
        commit: str = "",
        *,
        offline: bool = False,
        tell: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self.log, self.who, self.now, self.random = log, who, now, random
        self.lease, self.position, self.commit = lease, position, commit
        self.offline = offline  # the remote does not answer: what is done is kept in the outbox, once
        self.tell = tell
        self.holding = False
        self.correlation = uuid7(now(), random)
        self.appended: list[Event] = []

    def event(self, name: str, subject: str = "", data: Mapping[str, Any] | None = None, cause: str = "") -> Event:
        """An event of now, not appended yet."""
        moment = self.now()
        return Event(
            id=uuid7(moment, self.random),
            source=f"turnout/{self.who.environment}/{self.who.machine}",
            type=typed(name),
            subject=Address(subject),
            time=format_time(moment),
            causationid=cause,
            correlationid=self.correlation,
            statecommit=self.commit,
            actor=self.who.actor,
            epoch=self.lease.epoch,
            data=dict(data or {}),
        )

    # -- the lease -----------------------------------------------------------------------------------------------

    def may_act(self) -> bool:
        """Nobody else holds the lease. Without the remote nobody can know: only the way back to healthy goes."""
        if self.offline:
            return False
        other = self.lease.expires and self.lease.holder.partition("#")[0] != self.who.machine
        return self.holding or not other or self._over(self.lease.expires)

    def _over(self, expires: datetime | None) -> bool:
        return expires is None or self.now() > expires + timedelta(seconds=SKEW_SECONDS)

    def _lease_events(self) -> list[Event]:
        """Takes or renews the lease when the events about to be appended are about acting."""
        moment = self.now()
        left = (self.lease.expires - moment).total_seconds() if self.holding and self.lease.expires else 0.0
        if self.holding and left > CALL_SECONDS:
            return []
        epoch = self.lease.epoch if self.holding else self.lease.epoch + 1
        expires = moment + timedelta(seconds=LEASE_SECONDS)
        name = "lease.renewed" if self.holding else "lease.taken"
        self.lease = Lease(self.who.holder, epoch, expires)
        return [self.event(name, data={"holder": self.who.holder, "epoch": epoch, "expires": format_time(expires)})]

    def outlives_call(self) -> bool:
        """Whether the lease lasts longer than one call may take."""
        expires = self.lease.expires
        return bool(self.holding and expires and (expires - self.now()).total_seconds() > CALL_SECONDS)

    # -- appending -----------------------------------------------------------------------------------------------

    def act(self, events: Sequence[Event], *, last: bool = False) -> None:
        """Started events, the lease in the same segment (and its release, when nothing has to be called).

        Raises LostRace or RemoteDown: then nothing may start.
        """
        if self.offline:
            self._defer(events)
            return
        if not self.may_act():  # the way back needs no lease, and takes it from nobody
            self.facts(events)
            return
        lease, held = self._lease_events(), self.holding
        stamped = [self._with_epoch(event) for event in events]
        if last:
            stamped.append(self._release())
        self.holding = True
        try:
            self._append([*lease, *stamped])
        except BaseException:
            self.holding = held
            raise
        self.holding = not last

    def _release(self) -> Event:
        return self.event("lease.released", data={"holder": self.who.holder, "epoch": self.lease.epoch})

    def ensure(self) -> None:
        """Renews before a call that the lease would not outlive."""
        if self.may_act() and not self.outlives_call():
            self.act([])

    def facts(self, events: Sequence[Event]) -> None:
        """What needs no lease. Raises LostRace or RemoteDown."""
        if events:
            self._append([self._with_epoch(event) for event in events])

    def outcomes(self, events: Sequence[Event], *, last: bool = False) -> None:
        """What was done: it is appended whatever else was written meanwhile, or kept for later when nobody answers."""
        if self.offline:
            self._defer(events)
            return
        batch = [self._with_epoch(event) for event in events]
        if last and self.holding:
            batch.append(self._release())
        if not batch:
            return
        for _ in range(20):
            try:
                self._append(batch)
                break
            except LostRace:
                self.position = self.log.refresh()
            except RemoteDown:
                self.log.defer([event for event in batch if not event.type.startswith("turnout.lease.")])
                break
        if last:
            self.holding = False

    def flush(self) -> bool:
        """Appends what earlier passes had to keep; whether there was anything. Raises LostRace, RemoteDown."""
        done = self.log.append([], self.position) if self.log.deferred() else ()
        if done:
            self._done(done)
        return bool(done)

    def _defer(self, events: Sequence[Event]) -> None:
        """Once an intent: a pass that finds the remote still down does not tell the same again."""
        told = {(event.type, event.subject, event.data.get("intent")) for event in self.log.deferred()}
        self.log.defer([event for event in events if (event.type, event.subject, event.data.get("intent")) not in told])

    def _append(self, events: Sequence[Event]) -> None:
        if not events:
            return
        if self.position == 0 and events[0].type != typed("log.opened"):
            events = [self.event("log.opened", data={"environment": self.who.environment}), *events]
        done = self.log.append(events, self.position)
        self._done(done)

    def _done(self, events: Sequence[Event]) -> None:
        self.position = events[-1].sequence
        self.appended.extend(events)
        for event in events:
            self.tell(event)

    def _with_epoch(self, event: Event) -> Event:
        return msgspec.structs.replace(event, epoch=self.lease.epoch)
