"""One request to one simulated model (`model_server.py`): a place, the time it takes, then an answer, a failure or a fault."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from .model_answer import Answer, Form, Problem, encoded
from .model_behaviour import WHOLE, Behaviour
from .model_http import Exchange
from .model_load import Held, Pace, QueueFull, Slots
from .model_wire import Pause, Reply, Wire
from .openrouter_api.answers import Call
from .openrouter_api.rules import Rules

_JSON = b"application/json"
_TEXT = b"text/plain; charset=utf-8"
_FAILURE = "This failure is simulated"


@dataclass
class Counts:
    """What one model was asked, and what became of it. A cancelled request is one whose client left before its end."""

    requests: int = 0
    errors: int = 0
    streams: int = 0
    cancelled: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    faults: int = 0
    finished: int = 0  # answers, no errors, that can be read as a whole


@dataclass
class Model:
    """One model of one endpoint."""

    endpoint: str
    name: str
    counts: Counts = field(default_factory=Counts)
    slots: Slots = field(default_factory=Slots)


class Turn:
    """Serves a request whose head and body are in order. How the model behaves is settled when it comes."""

    def __init__(
        self, model: Model, form: Form, body: dict[str, Any], behaviour: Behaviour, exchange: Exchange, rules: Rules | None = None
    ) -> None:
        model.counts.requests += 1
        self._rules = rules
        self._model = model
        self._form = form
        self._body = body
        self._behaviour = behaviour
        self._exchange = exchange
        self._number = model.counts.requests
        self._fault = behaviour.fault_of(self._number)

    async def take(self) -> None:
        """Until the answer is sent, or the client has left."""
        if self._exchange.request.entry is not None:
            self._exchange.request.entry.model = self._model.name
        self._model.slots.limit(self._behaviour.concurrency)
        try:
            try:
                await self._model.slots.enter(self._behaviour.queue)
            except QueueFull:
                self._fault = None  # faults are of the answers of the model
                await self._fail(Problem(429, "Too many requests wait already", "queue_full"))
                return
            try:
                with self._model.slots.holding() as held:
                    await self._serve(held)
            finally:
                self._model.slots.leave()
        except (asyncio.CancelledError, ConnectionResetError):
            self._model.counts.cancelled += 1
            raise

    async def _serve(self, held: Held) -> None:
        behaviour = self._behaviour
        pace = Pace(behaviour, held)
        await pace.prepare()
        if behaviour.hang:
            await asyncio.Event().wait()
        if behaviour.fails(self._number):
            await self._fail(Problem(behaviour.status or 500, _FAILURE, "simulated_failure"))
            return
        tokens = behaviour.output_tokens if self._form.writes else 0
        answer = Answer(self._model.endpoint, self._exchange.request, self._body, tokens, self._said())
        held.more(answer.input_tokens)
        self._model.counts.input_tokens += answer.input_tokens
        self._model.counts.output_tokens += answer.output_tokens
        if behaviour.die_mid_stream and self._fault is None:
            self._fault = "close_mid_body"
        if self._body.get("stream") is True and self._form.stream is not None:
            await self._stream(answer, pace)
            return
        await pace.think(answer)
        content = self._form.whole(answer)
        await self._send(Reply(200, _TEXT if isinstance(content, bytes) else _JSON, (encoded(content),)))
        self._answered()

    def _said(self) -> tuple[str, ...] | None:
        """The tokens of the first rule that fits a chat; None = the model says that it is simulated."""
        if self._rules is None or not isinstance(self._body.get("messages"), list):
            return None
        call = Call(self._model.name, self._body)
        rule = next(((one, match) for one in self._rules.rules if (match := one.fits(call))), None)
        return tuple(rule[0].answer(call, rule[1]).pieces) if rule else None

    async def _stream(self, answer: Answer, pace: Pace) -> None:
        assert self._form.stream is not None
        self._model.counts.streams += 1
        stream = self._form.stream(answer)
        broken = self._form.broken(Problem(500, _FAILURE, "simulated_failure"))
        reply = Reply(200, b"text/event-stream", stream.events, stream.count, streamed=True, error_event=broken)
        await self._send(reply, lambda i: pace.before(i, stream))
        self._answered()

    async def _fail(self, problem: Problem) -> None:
        """An error in the vendor's form; a refusal for lack of room always says when to try again."""
        self._model.counts.errors += 1
        after = self._behaviour.retry_after
        if after is None and problem.code == "queue_full":
            after = 1
        headers = () if after is None else ((b"retry-after", str(after).encode()),)
        await self._send(Reply(problem.status, _JSON, (encoded(self._form.error(problem)),), headers=headers))

    async def _send(self, reply: Reply, pause: Pause | None = None) -> None:
        fault, entry = self._fault, self._exchange.request.entry
        self._model.counts.faults += fault is not None
        if entry is not None:
            entry.status, entry.fault = reply.status, fault
        await Wire(self._exchange, self._behaviour, fault, self._model.endpoint).send(reply, pause)
        if entry is None:
            return
        if fault is None or fault in WHOLE:
            entry.finished()
        else:
            entry.cut("a fault was asked for")

    def _answered(self) -> None:
        self._model.counts.finished += self._fault is None or self._fault in WHOLE
