"""Starts the proxy: `python -m controller.proxy --port 5800 --data DIR`. It serves until SIGTERM and then drains."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from pathlib import Path

import uvloop

from .gate import Gate
from .inbound import ClientConnection
from .routefile import read_table

_DRAIN_S = 10.0
_IDLE_S = 120.0  # a client that says nothing for so long is not waited for


class _CannotStart(Exception):
    """Its text is the one line that the user gets."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m controller.proxy", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5800, help="0 picks a free one")
    parser.add_argument("--data", type=Path, required=True, help="where the route table and the figures are kept")
    parser.add_argument("--token-file", type=Path, help="the bearer token of the admin routes")
    parser.add_argument("--routes", type=Path, help="the first table, where --data has none yet")
    return parser.parse_args()


def _first_table(gate: Gate, routes: Path | None) -> None:
    found = gate.route_file.load()
    if found is None and routes is not None:
        try:
            found = read_table(routes)
            gate.route_file.store(found[1], None)
        except (OSError, ValueError) as error:
            raise _CannotStart(f"{routes}: {error}") from None
    if found is not None:
        gate.adopt(*found)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except (OSError, OverflowError) as error:
        text = getattr(error, "strerror", None) or error
        raise _CannotStart(f"cannot listen on {host}:{port}: {text}") from None
    listener.setblocking(False)
    return listener


async def _serve(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        arguments.data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _CannotStart(f"{arguments.data}: {error.strerror}") from None
    listener = _listen(arguments.host, arguments.port)
    gate = Gate(loop, arguments.data, arguments.token_file)
    _first_table(gate, arguments.routes)
    server = await loop.create_server(lambda: ClientConnection(gate), sock=listener)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"proxy listening on http://{shown}:{port}", flush=True)
    chores = [loop.create_task(gate.stats_file.keep(gate.stats)), loop.create_task(_close_idle(gate))]
    await stop.wait()
    server.close()
    await _drain(gate)
    for chore in chores:
        chore.cancel()
    await asyncio.gather(*chores, return_exceptions=True)
    gate.pool.close()
    gate.stats_file.write(gate.stats)


async def _close_idle(gate: Gate) -> None:
    while True:
        await asyncio.sleep(_IDLE_S / 4)
        oldest = gate.loop.time() - _IDLE_S
        for client in list(gate.connections):
            if client.idle and client.heard_at < oldest:
                client.close()


async def _drain(gate: Gate) -> None:
    """Idle clients are closed, busy ones get their answers, and after ten seconds the rest is cut off."""
    gate.draining = True
    deadline = gate.loop.time() + _DRAIN_S
    while gate.connections and gate.loop.time() < deadline:
        for client in list(gate.connections):
            if client.idle:
                client.close()
        await asyncio.sleep(0.02)
    for client in list(gate.connections):
        client.abort()
    await asyncio.sleep(0)


def main() -> int:
    try:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(_serve(_arguments()))
    except _CannotStart as error:
        print(f"proxy: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
