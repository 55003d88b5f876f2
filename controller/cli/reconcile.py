"""`turnout reconcile`: the controller itself, until it is told to stop; with `--once`, what a CI job runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import click

from controller.cli.call import Call, as_json, options, pass_call, stopping

if TYPE_CHECKING:
    from controller.app import Controller

EVENT = re.compile(r"^(\d{4,}) ")


@click.command(name="reconcile")
@click.option("--once", is_flag=True, help="Until everything is done or waits, then end: for CI.")
@as_json
@options
@pass_call
def command(call: Call, once: bool, json_: bool) -> int:
    """Be the controller: whenever the branch moves or something is due, make reality what git says.

    SIGTERM and SIGINT let it finish what it has started. With --once, exit code 0: done. 3: something waits for a person.
    1: an error, or something failed and is tried again by the next run.
    """
    with call.controller() as controller:
        if once:
            from controller.cli.apply import settle

            return settle(call, controller, json_)
        told = _json_lines(call, controller) if json_ else _lines
        with stopping(controller):
            controller.run(told)
    return 0


def _lines(text: str) -> None:
    from controller.cli.text import clean

    click.echo(f"{datetime.now():%H:%M:%S} {clean(text)}")


def _json_lines(call: Call, controller: Controller) -> Callable[[str], None]:
    """The loop tells sentences that begin with a sequence; the event behind each is read back from the log."""
    from controller.cli.text import event_as_json

    def told(text: str) -> None:
        found = EVENT.match(text)
        event = next(controller.events(after=int(found[1]) - 1), None) if found else None
        call.emit(event_as_json(event) if event else {"error": text}, line=True)

    return told
