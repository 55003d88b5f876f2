"""`turnout approve`: a second person's yes, as a commit that everybody can read."""

from __future__ import annotations

import click

from controller.cli.call import Call, as_json, options, pass_call, person
from controller.cli.names import addresses


@click.command(name="approve")
@click.argument("name", shell_complete=addresses)
@as_json
@options
@pass_call
def command(call: Call, name: str, json_: bool) -> int:
    """Approve what is planned for NAME, up to the cost that the plan shows.

    It writes a commit without changes whose message holds the approval; your git identity signs for it, and it does not count
    for a file that you wrote yourself. A change of the file, or a higher cost, needs a new approval.
    """
    from controller.cli.text import clean, short
    from controller.clients.git import Identity

    with call.controller() as controller:
        who, email = person(controller)
        if not who or not email:
            raise click.UsageError("git does not know who you are: git config user.name NAME; git config user.email ADDRESS")
        with call.busy("approving"):
            commit, line = controller.approve(name, Identity(who, email))
    if json_:
        call.emit({"commit": commit, "line": line, "by": f"{who} <{email}>"})
        return 0
    click.echo(clean(f"{short(commit)} {line}"))
    click.echo("A running controller acts on it within seconds; where none runs: turnout apply")
    return 0
