"""Starts the proxy: `python -m controller.proxy --port 5800 --data DIR`. It serves until SIGTERM and then drains."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import sys
from pathlib import Path

import uvloop

from .server import CannotStart, Options, Server


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m controller.proxy", description=__doc__)
    parser.add_argument("--host", help="default: that of --config, else 127.0.0.1")
    parser.add_argument("--port", type=int, help="0 picks a free one; default: that of --config, else 5800")
    parser.add_argument("--data", type=Path, required=True, help="where the route table and the figures are kept")
    parser.add_argument("--token-file", type=Path, help="the bearer token of the admin routes")
    parser.add_argument("--routes", type=Path, help="the first table, where --data has none yet")
    parser.add_argument("--config", type=Path, help="a file that decides alone and is followed when it changes (YAML or a table)")
    parser.add_argument("--access-log", default="", help="one JSON line a request is appended here; - is standard output")
    parser.add_argument("--otel", default="", help="URL of an OTLP/HTTP collector that gets a span a request")
    parser.add_argument("--drain", type=float, default=10.0, help="seconds that requests in flight have to end on SIGTERM")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the port")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _options(arguments: argparse.Namespace) -> Options:
    host, port = "127.0.0.1", 5800
    if arguments.config is not None:
        from .config import place

        host, port = place(arguments.config)
    return Options(
        data=arguments.data,
        host=host if arguments.host is None else arguments.host,
        port=port if arguments.port is None else arguments.port,
        token_file=arguments.token_file,
        routes=arguments.routes,
        fixed=arguments.config,
        access_log=arguments.access_log,
        otel=arguments.otel,
        drain_s=arguments.drain,
        worker=arguments.worker or 0,
        workers=arguments.workers,
    )


async def _serve(options: Options, *, worker: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if options.fixed is not None:
        from .config import read_config

        server = Server(options, read_config)
    else:
        server = Server(options)
    await server.start()
    shown = f"[{options.host}]" if ":" in options.host else options.host
    print(f"proxy listening on http://{shown}:{server.port}", flush=True)
    parent = os.getppid()
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1.0 if worker else None)
        if worker and os.getppid() != parent:
            break  # a worker does not outlive its supervisor
    await server.stop()


def main() -> int:
    arguments = _arguments()
    try:
        options = _options(arguments)
        if options.workers > 1 and arguments.worker is None:
            from .workers import supervise

            return supervise(options, sys.argv[1:])
        gc.freeze()  # what was imported stays; a request makes no cycles, so it is enough to look for some now and then
        gc.set_threshold(20_000, 20, 50)
        sys.setswitchinterval(0.0005)  # a table is checked in a thread: requests get their turn ten times as often
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(_serve(options, worker=arguments.worker is not None))
    except CannotStart as error:
        print(f"proxy: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
