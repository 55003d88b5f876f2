"""`turnout costs`: money by month, agent, kind and resource, from the log alone; as a table, a plot or a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controller.cli.call import Call, as_json, options, pass_call

if TYPE_CHECKING:
    from rich.console import Console

BLOCKS = "█▓▒░▞▪"
STYLES = ("blue", "magenta", "green", "yellow", "red", "white")
BAR = 50
"""Cells of the longest bar where the window leaves room."""
Month = Mapping[str, Any]


@click.command(name="costs")
@click.option("--month", metavar="YYYY-MM", default="", help="Another month than this one (UTC).")
@click.option("--months", type=click.IntRange(1, 120), default=1, show_default=True, help="So many months that end with it.")
@click.option("--by", type=click.Choice(["agent", "kind", "resource"]), default=None, help="Only these sums, and the plot by them.")
@click.option("--plot", is_flag=True, help="Bars by day (by month over more than three months).")
@click.option(
    "--html", "page", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False), help="Write one page with tables and plot."
)
@as_json
@options
@pass_call
def command(call: Call, month: str, months: int, by: str | None, plot: bool, page: Path | None, json_: bool) -> int:
    """Show what paid work has cost in a month, what running work has reserved, and what is left of the budget.

    It tells of actions of this controller (trainings, evaluations, conversions). What agents' requests cost is counted by the
    proxies.
    """
    from controller.projections.money import months_until, series

    try:
        months_until(month or "2026-11", months)
    except ValueError:
        raise click.UsageError(f"--month: {month!r} is not a month; write it like 2026-11") from None
    with call.controller() as controller, call.busy("reading the log"):
        found = controller.costs_of_months(month, months)
    if page is not None:
        from controller.cli.costs_page import html_page
        from controller.cli.output import replace

        replace(page, html_page(found, by or "agent").encode())
    if json_:
        call.emit(found[0] if months == 1 else {"months": found})
    elif page is not None and not plot:
        click.echo(f"wrote {page}")
    elif plot:
        _plot(call.console(), series(found, by or "agent"), found)
    else:
        for document in found:
            _tell(document, by)
    return 0


def _tell(document: Month, by: str | None) -> None:
    if by in (None, "resource"):
        _resources(document)
    click.echo(f"{document['month']}: {_sums(document, 'no limit is set')}")
    if by in (None, "agent"):
        _rows((agent or "(no agent)", row) for agent, row in sorted(document["agents"].items()))
    if by == "kind":
        _rows(document["kinds"].items())


def _resources(document: Month) -> None:
    from controller.cli.text import clean

    if not document["resources"]:
        click.echo(f"nothing was spent in {document['month']}")
    for row in document["resources"]:
        state = f"{row['reserved']:10.2f} reserved" if row["running"] else f"{row['spent']:10.2f} spent"
        click.echo(clean(f"{row['address']:<44} {row['agent']:<20} {state}"))


def _rows(rows: Iterable[tuple[str, Month]]) -> None:
    from controller.cli.text import clean

    for name, row in rows:
        click.echo(clean(f"  {name}: {_sums(row)}"))


def _sums(row: Month, unlimited: str = "") -> str:
    """`3.20 USD spent, 1.00 reserved, 5.80 left of 10.00`"""
    left, limit = row.get("left"), row.get("limit")
    rest = f"{left:.2f} left of {limit:.2f}" if limit is not None else unlimited
    return f"{row['spent']:.2f} USD spent, {row['reserved']:.2f} reserved{f', {rest}' if rest else ''}"


# -- the plot --------------------------------------------------------------------------------------------------------


def _plot(console: Console, rows: Sequence[tuple[str, Mapping[str, float]]], months: Sequence[Month]) -> None:
    from controller.cli.text import styled, write
    from controller.projections.money import groups_of

    span = months[0]["month"] if len(months) == 1 else f"{months[0]['month']} to {months[-1]['month']}"
    if not rows:
        write(console, f"nothing was spent in {span}")
        return
    groups = groups_of(rows)
    most = max(sum(values.values()) for _, values in rows)
    name = max(len(label) for label, _ in rows)
    room = max(10, min(BAR, console.width - name - 14))
    for label, values in rows:
        line = styled(f"{label:<{name}}  ")
        for text, style in _bar(values, groups, most, room):
            line += styled(text, style)
        total = sum(values.values())
        console.print(line + styled(f" {total:.2f}" if total else "·", "dim"), no_wrap=True, crop=False, overflow="ignore")
    for number, group in enumerate(groups):
        look = number % len(BLOCKS)
        total = sum(values.get(group, 0.0) for _, values in rows)
        write(console, styled(BLOCKS[look] * 2, STYLES[look]) + styled(f" {group or '(no agent)'}: {total:.2f} USD"))
    write(console, f"{span}: {sum(month['spent'] for month in months):.2f} USD spent")


def _bar(values: Mapping[str, float], groups: Sequence[str], most: float, room: int) -> Iterable[tuple[str, str]]:
    """Cells of each group. They are rounded at their ends, so that the bar is as long as its sum; what was spent is seen."""
    at, drawn = 0.0, 0
    for number, group in enumerate(groups):
        value = values.get(group, 0.0)
        if value <= 0:
            continue
        at += value
        end = max(drawn + 1, round(room * at / most))
        yield BLOCKS[number % len(BLOCKS)] * (end - drawn), STYLES[number % len(STYLES)]
        drawn = end
