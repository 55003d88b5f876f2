"""`turnout proxy`: the data plane alone. The process becomes the proxy; nothing of the control plane runs beside it."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

import click

from controller.cli.call import Call, as_json, options, pass_call

File = click.Path(dir_okay=False, path_type=Path)
Folder = click.Path(file_okay=False, path_type=Path)


@click.command(name="proxy")
@click.option(
    "--config", "config", required=True, metavar="FILE", type=File, help="Agents, endpoints, clients; followed as it changes."
)
@click.option("--port", type=click.IntRange(0, 65535), help="Where it listens; default: that of the file, else 5800.")
@click.option("--host", help="On which address; default: that of the file, else 127.0.0.1.")
@click.option(
    "--data", metavar="DIR", type=Folder, help="Figures and the last good routes; default: .turnout-proxy beside the file."
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that share the port.")
@click.option("--access-log", "access_log", metavar="FILE", help="One JSON line a request; - is standard output.")
@click.option("--otel", metavar="URL", help="An OTLP/HTTP collector that gets a span a request.")
@click.option("--check", "check_", is_flag=True, help="Only say whether the file is fine, and what it means.")
@as_json
@options
@pass_call
def command(
    call: Call,
    config: Path,
    port: int | None,
    host: str | None,
    data: Path | None,
    workers: int,
    access_log: str | None,
    otel: str | None,
    check_: bool,
    json_: bool,
) -> int | None:
    """Run the data plane alone, from one file.

    With a control plane the Gateway resource writes the routes; here the file does, and a change of it is served at once.
    """
    if check_:
        return _check(call, config, json_)
    data = data or config.absolute().parent / ".turnout-proxy"
    arguments = ["--config", str(config), "--data", str(data), "--token-file", str(_token(data)), "--workers", str(workers)]
    for name, value in (("--port", port), ("--host", host), ("--access-log", access_log), ("--otel", otel)):
        if value is not None:
            arguments += [name, str(value)]
    sys.stdout.flush()
    return os.execv(sys.executable, [sys.executable, "-m", "controller.proxy", *arguments])


def _check(call: Call, config: Path, as_document: bool) -> int:
    from controller.errors import TurnoutError
    from controller.proxy.config import read_config

    try:
        table, _ = read_config(config)
    except (OSError, ValueError) as error:
        raise TurnoutError(str(error), "docs/data-plane.md has an example that works") from None
    if as_document:
        call.emit({"routes": {agent: [each.model for each in route.variants] for agent, route in table.routes.items()}})
        return 0
    for agent, route in table.routes.items():
        for variant in route.variants:
            where = table.endpoints[variant.endpoint]
            click.echo(
                f"{agent}: {variant.weight:g} % {variant.model} {variant.version} at {', '.join(where.urls)} ({where.strategy})"
            )
    return 0


def _token(data: Path) -> Path:
    """The admin token of this proxy, made once and readable by its user only."""
    path = data / "admin.token"
    if not path.exists():
        data.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(descriptor, secrets.token_urlsafe(32).encode() + b"\n")
        os.close(descriptor)
        click.echo(f"admin token in {path}")
    return path
