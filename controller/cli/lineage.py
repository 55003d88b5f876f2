"""`turnout lineage`: what a version came from and led to as a tree, or as OpenLineage events for other tools."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controller.cli.call import Call, options, pass_call
from controller.cli.names import addresses

if TYPE_CHECKING:
    from rich.console import Console

    from controller.projections.lineage_tree import Graph, Line, Node

STYLE = {"COMPLETE": "green", "FAIL": "red", "ABORT": "yellow", "START": "cyan", "RUNNING": "cyan"}
ENDS = {"START": "running", "RUNNING": "running", "FAIL": "failed", "ABORT": "aborted"}


@click.command(name="lineage")
@click.argument("name", default="", shell_complete=addresses)
@click.option("--format", "form", type=click.Choice(["tree", "openlineage"]), default="tree", show_default=True)
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Replace this file with the OpenLineage events, one a line.",
)
@click.option("--post", "url", metavar="URL", default="", help="Send the OpenLineage events to this server.")
@options
@pass_call
def command(call: Call, name: str, form: str, output: Path | None, url: str) -> int:
    """Show what came before and after a resource: data set, training, artefact, evaluation, rollout, binding.

    Without NAME: of every binding; with --format openlineage: everything, as run events of OpenLineage (one JSON object a line).
    """
    from controller.projections.lineage_tree import Graph

    with call.controller() as controller, call.busy("reading the log"):
        events = controller.lineage()
        graph = Graph(events)
        start = _start(graph, str(controller.address(name))) if name else None
        if not name and not events:
            controller.addresses()  # tells a wrong name of the environment
        if start is not None:
            wanted = graph.connected(start)
            events = [event for event in events if event["run"]["runId"] in wanted]
        if url:
            controller.send_lineage([_line(event).encode() for event in events], url)
    if url:
        click.echo(f"sent {len(events)} events", err=True)
    if output is not None:
        from controller.cli.output import replace

        replace(output, "".join(f"{_line(event)}\n" for event in events).encode())
        click.echo(f"wrote {len(events)} events to {output}", err=True)
    elif url:
        pass
    elif form == "openlineage":
        for event in events:
            click.echo(_line(event))
    else:
        starts = [start] if start else [found for job in graph.jobs("ModelBinding") if (found := graph.newest(job))]
        _show(call.console(), graph, starts)
    return 0


def _start(graph: Graph, address: str) -> Node:
    from controller.errors import NotFound

    found = graph.newest(address)
    if found is None:
        raise NotFound(
            f"{address} has no lineage", "trainings, evaluations, conversions, rollouts and bindings have one, once they began"
        )
    return found


def _line(event: dict[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"), default=str)


def _show(console: Console, graph: Graph, starts: Sequence[Node]) -> None:
    from controller.cli.text import styled, write

    if not starts:
        write(console, "nothing has run yet")
    for start in starts:
        write(console, styled(start.job, "bold"))
        for title, lines in (("Came from", graph.upstream(start)), ("Led to", graph.downstream(start))):
            found = list(lines)
            if found:
                write(console, styled(title, "bold cyan"), indent=2)
                _tree(console, found)


def _tree(console: Console, lines: Iterable[Line]) -> None:
    from controller.cli.text import short, styled, write

    for line in lines:
        if line.what == "data":
            write(console, styled(f"- {line.text}", "dim"), indent=4 + 2 * line.depth, hang=2)
            continue
        state = f" [{ENDS[line.state]}]" if line.state in ENDS else ""
        where = ", ".join(part for part in (f"{line.sequence:04d}" if line.sequence else "", short(line.commit)) if part)
        again = " (see above)" if line.seen else ""
        text = styled(line.text) + styled(state, STYLE.get(line.state, "")) + styled(f" ({where}){again}", "dim")
        write(console, text, indent=4 + 2 * line.depth, hang=2)
