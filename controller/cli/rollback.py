"""`turnout rollback`: the way back as a commit, written as git writes a revert."""

from __future__ import annotations

import click

from controller.cli.call import Call, as_json, options, pass_call, person
from controller.cli.names import addresses


@click.command(name="rollback")
@click.argument("name", default="", shell_complete=addresses)
@click.option("--commit", metavar="COMMIT", default="", help="Revert this whole commit, as git revert does.")
@as_json
@options
@pass_call
def command(call: Call, name: str, commit: str, json_: bool) -> int:
    """Make the revert commit: of the last change of one resource, or of a whole commit (merges against their first parent).

    It only writes git. The controller makes it true, within seconds where one runs. Where git would have a conflict it
    refuses and changes nothing.
    """
    from controller.cli.text import clean, short
    from controller.clients.git import Identity

    if bool(name) == bool(commit):
        raise click.UsageError("give the name of a resource, or --commit COMMIT")
    with call.controller() as controller:
        who, email = person(controller)
        author = Identity(who, email or f"{who}@localhost") if who else None
        with call.busy("reverting"):
            done = controller.rollback(name, commit=commit, author=author)
    found = done.reverted
    if json_:
        call.emit(
            {"commit": done.commit, "reverts": found.id, "subject": found.subject, "author": found.author, "files": done.files}
        )
        return 0
    click.echo(clean(f'{short(done.commit)} reverts {short(found.id)} "{found.subject}" by {found.author}'))
    for path in done.files:
        click.echo(clean(f"  {path}"))
    click.echo("A running controller acts on it within seconds; where none runs: turnout apply")
    return 0
