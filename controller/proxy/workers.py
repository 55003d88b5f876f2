"""Several workers for one port: starts them, starts one again that died, and ends them together."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import IO

from .server import CannotStart, Options

_READY_S = 30.0
_AGAIN_S = 1.0  # a worker that dies at once is not started in a circle


def supervise(options: Options, arguments: Sequence[str]) -> int:
    """Runs until SIGTERM; the exit status of the first worker that could not even start, else 0."""
    keeper = _reserve(options)
    port = keeper.getsockname()[1]
    stopping: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.append(number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    options.data.mkdir(parents=True, exist_ok=True)
    workers = {number: _start(arguments, port, number) for number in range(options.workers)}
    try:
        for worker in workers.values():
            if not _ready(worker):
                return worker.wait()
        print(f"proxy listening on http://{options.host}:{port} with {options.workers} workers", flush=True)
        while not stopping:
            time.sleep(0.1)
            for number, worker in workers.items():
                if worker.poll() is not None and not stopping:
                    print(f"proxy: worker {number} ended ({worker.returncode}), it is started again", file=sys.stderr, flush=True)
                    time.sleep(_AGAIN_S)
                    workers[number] = _start(arguments, port, number)
                    _ready(workers[number])
        return 0
    finally:
        for worker in workers.values():
            with contextlib.suppress(ProcessLookupError):
                worker.terminate()
        for worker in workers.values():
            worker.wait()
        keeper.close()


def _reserve(options: Options) -> socket.socket:
    """The port, held without listening: so a free one that was picked stays ours, and one that is taken is told at once."""
    try:
        family, _, _, _, address = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        keeper = socket.socket(family, socket.SOCK_STREAM)
        if options.port:  # SO_REUSEPORT would let two proxies of one user share a port by mistake
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        keeper.bind(address)
    except (OSError, OverflowError) as error:
        text = getattr(error, "strerror", None) or error
        raise CannotStart(f"cannot listen on {options.host}:{options.port}: {text}") from None
    return keeper


def _start(arguments: Sequence[str], port: int, number: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "controller.proxy", *arguments, "--port", str(port), "--worker", str(number)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _ready(worker: subprocess.Popen[str]) -> bool:
    """Whether it said that it listens; a worker that cannot start says why on standard error and ends."""
    assert worker.stdout is not None
    first = worker.stdout.readline()
    threading.Thread(target=_pass_on, args=(worker.stdout,), daemon=True).start()
    return first.startswith("proxy listening")


def _pass_on(lines: IO[str]) -> None:
    """An access log on standard output, for example; a pipe that nobody reads would stop the worker."""
    for line in lines:
        print(line, end="", flush=True)
