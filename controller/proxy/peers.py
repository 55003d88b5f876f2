"""Workers of one proxy: processes that share a port (SO_REUSEPORT) and keep one table, one set of limits and one account.

Each worker also listens on a socket file that only its user can open. There the others ask, five times a second, what it has
let in and spent, and read its figures when somebody wants the sum. So limits, budgets and guards are exceeded by at most
what comes in within that time; the route table is taken over by every worker before a PUT is acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from .accounts import Used
from .books import Books
from .pages import Page, json_page
from .sessions import Session
from .stats import AgentFigures, Trip
from .tables import Tables

SHARED = b"/-/worker/shared"
FIGURES = b"/-/worker/figures"
FOLLOW = b"/-/worker/follow"
SESSIONS = b"/-/worker/sessions"
_EVERY_S = 0.2
_CALL_S = 2.0
_SESSIONS = 1000  # of each worker, for the page of all


def socket_path(data: Path, number: int) -> Path:
    return data / f"worker-{number}.sock"


class _Told(msgspec.Struct):
    accounts: dict[str, list[Any]] = {}
    cells: list[tuple[str, str, str, int, int]] = []  # agent, step, variant, requests, errors; of routes with a guard
    trips: list[tuple[str, Trip]] = []


class Figures(msgspec.Struct):
    """Everything that one worker counted, for the sum of all."""

    agents: dict[str, AgentFigures] = {}
    accounts: dict[str, dict[str, Used]] = {}
    endpoints: dict[str, dict[str, Any]] = {}
    metrics: str = ""
    connections: int = 0


_told = msgspec.json.Decoder(_Told)
_figures = msgspec.json.Decoder(Figures)
_known = msgspec.json.Decoder(dict[str, Session])


class Peers:
    """What this worker knows of the others, and what it tells them."""

    def __init__(self, data: Path, number: int, count: int, tables: Tables, books: Books, own: Callable[[], Figures]) -> None:
        self._others = {f"worker {each}": socket_path(data, each) for each in range(count) if each != number}
        self._tables = tables
        self._books = books
        self._own = own
        self._heard: dict[str, _Told] = {}

    def pages(self) -> dict[bytes, Any]:
        """What the others may ask."""
        return {SHARED: self._shared, FIGURES: self._own_figures, FOLLOW: self._follow, SESSIONS: self._sessions}

    def _shared(self) -> Page:
        return json_page(200, _Told(self._books.accounts.told(), list(self._guarded()), list(self._trips())))

    def _guarded(self) -> Sequence[tuple[str, str, str, int, int]]:
        live = self._tables.live
        found = []
        for agent, route in live.routes.items() if live is not None else ():
            if route.route.guard is not None:
                for target in route.targets[1:]:
                    if target.cell is not None:
                        found.append((agent, target.step, target.variant, target.cell.requests, target.cell.errors))
        return found

    def _trips(self) -> Sequence[tuple[str, Trip]]:
        live = self._tables.live
        routes = live.routes.items() if live is not None else ()
        trips = [(agent, self._books.stats.tripped(agent, route.route.step)) for agent, route in routes if route.tripped]
        return [(agent, trip) for agent, trip in trips if trip is not None]

    def _own_figures(self) -> Page:
        return json_page(200, self._own())

    def _follow(self) -> Page:
        self._tables.follow()
        return json_page(200, self._tables.current())

    def _sessions(self) -> Page:
        return json_page(200, self._books.sessions.newest(_SESSIONS))

    async def sessions(self) -> list[dict[str, Session]]:
        """The sessions that the others heard of last."""
        answers = await asyncio.gather(*(_call(path, SESSIONS) for path in self._others.values()))
        return [_known.decode(answer) for answer in answers if answer is not None]

    async def keep(self) -> None:
        """Hear the others, until cancelled."""
        while True:
            await asyncio.sleep(_EVERY_S)
            answers = await asyncio.gather(*(_call(path, SHARED) for path in self._others.values()))
            for name, answer in zip(self._others, answers, strict=True):
                if answer is not None:
                    self._heard[name] = _told.decode(answer)  # of one that is gone, what it said last goes on counting
            self._take_in()

    def _take_in(self) -> None:
        heard = list(self._heard.values())
        self._books.accounts.hear([told.accounts for told in heard])
        sums: dict[tuple[str, str, str], tuple[int, int]] = {}
        for told in heard:
            for agent, step, variant, requests, errors in told.cells:
                so_far = sums.get((agent, step, variant), (0, 0))
                sums[agent, step, variant] = (so_far[0] + requests, so_far[1] + errors)
            for agent, trip in told.trips:
                if self._books.stats.trip(agent, trip):
                    self._tables.trip(agent, trip.step)
        self._books.others = sums

    async def spread(self) -> str:
        """Have the others take the table that is on disk; the names of those that did not."""
        answers = await asyncio.gather(*(_call(path, FOLLOW) for path in self._others.values()))
        digest = self._tables.current()["digest"]
        behind = []
        for name, answer in zip(self._others, answers, strict=True):
            if answer is None or msgspec.json.decode(answer).get("digest") != digest:
                behind.append(name)
        return ", ".join(behind)

    async def figures(self) -> list[Figures]:
        """The figures of the others; of one that does not answer, none."""
        answers = await asyncio.gather(*(_call(path, FIGURES) for path in self._others.values()))
        return [_figures.decode(answer) for answer in answers if answer is not None]


async def _call(path: Path, what: bytes) -> bytes | None:
    """GET from another worker's socket file; None where it does not answer."""
    try:
        async with asyncio.timeout(_CALL_S):
            reader, writer = await asyncio.open_unix_connection(str(path))
            try:
                writer.write(b"GET %b HTTP/1.1\r\nhost: worker\r\nconnection: close\r\n\r\n" % what)
                head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    return body if head.startswith(b"HTTP/1.1 200 ") else None
