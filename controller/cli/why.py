"""`turnout why NAME`: from what runs now back to the line of YAML, its author and its review."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from controller.cli.call import Call, as_json, options, pass_call
from controller.cli.names import addresses

if TYPE_CHECKING:
    from rich.console import Console

    from controller.app import Link

TITLES = {
    "runs": "What runs now",
    "event": "What the controller did, newest first",
    "related": "What went with it",
    "rollout": "What let it be there",
    "evaluation": "What let it be there",
    "conversion": "What let it be there",
    "training": "What let it be there",
    "approval": "What let it be there",
    "plan": "The plan",
    "commit": "The commit",
    "review": "The commit",
    "cause": "The commit",
    "file": "The file",
}


@click.command(name="why")
@click.argument("name", shell_complete=addresses)
@as_json
@options
@pass_call
def command(call: Call, name: str, json_: bool) -> int:
    """Walk from what runs now back to the line of YAML that says so, its author and its review."""
    with call.controller() as controller:
        with call.busy("reading the log"):
            address, links = controller.address(name), controller.why(name)
        if json_:
            call.emit(
                {
                    "address": str(address),
                    "chain": [
                        {"what": link.what, "text": link.text, "commit": link.commit, "sequence": link.sequence} for link in links
                    ],
                }
            )
        else:
            _show(call.console(), str(address), links)
    return 0


def _show(console: Console, address: str, links: Sequence[Link]) -> None:
    from controller.cli.text import short, styled, write

    write(console, styled(address, "bold"))
    title = ""
    for link in links:
        if TITLES.get(link.what, link.what) != title:
            title = TITLES.get(link.what, link.what)
            write(console, styled(title, "bold cyan"), indent=2)
        where = f"{link.sequence:04d}" if link.sequence else ""
        commit = f" ({short(link.commit)})" if link.commit else ""
        role = f"{link.what}: " if TITLES.get(link.what) == TITLES["training"] else ""
        text = styled(f"{where:4}  " if where else "", "dim") + styled(role, "dim") + styled(link.text) + styled(commit, "dim")
        write(console, text, indent=4, hang=6)
