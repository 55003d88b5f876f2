"""`turnout report NAME`: the report of an evaluation, from the log alone."""

from __future__ import annotations

from pathlib import Path

import click

from controller.cli.call import Call, as_json, options, pass_call
from controller.cli.names import addresses


@click.command(name="report")
@click.argument("name", shell_complete=addresses)
@click.option(
    "--html", "page", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write one page with answers and plots."
)
@as_json
@options
@pass_call
def command(call: Call, name: str, page: Path | None, json_: bool) -> int:
    """Show the report of an evaluation as Markdown for a pull request.

    It is made from the event log alone: any clone can make it, years later.
    """
    import msgspec

    from controller.errors import NotFound
    from controller.reports import as_html, as_markdown, record_of

    with call.controller() as controller:
        with call.busy("reading the log"):
            known = {address for address in controller.addresses() if address.kind == "Evaluation"}
            if not known:
                raise NotFound("there is no evaluation", "docs/kinds/evaluation.md shows how to write one")
            address = controller.address(name, known=known)
            record = record_of(controller.events(str(address)), str(address))
        if page is not None:
            page.write_text(as_html(record), encoding="utf-8")
        if json_:
            call.emit(msgspec.to_builtins(record))
        elif page is not None:
            click.echo(f"wrote {page}")
        else:
            click.echo(as_markdown(record), nl=False)
    return 0
