"""The command line: a front end over the facade. This file is the door: it maps every ending to an exit code.

Each command is a small module that is imported when it is called, so that `turnout --help` costs only click.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from controller.cli.call import Call, options
from controller.cli.lazy import Commands

DONE, ERROR, CHANGES, WAITS, USAGE, INTERRUPTED, NO_READER = 0, 1, 2, 3, 64, 130, 141

EPILOG = """\b
Exit codes:
  0    done, or nothing to do
  1    error, or problems in files
  2    plan: there are changes
  3    apply, reconcile --once: something waits for a person
  64   the command was called wrongly
  130  interrupted

`turnout COMMAND --help` tells more. NO_COLOR is respected."""


@click.group(cls=Commands, epilog=EPILOG, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", "version", is_flag=True, is_eager=True, help="Show the version.")
@options
@click.pass_context
def cli(context: click.Context, version: bool) -> None:
    """Turnout: the models behind AI agents as desired state in git. A rollback is a git revert."""
    if version:
        import controller

        click.echo(f"turnout {controller.__version__}")
    elif context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(args: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; what goes wrong is one line for a person, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    _stay_on_this_machine()
    call = Call()
    try:
        found = cli.main(args=args, prog_name="turnout", standalone_mode=False, obj=call)
        sys.stdout.flush()
        return found if isinstance(found, int) else DONE
    except click.exceptions.Exit as ending:
        return ending.exit_code
    except click.UsageError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        error.show()
        return ERROR
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    except Exception as error:
        if call.debug:
            raise
        return tell(error)


def _stay_on_this_machine() -> None:
    """Calls of this machine to itself go through no proxy that the process environment names; started processes inherit it."""
    if any(os.environ.get(name) for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")):
        known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        hosts = [each for each in (*known.split(","), "localhost", "127.0.0.1", "::1") if each.strip()]
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(dict.fromkeys(hosts))


def tell(error: Exception) -> int:
    """An error as people read it: what, where, and what to do next."""
    from controller.cli.text import clean
    from controller.errors import InvalidState, TurnoutError

    if not isinstance(error, TurnoutError):
        text = " ".join(str(error).split())
        click.echo(f"error: unexpected {type(error).__name__}: {clean(text)}; run again with --debug", err=True)
        return ERROR
    problems = [clean(str(problem)) for problem in error.problems] if isinstance(error, InvalidState) else []
    if len(problems) > 1:
        click.echo(f"error: {len(problems)} problems", err=True)
        for problem in problems:
            click.echo(f"  {problem}", err=True)
    else:
        click.echo(f"error: {problems[0] if problems else clean(error.message)}", err=True)
    if error.hint:
        click.echo(f"hint: {clean(error.hint)}", err=True)
    return ERROR
