"""`turnout validate`: every problem of the files, with place and nearest name; nothing of reality."""

from __future__ import annotations

import os

import click

from controller.cli.call import Call, as_json, options, pass_call


@click.command(name="validate")
@click.option("--commit", metavar="COMMIT", default="", help="Check this commit instead of the files of the work tree.")
@as_json
@options
@pass_call
def command(call: Call, commit: str, json_: bool) -> int:
    """Check the files of the desired state: those of the work tree, or of a commit.

    Exit code 1 when there is a problem.
    """
    from controller.cli.surroundings import warning
    from controller.cli.text import clean, plural
    from controller.errors import InvalidState

    with call.controller() as controller, call.busy("reading"):
        try:
            problems, count = controller.validate(worktree=not commit, commit=commit)
        except InvalidState as error:
            problems, count = list(error.problems), 0
        warned = warning(controller, os.environ, worktree=not commit, commit=commit)
    if warned:
        click.echo(clean(warned), err=True)
    if json_:
        told = [
            {"path": each.path, "line": each.line, "field": each.field, "message": each.message, "code": each.code}
            for each in problems
        ]
        call.emit({"resources": count, "problems": told})
        return 1 if problems else 0
    for problem in problems:
        click.echo(clean(str(problem)))
    click.echo(f"{plural(count, 'resource')}, {plural(len(problems), 'problem') if problems else 'no problems'}")
    return 1 if problems else 0
