"""What every double of a vendor's HTTP API is: routes over tables, a record of what was asked, and faults on demand.

A vendor (`langsmith_api`, `openrouter_api`) is a `Double` with routes. It runs in a thread of a test (`with LangSmithApi() as
api`) or as a process of the local environment (`serve`), and is told to fail by `fail(...)` or at `/-/faults`.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import unquote

from .vendor_faults import Fault, FaultError, Faults
from .vendor_http import Answer, Asked, Refused, Server
from .vendor_tables import Tables

REMEMBERED = 2000
"""How many requests `seen` keeps; a double that runs for months must not grow, and uploads are large."""


@dataclass(frozen=True)
class Seen:
    """What was asked and what was answered; `fault` names the kind of a fault that hit it. Streams are not kept."""

    asked: Asked
    status: int
    content: Any
    fault: str = ""


Action = Callable[..., Answer]


@dataclass(frozen=True)
class Route:
    """`path` has parameters in braces; a parameter takes one segment."""

    method: str
    path: str
    action: Action

    def match(self, asked: Asked) -> dict[str, str] | None:
        if asked.method != self.method:
            return None
        found = re.fullmatch(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", self.path), asked.path)
        return {name: unquote(value) for name, value in found.groupdict().items()} if found else None


class Double:
    """A vendor's API on a port of the loopback. Subclasses give `routes`, `prefixes`, `check` and the form of errors."""

    name: ClassVar[str] = "vendor"
    prefixes: ClassVar[tuple[str, ...]] = ()
    routes: ClassVar[Sequence[Route]] = ()
    serial: ClassVar[bool] = True
    """Whether one request is answered at a time. Otherwise the routes lock what they change."""

    def __init__(self, data: Path | None = None, port: int = 0) -> None:
        self.tables = Tables(data / f"{self.name}.jsonl" if data else None)
        self.faults = Faults(self.tables)
        self.seen: deque[Seen] = deque(maxlen=REMEMBERED)
        self.broken: list[Exception] = []
        self.lock = threading.RLock()
        self.stopping = threading.Event()
        self._server = Server(("127.0.0.1", port), self)
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name=self.name, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Closes the port and every connection, also those whose answer a fault holds back."""
        self.stopping.set()
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.close_connections()
        self._server.server_close()
        self.tables.close()

    def fail(self, kind: str, match: str = "*", **more: Any) -> None:
        """Adds a `Fault`; see there. Raises FaultError."""
        self.faults.add(Fault(kind, match, **more))

    def asked(self, match: str = "*") -> list[Seen]:
        """What was asked so far, of those whose `METHOD /path` matches the pattern."""
        with self.lock:
            return [one for one in self.seen if Fault("status", match).hits(one.asked.method, one.asked.path)]

    # -- for subclasses ----------------------------------------------------------------------------------------------

    def check(self, asked: Asked, route: Route) -> None:
        """Raises Refused for whom the vendor does not know."""

    def error(self, status: int, message: str) -> Answer:
        """The vendor's form of an error."""
        return Answer(status, {"detail": message})

    # -- one request -------------------------------------------------------------------------------------------------

    def answer(self, asked: Asked) -> Answer:
        """What the vendor answers when nothing fails."""
        for prefix in self.prefixes:
            if asked.path.startswith(prefix + "/"):
                asked = Asked(asked.method, asked.path[len(prefix) :], asked.query, asked.headers, asked.body)
                break
        try:
            for route in self.routes:
                parameters = route.match(asked)
                if parameters is not None:
                    self.check(asked, route)
                    return route.action(self, asked, **parameters)
        except Refused as refusal:
            return refusal.answer
        except Exception as error:  # a fault of the double itself, which a test must be able to tell from one it asked for
            self.broken.append(error)
            return Answer(500, {"detail": f"The double is broken: {error!r}"})
        return self.error(404, f"There is nothing at {asked.method} {asked.path}")

    def control(self, asked: Asked) -> Answer:
        """`/-/faults`: GET lists them, POST adds one, DELETE removes all. `/-/seen`: what was asked."""
        if asked.path == "/-/seen":
            return Answer(200, [{"method": one.asked.method, "path": one.asked.path, "status": one.status} for one in self.seen])
        if asked.path != "/-/faults":
            return Answer(404, {"errors": [f"There is nothing at {asked.path}; there are /-/faults and /-/seen"]})
        if asked.method == "DELETE":
            self.faults.clear()
        elif asked.method == "POST":
            try:
                self.faults.add(Fault.read(json.loads(asked.body)))
            except (ValueError, FaultError) as error:
                return Answer(422, {"errors": [str(error)]})
        return Answer(200, self.faults.shown())

    def act(self, asked: Asked, fault: Fault | None) -> Answer:
        """The answer of a world that lags, or of now; a `status` fault never gets as far as an effect."""
        kind = fault.kind if fault is not None else ""
        with self.lock if self.serial or kind == "lag" else contextlib.nullcontext():
            if fault is not None and kind == "status":
                made = self.error(fault.status, f"This {fault.status} was asked for")
                found = Answer(made.status, made.content, {**made.headers, **fault.headers})
            elif kind == "lag":
                with self.tables.as_frozen():
                    found = self.answer(asked)
            else:
                found = self.answer(asked)
        with self.lock:
            self.seen.append(Seen(asked, found.status, None if found.pieces is not None else found.content, kind))
        return found


def serve(double: Double) -> int:
    """Runs until SIGTERM or SIGINT; the first line of output says where it listens."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: double.stopping.set())
    with double:
        print(f"{double.name} double listening on {double.url}", flush=True)
        double.stopping.wait()
    return 0
