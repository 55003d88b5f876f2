"""What all connections of the proxy share, and where each request goes: to a model, to the table, or to a page."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httptools

from . import admin
from .attempt import Attempt, Nobody
from .body import asked_model, model_spans
from .forward import Forward
from .inbound import ClientConnection, Current, Request
from .live import Live, LiveRoute, Target
from .metrics import Metrics
from .outbound import Pool
from .pages import TEXT, Page, error_page, json_page
from .relay import Relay
from .routefile import RouteFile
from .statsfile import StatsFile
from .table import RouteTable
from .usage import Usage

_MODEL_PATHS = frozenset((b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings", b"/v1/responses"))
_BODY_LIMIT = 16 << 20
_TABLE_LIMIT = 64 << 20
_SHADOWS = 64
_NO_TABLE = "The proxy has no route table yet"


class Gate:
    """The state of the process. The table is replaced by one assignment; what began with the old one ends with it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, data: Path, token_file: Path | None) -> None:
        self.loop = loop
        self.live: Live | None = None
        self.pool = Pool(loop)
        self.metrics = Metrics()
        self.stats_file = StatsFile(data / "stats.json")
        self.stats = self.stats_file.load(time.time)
        self.route_file = RouteFile(data)
        self.replacing = asyncio.Lock()
        self.connections: set[ClientConnection] = set()
        self.shadows = 0
        self.draining = False
        self._token_file = token_file
        self._started = int(time.time())
        self._tasks: set[asyncio.Task[None]] = set()

    def adopt(self, table: RouteTable, raw: bytes) -> None:
        """Put a table into service. Guards that have tripped stay so for their step."""
        self.stats.adopt(table)
        tripped = {agent for agent, route in table.routes.items() if self.stats.tripped(agent, route.step) is not None}
        self.live = Live(table, raw, tripped)

    def body_limit(self, request: Request) -> int:
        return _TABLE_LIMIT if request.target.startswith(b"/-/") else _BODY_LIMIT

    def count(
        self, route: LiveRoute, target: Target, code: str, *, error: bool, seconds: float | None, usage: Usage | None
    ) -> None:
        """An attempt has ended. Afterwards the guard is asked, unless the target is stable or gets copies only."""
        self.metrics.record(target.agent, target.variant, target.version, code, seconds, usage)
        cell = self.stats.record(
            target.agent, target.step, target.variant, target.version, error=error, seconds=seconds, usage=usage
        )
        guard = route.route.guard
        if guard is None or route.tripped or not error or target is route.targets[0] or target is route.shadow:
            return
        if self.stats.judge(target.agent, target.step, cell, guard):
            route.tripped = True
            live = self.live.routes.get(target.agent) if self.live is not None else None
            if live is not None and live.route.step == target.step:
                live.tripped = True  # a newer table may be in service by now
            self.metrics.guard_tripped(target.agent, target.step)
            self.stats_file.write(self.stats)

    # requests

    def dispatch(self, client: ClientConnection, request: Request) -> Current | None:
        """Begin to answer. What takes time is returned; everything else is answered when this returns."""
        path = _path(request.target)
        if path in _MODEL_PATHS:
            if request.method == b"POST":
                return self._relay(client, request, path)
            page = error_page(405, "Only POST is possible here", "method_not_allowed", b"allow: POST\r\n")
        elif path == b"/-/routes":
            return self._admin(client, request)
        elif path not in (b"/v1/models", b"/healthz", b"/metrics", b"/stats"):
            page = error_page(404, f"There is nothing at {path.decode('latin-1')}", "not_found")
        elif request.method in (b"GET", b"HEAD"):
            page = self._page(path)
        else:
            page = error_page(405, "Only GET is possible here", "method_not_allowed", b"allow: GET, HEAD\r\n")
        client.answer(request, page)
        return None

    def _relay(self, client: ClientConnection, request: Request, path: bytes) -> Current | None:
        live = self.live
        if live is None:
            client.answer(request, error_page(503, _NO_TABLE, "no_route_table", b"retry-after: 1\r\n"))
            return None
        try:
            agent = asked_model(request.body)
            route = live.routes.get(agent)
            spans = model_spans(request.body) if route is not None else []
        except ValueError as error:
            client.answer(request, error_page(400, str(error), "invalid_body"))
            return None
        if route is None:
            client.answer(request, _unknown(live, agent))
            return None
        query = request.target.partition(b"?")
        forward = Forward(path.removeprefix(b"/v1") + query[1] + query[2], request.headers, request.body, spans)
        relay = Relay(self, live, route, client, request, forward)
        relay.begin(route)
        if route.shadow is not None and route.copied():
            self._copy(route, route.shadow, forward)
        return relay

    def _copy(self, route: LiveRoute, target: Target, forward: Forward) -> None:
        if self.shadows >= _SHADOWS:
            self.metrics.shadow_dropped(route.agent)
            return
        self.shadows += 1
        Attempt(self, route, target, forward, Nobody(self)).begin()

    def _admin(self, client: ClientConnection, request: Request) -> Current | None:
        page = admin.refusal(request, self._token_file)
        if page is None and request.method == b"PUT":
            task = self.loop.create_task(self._replace(client, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return None
        if page is None and request.method in (b"GET", b"HEAD"):
            page = admin.current_table(self, request)
        client.answer(request, page or error_page(405, "Only GET and PUT are possible here", "method_not_allowed"))
        return None

    async def _replace(self, client: ClientConnection, request: Request) -> None:
        client.answer(request, await admin.replace_table(self, request.body))

    def _page(self, path: bytes) -> Page:
        live = self.live
        if path == b"/metrics":
            serial = live.table.serial if live is not None else 0
            return Page(200, self.metrics.text(serial, len(self.connections)), TEXT)
        if path == b"/stats":
            return json_page(200, self.stats.shown(live.table if live is not None else None))
        if live is None:
            return error_page(503, _NO_TABLE, "no_route_table", b"retry-after: 1\r\n")
        if path == b"/healthz":
            return json_page(200, {"status": "ok", "digest": live.table.digest})
        models = [{"id": agent, "object": "model", "created": self._started, "owned_by": "turnout"} for agent in live.routes]
        return json_page(200, {"object": "list", "data": models})


def _path(target: bytes) -> bytes:
    if target.startswith((b"http://", b"https://")):
        try:
            return httptools.parse_url(target).path or b"/"
        except httptools.HttpParserInvalidURLError:
            return b"/"
    return target.partition(b"?")[0]


def _unknown(live: Live, agent: str) -> Page:
    nearest = live.nearest(agent)
    hint = f" Did you mean {nearest!r}?" if nearest is not None else ""
    return error_page(404, f"There is no agent {agent!r}.{hint}", "model_not_found")
