"""Many clients at once that ask a gateway, and what each of them got. For tests that hold it beside what the upstreams saw.

    with Load(port, asked(...), clients=8) as load:  # in a thread of its own
        load.reach(500)  # 500 requests have ended; meanwhile the test kills whom it likes
    for got in load.done: ...

The requests come from an iterator, so a seeded one gives the same work again. How an answer is read and judged is in
`load_answer.py`. A client waits for its answer before it asks again, and keeps its connection as long as it is kept.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self, cast

import httptools
import uvloop

from .load_answer import Answer, Asked, Got

_SILENCE_S = 120.0  # then the gateway has lost the request
_WAIT_S = 600.0


class _Connection(asyncio.Protocol):
    """One connection to the gateway; one request at a time."""

    def __init__(self) -> None:
        self.closed = False
        self.used = 0
        self.answer: Answer | None = None
        self.unasked = b""  # what came without a request
        self._transport: asyncio.Transport | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._done: asyncio.Future[None] | None = None

    async def ask(self, request: bytes, answer: Answer) -> None:
        """Returns when the answer is there, or cannot come any more."""
        self.used += 1
        self.answer = answer
        self._done = asyncio.get_running_loop().create_future()
        if self._transport is None or self.closed:
            answer.why = "the connection was closed before the request"
            return
        self._transport.write(request)
        try:
            async with asyncio.timeout(_SILENCE_S):
                await self._done
        except TimeoutError:
            answer.why = f"there was no answer in {_SILENCE_S:g} s"
            self.leave()

    def leave(self) -> None:
        """In the middle of whatever it is."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        answer = self.answer
        if answer is None:
            self.unasked += data
            self.leave()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            answer.garbled = f"{error}: {data[:200]!r}"
            self.leave()
        if answer.asked.leave and answer.body and not answer.framed:
            answer.left = True
            self.leave()
        if answer.framed or answer.left or answer.garbled:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self.answer is not None:
            self.answer.why = self.answer.why or f"the connection was closed ({type(exc).__name__ if exc else 'FIN'})"
            self._end()

    def _end(self) -> None:
        self.answer = None
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    # httptools

    def on_message_begin(self) -> None:
        if self.answer is None or self.answer.status:
            raise ValueError("a second answer")

    def on_header(self, name: bytes, value: bytes) -> None:
        assert self.answer is not None
        self.answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        assert self.answer is not None
        self.answer.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        assert self.answer is not None
        self.answer.body += data

    def on_message_complete(self) -> None:
        assert self.answer is not None
        self.answer.framed = True
        if not self._parser.should_keep_alive():
            self.closed = True


class Load:
    """A context manager: it begins on entry and waits for the end of the work on exit, or stops where the test failed."""

    def __init__(self, port: int, work: Iterable[Asked], *, clients: int = 8, host: str = "127.0.0.1") -> None:
        self.done: list[Got] = []
        self.unasked: list[bytes] = []  # bytes that came without a request
        self.pause_s = 0.0  # of each client before its next request; may be set at any time
        self._where = (host, port)
        self._work: Iterator[Asked] = iter(work)
        self._clients = clients
        self._live: dict[str, Asked] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self._stopped = True
        self._thread.join(_WAIT_S)
        if kind is None:
            self._check()
            if self._thread.is_alive():
                raise RuntimeError(f"the load did not end; {len(self._live)} requests are still without an answer")

    def stop(self) -> None:
        """No new requests; what was asked gets its answers."""
        self._stopped = True

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def reach(self, number: int) -> None:
        """Wait until so many requests have ended, or all that there are."""
        self._until(lambda: len(self.done) >= number)

    def further(self, number: int) -> None:
        """Wait for so many more."""
        self.reach(len(self.done) + number)

    def pass_by(self) -> None:
        """Wait until every request that is under way now has ended."""
        now = set(self._live)
        self._until(lambda: now.isdisjoint(self._live))

    def _until(self, reached: Any) -> None:
        end = time.monotonic() + _WAIT_S
        with self._changed:
            while not reached() and self.running:
                self._changed.wait(1.0)
                if time.monotonic() > end:
                    raise RuntimeError(f"only {len(self.done)} requests ended in {_WAIT_S:g} s")
        self._check()

    def _check(self) -> None:
        if self._fault is not None:
            raise RuntimeError("the load itself failed") from self._fault

    # in its thread

    def _run(self) -> None:
        try:
            uvloop.run(self._all())
        except BaseException as error:
            self._fault = error
        with self._changed:
            self._changed.notify_all()

    async def _all(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._clients)))

    async def _client(self) -> None:
        connection: _Connection | None = None
        while not self._stopped and (asked := next(self._work, None)) is not None:
            if self.pause_s:
                await asyncio.sleep(self.pause_s)
            self._live[asked.id] = asked
            answer = Answer(asked)
            if connection is None or connection.closed or asked.fresh:
                if connection is not None:
                    self._part(connection)
                connection = await self._connect(answer)
            if connection is not None:
                await connection.ask(asked.request(*self._where), answer)
            got = answer.got()
            with self._changed:
                self.done.append(got)
                del self._live[asked.id]
                self._changed.notify_all()
        if connection is not None:
            self._part(connection)

    def _part(self, connection: _Connection) -> None:
        if connection.unasked:
            self.unasked.append(connection.unasked)
        connection.leave()

    async def _connect(self, answer: Answer) -> _Connection | None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(_Connection, *self._where)
        except OSError as error:
            answer.why = f"no connection: {error}"
            return None
        return connection
