"""`turnout costs`: money by month and agent, from the log alone."""

from __future__ import annotations

import click

from controller.cli.call import Call, as_json, options, pass_call


@click.command(name="costs")
@click.option("--month", metavar="YYYY-MM", default="", help="Another month than this one (UTC).")
@as_json
@options
@pass_call
def command(call: Call, month: str, json_: bool) -> int:
    """Show what paid work has cost in a month, what running work has reserved, and what is left of the budget.

    It tells of actions of this controller (trainings, evaluations). What agents' requests cost is counted by the proxies.
    """
    from controller.cli.text import clean

    with call.controller() as controller:
        found = controller.costs(month)
    if json_:
        call.emit(found)
        return 0
    if not found["resources"]:
        click.echo(f"nothing was spent in {found['month']}")
    for row in found["resources"]:
        state = f"{row['reserved']:10.2f} reserved" if row["running"] else f"{row['spent']:10.2f} spent"
        click.echo(clean(f"{row['address']:<44} {row['agent']:<20} {state}"))
    limit = found["limit"]
    left = f", {limit - found['spent'] - found['reserved']:.2f} left of {limit:.2f}" if limit is not None else ", no limit is set"
    click.echo(f"{found['month']}: {found['spent']:.2f} USD spent, {found['reserved']:.2f} reserved{left}")
    for agent, row in sorted(found["agents"].items()):
        of = f" of {row['limit']:.2f}" if row["limit"] is not None else ""
        click.echo(clean(f"  {agent or '(no agent)'}: {row['spent']:.2f} spent, {row['reserved']:.2f} reserved{of}"))
    return 0
