"""One simulated endpoint (`model_server.py`): which request gets what, who may set how it behaves, and what it counts."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from typing import Any
from urllib.parse import unquote

from .model_answer import Form, Problem
from .model_behaviour import ALL, Behaviours
from .model_forms import ECHO, FORMS, models_page
from .model_http import Exchange, Request
from .model_journal import Journal
from .model_load import metrics_text, reading
from .model_turn import Model, Turn
from .openrouter_api.rules import Rules

_TEXT = b"text/plain; charset=utf-8"
_METRICS = b"text/plain; version=0.0.4; charset=utf-8"
_GARBAGE = b"\xff\x00<html>vllm:num_requests_running{ NaN NaN\n\x00vllm:num_requests_waiting -\n"
_UNREAD = {"model": "unread", "audio": b""}  # the body of a request that is answered before it is there
_WITH_BODY = ("POST", "PUT", "PATCH")


class ModelEndpoint:
    """One endpoint on one port. `models` are listed and measured before anybody asks them."""

    def __init__(
        self,
        name: str,
        behaviours: Behaviours,
        journal: Journal | None = None,
        models: tuple[str, ...] = (),
        rules: Rules | None = None,
    ) -> None:
        self.name, self._rules = name, rules
        self._behaviours = behaviours
        self._journal = journal
        self._models: dict[str, Model] = {model: Model(name, model) for model in models}

    def arrived(self, request: Request) -> str | None:
        if not request.target.startswith(b"/v1/"):
            return None
        if self._journal is not None:
            request_id = request.header(b"x-request-id")
            request.entry = self._journal.entry(self.name, request_id, request.method, request.path)
        early = self._behaviours.of(self.name, ALL).early if request.method in _WITH_BODY else None
        if early == "refuse":
            request.keep_alive = False
        return early

    async def answer(self, request: Request, exchange: Exchange) -> None:
        path = request.path
        if path.startswith("/v1/"):
            await self._api(path, request, exchange)
        elif request.method in ("GET", "HEAD") and path in ("/health", "/metrics"):
            await self._watched(path, exchange)
        elif (request.method, path) == ("GET", "/healthz"):
            await exchange.json(200, {"status": "ok", "endpoint": self.name})
        elif (request.method, path) == ("GET", "/-/counts"):
            await exchange.json(200, {name: asdict(one.counts) for name, one in self._models.items() if one.counts.requests})
        elif (request.method, path) == ("GET", "/-/behaviour"):
            await exchange.json(200, self._behaviours.shown(self.name))
        elif (request.method, path) == ("PUT", "/-/behaviour"):
            await self._behave(request, exchange)
        else:
            problem = Problem(404, f"There is nothing at {request.method} {path}", "not_found")
            await exchange.json(404, ECHO.error(problem))

    # what an operator asks

    async def _behave(self, request: Request, exchange: Exchange) -> None:
        try:
            patch = json.loads(request.body)
        except ValueError as error:
            await exchange.json(422, {"errors": [f"The body is not JSON: {error}"]})
            return
        found = self._behaviours.merge(self.name, patch)
        if found:
            await exchange.json(422, {"errors": found})
            return
        self._behaviours.keep()
        for model in self._models.values():
            model.slots.limit(self._behaviours.of(self.name, model.name).concurrency)
        await exchange.json(200, self._behaviours.shown(self.name))

    async def _watched(self, path: str, exchange: Exchange) -> None:
        behaviour = self._behaviours.of(self.name, ALL)
        told = behaviour.health if path == "/health" else behaviour.metrics
        if told == "hang":
            await asyncio.Event().wait()
        elif path == "/health":
            await exchange.whole(told if isinstance(told, int) else 200, b"", _TEXT)
        elif told == "error":
            await exchange.whole(500, b"Internal Server Error", _TEXT)
        elif told == "garbage":
            await exchange.whole(200, _GARBAGE, _METRICS)
        elif told == "without_vllm":
            await exchange.whole(200, b"# TYPE process_open_fds gauge\nprocess_open_fds 12.0\n", _METRICS)
        else:
            await exchange.whole(200, self._metrics(old_names=told == "old_names").encode(), _METRICS)

    def _metrics(self, *, old_names: bool) -> str:
        readings = []
        for model in self._models.values():
            if model.name != ALL:
                totals = (model.counts.finished, model.counts.input_tokens, model.counts.output_tokens)
                readings.append(reading(model.name, model.slots, self._behaviours.of(self.name, model.name), totals))
        return metrics_text(readings, old_names=old_names)

    # what an agent asks

    async def _api(self, path: str, request: Request, exchange: Exchange) -> None:
        if request.method in ("GET", "HEAD") and (path == "/v1/models" or path.startswith("/v1/models/")):
            await self._list(path, request, exchange)
            return
        form = FORMS.get(path, ECHO)
        if form.methods and request.method not in form.methods:
            problem: Problem | None = Problem(405, f"{path} answers {', '.join(form.methods)} only", "method_not_allowed")
        elif request.unread == "refuse":
            problem = Problem(413, "The body is too large to be read", "too_large")
        else:
            problem = form.check(request)
        if problem is None:
            body = _UNREAD if request.unread else form.read(request)
            if not isinstance(body, Problem):
                await self._model(form, body, exchange)
                return
            problem = body
        await self._plain(exchange, problem.status, form.error(problem))

    async def _list(self, path: str, request: Request, exchange: Exchange) -> None:
        one = unquote(path.removeprefix("/v1/models").removeprefix("/"))
        known = [name for name in self._models if name != ALL]
        page = models_page(request, [one] if one else known, self.name)
        await self._plain(exchange, 200, page["data"][0] if one else page)

    async def _plain(self, exchange: Exchange, status: int, content: Any) -> None:
        entry = exchange.request.entry
        if entry is not None:
            entry.status = status
        await exchange.json(status, content)
        if entry is not None:
            entry.finished()

    async def _model(self, form: Form, body: dict[str, Any], exchange: Exchange) -> None:
        name: str = body["model"]
        model = self._models.get(name)
        if model is None:
            model = self._models[name] = Model(self.name, name)
        await Turn(model, form, body, self._behaviours.of(self.name, name), exchange, self._rules).take()
