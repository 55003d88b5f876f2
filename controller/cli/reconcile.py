"""`turnout reconcile`: the controller itself, until it is told to stop; with `--once`, what a CI job runs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import click

from controller.cli.call import Call, as_json, options, pass_call, stopping

if TYPE_CHECKING:
    from controller.events import Event


@click.command(name="reconcile")
@click.option("--once", is_flag=True, help="Until everything is done or waits, then end: for CI.")
@click.option("--no-wait", is_flag=True, help="With --once: leave runs of this machine to themselves.")
@as_json
@options
@pass_call
def command(call: Call, once: bool, no_wait: bool, json_: bool) -> int:
    """Be the controller: whenever the branch moves or something is due, make reality what git says.

    SIGTERM and SIGINT let it finish what it has started. With --once it stays until runs of this machine (a training, an
    evaluation) have ended; a SIGTERM reaches them, and the next controller goes on with what they kept.
    Exit code 0: done. 3: something waits for a person. 1: an error, or something failed and is tried again by the next run.
    """
    with call.controller() as controller:
        if once:
            from controller.cli.apply import settle

            return settle(call, controller, json_, wait=not no_wait)
        tell = _json_line(call) if json_ else _line
        told = (lambda text: call.emit({"error": text}, line=True)) if json_ else _text
        with stopping(controller):
            controller.run(told, tell)
    return 0


def _text(text: str) -> None:
    from controller.cli.text import clean

    click.echo(f"{datetime.now():%H:%M:%S} {clean(text)}")


def _line(event: Event) -> None:
    from controller.events import sentence

    _text(f"{event.sequence:04d} {sentence(event)}")


def _json_line(call: Call) -> Callable[[Event], None]:
    from controller.cli.text import event_as_json

    return lambda event: call.emit(event_as_json(event), line=True)
