"""`turnout down`: stops what `turnout up` has started."""

from __future__ import annotations

import click

from controller.cli.call import Call, options, pass_call


@click.command(name="down")
@click.option("--rehearse", is_flag=True, help="The rehearsal, not the environment itself.")
@options
@pass_call
def command(call: Call, rehearse: bool) -> int:
    """Stop the environment on this machine. What it knows stays in git; caches and logs stay in .git/turnout."""
    from controller import local, rehearsal

    with call.busy("stopping"):
        (rehearsal.end if rehearse else local.down)(call.repo, call.env, click.echo)
    return 0
