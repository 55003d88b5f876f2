"""The list of commands: names and one line each, so that `--help` shows them without importing any."""

from __future__ import annotations

import importlib
from typing import Any

import click

COMMANDS: dict[str, str] = {
    "init": "Make a state repository for your own project.",
    "up": "Start the environment on this machine.",
    "down": "Stop it.",
    "validate": "Check the files of the desired state.",
    "dataset": "Check or split rows before a training names them.",
    "plan": "Show what would be done, why, and what it costs.",
    "apply": "Show the plan, then do it.",
    "reconcile": "Be the controller; with --once, one time for CI.",
    "watch": "Follow runs live: trainings, evaluations, conversions, rollouts.",
    "status": "Show what runs, how it is, or how it was.",
    "why": "Walk from what runs back to a line of YAML.",
    "registry": "Show the versions of each agent.",
    "lineage": "Show what a version came from, and export it.",
    "report": "Show what an evaluation found.",
    "download": "Fetch the GGUF files of a conversion.",
    "log": "Tell the event log in sentences; `log verify` checks it.",
    "rollback": "Make the revert commit.",
    "cancel": "Stop a run that goes on, by a commit.",
    "approve": "Say yes, as a commit, to what waits for it.",
    "costs": "Show what was spent, what is reserved, and what is left.",
    "retry": "Try again what has failed for good.",
    "proxy": "Run the data plane alone, from one file.",
    "key": "Make a key for a client of the proxies.",
    "schemas": "Print or write the JSON Schemas.",
    "completion": "Print the completion script of a shell.",
}


class Lazy(click.Group):
    """A group that suggests the nearest name for one that it does not know."""

    def resolve_command(self, context: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(context, name) is None:
            from controller.errors import nearest

            known = self.list_commands(context)
            context.fail(f"there is no command {name!r}{nearest(name, known)}; there are: {', '.join(known)}")
        return super().resolve_command(context, args)


class Commands(Lazy):
    """`turnout X` is `controller/cli/X.py`, which has a click command called `command`."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        found: Any = importlib.import_module(f"controller.cli.{name}").command
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
