"""`turnout status`: every resource, how it is and since when; `--at` replays the log to then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from controller.cli.call import Call, as_json, options, pass_call
from controller.cli.names import addresses

if TYPE_CHECKING:
    from rich.console import Console

    from controller.health import Status


@click.command(name="status")
@click.argument("name", default="", shell_complete=addresses)
@click.option("--at", metavar="COMMIT|TIME|SEQUENCE", default="", help="As it was then, from the log alone.")
@as_json
@options
@pass_call
def command(call: Call, name: str, at: str, json_: bool) -> int:
    """Show what runs, how it is, since when, and what is worth knowing about it."""
    from controller.errors import NotFound

    with call.controller() as controller, call.busy("looking"):
        found = controller.status(at)
        if not found:
            controller.addresses()  # nothing there, or no such environment: this tells a wrong name
        address = controller.address(name, known={*controller.addresses(), *(each.address for each in found)}) if name else ""
        untraced = controller.untraced() if not (at or name) else ""
    if address:
        found = [each for each in found if each.address == address]
        if not found:
            raise NotFound(f"{address} {'was' if at else 'is'} not there", "`turnout log --subject` tells its history")
    if json_:
        call.emit([as_plain(each) for each in found])
    elif not found:
        click.echo("nothing was there" if at else "nothing is there yet; `turnout plan` shows what would be")
    elif address:
        _one(call.console(), found[0])
    else:
        _table(call.console(), found)
    if untraced and not json_:
        click.echo(untraced)
    return 0


def as_plain(status: Status) -> dict[str, Any]:
    """One address for scripts."""
    from controller.cli.text import masked

    past = status.past
    return {
        "address": str(status.address),
        "kind": status.address.kind,
        "name": status.address.name,
        "health": status.health,
        "summary": status.summary,
        "since": past.since.isoformat() if past.since else None,
        "state": masked(past.after),
        "running": past.running,
        "ended": past.ended,
        "failed": past.failed,
        "conditions": dict(status.told),
        "signals": masked(dict(status.observed)) if status.observed else None,
    }


def what(status: Status) -> str:
    """What it is, in a line; of a run also how far it is."""
    from controller.cli import runs

    after = status.past.after or {}
    if {"model", "endpoint"} <= after.keys():
        return f"{after['model']} {after.get('version', '')} at {after.get('endpoint', '')}"
    if {"binding", "stable", "candidate"} <= after.keys():
        moved = f"{after['stable'].get('version', 'nothing')} -> {after['candidate'].get('version')}"
        where = f", step {after['step'] + 1} of {after['steps']}, {after['weight']:g} %" if status.past.running else ""
        return f"{after['binding']}: {moved}, {after['phase']}{where}"
    if "routes" in after:
        return f"{len(after['routes'])} routes"
    if after and (status.past.running or status.past.ended):
        found = runs.pace(status)
        going = runs.going(found) if status.past.running else ""
        ceiling = after.get("ceiling") if status.past.running else None
        return ", ".join(each for each in (runs.what(status), runs.place(status), going, runs.money(found, ceiling)) if each)
    return status.summary


def _table(console: Console, found: Sequence[Status]) -> None:
    from controller.cli.text import HEALTH_STYLE, age, rows, styled

    head = [styled(title, "bold") for title in ("KIND", "NAME", "HEALTH", "SINCE", "WHAT AND CONDITIONS")]
    table = [head]
    going = {str(each.address): each for each in found if each.past.running}
    for each in found:
        told = [
            f"{code}: {_awaited(each, going) if code == 'Reference' else ''}{reason}".partition("\n")[0]
            for code, reason in sorted(each.told.items())
        ]
        if each.health not in ("Healthy", "Progressing") and each.summary not in each.told:
            told.insert(0, each.summary)
        kind, name = (each.address.kind, each.address.name) if each.address.kind[:1].isupper() else ("(file)", str(each.address))
        table.append(
            [
                styled(kind),
                styled(name, "bold"),
                styled(each.health, HEALTH_STYLE.get(each.health, "")),
                styled(age(each.past.since)),
                styled(what(each)),
            ]
        )
        table += [[styled(""), styled(""), styled(""), styled(""), styled(f"! {line}", "yellow")] for line in told]
    rows(console, table)


def _awaited(status: Status, going: Mapping[str, Status]) -> str:
    """Who keeps it waiting, as that is now: the reason in the log is of when it began to wait."""
    from controller.cli import runs

    found = next((going[each] for each in status.past.conditions["Reference"].replace("|", " ").split() if each in going), None)
    if found is None:
        return ""
    now = ", ".join(each for each in (runs.place(found), runs.going(runs.pace(found))) if each)
    return f"waits for {found.address}, which is {now}\n"


def _one(console: Console, status: Status) -> None:
    from controller.cli.text import HEALTH_STYLE, age, moment, rows, shown, styled, write
    from controller.diff import ABSENT, diff

    past = status.past
    write(
        console,
        styled(str(status.address), "bold")
        + styled(f"  {status.health}", HEALTH_STYLE.get(status.health, ""))
        + styled(f"  {status.summary}"),
    )
    facts = [
        ("what", what(status) if past.running or past.ended else ""),
        ("since", f"{moment(past.since)} ({age(past.since)})" if past.since else ""),
        ("ended", past.ended),
        ("failed", past.failed),
        ("attempts", str(past.attempts or "")),
        ("next try", moment(past.retry_at)),
    ]
    rows(console, [[styled(name, "dim"), text] for name, text in facts if text], indent=2)
    for code, reason in sorted(status.told.items()):
        write(console, styled(f"{code}: ", "yellow") + styled(reason), indent=2, hang=2)
    if past.after:
        write(console, styled("state", "bold"), indent=2)
        fields = diff(ABSENT, dict(past.after))
        rows(console, [[styled(each.field, "dim"), shown(each.new, each.field)] for each in fields], indent=4)
