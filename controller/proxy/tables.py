"""The route table in service: how a new one comes in, from whom, and what it may replace. It is on disk before it serves."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from .checks import problems
from .live import Live
from .pages import Page, error_page, json_page
from .routefile import RouteFile
from .table import RouteTable, decode

if TYPE_CHECKING:
    from .books import Books
    from .pool import Pools

_WATCH_S = 0.25


class Tables:
    """`live` is replaced by one assignment; what began with the old table ends with it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, data: Path, pools: Pools, books: Books) -> None:
        self.live: Live | None = None
        self.file = RouteFile(data)
        self.fixed = ""  # the file that alone decides, where one does
        self.spread: Callable[[], Awaitable[str]] | None = None  # tells the other workers; returns who did not follow
        self._loop = loop
        self._pools = pools
        self._books = books
        self._replacing = asyncio.Lock()

    def adopt(self, table: RouteTable, raw: bytes, kept: Kept | None = None) -> None:
        """Put a table into service. Guards that have tripped stay so for their step.

        With `kept` only what differs from the table in service is made anew: requests do not wait for ten thousand routes.
        """
        before = self.live if kept is not None and kept.than is self.live else None
        agents = kept.changed if kept is not None and before is not None else table.routes
        self._books.stats.adopt(table, agents)
        self._books.accounts.adopt(table, agents)
        pools = self._pools.adopt(table.endpoints.items())
        self.live = Live(table, raw, pools, self._books.stats, self._books.accounts, before, agents)

    def trip(self, agent: str, step: str) -> None:
        """A guard sent everything back; a newer table than the one that it was seen in may be in service by now."""
        route = self.live.routes.get(agent) if self.live is not None else None
        if route is not None and route.route.step == step:
            route.tripped = True

    def follow(self) -> None:
        """Serve what is on disk now: another worker has put it there."""
        found = self.file.load()
        if found is not None and (self.live is None or self.live.table.digest != found[0].digest):
            self.adopt(*found)

    async def replace(self, raw: bytes) -> Page:
        """Accepts a table that is valid and was made for the one in service."""
        if self.fixed:
            return error_page(409, f"This proxy reads its routes from {self.fixed}; change that file", "fixed_routes")
        try:
            table, found, kept = await self._loop.run_in_executor(None, _checked, raw, self.live)
        except (ValueError, RecursionError) as error:
            return json_page(422, {"error": "This is not a route table", "problems": [str(error)]})
        if found:
            return json_page(422, {"error": "The route table is not valid", "problems": found})
        async with self._replacing:
            if self.spread is None:
                return await self._take(table, raw, kept)
            held = await self._loop.run_in_executor(None, self.file.lock)
            try:
                self.follow()
                page = await self._take(table, raw, kept)
                behind = await self.spread() if page.status == 200 else ""
            finally:
                os.close(held)
        if behind:
            return error_page(503, f"The table is in service, but not yet in {behind}; ask again", "not_everywhere")
        return page

    async def _take(self, table: RouteTable, raw: bytes, kept: Kept | None) -> Page:
        live = self.live
        digest = live.table.digest if live is not None else ""
        if table.digest == digest:
            return json_page(200, {"serial": table.serial, "digest": digest, "replaced": False})
        if live is not None and table.serial <= live.table.serial:
            text = f"The table has serial {table.serial}, and {live.table.serial} is in service: it is older, or a late copy"
            return json_page(409, {"current": self.current(), "error": text})
        if table.replaces != digest:
            text = f"The table replaces {table.replaces or 'none'!r}, but {digest or 'none'!r} is in service"
            return json_page(409, {"current": self.current(), "error": text})
        try:
            await self._loop.run_in_executor(None, self.file.store, raw, live.raw if live is not None else None)
        except OSError as error:
            return error_page(500, f"The table cannot be written: {error.strerror}", "not_written")
        self.adopt(table, raw, kept)
        return json_page(200, {"serial": table.serial, "digest": table.digest, "replaced": True})

    def current(self) -> dict[str, int | str]:
        live = self.live
        return {"serial": live.table.serial, "digest": live.table.digest} if live else {"serial": 0, "digest": ""}

    async def watch(self, path: Path, read: Callable[[Path], tuple[RouteTable, bytes]]) -> None:
        """Follow a file until cancelled. One that is broken is said, and the last good table goes on serving."""
        seen = _mark(path)
        while True:
            await asyncio.sleep(_WATCH_S)
            mark = _mark(path)
            if mark == seen:
                continue
            seen = mark
            try:
                table, raw = await self._loop.run_in_executor(None, read, path)
                if self.live is not None and table.digest == self.live.table.digest:
                    continue
                replaced = self.live.raw if self.live is not None else None
                await self._loop.run_in_executor(None, self.file.store, raw, replaced)
            except (OSError, ValueError) as error:
                print(f"proxy: {path} is passed over, the routes stay as they are: {error}", file=sys.stderr, flush=True)
            else:
                self.adopt(table, raw)


class Kept(NamedTuple):
    """Which agents of a table have other routes `than` the table that was in service when it was looked at."""

    than: Live
    changed: list[str]


def _checked(raw: bytes, live: Live | None) -> tuple[RouteTable, list[str], Kept | None]:
    """The table, what is wrong with it, and what it changes. In a thread: this takes long for many routes."""
    table = decode(raw)
    found = problems(table)
    if found or live is None or live.table.endpoints != table.endpoints:
        return table, found, None
    before = live.table.routes
    changed = [agent for agent, route in table.routes.items() if before.get(agent) != route]
    return table, found, Kept(live, changed)


def _mark(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_ino, found.st_size
