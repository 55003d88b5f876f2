"""The part of the surface that needs a token: the route table, the records of requests, the sessions."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import msgspec

from .pages import JSON, Page, error_page, json_page
from .sessions import Session, together

if TYPE_CHECKING:
    from .books import Books
    from .inbound import ClientConnection, Request
    from .live import Live
    from .record import Record

_MOST = 1000
_DIGITS = 18
_BEHIND = 1000  # records that a slow reader of the stream may be behind


def refusal(request: Request, token_file: Path | None) -> Page | None:
    """Why this request may not see or change what is behind the token, or None. The file is read each time: it can rotate."""
    token = b""
    if token_file is not None:
        try:
            token = token_file.read_bytes().strip()
        except OSError:
            token = b""
    if not token:
        return error_page(403, "The proxy has no token, so nobody may see or change this", "forbidden")
    scheme, _, given = (request.header(b"authorization") or b"").partition(b" ")
    if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), token):
        return error_page(401, "A valid bearer token is needed", "unauthorized", b"www-authenticate: Bearer\r\n")
    return None


def current_table(live: Live | None, request: Request) -> Page:
    """The table as it was written, byte for byte."""
    if live is None:
        return json_page(404, {"current": {"serial": 0, "digest": ""}, "error": "There is no route table yet"})
    etag = b"etag: %b\r\n" % live.etag
    wanted = [tag.strip().removeprefix(b"W/") for tag in (request.header(b"if-none-match") or b"").split(b",")]
    if live.etag in wanted or b"*" in wanted:
        return Page(304, b"", headers=etag)
    return Page(200, live.raw, JSON, etag)


def number(request: Request, name: str, default: int) -> int:
    """A whole number from the query; nonsense is the default."""
    query = parse_qs(request.target.partition(b"?")[2].decode("latin-1"))
    try:
        return max(0, int(query[name][0]))
    except (KeyError, ValueError):
        return default


def records(books: Books, request: Request) -> Page:
    """The requests that ended after `?after=` (a number of the page before), oldest first, at most `?limit=`."""
    newest, found = books.records(number(request, "after", 0), min(number(request, "limit", 100), _MOST))
    return json_page(200, {"newest": newest, "requests": found})


def sessions(books: Books, request: Request, others: Sequence[Mapping[str, Session]] = ()) -> Page:
    """The sessions that were heard of last, at most `?limit=`, as all workers together saw them."""
    most = min(number(request, "limit", 100), _MOST)
    return json_page(200, {"sessions": together([books.sessions.newest(most), *others], most)})


class RecordStream:
    """Requests as server-sent events, as they end. A reader that is too slow is cut off; it may come again with `?after=`."""

    endless = True

    def __init__(self, books: Books, client: ClientConnection, request: Request, loop: asyncio.AbstractEventLoop) -> None:
        self._books = books
        self._client = client
        self._loop = loop
        self._number = books.number
        self._waiting: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self._paused = client.paused
        after = request.header(b"last-event-id")
        start = (
            int(after)
            if after is not None and after.isdigit() and len(after) <= _DIGITS
            else number(request, "after", books.number)
        )
        newest, found = books.records(start, _MOST)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
        numbered = enumerate(found, newest - len(found) + 1)
        client.write([head, *(_event(at, record) for at, record in numbered)])
        books.listeners.append(self._ended)
        self._keep_open()

    def _ended(self, record: Record) -> None:
        self._number = self._books.number
        self._waiting.append(_event(self._number, record))
        if len(self._waiting) > _BEHIND:
            self.client_gone()
            self._client.abort()  # closing would wait for a reader that does not read
        elif len(self._waiting) == 1 and not self._paused:
            self._loop.call_later(0.05, self._flush)

    def _flush(self) -> None:
        if self._waiting and not self._paused:
            waiting, self._waiting = self._waiting, []
            self._client.write(waiting)

    def _keep_open(self) -> None:
        self._client.write([b": alive\n\n"])
        self._timer = self._loop.call_later(15, self._keep_open)

    def client_gone(self) -> None:
        if self._ended in self._books.listeners:
            self._books.listeners.remove(self._ended)
        if self._timer is not None:
            self._timer.cancel()

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._flush()


def _event(at: int, record: Record) -> bytes:
    return b"id: %d\ndata: %b\n\n" % (at, msgspec.json.encode(record))
