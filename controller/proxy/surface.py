"""Where each request goes: to a model, to the table, or to a page. The state that all connections share hangs here."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

from . import admin
from .accounts import Refused, summed
from .ask import Ask
from .body import asked_model, understood
from .forward import Forward
from .inbound import ClientConnection, Current, Request
from .live import Live, LiveClient, LiveRoute
from .metrics import merged
from .pages import TEXT, Page, error_page, json_page, retry_after
from .peers import Figures
from .pool import Pools, added
from .record import Record
from .relay import Relay
from .sessions import Session
from .tables import Tables
from .visit import Shared

# Asking these twice costs money and changes nothing; of any other path nobody knows.
_MODEL_PATHS = frozenset((b"/v1/chat/completions", b"/v1/completions", b"/v1/embeddings", b"/v1/responses", b"/v1/messages"))
_PAGES = frozenset((b"/v1/models", b"/healthz", b"/health", b"/metrics", b"/stats"))
_ADMIN = frozenset((b"/-/routes", b"/-/requests", b"/-/sessions", b"/-/accounts"))
_PASSED = frozenset((b"GET", b"POST", b"PUT", b"PATCH", b"DELETE"))
_BODY_LIMIT = 16 << 20
_TABLE_LIMIT = 64 << 20
_HELD_LIMIT = 512 << 20
_NO_TABLE = "The proxy has no route table yet"

Others = Callable[[], Awaitable[list[Figures]]]


class Surface:
    """The proxy as its clients see it."""

    def __init__(self, shared: Shared, tables: Tables, pools: Pools, token_file: Path | None) -> None:
        self.loop = shared.loop
        self.connections: set[ClientConnection] = set()
        self.draining = False
        self.held = 0
        self.others: Others | None = None  # the figures of the other workers
        self.other_sessions: Callable[[], Awaitable[list[dict[str, Session]]]] | None = None
        self.worker_pages: dict[bytes, Callable[[], Page]] = {}  # what workers ask each other, on their own socket
        self._shared = shared
        self._tables = tables
        self._pools = pools
        self._token_file = token_file
        self._started = int(time.time())
        self._tasks: set[asyncio.Task[None]] = set()

    def body_limit(self, request: Request) -> int:
        return _TABLE_LIMIT if request.target.startswith(b"/-/") else _BODY_LIMIT

    def has_room(self) -> bool:
        return self.held < _HELD_LIMIT

    def dispatch(self, client: ClientConnection, request: Request) -> Current | None:
        """Begin to answer. What takes time is returned; everything else is answered when this returns."""
        path = request.path
        if path in _MODEL_PATHS and request.method == b"POST":
            return self._model(client, request, path)
        if path.startswith(b"/-/"):
            return self._admin(client, request, path)
        if path in _PAGES or path.startswith(b"/v1/models/"):
            self._page(client, request, path)
            return None
        if path in _MODEL_PATHS:
            page = error_page(405, "Only POST is possible here", "method_not_allowed", b"allow: POST\r\n", path)
        elif not path.startswith(b"/v1/"):
            page = error_page(404, f"There is nothing at {path.decode('latin-1')}", "not_found")
        elif b".." in path or b"%" in path:
            page = error_page(400, "A path that is passed through has neither .. nor % in it", "invalid_path")
        elif request.method not in _PASSED:
            allowed = b"allow: GET, POST, PUT, PATCH, DELETE\r\n"
            page = error_page(405, f"{request.method.decode('latin-1')} is not passed through", "method_not_allowed", allowed)
        else:
            return self._model(client, request, path)
        client.answer(request, page)
        return None

    # to a model

    def _model(self, client: ClientConnection, request: Request, path: bytes) -> Current | None:
        live = self._tables.live
        if live is None:
            client.answer(request, error_page(503, _NO_TABLE, "no_route_table", b"retry-after: 1\r\n", path))
            return None
        ask = Ask(request.read(live.slots), monotonic())
        known = path in _MODEL_PATHS
        try:
            caller = _caller(live, ask)
            agent, spans = _asked(live, ask, request, caller, known=known)
            route = _route(live, agent, caller)
            _admit(route, caller)
        except _Turned as turned:
            self._refuse(client, request, path, ask, turned)
            return None
        repeatable = known or request.method == b"GET"
        forward = Forward(request.method, ask.head.onward, ask.lines(), request.body, spans, repeatable=repeatable, judged=known)
        relay = Relay(self._shared, live, route, client, caller, request, path, ask, forward)
        relay.begin()
        return relay

    def _refuse(self, client: ClientConnection, request: Request, path: bytes, ask: Ask, turned: _Turned) -> None:
        """Answered by the proxy itself, and written down like any other request."""
        why = turned.why
        headers = b"%bx-request-id: %b\r\n" % (retry_after(why.retry_s), ask.id.encode())
        if why.status == 401:
            headers += b"www-authenticate: Bearer\r\n"
        books = self._shared.books
        books.metrics.refused(why.code)
        books.ended(
            Record(
                id=ask.id,
                trace=ask.trace.trace,
                span=ask.trace.span,
                parent=ask.trace.parent,
                at=ask.at,
                method=ask.head.method,
                path=ask.head.path,
                agent=turned.agent,
                client=turned.client,
                session=ask.head.session or "",
                task=ask.head.task or "",
                told_client=ask.head.client or "",
                status=why.status,
                code=why.code,
                bytes_in=len(request.body),
            )
        )
        client.answer(request, error_page(why.status, why.message, why.code, headers, path))

    # pages

    def _page(self, client: ClientConnection, request: Request, path: bytes) -> None:
        if request.method not in (b"GET", b"HEAD"):
            page = error_page(405, "Only GET is possible here", "method_not_allowed", b"allow: GET, HEAD\r\n")
        elif path in (b"/stats", b"/metrics") and self.others is not None:
            self._later(self._of_all(client, request, path))
            return
        else:
            page = self._made(request, path)
        client.answer(request, page)

    def _made(self, request: Request, path: bytes) -> Page:
        live = self._tables.live
        if path == b"/metrics":
            return Page(200, self._metrics(), TEXT)
        if path == b"/stats":
            return json_page(200, self._stats())
        if live is None:
            return error_page(503, _NO_TABLE, "no_route_table", b"retry-after: 1\r\n")
        if path in (b"/healthz", b"/health"):
            return json_page(200, {"status": "ok", "digest": live.table.digest})
        return self._models(live, request, path)

    def _models(self, live: Live, request: Request, path: bytes) -> Page:
        """The agents, as models; only those that the key may ask."""
        allowed = list(live.routes)
        caller: LiveClient | None = None
        if live.closed:
            caller = live.client(request.read(live.slots).key)
            if caller is None:
                return error_page(401, "A key of this proxy is needed", "invalid_api_key", b"www-authenticate: Bearer\r\n")
            allowed = [agent for agent in allowed if caller.may_ask(agent)]
        models = [{"id": agent, "object": "model", "created": self._started, "owned_by": "turnout"} for agent in allowed]
        if path == b"/v1/models":
            return json_page(200, {"object": "list", "data": models})
        wanted = path.removeprefix(b"/v1/models/").decode("latin-1")
        found = [model for model in models if model["id"] == wanted]
        return json_page(200, found[0]) if found else error_page(404, _unknown(live, wanted, caller), "model_not_found")

    def _metrics(self) -> bytes:
        live, books = self._tables.live, self._shared.books
        serial = live.table.serial if live is not None else 0
        return books.metrics.text(serial, len(self.connections), len(books.sessions), list(self._pools.by_name.values()))

    def figures(self) -> Figures:
        """What this worker counted, for the sum of all."""
        books = self._shared.books
        endpoints = {name: pool.shown() for name, pool in self._pools.by_name.items()}
        return Figures(books.stats.agents(), books.accounts.kept(), endpoints, self._metrics().decode(), len(self.connections))

    def _stats(self, others: Sequence[Figures] = ()) -> dict[str, Any]:
        live, books = self._tables.live, self._shared.books
        digest, serial = (live.table.digest, live.table.serial) if live is not None else ("", 0)
        endpoints = {}
        for name, pool in self._pools.by_name.items():
            endpoints[name] = added(pool.shown(), [other.endpoints[name] for other in others if name in other.endpoints])
        return {
            "digest": digest,
            "serial": serial,
            "started_at": books.stats.started_at,
            "agents": books.stats.shown([other.agents for other in others]),
            "endpoints": endpoints,
            "sessions": len(books.sessions),
            "connections": len(self.connections) + sum(other.connections for other in others),
            "workers": 1 + len(others),
        }

    async def _of_all(self, client: ClientConnection, request: Request, path: bytes) -> None:
        """What all workers of this proxy counted together."""
        assert self.others is not None
        assert self.other_sessions is not None
        if path == b"/-/sessions":
            client.answer(request, admin.sessions(self._shared.books, request, await self.other_sessions()))
            return
        others = await self.others()
        if path == b"/-/accounts":
            page = json_page(200, summed([self._shared.books.accounts.kept(), *(other.accounts for other in others)]))
        elif path == b"/metrics":
            page = Page(200, merged([self._metrics().decode(), *(other.metrics for other in others)]), TEXT)
        else:
            page = json_page(200, self._stats(others))
        client.answer(request, page)

    # behind the token

    def _admin(self, client: ClientConnection, request: Request, path: bytes) -> Current | None:
        if path in self.worker_pages and client.trusted:
            client.answer(request, self.worker_pages[path]())
            return None
        page = admin.refusal(request, self._token_file)
        books = self._shared.books
        reads = request.method in (b"GET", b"HEAD")
        if page is not None:
            pass
        elif path == b"/-/routes" and request.method == b"PUT":
            self._later(self._replace(client, request))
            return None
        elif path not in _ADMIN:
            page = error_page(404, f"There is nothing at {path.decode('latin-1')}", "not_found")
        elif not reads:
            page = error_page(405, "Only GET (and PUT of the routes) is possible here", "method_not_allowed")
        elif path == b"/-/routes":
            page = admin.current_table(self._tables.live, request)
        elif path in (b"/-/accounts", b"/-/sessions") and self.others is not None:
            self._later(self._of_all(client, request, path))
            return None
        elif path == b"/-/sessions":
            page = admin.sessions(books, request)
        elif path == b"/-/accounts":
            page = json_page(200, books.accounts.kept())
        elif b"text/event-stream" in (request.header(b"accept") or b""):
            return admin.RecordStream(books, client, request, self.loop)
        else:
            page = admin.records(books, request)
        client.answer(request, page)
        return None

    async def _replace(self, client: ClientConnection, request: Request) -> None:
        client.answer(request, await self._tables.replace(request.body))

    def _later(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Turned(Exception):
    """A request that no model gets to see."""

    def __init__(self, status: int, code: str, message: str, *, agent: str = "", client: str = "", retry_s: float = 0.0) -> None:
        super().__init__(message)
        self.why = Refused(status, code, message, retry_s)
        self.agent = agent
        self.client = client


def _caller(live: Live, ask: Ask) -> LiveClient | None:
    """Who shows a key; None where none is needed."""
    if not live.closed:
        return None
    caller = live.client(ask.head.key)
    if caller is None:
        raise _Turned(401, "invalid_api_key", "A key of this proxy is needed, as a bearer token or in x-api-key")
    return caller


def _asked(live: Live, ask: Ask, request: Request, caller: LiveClient | None, *, known: bool) -> tuple[str, list[tuple[int, int]]]:
    """Which agent is asked for, and where in the body that stands."""
    try:
        return understood(request.body) if known else (_passed_to(live, ask, request), [])
    except ValueError as error:
        raise _Turned(400, "invalid_body", str(error), client=caller.name if caller is not None else "") from None


def _route(live: Live, agent: str, caller: LiveClient | None) -> LiveRoute:
    """The route of an agent, if this client may ask it."""
    name = caller.name if caller is not None else ""
    route = live.routes.get(agent)
    if route is None:
        raise _Turned(404, "model_not_found", _unknown(live, agent, caller), client=name)
    if caller is not None and not caller.may_ask(agent):
        allowed = ", ".join(sorted(caller.agents or ())) or "none"
        text = f"The client {name} may not ask {agent}; it may ask {allowed}"
        raise _Turned(403, "agent_not_allowed", text, agent=agent, client=name)
    return route


def _passed_to(live: Live, ask: Ask, request: Request) -> str:
    """Whose endpoint gets a request that the proxy does not understand. Raises ValueError."""
    if ask.head.agent is not None:
        return ask.head.agent
    kind = (request.header(b"content-type") or b"").lower()
    if kind.startswith(b"application/json") and request.body:
        with contextlib.suppress(ValueError):
            return asked_model(request.body)
    if len(live.routes) == 1:
        return next(iter(live.routes))
    raise ValueError("Say with the header X-Turnout-Agent whose endpoint this is for; the path and the body do not tell")


def _admit(route: LiveRoute, caller: LiveClient | None) -> None:
    """Count the request in, at the client's account and at the agent's; where one refuses it, at neither."""
    accounts = (caller.account, route.account) if caller is not None else (route.account,)
    for account in accounts:
        refused = account.check()
        if refused is not None:
            client = caller.name if caller is not None else ""
            raise _Turned(refused.status, refused.code, refused.message, agent=route.agent, client=client, retry_s=refused.retry_s)
    for account in accounts:
        account.count()


def _unknown(live: Live, agent: str, caller: LiveClient | None) -> str:
    nearest = live.nearest(agent)
    hint = f" Did you mean {nearest!r}?" if nearest is not None and (caller is None or caller.may_ask(nearest)) else ""
    return f"There is no agent {agent!r}.{hint}"
