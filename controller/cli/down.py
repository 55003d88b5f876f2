"""`turnout down`: stops what `turnout up` has started."""

from __future__ import annotations

import click

from controller.cli.call import Call, options, pass_call


@click.command(name="down")
@options
@pass_call
def command(call: Call) -> int:
    """Stop the environment on this machine. What it knows stays in git; caches and logs stay in .git/turnout."""
    from controller import local

    with call.busy("stopping"):
        local.down(call.repo, call.env, click.echo)
    return 0
