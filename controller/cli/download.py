"""`turnout download NAME`: the GGUF files of a finished conversion, from this machine or from the Hub, checked by its events."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from controller.cli.call import Call, as_json, options, pass_call
from controller.cli.names import addresses

Told = Callable[[int, int], None]


@click.command(name="download")
@click.argument("name", shell_complete=addresses)
@click.option("--quantization", "-q", metavar="NAME", multiple=True, help="Only this one, for example Q4_K_M; may be given again.")
@click.option(
    "--to",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder for the files; default: here.",
)
@as_json
@options
@pass_call
def command(call: Call, name: str, quantization: tuple[str, ...], to: Path, json_: bool) -> int:
    """Fetch the GGUF files of a conversion that has succeeded.

    A download that was cut off goes on where it was; a file that is there already is only checked. The sha256 in the event log
    decides.
    """
    from controller.cli.text import clean

    fetched = []
    with call.controller() as controller:
        with call.busy("reading the log"):
            address, state = controller.conversion(name)
        sizes = {each["quantization"]: each for each in state["files"]}
        for wanted in [each.upper() for each in quantization] or list(sizes):
            with shown(call, str(sizes.get(wanted, {}).get("name", wanted))) as told:
                path = controller.download(str(address), wanted, to, told)
            row = {"address": str(address), **sizes[wanted], "path": str(path)}
            fetched.append(row)
            if not json_:
                click.echo(clean(f"{path}  {row['bytes'] / 1e6:.1f} MB  sha256 {row['sha256']}"))
    if json_:
        call.emit(fetched)
    return 0


@contextlib.contextmanager
def shown(call: Call, name: str) -> Iterator[Told]:
    """A bar on stderr where a person looks; nothing on a pipe."""
    if not sys.stderr.isatty():
        yield lambda done, of: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=call.console(errors=True), transient=True) as bars:
        task = bars.add_task(name, total=None)
        yield lambda done, of: bars.update(task, completed=done, total=of)
