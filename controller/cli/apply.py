"""`turnout apply`: the plan, a question where a person sits, then passes until everything is done or waits."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from controller.cli.call import Call, as_json, options, pass_call, stopping

if TYPE_CHECKING:
    from controller.app import Controller
    from controller.events import Event


@click.command(name="apply")
@click.option("--yes", "-y", is_flag=True, help="Do not ask. Approvals come from git; the question only guards the wrong window.")
@click.option("--no-wait", is_flag=True, help="Leave runs of this machine (a training, an evaluation) to themselves.")
@as_json
@options
@pass_call
def command(call: Call, yes: bool, no_wait: bool, json_: bool) -> int:
    """Show the plan of the branch, then do it and tell what happened. Runs of this machine are waited for.

    Exit code 0: done. 3: something waits for a person. 1: an error, or something failed and is tried again later.
    """
    from controller.cli.plan_text import Origins, show

    with call.controller() as controller:
        with call.busy("planning"):
            plan, planned = controller.plan()
        if not json_:
            show(call.console(), plan, Origins(controller, planned, False))
        if plan.active and not yes and not json_ and sys.stdin.isatty():
            click.confirm(f"\nDo this in {controller.environment}?", abort=True)
        return settle(call, controller, json_, {"plan": plan.digest}, wait=not no_wait)


def settle(call: Call, controller: Controller, json_: bool, more: dict[str, str] | None = None, *, wait: bool = True) -> int:
    """Passes until nothing moves; tells every event and what is left open. Also what `reconcile --once` does."""
    from controller.cli.waits import exit_code, still_open

    with stopping(controller) as came, call.busy("reconciling"):
        result = controller.settle_here() if wait else controller.settle()
        left = still_open(controller, result.plan)
    code = 130 if came else exit_code(left)
    if json_:
        from controller.cli.text import event_as_json

        call.emit(
            {
                **(more or {}),
                "environment": controller.environment,
                "commit": result.commit,
                "position": result.position,
                "events": [event_as_json(event) for event in result.events],
                "open": [each.as_json() for each in left],
                "exit": code,
            }
        )
        return code
    _tell(call, result.events)
    for each in left:
        who = "waits for a person" if each.person else "failed, is tried again"
        click.echo(f"{who}: {each.address}: {_clean(each.reason)} ({each.code})")
    if came:
        click.echo("interrupted; what had started is finished or keeps what it has, the rest is done by the next pass", err=True)
    elif not left:
        click.echo(f"{controller.environment} is as {result.commit[:7]} says.")
    return code


def _tell(call: Call, events: tuple[Event, ...]) -> None:
    from controller.cli.log import line

    console = call.console()
    shown = [event for event in events if not event.type.startswith("turnout.lease.")]
    if shown:
        console.print()
    for event in shown:
        line(console, event)


def _clean(text: str) -> str:
    from controller.cli.text import clean

    return clean(text)
