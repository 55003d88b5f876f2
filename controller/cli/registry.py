"""`turnout registry`: the versions of each agent, from the log alone, and the documents that other tools read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from controller.cli.call import Call, as_json, options, pass_call
from controller.cli.names import addresses

if TYPE_CHECKING:
    from controller.app import Controller

FORMS = ["table", "registry.json", "per-agent.json"]
STYLE = {"deployed": "green", "canary": "cyan", "promoted": "cyan", "aborted": "red", "retired": "dim"}


@click.command(name="registry")
@click.argument("agent", default="", shell_complete=addresses)
@click.option("--format", "form", type=click.Choice(FORMS), default="table", show_default=True)
@as_json
@options
@pass_call
def command(call: Call, agent: str, form: str, json_: bool) -> int:
    """Show which versions an agent has had, where they run, who deployed them and from which commit.

    --json is --format per-agent.json.
    """
    from controller.errors import NotFound, listed, nearest
    from controller.projections.registry import flat, per_agent

    with call.controller() as controller:
        with call.busy("reading the log"):
            agents = controller.registry()
        if agent and agent not in agents:
            raise NotFound(f"no agent is called {agent!r}{nearest(agent, agents)}", f"known: {listed(agents)}")
        chosen = {agent: agents[agent]} if agent else agents
        if json_ or form == "per-agent.json":
            call.emit(per_agent(chosen))
        elif form == "registry.json":
            call.emit(flat(chosen))
        elif not chosen:
            controller.addresses()  # tells a wrong name of the environment
            click.echo("no agent has had a version yet")
        else:
            _table(call, controller, chosen)
    return 0


def _table(call: Call, controller: Controller, agents: Mapping[str, Mapping[str, Any]]) -> None:
    from controller.cli.text import rows, short, styled
    from controller.projections.registry import aliases, versions_of

    console = call.console()
    titles = ("AGENT", "VERSION", "ALIAS", "STATUS", "MODEL", "ENDPOINT", "DEPLOYED", "BY", "COMMIT", "ROLLOUT", "SCORE")
    table = [[styled(title, "bold") for title in titles]]
    for agent, state in sorted(agents.items()):
        named = {version: alias for alias, version in aliases(state).items()}
        for each in reversed(versions_of(state)):
            current = each["status"] in ("deployed", "canary", "promoted")
            commit = each.get("commit", "")
            score = each.get("evaluation_score")
            table.append(
                [
                    styled(cell, style)
                    for cell, style in (
                        (agent, "bold"),
                        (each["version"], ""),
                        (named.get(each["version"], "") if current else "", "cyan"),
                        (each["status"], STYLE.get(each["status"], "")),
                        (each["model"], ""),
                        (each["endpoint"], ""),
                        (_when(each), ""),
                        (_author(controller, commit), ""),
                        (short(commit), "dim"),
                        (each.get("rollout", ""), ""),
                        ("" if score is None else f"{score:g}", ""),
                    )
                ]
            )
    rows(console, table)


def _when(version: Mapping[str, Any]) -> str:
    from controller.cli.text import moment
    from controller.events import parse_time

    at = version.get("deployed_at")
    return moment(parse_time(at)) if at else ""


def _author(controller: Controller, commit: str) -> str:
    """Who wrote the commit; a shallow clone may not have it."""
    from controller.errors import TurnoutError

    if not commit:
        return ""
    try:
        return controller.repository.info(commit).author
    except TurnoutError:
        return "?"
