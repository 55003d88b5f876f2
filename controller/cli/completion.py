"""`turnout completion`: the script with which a shell completes commands, options and names of resources."""

from __future__ import annotations

import os

import click

from controller.cli.call import options

HOW = {
    "bash": 'eval "$(turnout completion bash)" in ~/.bashrc',
    "zsh": 'eval "$(turnout completion zsh)" in ~/.zshrc',
    "fish": "turnout completion fish > ~/.config/fish/completions/turnout.fish",
}


@click.command(name="completion", epilog="\b\n" + "\n".join(HOW.values()))
@click.argument("shell", required=False, type=click.Choice(list(HOW)))
@options
@click.pass_context
def command(context: click.Context, shell: str | None) -> int:
    """Print the completion script of a shell (default: the one of $SHELL)."""
    from click.shell_completion import get_completion_class

    name = shell or os.path.basename(os.environ.get("SHELL", ""))
    found = get_completion_class(name) if name in HOW else None
    if found is None:
        raise click.UsageError(f"which shell? one of {', '.join(HOW)}")
    click.echo(found(context.find_root().command, {}, "turnout", "_TURNOUT_COMPLETE").source())
    return 0
