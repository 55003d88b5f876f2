"""`turnout retry NAME`: a person asks for another try of what has failed for good."""

from __future__ import annotations

import getpass

import click

from controller.cli.call import Call, as_json, options, pass_call, person
from controller.cli.names import addresses


@click.command(name="retry")
@click.argument("name", shell_complete=addresses)
@as_json
@options
@pass_call
def command(call: Call, name: str, json_: bool) -> int:
    """Ask for another try of something that failed. The controller does it; where none runs, `turnout apply` does."""
    with call.controller() as controller, call.busy("writing the log"):
        address = controller.retry(name, person(controller)[0] or getpass.getuser())
    if json_:
        call.emit({"address": str(address), "requested": True})
    else:
        click.echo(f"{address}: another try is asked for; a running controller makes it, or turnout apply")
    return 0
