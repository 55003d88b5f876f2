"""`turnout up`: the environment on this machine. The work is done in `controller/local.py`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from controller.cli.call import Call, options, pass_call, stopping

if TYPE_CHECKING:
    from controller.app import Controller


@click.command(name="up")
@click.option("--foreground", is_flag=True, help="Stay, tell what happens, and stop everything at the end (Ctrl-C).")
@options
@pass_call
def command(call: Call, foreground: bool) -> int:
    """Start the environment on this machine: simulated endpoints, gateway and controller.

    What runs already stays. `turnout down` stops it; the desired state and the log are in git.
    """
    from controller import local

    with call.busy("starting"):
        local.up(call.repo, call.env, click.echo)
    with call.controller() as controller:
        _next(controller)
        if foreground:
            _stay(call, controller)
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
