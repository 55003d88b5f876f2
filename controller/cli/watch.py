"""`turnout watch`: runs as they go, redrawn on a terminal, one line a change on a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from controller.cli.call import Call, as_json, options, pass_call, stopping
from controller.cli.names import addresses

if TYPE_CHECKING:
    from controller.address import Address
    from controller.app import Controller
    from controller.events import Event
    from controller.health import Status

GOOD_ENDS = ("promoted", "completed")
ROLLOUT_SECONDS, RUN_SECONDS = 1.0, 5.0
"""How often to look by itself: rollouts move in seconds, and a vendor of jobs is not to be asked all the time."""


@click.command(name="watch")
@click.argument("name", default="", shell_complete=addresses)
@click.option("--timeout", metavar="SECONDS", type=click.FloatRange(min=0), default=None, help="Give up after this (exit code 1).")
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(min=0.05),
    default=None,
    help="How often to look (default: 1 while a rollout runs, else 5).",
)
@as_json
@options
@pass_call
def command(call: Call, name: str, timeout: float | None, interval: float | None, json_: bool) -> int:
    """Follow runs: trainings, evaluations, conversions and rollouts; how far they are, how they do, what they cost.

    With the name of a run (or of a binding that has a rollout running) it ends when that has ended: exit code 0 when it was
    promoted or completed, 1 when not. Where several kinds have the name, write the kind too, as in TrainingRequest/NAME.
    """
    with call.controller() as controller:
        return follow(call, Watched(controller, followed(controller, name) if name else None), interval, timeout, json_=json_)


def follow(
    call: Call,
    watched: Watched,
    interval: float | None,
    timeout: float | None,
    *,
    json_: bool = False,
    good: tuple[str, ...] = GOOD_ENDS,
) -> int:
    """Until the followed run has ended, time is over, or somebody interrupts. The exit code: 0 for one of the `good` ends."""
    with stopping(watched.controller) as came:
        looks = _looks(watched, interval, timeout)
        if json_:
            ended = _lines(call, watched, looks, json_=True)
        elif sys.stdout.isatty():
            ended = _live(call, watched, looks)
        else:
            ended = _lines(call, watched, looks, json_=False)
        if came:
            return 130 if watched.only and not ended else 0
    if not ended:
        click.echo(f"error: {watched.only or 'it'} has not ended after {timeout:g} s", err=True)
        return 1
    if ended not in good and not json_:
        click.echo(f"{watched.only} was {ended}: {watched.verdict}", err=True)
    return 0 if ended in good else 1


def meant(controller: Controller, name: str) -> tuple[Address, set[Address]]:
    """What a name means where runs are meant, a run before anything else; and all runs. Raises NotFound, also for two runs."""
    from controller.errors import NotFound

    known, kinds = controller.addresses(), controller.flow.kinds
    runs = {address for address in known if address.kind in kinds and kinds[address.kind].once}
    found = sorted(address for address in runs if address.name == name)
    if len(found) > 1:
        raise NotFound(f"{name} is {' and '.join(found)}", f"write the kind too, as in {found[0]}")
    return found[0] if found else controller.address(name, known=known), runs


def followed(controller: Controller, name: str) -> Address:
    """The run that a name means: itself, or the rollout that runs for a binding of that name. Raises NotFound."""
    from controller.errors import NotFound, listed

    address, runs = meant(controller, name)
    if address in runs:
        return address
    for status in controller.status(live=False) if address.kind == "ModelBinding" else ():
        if status.past.running and (status.past.after or {}).get("binding") == address.name:
            return status.address
    if address.kind == "ModelBinding":
        raise NotFound(f"no rollout of {address} runs", "`turnout watch` without a name waits for one")
    raise NotFound(f"{address} is no run, so it has no end", f"`turnout status {address}` shows it; runs here: {listed(runs)}")


@dataclass
class Look:
    """What is seen at one moment: runs that go on or wait, what happened since the last look, how the followed one ended."""

    runs: list[Status]
    events: list[Event]
    ended: str = ""
    verdict: str = ""


@dataclass
class Watched:
    """Runs of one environment over time. `only` = the one to follow to its end."""

    controller: Controller
    only: Address | None = None
    position: int = 0
    begun: bool = False
    ended: str = ""
    verdict: str = ""
    seen: set[Address] = field(default_factory=set)
    ceilings: dict[Address, float | None] = field(default_factory=dict)

    def look(self) -> Look:
        events = [event for event in self.controller.events(after=self.position) if self._mine(event)]
        if not self.begun and not self.only:
            events = []
        self.begun = True
        runs = [each for each in self.controller.status() if self._is_shown(each)]
        self.seen.update(each.address for each in runs)
        for each in runs if self.only else ():
            if each.past.failed and not self.ended:  # for good: it goes no further without a person
                self.ended, self.verdict = "failed", f"{each.past.failed}; change it, or `turnout retry {each.address}`"
        return Look(runs, events, self.ended, self.verdict)

    def ceiling(self, status: Status) -> float | None:
        """USD that a run may cost at most: as its state says, else as the budget has reserved it."""
        own = (status.past.after or {}).get("ceiling")
        if own is not None or not status.past.running or status.past.started_at is None:
            return float(own) if own else self.ceilings.get(status.address)
        if status.address not in self.ceilings:
            rows = self.controller.costs(f"{status.past.started_at:%Y-%m}")["resources"]
            found = next((row["reserved"] for row in rows if row["address"] == status.address and row["running"]), None)
            self.ceilings[status.address] = found or None
        return self.ceilings[status.address]

    def _is_run(self, kind: str) -> bool:
        kinds = self.controller.flow.kinds
        return kind in kinds and kinds[kind].once

    def _is_shown(self, status: Status) -> bool:
        """What has ended is shown where it is followed, or was seen before it ended."""
        if self.only:
            return status.address == self.only
        return self._is_run(status.address.kind) and (not status.past.ended or status.address in self.seen)

    def _mine(self, event: Event) -> bool:
        self.position = max(self.position, event.sequence)
        if not self._is_run(event.subject.partition("/")[0]) or self.only not in (None, event.subject):
            return False
        if self.only and event.type == "turnout.action.succeeded.v1" and event.data.get("ends"):
            self.ended = str(event.data["ends"])
            after = event.data.get("after") or {}
            self.verdict = str(after.get("verdict") or after.get("said") or event.data.get("said") or self.verdict)
        elif event.type == "turnout.action.started.v1" and not self.ended:
            self.verdict = str(event.data.get("reason", ""))
        return True


def _looks(watched: Watched, interval: float | None, timeout: float | None) -> Iterator[Look]:
    """One look after the other, until the followed run has ended, time is over, or somebody interrupts."""
    end = time.monotonic() + timeout if timeout is not None else None
    while not watched.controller.stopping.is_set():
        look = watched.look()
        yield look
        if look.ended or (end is not None and time.monotonic() >= end):
            return
        rollouts = not look.runs or any(each.address.kind == "Rollout" for each in look.runs)
        wait = interval or (ROLLOUT_SECONDS if rollouts else RUN_SECONDS)
        left = wait if end is None else min(wait, end - time.monotonic())
        watched.controller.stopping.wait(max(0.0, left))


def _live(call: Call, watched: Watched, looks: Iterable[Look]) -> str:
    from rich.console import Group
    from rich.live import Live

    from controller.cli.watch_text import paragraphs

    console, ended = call.console(), ""
    story: list[Event] = []
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        for look in looks:
            story = [*story, *look.events][-8:]
            ceilings = {each.address: watched.ceiling(each) for each in look.runs}
            shown = paragraphs(look, story, ceilings, ascii_only=console.options.ascii_only)
            for text in shown:  # a narrow window breaks lines; it would cut them off where the console wraps softly
                text.no_wrap, text.overflow = bool(text.no_wrap), text.overflow or "fold"
            live.update(Group(*shown), refresh=True)
            ended = look.ended
    return ended


def _lines(call: Call, watched: Watched, looks: Iterable[Look], *, json_: bool) -> str:
    """Events, and each run whenever its phase, step, attempt or conditions change or another tenth is done; never for a figure."""
    from controller.cli.runs import state_key
    from controller.cli.status import as_plain
    from controller.cli.text import clean, event_as_json
    from controller.cli.watch_text import one_line
    from controller.events import sentence

    seen: dict[str, Any] = {}
    ended = ""
    for look in looks:
        for event in look.events:
            if json_:
                call.emit(event_as_json(event), line=True)
            else:
                click.echo(clean(f"{event.sequence:04d} {sentence(event)}"))
        for status in look.runs:
            key = state_key(status)
            if seen.get(status.address) != key:
                seen[status.address] = key
                if json_:
                    call.emit(as_plain(status), line=True)
                else:
                    click.echo(clean(one_line(status, watched.ceiling(status))))
        ended = look.ended
        sys.stdout.flush()
    return ended
