"""`turnout schemas`: JSON Schemas of every kind, the environment, the event and the plan, for editors and other tools."""

from __future__ import annotations

from pathlib import Path

import click

from controller.cli.call import Call, options, pass_call

Folder = click.Path(file_okay=False, path_type=Path)


@click.command(name="schemas")
@click.option("--write", "write_", metavar="DIR", type=Folder, help="Write one file a schema.")
@click.option("--check", "check_", metavar="DIR", type=Folder, help="Exit code 1 when a file there is stale.")
@options
@pass_call
def command(call: Call, write_: Path | None, check_: Path | None) -> int:
    """Print the JSON Schemas as one document, write them to a folder, or check that a folder has them."""
    from controller.schemas import all_schemas, text_of

    with call.busy("generating"):
        schemas = {name: text_of(schema) for name, schema in sorted(all_schemas().items())}
    if write_:
        write_.mkdir(parents=True, exist_ok=True)
        for name, text in schemas.items():
            (write_ / name).write_text(text)
            click.echo(f"wrote {write_ / name}")
    if check_:
        stale = [name for name, text in schemas.items() if _read(check_ / name) != text]
        for name in stale:
            click.echo(f"{check_ / name} is stale or missing; `turnout schemas --write {check_}` writes it", err=True)
        return 1 if stale else 0
    if not write_:
        call.emit(all_schemas())
    return 0


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""
