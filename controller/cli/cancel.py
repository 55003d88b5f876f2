"""`turnout cancel`: ends a run that goes on, by a commit that takes its file away. The controller does the rest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from controller.cli.call import Call, as_json, options, pass_call, person
from controller.cli.names import addresses

if TYPE_CHECKING:
    from controller.address import Address
    from controller.cli.watch import Watched
    from controller.health import Status
    from controller.rollback import Cancelled

STAYS = {
    "TrainingRequest": "its checkpoints, and what a job was given, stay where they are",
    "Evaluation": "calls under way finish, because they are paid; no other is made",
    "Rollout": "all sessions go back to the stable version",
}
"""What ending a run leaves behind, by its kind."""


@click.command(name="cancel")
@click.argument("name", shell_complete=addresses)
@click.option("--message", "-m", metavar="TEXT", default="", help="Subject of the commit.")
@click.option("--everywhere", is_flag=True, help="Also where other environments run it from the same file.")
@click.option("--follow", is_flag=True, help="Wait until it has ended (exit code 1 if otherwise than by this).")
@click.option("--timeout", metavar="SECONDS", type=click.FloatRange(min=0), default=None, help="With --follow: give up after this.")
@as_json
@options
@pass_call
def command(call: Call, name: str, message: str, everywhere: bool, follow: bool, timeout: float | None, json_: bool) -> int:
    """Stop a run that goes on: a training, an evaluation, a conversion or a rollout.

    It writes a commit without the run's file. The controller acts on it, within seconds where one runs. What was spent stays
    spent, and what has ended stays as it ended. Under the same name it never starts again.
    """
    from controller.cli import watch
    from controller.clients.git import Identity

    if timeout is not None and not follow:
        raise click.UsageError("--timeout is for --follow")
    with call.controller() as controller:
        address = watch.meant(controller, name)[0]
        watched = watch.Watched(controller, address, position=max((each.sequence for each in controller.events()), default=0))
        who, email = person(controller)
        author = Identity(who, email or f"{who}@localhost") if who else None
        with call.busy("looking"):
            statuses = controller.status()
        with call.busy("writing the commit"):
            done = controller.cancel(str(address), message, everywhere=everywhere, author=author)
        before = next((each for each in statuses if each.address == address), None)
        _tell(call, watched, before, done, _waiting(statuses, address), json_=json_, line=follow)
        if not follow or not done.started:
            return 0
        return watch.follow(call, watched, None, timeout, json_=json_, good=("cancelled",))


def _waiting(statuses: Iterable[Status], address: Address) -> list[str]:
    """Who waits for it, and will wait on."""
    return [
        str(each.address) for each in statuses if address in each.past.conditions.get("Reference", "").replace("|", " ").split()
    ]


def _tell(
    call: Call, watched: Watched, before: Status | None, done: Cancelled, waiting: list[str], *, json_: bool, line: bool
) -> None:
    """The commit, what it stops, what was spent, and what stays."""
    from controller.cli.runs import going, money, pace, place
    from controller.cli.text import clean, short

    found, ceiling = (pace(before), watched.ceiling(before)) if before else (None, None)
    if json_:
        plain = {"address": done.address, "commit": done.commit, "files": done.files, "started": done.started}
        call.emit({**plain, "cost_usd": found.cost if found else None, "ceiling_usd": ceiling, "waiting": waiting}, line=line)
        return
    click.echo(clean(f"{short(done.commit)} takes {' and '.join(done.files)} away"))
    if not done.started:
        click.echo(f"  {done.address} had not started; nothing was spent")
    elif before and found:
        spent = money(found, ceiling) or "nothing was spent"
        click.echo(clean(f"  {done.address} was {', '.join(each for each in (place(before), going(found), spent) if each)}"))
        click.echo(f"  {STAYS.get(done.address.kind, 'what it has made so far stays')}; what was spent stays spent")
    for each in waiting:
        click.echo(f"  {each} waits for it, and will wait on: cancel it too, or have it refer to another run")
    click.echo("A running controller acts on it within seconds; where none runs: turnout apply")
