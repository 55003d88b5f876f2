"""`turnout watch`: rollouts as they go, redrawn on a terminal, one line a change on a pipe."""

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
    from controller.app import Controller, Status
    from controller.events import Event

GOOD_ENDS = ("promoted", "completed")


@click.command(name="watch")
@click.argument("name", default="", shell_complete=addresses)
@click.option("--timeout", metavar="SECONDS", type=click.FloatRange(min=0), default=None, help="Give up after this (exit code 1).")
@click.option(
    "--interval", metavar="SECONDS", type=click.FloatRange(min=0.05), default=1.0, show_default=True, help="How often to look."
)
@as_json
@options
@pass_call
def command(call: Call, name: str, timeout: float | None, interval: float, json_: bool) -> int:
    """Follow rollouts: step, weight, time held, and the figures that they are judged by.

    With the name of a rollout (or of a binding that has one running) it ends when that has ended: exit code 0 when it was
    promoted or completed, 1 when not.
    """
    with call.controller() as controller, stopping(controller) as came:
        watched = Watched(controller, _rollout(controller, name) if name else None)
        looks = _looks(watched, interval, timeout)
        if json_:
            ended = _lines(call, looks, json_=True)
        elif sys.stdout.isatty():
            ended = _live(call, looks)
        else:
            ended = _lines(call, looks, json_=False)
        if came:
            return 130 if watched.only and not ended else 0
    if not ended:
        click.echo(f"error: {watched.only or 'it'} has not ended after {timeout:g} s", err=True)
        return 1
    if ended not in GOOD_ENDS and not json_:
        click.echo(f"{watched.only} was {ended}: {watched.verdict}", err=True)
    return 0 if ended in GOOD_ENDS else 1


def _rollout(controller: Controller, name: str) -> Address:
    """The rollout that a name means: itself, or the one that runs for a binding of that name."""
    from controller.errors import NotFound

    rollouts = {address for address in controller.addresses() if address.kind == "Rollout"}
    found = [each for each in rollouts if name in (each.name, str(each)) or name.endswith(f"rollouts/{each.name}.yaml")]
    if found:
        return found[0]
    for status in controller.status(live=False):
        if status.past.running and (status.past.after or {}).get("binding") == name.removeprefix("ModelBinding/"):
            return status.address
    address = controller.address(name, known=rollouts | controller.addresses())
    raise NotFound(f"no rollout of {address} runs", "`turnout watch` without a name waits for one")


@dataclass
class Look:
    """What is seen at one moment: rollouts that run, what happened since the last look, and how the followed one ended."""

    rollouts: list[Status]
    events: list[Event]
    ended: str = ""
    verdict: str = ""


@dataclass
class Watched:
    """Rollouts of one environment over time. `only` = the one to follow to its end."""

    controller: Controller
    only: Address | None = None
    position: int = 0
    begun: bool = False
    ended: str = ""
    verdict: str = ""
    bindings: dict[str, str] = field(default_factory=dict)

    def look(self) -> Look:
        events = [event for event in self.controller.events(after=self.position) if self._mine(event)]
        if not self.begun and not self.only:
            events = []
        self.begun = True
        rollouts = [each for each in self.controller.status() if each.address.kind == "Rollout"]
        rollouts = [each for each in rollouts if self.only in (None, each.address)]
        return Look(rollouts, events, self.ended, self.verdict)

    def _mine(self, event: Event) -> bool:
        self.position = max(self.position, event.sequence)
        if not event.subject.startswith("Rollout/") or self.only not in (None, event.subject):
            return False
        if self.only and event.type == "turnout.action.succeeded.v1" and event.data.get("ends"):
            self.ended = str(event.data["ends"])
            self.verdict = str((event.data.get("after") or {}).get("verdict") or event.data.get("said") or self.verdict)
        elif event.type == "turnout.action.started.v1" and not self.ended:
            self.verdict = str(event.data.get("reason", ""))
        return True


def _looks(watched: Watched, interval: float, timeout: float | None) -> Iterator[Look]:
    """One look after the other, until the followed rollout has ended, time is over, or somebody interrupts."""
    end = time.monotonic() + timeout if timeout is not None else None
    while not watched.controller.stopping.is_set():
        look = watched.look()
        yield look
        if look.ended or (end is not None and time.monotonic() >= end):
            return
        left = interval if end is None else min(interval, end - time.monotonic())
        watched.controller.stopping.wait(max(0.0, left))


def _live(call: Call, looks: Iterable[Look]) -> str:
    from rich.console import Group
    from rich.live import Live

    from controller.cli.watch_text import paragraphs

    console, ended = call.console(), ""
    story: list[Event] = []
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        for look in looks:
            story = [*story, *look.events][-8:]
            live.update(Group(*paragraphs(look, story)), refresh=True)
            ended = look.ended
    return ended


def _lines(call: Call, looks: Iterable[Look], *, json_: bool) -> str:
    """Events, and each rollout whenever its step, weight, phase or conditions have changed; moving figures alone are no line."""
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
        for status in look.rollouts:
            after = status.past.after or {}
            key = (after.get("phase"), after.get("step"), after.get("weight"), sorted(status.past.conditions))
            if seen.get(status.address) != key:
                seen[status.address] = key
                if json_:
                    call.emit(as_plain(status), line=True)
                else:
                    click.echo(clean(one_line(status)))
        ended = look.ended
        sys.stdout.flush()
    return ended
