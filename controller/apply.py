"""The executor: started event, provider, outcome event. Order by dependency, retries with backoff, recovery of open intents.

declared kinds      no call: started and outcome share a segment
idempotent          started events of everything that may go together are one segment, then the calls, then the outcomes
paid, irreversible  a started segment of its own just before the call; never called twice under one intent unless the
                    provider can show that the first call brought nothing about
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from controller.address import Address
from controller.change import Action, Change, Plan, Wait
from controller.errors import Permanent, Temporary
from controller.events import Event, format_time
from controller.kind import Findable, Intent, Outcome, Past, Provider, Unknown
from controller.plan import failure_digest
from controller.pool import Pool
from controller.writer import Writer

BACKOFF_SECONDS = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
GRACE_SECONDS = 60.0
"""Longer than a call may take, plus the lag of a vendor's list, plus clock skew."""


@dataclass
class Applied:
    """What became of the plan: addresses done, addresses failed, and waits that only appeared while acting."""

    done: set[Address] = field(default_factory=set)
    failed: set[Address] = field(default_factory=set)
    waits: dict[Address, Wait] = field(default_factory=dict)


@dataclass
class Executor:
    """Carries out one plan. `stop` is asked between waves: a SIGTERM finishes what has started and starts nothing new."""

    writer: Writer
    provider: Callable[[str], Provider[Any, Any]]
    past: Callable[[Address], Past]
    frozen: Callable[[Address], Mapping[str, Any] | None]
    pool: Pool
    report: Callable[[str], None]
    stop: Callable[[], bool]

    def run(self, plan: Plan, opening: Sequence[Event] = ()) -> Applied:
        """`opening` are events for the first segment. Raises LostRace or RemoteDown before anything has started."""
        applied = Applied()
        left = [change for change in plan.changes if change.may_go]
        closing: list[Event] = []
        if self.writer.may_act():
            closing = [event for change in plan.changes for event in self._close(change, applied)]
        else:
            left = [change for change in left if change.urgent]
        left = [change for change in left if change.address not in applied.waits]
        pending = [*opening, *closing]
        while (left or closing) and not self.stop():
            wave, left = self._wave(left, applied)
            last = not left
            if not wave and not pending:
                break
            self._go(wave, pending, applied, last)
            pending, closing = [], []
        return applied

    # -- waves ---------------------------------------------------------------------------------------------------

    def _wave(self, left: list[Change], applied: Applied) -> tuple[list[Change], list[Change]]:
        """Everything that waits for nothing in this plan that still has to be called."""
        calling = {change.address for change in left if not change.declared}
        wave: list[Change] = []
        rest: list[Change] = []
        held: set[Address] = set()
        for change in left:
            blockers = {need for need in _expanded(change.needs, calling | held) if need in calling | held}
            if change.action is Action.DELETE and any(need in applied.failed for need in change.needs):
                applied.waits[change.address] = Wait("Named", "failed", "something that named it has not succeeded yet")
            elif blockers:
                rest.append(change)
                held.add(change.address)
            else:
                wave.append(change)
        return wave, rest

    def _go(self, wave: Sequence[Change], pending: Sequence[Event], applied: Applied, last: bool) -> None:
        together = [change for change in wave if change.declared or not _careful(change)]
        apart = [change for change in wave if not change.declared and _careful(change)]
        events = list(pending)
        for change in together:
            started = self._started(change)
            events.append(started)
            if change.declared:
                events.append(self._succeeded(change, Outcome(), started.id))
        calls = [change for change in together if not change.declared]
        if events:
            self.writer.act(events, last=last and not calls and not apart)
        applied.done.update(change.address for change in together if change.declared)
        self._call(calls, applied, last and not apart)
        for index, change in enumerate(apart):
            if self.stop():
                return
            self.writer.act([self._started(change)])  # of another try too: grace counts from the last call, whatever came before
            self._call([change], applied, last and index == len(apart) - 1)

    def _call(self, changes: Sequence[Change], applied: Applied, last: bool) -> None:
        if not changes:
            return
        self.writer.ensure()
        results = self.pool.run([self._calling(change) for change in changes])
        events = []
        for change, result in zip(changes, results, strict=True):
            event = self._outcome(change, result)
            (applied.failed if event is None or event.type.startswith("turnout.action.failed") else applied.done).add(
                change.address
            )
            events += [event] if event else []
        self.writer.outcomes(events, last=last)

    def _calling(self, change: Change) -> Callable[[], Outcome]:
        def call() -> Outcome:
            self.report(f"{change.address}: {change.reason}")
            return self.provider(change.address.kind).apply(change, self.report)

        return call

    # -- outcomes ------------------------------------------------------------------------------------------------

    def _outcome(self, change: Change, result: Any) -> Event | None:
        """None: the outcome of a paid call cannot be known; its intent stays open until `find` can say."""
        if isinstance(result, Outcome):
            return self._succeeded(change, result)
        if isinstance(result, Permanent):
            return self._failed(change, result, temporary=False)
        if isinstance(result, Temporary) or not _careful(change):
            return self._failed(change, result, temporary=True)
        return None

    def _started(self, change: Change) -> Event:
        data: dict[str, Any] = {
            "action": change.action.value,
            "intent": change.intent,
            "generation": change.generation,
            "reason": change.reason,
            "spec_digest": change.spec_digest,
            "before": change.before,
            "after": change.after,
            "diff": [each.as_json() for each in change.diffs],
        }
        if change.written is not None and change.action is not Action.STEP:
            data["spec"] = change.written
        if change.action is Action.RUN:
            data["frozen"] = self.frozen(change.address)
        optional = {
            "cost": {"usd": change.cost.usd, "ceiling": change.cost.ceiling} if change.cost.ceiling else None,
            "irreversible": change.irreversible,
            "careful": _careful(change),
            "evidence": dict(change.evidence),
            "bad": dict(change.bad),
        }
        data.update({key: value for key, value in optional.items() if value})
        return self.writer.event("action.started", change.address, data)

    def _succeeded(self, change: Change, outcome: Outcome, cause: str = "") -> Event:
        after = outcome.after if outcome.after is not None else change.after
        data: dict[str, Any] = {
            "action": change.action.value,
            "intent": change.intent,
            "generation": change.generation,
            "after": after,
        }
        optional = {
            "running": change.running,
            "ends": change.ends,
            "healthy": change.healthy,
            "handle": outcome.handle,
            "notes": dict(outcome.notes),
            "said": outcome.said,
        }
        data.update({key: value for key, value in optional.items() if value})
        return self.writer.event("action.succeeded", change.address, data, cause)

    def _failed(self, change: Change, error: BaseException, *, temporary: bool) -> Event:
        attempts = self.past(change.address).attempts + 1
        data: dict[str, Any] = {
            "action": change.action.value,
            "intent": change.intent,
            "generation": change.generation,
            "error": str(error) or type(error).__name__,
            "temporary": temporary,
            "failed_digest": failure_digest(change),
            "attempts": attempts,
        }
        if temporary:
            delay = BACKOFF_SECONDS[min(attempts, len(BACKOFF_SECONDS)) - 1]
            jitter = 0.5 + self.writer.random(1)[0] / 255
            data["retry_at"] = format_time(self.writer.now() + timedelta(seconds=delay * jitter))
        return self.writer.event("action.failed", change.address, data)

    # -- recovery of intents that an earlier process left open ---------------------------------------------------

    def _close(self, change: Change, applied: Applied) -> list[Event]:
        """Adopts, supersedes or keeps every intent of this address that is still open."""
        events = []
        if change.is_noop and any(wait.code == "Blind" for wait in change.conditions):
            return []  # what came of it cannot be seen now
        for intent in self.past(change.address).intents:
            same = intent.key == change.intent and not change.is_noop
            if same and (intent.failed or not (intent.careful or _careful(change))):
                continue  # idempotent, or provably without effect: called again under its key
            found = self._find(change.address, intent)
            if isinstance(found, Outcome):
                applied.waits[change.address] = Wait("Retry", intent.key, "what was started before is adopted first")
                events.append(self._adopted(change, intent, found))
            elif isinstance(found, Unknown):
                wait = Wait("Unknown", intent.key, f"whether {intent.action} took effect is unknown: {found.reason}")
                applied.waits[change.address] = wait
            elif not same and change.is_noop and intent.spec_digest == change.spec_digest and not intent.careful:
                events.append(self._adopted(change, intent, Outcome(change.after)))
            elif not same:
                # The generation moves on with this event, so the new intent gets its key in the next pass.
                applied.waits[change.address] = Wait("Retry", intent.key, "an earlier intent is closed first")
                events.append(
                    self.writer.event(
                        "action.superseded",
                        change.address,
                        {
                            "action": intent.action,
                            "intent": intent.key,
                            "generation": change.generation,
                        },
                    )
                )
        return events

    def _find(self, address: Address, intent: Intent) -> Outcome | Unknown | None:
        provider = self.provider(address.kind)
        if isinstance(provider, Findable):
            found = provider.find(intent)
            young = (self.writer.now() - intent.at).total_seconds() < GRACE_SECONDS
            if found is None and young and intent.careful and not intent.failed:
                return Unknown(f"not found yet; it counts as absent {GRACE_SECONDS:.0f} s after it was started")
            return found
        if intent.careful and not intent.failed:
            return Unknown("this kind cannot look it up")
        return None

    def _adopted(self, change: Change, intent: Intent, outcome: Outcome) -> Event:
        data = {
            "action": intent.action,
            "intent": intent.key,
            "generation": change.generation,
            "after": outcome.after if outcome.after is not None else change.after,
            "handle": outcome.handle,
            "said": "found done after an interruption",
        }
        goes_on = intent.action == Action.STEP and self.past(change.address).running  # another attempt of it
        if intent.action == Action.RUN or goes_on or (change.is_noop and change.running):
            data["running"] = True  # it goes on: what comes of it is observed from now on
        return self.writer.event("action.succeeded", change.address, data)


def _careful(change: Change) -> bool:
    """Paid or irreversible: never twice."""
    return bool(change.irreversible or change.cost.ceiling > 0)


def _expanded(needs: Sequence[Address], active: set[Address]) -> set[Address]:
    out: set[Address] = set()
    for need in needs:
        if need.is_wildcard:
            out.update(address for address in active if address.kind == need.kind)
        else:
            out.add(need)
    return out
