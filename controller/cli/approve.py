"""`turnout approve`: a second person's yes, as a commit that everybody can read."""

from __future__ import annotations

import click

from controller.cli.call import Call, as_json, options, pass_call, person
from controller.cli.names import addresses


@click.command(name="approve")
@click.argument("names", nargs=-1, metavar="NAME...", shell_complete=addresses)
@click.option("--all", "all_", is_flag=True, help="Everything that waits for an approval.")
@as_json
@options
@pass_call
def command(call: Call, names: tuple[str, ...], all_: bool, json_: bool) -> int:
    """Approve what is planned for each NAME, up to the cost that the plan shows: a whole chain at once, if you like.

    It writes a commit without changes whose message holds the approval; your git identity signs for it, and it does not count
    for a file that you wrote yourself. A change of the file, or a higher cost, needs a new approval.
    """
    from controller.cli.text import clean, short
    from controller.clients.git import Identity

    if bool(names) == all_:
        raise click.UsageError("give the names of what you approve, or --all; `turnout plan` shows what waits")
    with call.controller() as controller:
        who, email = person(controller)
        if not who or not email:
            raise click.UsageError("git does not know who you are: git config user.name NAME; git config user.email ADDRESS")
        with call.busy("approving"):
            commit, lines = controller.approve(names, Identity(who, email))
    if json_:
        call.emit({"commit": commit, "lines": lines, "by": f"{who} <{email}>"})
        return 0
    for line in lines:
        click.echo(clean(f"{short(commit)} {line}"))
    click.echo("A running controller acts on it within seconds; where none runs: turnout apply")
    return 0
