"""`turnout log`: the event log in sentences, followed live, or as CloudEvents; `log verify` proves it whole."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from controller.cli.call import Call, as_json, options, pass_call
from controller.cli.lazy import Lazy
from controller.cli.names import addresses

if TYPE_CHECKING:
    from rich.console import Console

    from controller.app import Controller
    from controller.events import Event

LOOK_SECONDS = 0.2
REMOTE_SECONDS = 10.0


@click.group(name="log", cls=Lazy, invoke_without_command=True)
@click.option("--follow", "-f", is_flag=True, help="Go on telling what happens.")
@click.option("--subject", metavar="NAME", default="", shell_complete=addresses, help="Only about this resource.")
@click.option("--type", "type_", metavar="TYPE", default="", help="Only this type, as in action.failed or action.")
@click.option("--limit", "-n", type=click.IntRange(min=0), default=None, help="Only the newest N.")
@as_json
@options
@click.pass_context
def command(context: click.Context, follow: bool, subject: str, type_: str, limit: int | None, json_: bool) -> int | None:
    """Tell the event log: sequence, time, commit, actor and what happened. With --json, CloudEvents, one a line."""
    if context.invoked_subcommand:
        return None
    call = context.ensure_object(Call)
    with call.controller() as controller:
        wanted = _subject(controller, subject)
        console = call.console()
        last = 0
        found: deque[Event] = deque(maxlen=limit)
        for event in controller.events():
            last = event.sequence
            if _wanted(event, wanted, type_):
                found.append(event)
        for event in found:
            _write(call, console, event, json_)
        if not last:
            controller.addresses()  # tells a wrong name of the environment
        if not found and not follow and not json_:
            click.echo("no events" if wanted or type_ else f"the log of {controller.environment} is empty", err=True)
        if follow:
            for event in following(controller, last):
                if _wanted(event, wanted, type_):
                    _write(call, console, event, json_)
    return 0


@command.command()
@options
@pass_call
def verify(call: Call) -> int:
    """Read the whole log and check its chain and its sequence. Trusts no cache."""
    with call.controller() as controller:
        with call.busy("reading the whole log"):
            count = controller.verify_log()
        click.echo(f"{count} event{'' if count == 1 else 's'}, chain and sequence are whole")
    return 0


def following(controller: Controller, after: int) -> Iterator[Event]:
    """Events as they come, until interrupted. A ref is looked at; the log is read only when it has moved."""
    ref, seen, due = f"refs/heads/events/{controller.environment}", "", 0.0
    while not controller.stopping.is_set():
        tip = controller.repository.tip(ref) or ""
        if tip != seen or time.monotonic() >= due:
            seen, due = tip, time.monotonic() + REMOTE_SECONDS
            for event in controller.events(after=after):
                after = event.sequence
                yield event
        controller.stopping.wait(LOOK_SECONDS)


def _subject(controller: Controller, name: str) -> str:
    """The address that a name means; a path of a quarantined file stays a path."""
    from controller.errors import NotFound

    if not name:
        return ""
    try:
        return str(controller.address(name))
    except NotFound:
        if any(event.subject == name for event in controller.events()):
            return name
        raise


def _wanted(event: Event, subject: str, type_: str) -> bool:
    if subject and event.subject != subject:
        return False
    name = event.type.removeprefix("turnout.")
    return not type_ or event.type == type_ or name.startswith(f"{type_}.") or name.rpartition(".")[0] == type_


def _write(call: Call, console: Console, event: Event, json_: bool) -> None:
    if json_:
        from controller.cli.text import event_as_json

        call.emit(event_as_json(event), line=True)
    else:
        line(console, event)


def line(console: Console, event: Event) -> None:
    """One event for people."""
    from controller.cli.text import moment, styled, write
    from controller.events import sentence

    name = event.type.removeprefix("turnout.")
    style = "red" if name.startswith("action.failed") else "yellow" if name.startswith("condition.raised") else ""
    at = moment(event.at) if event.time else ""
    head = styled(f"{event.sequence:04d}  {at}  {event.statecommit[:7]:7}  {event.actor}  ", "dim")
    write(console, head + styled(sentence(event), style), hang=6)
