"""`turnout plan`: what a pass would do, as text or as JSON. Changes nothing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from controller.cli.call import Call, as_json, options, pass_call

if TYPE_CHECKING:
    from controller.change import Plan


@click.command(name="plan")
@click.option("--worktree", is_flag=True, help="Of the files as they are, committed or not.")
@click.option("--commit", metavar="COMMIT", default="", help="Of this commit instead of the branch.")
@click.option("--all", "everything", is_flag=True, help="Show also what stays as it is.")
@as_json
@options
@pass_call
def command(call: Call, worktree: bool, commit: str, everything: bool, json_: bool) -> int:
    """Show what would be done, why, what it costs, and what a later revert undoes.

    Exit code 0: nothing to do. 2: there are changes. 1: an error, or a file cannot be used.
    """
    if worktree and commit:
        raise click.UsageError("--worktree and --commit are two different plans; choose one")
    from controller.cli.surroundings import warning
    from controller.cli.text import clean

    with call.controller() as controller:
        with call.busy("planning"):
            plan, planned = controller.plan(worktree=worktree, commit=commit)
            warned = warning(controller, os.environ, worktree=worktree, commit=commit)
        if warned:
            click.echo(clean(warned), err=True)
        if json_:
            from controller.cli.text import masked
            from controller.schemas import plan_as_json

            call.emit(masked(plan_as_json(plan)))
            return exit_code(plan)
        from controller.cli.plan_text import Origins, show

        kept = [(row.address, row.reason) for row in planned.rows.values()] if everything else []
        show(call.console(), plan, Origins(controller, planned, worktree), kept, everything=everything)
    return exit_code(plan)


def exit_code(plan: Plan) -> int:
    if plan.problems or any(wait.code == "Quarantined" for change in plan.changes for wait in change.conditions):
        return 1
    return 2 if plan.active or plan.pending else 0
