"""One call of the command line: which repository and environment it is about, and where and how it writes.

The options that every command takes are read into it, before or after the name of the command.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

    from controller.app import Controller

F = TypeVar("F", bound=Callable[..., Any])
SPINNER_AFTER_SECONDS = 0.6


@dataclass
class Call:
    """The options that every command takes, and the ways to write."""

    repo: Path = Path(".")
    environment: str = ""
    debug: bool = False
    color: bool = True
    said: str = ""

    @property
    def env(self) -> str:
        return self.environment or os.environ.get("TURNOUT_ENVIRONMENT") or "local"

    @contextlib.contextmanager
    def controller(self) -> Iterator[Controller]:
        """The facade for this repository and environment, closed at the end."""
        from controller.app import Controller

        controller = Controller(self.repo, self.env, report=self._report)
        try:
            yield controller
        finally:
            controller.close()

    def _report(self, text: str) -> None:
        self.said = text

    # -- writing -------------------------------------------------------------------------------------------------

    def console(self, *, errors: bool = False) -> Console:
        """Colours only where a person looks and has not asked for none. A pipe gets whole lines."""
        from rich.console import Console

        stream = sys.stderr if errors else sys.stdout
        plain = not self.color or bool(os.environ.get("NO_COLOR"))
        wide = {} if stream.isatty() else {"width": 100_000}
        return Console(
            file=stream,
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=True,
            color_system=None if plain else "auto",
            no_color=plain,
            **wide,  # type: ignore[arg-type]
        )

    def emit(self, value: Any, *, line: bool = False) -> None:
        """JSON for scripts: a document, or one line of a stream."""
        click.echo(json.dumps(value, ensure_ascii=False, indent=None if line else 2, default=str))

    @contextlib.contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """A spinner on stderr for what takes longer than a moment; nothing on a pipe."""
        if not sys.stderr.isatty():
            yield
            return
        from rich.status import Status

        shown = Status(what, console=self.console(errors=True))
        timer = threading.Timer(SPINNER_AFTER_SECONDS, shown.start)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            shown.stop()


@contextlib.contextmanager
def stopping(controller: Controller) -> Iterator[list[int]]:
    """SIGTERM and SIGINT let the controller finish what it has started; a second one ends at once. Yields what came."""
    came: list[int] = []

    def ask(number: int, frame: object) -> None:
        came.append(number)
        controller.stopping.set()
        if len(came) > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def person(controller: Controller) -> tuple[str, str]:
    """Who calls, as git knows them: name and e-mail, empty where git knows none."""
    run = controller.repository.run
    return run("config", "--get", "user.name").stdout.strip(), run("config", "--get", "user.email").stdout.strip()


def options(function: F) -> F:
    """--repo, --env, --debug and --no-color, which may stand before or after the command."""
    for decorator in reversed(
        (
            click.option(
                "--repo",
                metavar="PATH",
                type=click.Path(path_type=Path),
                callback=_keep("repo"),
                expose_value=False,
                help="A folder of the repository (default: here).",
            ),
            click.option(
                "--env",
                metavar="NAME",
                callback=_keep("environment"),
                expose_value=False,
                shell_complete=_environments,
                help="Environment (default: $TURNOUT_ENVIRONMENT or local).",
            ),
            click.option(
                "--debug",
                is_flag=True,
                default=None,
                callback=_keep("debug"),
                expose_value=False,
                help="Show the traceback of an error.",
            ),
            click.option(
                "--no-color",
                is_flag=True,
                default=None,
                callback=_keep("color", turned=True),
                expose_value=False,
                help="No colours.",
            ),
        )
    ):
        function = decorator(function)
    return function


def as_json(function: F) -> F:
    return click.option("--json", "json_", is_flag=True, help="For scripts.")(function)


pass_call = click.make_pass_decorator(Call, ensure=True)


def _keep(name: str, *, turned: bool = False) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None and value is not False:
            setattr(context.ensure_object(Call), name, not value if turned else value)

    return keep


def _environments(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from controller.cli.names import environments

    return [name for name in environments(context) if name.startswith(incomplete)]
