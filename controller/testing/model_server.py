"""Simulated endpoints of models: the `local` environment needs no key with them, and tests find every kind of upstream.

`python -m controller.testing.model_server --endpoint openrouter=5811 --endpoint huggingface=5812 [--state FILE]`: any
model name is answered. How a model behaves is set at `/-/behaviour` (`model_behaviour.py`), what it was asked is
counted at `/-/counts`, and `--journal` keeps what was received and answered in a file (`model_journal.py`). Beside the
APIs of OpenAI and Anthropic (`model_forms.py`) there are `/health` and `/metrics` as vLLM has them, and any other path
under `/v1/` is echoed. `fleet.py` starts several of these processes for tests.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import signal
import sys
from pathlib import Path

import uvloop

from .model_behaviour import Behaviours
from .model_endpoint import ModelEndpoint
from .model_http import listen
from .model_journal import Journal
from .openrouter_api.rules import Rules

_PR_SET_PDEATHSIG = 1


def _endpoint(text: str) -> tuple[str, int]:
    name, _, port = text.partition("=")
    if not name or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=PORT")
    return name, int(port)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m controller.testing.model_server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--endpoint", type=_endpoint, action="append", required=True, metavar="NAME=PORT")
    parser.add_argument("--state", type=Path, help="a file in which the behaviours are kept")
    parser.add_argument("--journal", type=Path, help="a file to which what is received and answered is appended")
    parser.add_argument("--answers", type=Path, help="rules of what models answer (`openrouter_api/rules.py`)")
    parser.add_argument("--model", action="append", default=[], help="a model that is listed and measured before it is asked")
    parser.add_argument("--reuse-port", action="store_true", help="share the ports with who holds them for this process")
    parser.add_argument("--until-stdin-ends", action="store_true", help="stop when the starter is gone, however it went")
    parser.add_argument("--die-with-starter", action="store_true", help="the same by SIGKILL and by thread, even if frozen")
    return parser.parse_args()


async def _serve(arguments: argparse.Namespace, behaviours: Behaviours, journal: Journal | None) -> None:
    rules = None if arguments.answers is None else Rules.read(arguments.answers)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if arguments.until_stdin_ends:
        loop.add_reader(sys.stdin.fileno(), stop.set)
    servers = []
    for name, port in arguments.endpoint:
        endpoint = ModelEndpoint(name, behaviours, journal, tuple(arguments.model), rules)
        server, got = await listen(arguments.host, port, endpoint, reuse_port=arguments.reuse_port)
        servers.append(server)
        print(f"model endpoint {name} listening on http://{arguments.host}:{got}", flush=True)
    await stop.wait()
    for server in servers:
        server.close()


def _die_with_starter() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    arguments = _arguments()
    if arguments.die_with_starter:
        _die_with_starter()
    try:
        journal = None if arguments.journal is None else Journal(arguments.journal)
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(_serve(arguments, Behaviours(arguments.state), journal))
    except (OSError, ValueError) as error:
        print(f"model_server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
