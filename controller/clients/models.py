"""The door to models: one OpenAI-compatible client for evaluations, judges and smoke tests, whoever serves the model.

Both sides of a comparison go through it. A call is retried within bounds, its answer recorded with time, tokens and cost, and
kept, so that a resumed evaluation pays nothing twice. Raises Permanent where no call can succeed (key, credits, unknown model)
and Temporary during an outage; a single question that fails is a Reply with its `error`.
"""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from controller.clients.model_attempt import RESERVED, Failed, Said, attempt, failure
from controller.clients.model_cache import ReplyCache
from controller.clients.model_records import Call, Listed, Reply, T, Verdict, listed_of
from controller.clients.model_shape import read, response_format
from controller.clients.secrets import resolve
from controller.environment import Endpoint, Price
from controller.errors import Permanent, Temporary, listed, nearest
from controller.settings import Settings
from controller.vendors import InferenceSpec

__all__ = ["Call", "Listed", "Models", "Reply", "Verdict", "connect"]

FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
PAGE = 1000
LONGEST_TEXT = 600


class Models:
    """Every endpoint of an environment. Clock, sleep and chance are parameters, for tests."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        prices: Mapping[str, Price],
        spec: InferenceSpec,
        data: Path,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.endpoints, self.prices, self.spec = dict(endpoints), prices, spec
        self.listed_prices: dict[tuple[str, str], Price] = {}
        """Of a model at an endpoint, where `prices` has none of the model."""
        self._data, self._cache = data, ReplyCache(data / spec.cache)
        self._sleep, self._clock, self._now, self._chance = sleep, clock, now, chance
        self._clients: dict[tuple[str, str], Any] = {}
        self._turns: dict[str, int] = {}
        self._created: dict[str, tuple[str, Callable[[], str]]] = {}
        self._keys: set[str] = set()
        self._lock = threading.Lock()

    def serve(self, name: str, endpoint: Endpoint, token: Callable[[], str], identity: str) -> None:
        """Adds an endpoint that was created for its caller. Answers are kept under its `identity`, whatever its address is."""
        with self._lock:
            self.endpoints[name], self._created[name] = endpoint, (identity, token)

    # -- calls -------------------------------------------------------------------------------------------------------

    def ask(self, call: Call) -> Reply:
        """The answer, from the cache if it was paid for before. Raises Temporary, Permanent."""
        endpoint = self._endpoint(call.endpoint)
        if wrong := sorted(set(call.parameters) & set(RESERVED)):
            raise Permanent(f"parameters of a call to {call.model} may not hold {', '.join(wrong)}; those are fields of the call")
        key = call.key(self._created[call.endpoint][0] if call.endpoint in self._created else endpoint.addresses[0].rstrip("/"))
        with self._cache.alone(key):
            kept = self._cache.get(key)
            if kept is not None:
                return dataclasses.replace(kept, cached=True)
            self._cache.ready()
            reply = self._tried(call, endpoint)
            if not reply.error:
                self._cache.put(key, reply)
            return reply

    def ask_all(
        self, calls: Sequence[Call], on_reply: Callable[[int, Reply], None] | None = None, concurrency: int | None = None
    ) -> list[Reply]:
        """Side by side, in the order given; `on_reply(index, reply)` is called in this thread as they come.

        Raises Permanent at the first of that kind, Temporary after `outage` calls in a row without an answer; what was answered
        by then is kept.
        """
        stop, outage = threading.Event(), _Outage(self.spec.outage)

        def work(call: Call) -> Reply | None:
            if stop.is_set():
                return None
            try:
                reply = self.ask(call)
                outage.note(reply)
            except BaseException:
                stop.set()
                raise
            return reply

        with ThreadPoolExecutor(concurrency or self.spec.concurrency, thread_name_prefix="turnout-model") as pool:
            futures: dict[Future[Reply | None], int] = {pool.submit(work, call): index for index, call in enumerate(calls)}
            replies: dict[int, Reply] = {}
            try:
                for future in as_completed(futures):
                    reply = future.result()
                    if reply is not None:
                        replies[futures[future]] = reply
                        if on_reply is not None:
                            on_reply(futures[future], reply)
            except BaseException:
                stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return [replies[index] for index in range(len(calls))]

    def ask_as(self, call: Call, shape: type[T]) -> Verdict[T]:
        """An answer of a shape: asked for as json_schema, validated, and once sent back with what is wrong with it.

        Raises Temporary, Permanent.
        """
        asked = dataclasses.replace(call, parameters={**call.parameters, "response_format": response_format(shape)})
        first = self.ask(asked)
        if first.error:
            return Verdict(None, (first,), first.error)
        value, problem = read(first.text, shape)
        if value is not None:
            return Verdict(value, (first,))
        again = (
            f"Your answer does not fit the schema: {problem}\nAnswer again, with nothing but one JSON object that fits the schema."
        )
        said = ({"role": "assistant", "content": first.text or "(nothing)"}, {"role": "user", "content": again})
        second = self.ask(dataclasses.replace(asked, messages=(*asked.messages, *said)))
        if second.error:
            return Verdict(None, (first, second), second.error)
        value, problem = read(second.text, shape)
        return Verdict(value, (first, second), problem)

    def _tried(self, call: Call, endpoint: Endpoint) -> Reply:
        started, unanswered, last = self._now(), 0, Failed("temporary", "was not asked")
        begun = self._clock()
        for number in range(1, self.spec.attempts + 1):
            try:
                client = self._client(call.endpoint)
                started, begun = self._now(), self._clock()
                said = attempt(client, call, self.spec.timeout, endpoint.timeout, self._clock)
                return self._answered(call, said, started, number, unanswered)
            except Failed as failed:
                last = failed
                unanswered += failed.sent
                if failed.kind == "fatal":
                    raise self._fatal(call, failed) from None
            waits = self._waits(number, last)
            if last.kind == "refused" or number == self.spec.attempts or waits is None:
                break
            self._sleep(waits)
        return Reply(
            text="",
            model=call.model,
            endpoint=call.endpoint,
            started=started.isoformat(),
            seconds=self._clock() - begun,
            attempts=number,
            unanswered=unanswered,
            error=self._told(call, last),
            error_kind="refused" if last.kind == "refused" else "temporary",
        )

    def _waits(self, number: int, last: Failed) -> float | None:
        """Seconds to the next attempt: what the endpoint asks for, else a doubling with jitter. None when it asks for too much."""
        if last.retry_after is not None:
            return last.retry_after if last.retry_after <= self.spec.patience else None
        return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (number - 1)) * (0.5 + self._chance() / 2)

    def _answered(self, call: Call, said: Said, started: datetime, attempts: int, unanswered: int) -> Reply:
        usage = said.usage
        tokens = (usage.prompt_tokens, usage.completion_tokens) if usage is not None else (None, None)
        cost = (usage.model_extra or {}).get("cost") if usage is not None else None
        known = isinstance(cost, int | float) and not isinstance(cost, bool)
        priced = self._priced(call, *tokens)
        return Reply(
            text="".join(said.pieces),
            model=said.model or call.model,
            endpoint=call.endpoint,
            started=started.isoformat(),
            seconds=said.ended - said.begun,
            first_token_seconds=None if said.first is None else said.first - said.begun,
            input_tokens=tokens[0],
            output_tokens=tokens[1],
            cost_usd=float(cost) if known and cost is not None else priced,
            cost_from="endpoint" if known else "prices" if priced is not None else "",
            finish_reason=said.finish_reason,
            id=said.id,
            attempts=attempts,
            unanswered=unanswered,
        )

    def _priced(self, call: Call, input_tokens: int | None, output_tokens: int | None) -> float | None:
        """By the environment's dated prices, else by those of the endpoint's list; both are per million tokens."""
        price = self.prices.get(call.model) or self.listed_prices.get((call.endpoint, call.model))
        if price is None or input_tokens is None or output_tokens is None:
            return None
        return (input_tokens * price.input + output_tokens * price.output) / 1_000_000

    # -- models ------------------------------------------------------------------------------------------------------

    def listed(self, endpoint: str, timeout: float | None = None) -> tuple[Listed, ...]:
        """The models of an endpoint with their prices, page by page where it has pages. Raises Temporary, Permanent.

        `timeout` in seconds is that of one page; default: that of a call.
        """
        openai = _sdk()
        self._endpoint(endpoint)
        found: dict[str, Listed] = {}
        while True:
            try:
                query = {"offset": len(found), "limit": PAGE} if found else {"limit": PAGE}
                page = list(
                    self._client(endpoint).with_options(timeout=timeout or self.spec.timeout).models.list(extra_query=query)
                )
            except openai.APIError as error:
                failed = failure(error)
                text = f"endpoint {endpoint!r} does not list its models: {self._masked(_status(failed) + failed.message)}"
                raise (Temporary(text) if failed.kind == "temporary" else Permanent(text)) from None
            new = {one.id: listed_of(one) for one in page if one.id not in found}
            found |= new
            if not new or len(page) < PAGE:
                return tuple(found.values())

    # -- endpoints ---------------------------------------------------------------------------------------------------

    def _endpoint(self, name: str) -> Endpoint:
        if name not in self.endpoints:
            there = f"there are {listed(self.endpoints)}{nearest(name, self.endpoints)}"
            raise Permanent(f"there is no endpoint {name!r} in spec.endpoints of environment.yaml; {there}")
        if not self.endpoints[name].addresses:
            text = f"endpoint {name!r} is created by an evaluation for a side of its own; nothing is there before or after"
            raise Permanent(f"{text}, so name one with url or replicas")
        return self.endpoints[name]

    def _client(self, name: str) -> Any:
        """The SDK's client of an endpoint, of one replica after the other; its key is read when it is made.

        Raises Temporary, Permanent.
        """
        openai = _sdk()
        with self._lock:
            endpoint = self.endpoints[name]
            self._turns[name] = turn = (self._turns.get(name, -1) + 1) % len(endpoint.addresses)
            url = endpoint.addresses[turn]
            if (name, url) not in self._clients:
                key = self._created[name][1]() if name in self._created else resolve(endpoint.api_key, self._data)
                self._keys |= {key} if len(key) > 4 else set()
                # The SDK's own retries are off: three paid calls for one question, and nobody would know.
                self._clients[name, url] = openai.OpenAI(base_url=url, api_key=key or "none", max_retries=0)
            return self._clients[name, url]

    def _fatal(self, call: Call, failed: Failed) -> Permanent:
        told = f"{self._told(call, failed)}; {self._hint(call, failed)}"
        if failed.status in (401, 403):
            with self._lock:  # the key may be another one next time
                self._clients = {place: each for place, each in self._clients.items() if place[0] != call.endpoint}
        return Permanent(told)

    def _hint(self, call: Call, failed: Failed) -> str:
        if failed.status == 402:
            return f"add credits to the account behind endpoint {call.endpoint!r}, or lower max_tokens"
        if failed.status == 404:
            try:
                near = nearest(call.model, [one.id for one in self.listed(call.endpoint)])
            except (Temporary, Permanent):
                near = ""
            return f"choose a model that endpoint {call.endpoint!r} lists{near}"
        if call.endpoint in self._created:
            return "check spec.huggingface.token, and that it may use what it created"
        reference = self.endpoints[call.endpoint].api_key or "no key is given"
        return f"check spec.endpoints.{call.endpoint}.apiKey ({reference})"

    def _told(self, call: Call, failed: Failed) -> str:
        return self._masked(f"model {call.model} at endpoint {call.endpoint!r}: {_status(failed)}{failed.message}")

    def _masked(self, text: str) -> str:
        """Without any key that was ever used, should an endpoint repeat it; then cut, so that no part of one is left over."""
        with self._lock:
            keys = sorted(self._keys, key=len, reverse=True)
        for key in keys:
            text = text.replace(key, "***")
        return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " ..."


class _Outage:
    """Counts calls in a row that got no answer for a reason that may pass."""

    def __init__(self, limit: int) -> None:
        self._limit, self._row, self._lock = limit, 0, threading.Lock()

    def note(self, reply: Reply) -> None:
        """Raises Temporary when there were too many."""
        with self._lock:
            self._row = self._row + 1 if reply.error_kind == "temporary" else 0
            if self._row >= self._limit:
                raise Temporary(f"{self._row} calls in a row were not answered, the last: {reply.error}")


def _sdk() -> Any:
    """The vendor's package, imported when a model is first called. Raises Permanent."""
    try:
        import openai
    except ImportError as error:
        raise Permanent(f"calling models needs the Python package openai ({error}); pip install openai") from None
    return openai


def _status(failed: Failed) -> str:
    return f"{failed.status} " if failed.status is not None else ""


def connect(settings: Settings) -> Models:
    """The door of an environment."""
    return Models(settings.spec.endpoints, settings.spec.prices, settings.spec.inference, settings.data)
