"""`turnout up`: the environment on this machine. The work is done in `controller/local.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from controller.cli.call import Call, options, pass_call, stopping

if TYPE_CHECKING:
    from controller.app import Controller


@click.command(name="up")
@click.option("--rehearse", is_flag=True, help="In a copy of the repository, with a double of every vendor: nothing is paid.")
@click.option(
    "--candidate",
    type=click.Choice(["better", "same", "worse"]),
    default="better",
    show_default=True,
    help="Of a rehearsal: how new models answer, against what is bound now.",
)
@click.option("--foreground", is_flag=True, help="Stay, tell what happens, and stop everything at the end (Ctrl-C).")
@options
@pass_call
def command(call: Call, rehearse: bool, candidate: str, foreground: bool) -> int:
    """Start the environment on this machine: simulated endpoints and vendors, gateway and controller.

    What runs already stays. `turnout down` stops it; the desired state and the log are in git.

    With --rehearse what HEAD says of any environment is carried out in a copy of the repository: endpoints, Hugging Face and
    LangSmith are doubles on this machine, base models are tiny, answers are invented, waits are seconds. Nothing of it reaches
    anybody outside.
    """
    from controller import local

    if rehearse:
        return _rehearse(call, candidate)
    with call.busy("starting"):
        local.up(call.repo, call.env, click.echo)
    with call.controller() as controller:
        _next(controller)
        if foreground:
            _stay(call, controller)
    return 0


def _rehearse(call: Call, candidate: str) -> int:
    from controller import rehearsal

    with call.busy("preparing"):
        place = rehearsal.rehearse(call.repo, call.env, candidate, click.echo)
    where = f"turnout --repo {place} --env {call.env}"
    click.echo("\nTry:")
    for line in ("watch", "log --follow", "status", "registry", "costs"):
        click.echo(f"  {where} {line}")
    click.echo(f"  turnout --env {call.env} down --rehearse")
    return 0


def _next(controller: Controller) -> None:
    """What to try now."""
    from controller.loading import load

    gateways = [proxy.url for proxy in load(controller.flow).settings.spec.proxies.values()]
    bindings = sorted(address.name for address in controller.addresses() if address.kind == "ModelBinding")
    if gateways and bindings:
        agent = "feature_dev" if "feature_dev" in bindings else bindings[0]
        body = f'{{"model": "{agent}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
        click.echo(f"\nGateway: {gateways[0]}/v1   Agents: {', '.join(bindings[:8])}\n\nTry:")
        click.echo(f"  curl -i {gateways[0]}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'")
        click.echo(f"  edit state/bindings/{agent}.yaml, commit, and send it again")
    for line in ("turnout status", "turnout log --follow", "turnout watch", "turnout down"):
        click.echo(f"  {line}")


def _stay(call: Call, controller: Controller) -> None:
    from controller import local
    from controller.cli.log import following, line

    console = call.console()
    try:
        with stopping(controller):
            last = max((event.sequence for event in controller.events()), default=0)
            for event in following(controller, last):
                line(console, event)
    finally:
        local.down(call.repo, call.env, click.echo)
