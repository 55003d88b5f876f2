"""`turnout registry`: the versions of each agent, from the log alone, and the documents that other tools read and wrote."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controller.cli.call import Call, as_json, options, pass_call, person
from controller.cli.names import addresses

if TYPE_CHECKING:
    from controller.app import Controller

TABLE, FLAT, PER_AGENT = "table", "registry.json", "per-agent.json"
Agents = Mapping[str, Mapping[str, Any]]


@click.command(name="registry")
@click.argument("agent", default="", shell_complete=addresses)
@click.argument("version", default="")
@click.option("--compare", nargs=2, metavar="V1 V2", default=None, help="Two versions of the agent side by side.")
@click.option("--format", "form", type=click.Choice([TABLE, FLAT, PER_AGENT]), default=TABLE, show_default=True)
@click.option(
    "--output", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Replace this file with the document."
)
@click.option(
    "--import",
    "source",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Take over what a registry.json of before says; either form.",
)
@as_json
@options
@pass_call
def command(
    call: Call,
    agent: str,
    version: str,
    compare: tuple[str, str] | None,
    form: str,
    output: Path | None,
    source: Path | None,
    json_: bool,
) -> int:
    """Show which versions an agent has had, what they were made from, how they were judged, where they run and what they cost.

    With VERSION (a label, champion, candidate or previous) one of them in full. --json is --format per-agent.json.
    """
    _check(agent, version, compare, form, output, source)
    with call.controller() as controller:
        if source is not None:
            return _import(call, controller, source, json_)
        with call.busy("reading the log"):
            agents = _chosen(controller.registry(), agent)
        if compare or version:
            _versions(call, controller, agent, agents[agent], compare or (version,), json_)
        elif output is not None or json_ or form != TABLE:
            _document(call, agents, form, output)
        elif not agents:
            controller.addresses()  # tells a wrong name of the environment
            click.echo("no agent has had a version yet")
        else:
            from controller.cli.registry_text import table

            table(call.console(), controller.repository, agents)
    return 0


def _check(agent: str, version: str, compare: object, form: str, output: Path | None, source: Path | None) -> None:
    if source is not None and (agent or compare or output or form != TABLE):
        raise click.UsageError("--import stands alone: the file says which agents it is about")
    if compare and not agent:
        raise click.UsageError("--compare needs the agent: turnout registry AGENT --compare V1 V2")
    if compare and version:
        raise click.UsageError("either VERSION or --compare V1 V2")
    if (compare or version) and (output or form != TABLE):
        raise click.UsageError("--format and --output are for whole documents; of versions --json tells everything")


def _chosen(agents: Agents, agent: str) -> Agents:
    from controller.errors import NotFound, listed, nearest

    if agent and agent not in agents:
        raise NotFound(f"no agent is called {agent!r}{nearest(agent, agents)}", f"known: {listed(agents)}")
    return {agent: agents[agent]} if agent else agents


def _import(call: Call, controller: Controller, source: Path, json_: bool) -> int:
    import dataclasses

    from controller.cli.text import clean, plural
    from controller.errors import TurnoutError

    try:
        content = source.read_bytes()
    except OSError as error:
        raise TurnoutError(f"{source} cannot be read: {error.strerror or error}") from error
    done = controller.import_registry(content, source.name, person(controller)[0] or getpass.getuser())
    if json_:
        call.emit(dataclasses.asdict(done))
        return 0
    what = f"{plural(done.versions, 'version')} of {plural(done.agents, 'agent')}"
    if done.already:
        click.echo(clean(f"nothing to do: this content was imported before (event {done.sequence:04d}, {what})"))
    else:
        click.echo(clean(f"imported {what} from {source.name} (event {done.sequence:04d}, sha256 {done.digest[:12]})"))
    return 0


def _versions(
    call: Call, controller: Controller, agent: str, state: Mapping[str, Any], names: tuple[str, ...], json_: bool
) -> None:
    from controller.cli.registry_text import one, two
    from controller.projections.version_views import compared, version_of, whole

    found = [version_of(agent, state, name) for name in names]
    if len(found) == 1:
        document = whole(state, found[0])
        if json_:
            call.emit({"agent": agent, **document})
        else:
            one(call.console(), controller.repository, agent, document)
        return
    both = compared(agent, state, found[0], found[1])
    if json_:
        call.emit(both)
    else:
        two(call.console(), both)


def _document(call: Call, agents: Agents, form: str, output: Path | None) -> None:
    from controller.cli.output import replace
    from controller.projections.version_views import flat, per_agent
    from controller.registry_file import dump

    document = flat(agents) if form == FLAT else per_agent(agents)
    if output is None:
        call.emit(document)
        return
    replace(output, dump(document))
    click.echo(f"wrote {output}", err=True)
