"""The proxy as something that starts, serves and ends: it listens, does its chores, and drains when it is told to stop."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from . import peers
from .books import AccessLog, Books
from .deadlines import Deadlines
from .inbound import ClientConnection
from .outbound import Dialer
from .peers import Peers
from .pool import Pools
from .probes import Probes
from .routefile import read_table
from .surface import Surface
from .table import RouteTable
from .tables import Tables
from .visit import Shared

if TYPE_CHECKING:
    from .otel import Exporter

_IDLE_S = 120.0  # a client that says nothing for so long is not waited for
_BACKLOG = 4096


class CannotStart(Exception):
    """Its text is the one line that the user gets."""


class Options(msgspec.Struct, kw_only=True):
    """How a proxy is started. `routes` is the first table where `data` has none; `fixed` is a file that always decides."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 5800
    token_file: Path | None = None
    routes: Path | None = None
    fixed: Path | None = None
    access_log: str = ""  # a path, - for standard output
    otel: str = ""  # URL of an OTLP/HTTP collector
    drain_s: float = 10.0
    worker: int = 0
    workers: int = 1


Reader = Callable[[Path], tuple[RouteTable, bytes]]


class Server:
    """One process of a proxy, in the running event loop. Raises CannotStart."""

    def __init__(self, options: Options, read: Reader = read_table) -> None:
        self.options = options
        self.port = options.port
        self._read = read
        self._servers: list[asyncio.Server] = []
        self._chores: list[asyncio.Task[None]] = []
        self._log: AccessLog | None = None
        self._spans: Exporter | None = None

    async def start(self) -> None:
        """Serve; returns when the port is open."""
        options, loop = self.options, asyncio.get_running_loop()
        try:
            options.data.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotStart(f"{options.data}: {error.strerror}") from None
        listener = _listen(options.host, options.port, shared=options.workers > 1)
        books = self._books = Books(loop, options.data, f"-{options.worker}" if options.worker else "")
        if options.worker == 0:
            _take_over(books, options)
        pools = Pools(loop)
        tables = self.tables = Tables(loop, options.data, pools, books)
        self._first_table(tables)
        self._dialer = Dialer(loop)
        self._pools = pools
        surface = self.surface = Surface(Shared(loop, self._dialer, Deadlines(loop), books), tables, pools, options.token_file)
        self._do(books.file.keep(books.stats, books.accounts))
        self._do(self._close_idle())
        self._do(Probes(pools, loop).keep())
        self._export(books)
        if options.fixed is not None:
            tables.fixed = str(options.fixed)
            self._do(tables.watch(options.fixed, self._read))
        if options.workers > 1:
            await self._join(surface, tables, books)
        self._servers.append(await loop.create_server(lambda: ClientConnection(surface), sock=listener, backlog=_BACKLOG))
        self.port = listener.getsockname()[1]

    def _do(self, chore: Coroutine[Any, Any, None]) -> None:
        self._chores.append(asyncio.get_running_loop().create_task(chore))

    def _first_table(self, tables: Tables) -> None:
        options = self.options
        first = options.fixed or options.routes
        found = None if options.fixed is not None else tables.file.load()
        if found is None and first is not None:
            try:
                found = self._read(first)
                tables.file.store(found[1], None)
            except (OSError, ValueError) as error:
                found = tables.file.load()
                if found is None:
                    raise CannotStart(f"{first}: {error}") from None
                print(f"proxy: {first} is passed over, the last good table serves: {error}", file=sys.stderr, flush=True)
        if found is not None:
            tables.adopt(*found)

    def _export(self, books: Books) -> None:
        options = self.options
        if options.access_log:
            self._log = AccessLog(options.access_log)
            books.listeners.append(self._log.add)
            self._do(self._log.keep())
        if options.otel:
            from .otel import Exporter

            try:
                self._spans = Exporter(options.otel)
                books.listeners.append(self._spans.add)
            except ImportError as error:
                raise CannotStart(f"--otel needs the extra packages of turnout[otel]: {error}") from None

    async def _join(self, surface: Surface, tables: Tables, books: Books) -> None:
        options = self.options
        own = peers.socket_path(options.data, options.worker)
        own.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_unix_server(lambda: ClientConnection(surface, trusted=True), str(own)))
        own.chmod(0o600)
        others = Peers(options.data, options.worker, options.workers, tables, books, surface.figures)
        surface.worker_pages = others.pages()
        surface.others = others.figures
        surface.other_sessions = others.sessions
        tables.spread = others.spread
        books.tripped = tables.trip
        self._do(others.keep())

    async def stop(self) -> None:
        """Take no new clients, finish what is under way, write the figures."""
        for server in self._servers:
            server.close()
        await self._drain()
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        for pool in self._pools.by_name.values():
            pool.retire()
        self._books.write()
        if self._log is not None:
            self._log.write()
        if self._spans is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._spans.close)

    async def _drain(self) -> None:
        """Idle clients are closed, busy ones get their answers, and after some time the rest is cut off."""
        surface, loop = self.surface, asyncio.get_running_loop()
        surface.draining = True
        deadline = loop.time() + self.options.drain_s
        while surface.connections and loop.time() < deadline:
            for client in list(surface.connections):
                if client.endless:
                    client.abort()
                elif client.idle:
                    client.close()
            await asyncio.sleep(0.02)
        for client in list(surface.connections):
            client.abort()
        await asyncio.sleep(0)

    async def _close_idle(self) -> None:
        while True:
            await asyncio.sleep(10)
            oldest = monotonic() - _IDLE_S
            for client in list(self.surface.connections):
                if client.idle and client.heard_at < oldest:
                    client.close()
            for pool in self._pools.by_name.values():
                for replica in pool.replicas:
                    self._dialer.close_old(replica)


def _take_over(books: Books, options: Options) -> None:
    """Figures of workers that are not started this time go to the first one; a kill in between neither loses nor doubles them."""
    left = [path for path in options.data.glob("stats-*.json") if _number(path) >= options.workers]
    if not left:
        return
    for path in left:
        if path.name not in books.stats.included:
            kept = books.file.read(path)
            if kept is not None:
                books.stats.include(kept, path.name)
                books.accounts.include(kept.accounts)
    books.write()
    for path in left:
        path.unlink(missing_ok=True)
    books.stats.included.clear()
    books.stats.changed = True


def _number(path: Path) -> int:
    text = path.stem.removeprefix("stats-")
    return int(text) if text.isdigit() else -1


def _listen(host: str, port: int, *, shared: bool) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        text = getattr(error, "strerror", None) or error
        raise CannotStart(f"cannot listen on {host}:{port}: {text}") from None
    listener.setblocking(False)
    return listener
