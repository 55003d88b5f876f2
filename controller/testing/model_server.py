"""Simulated OpenAI-compatible endpoints, so that the `local` environment needs no key.

`python -m controller.testing.model_server --endpoint openrouter=5811 --endpoint huggingface=5812 [--state FILE]`: any
model name is answered; how it behaves is set at `/-/behaviour`, and what it was asked is counted at `/-/counts`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .model_behaviour import Behaviour, Behaviours
from .model_http import Exchange, Request, listen


@dataclass
class Counts:
    """What one model was asked, and what became of it. A cancelled request is one whose client left before its end."""

    requests: int = 0
    errors: int = 0
    streams: int = 0
    cancelled: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class ModelEndpoint:
    """One endpoint on one port."""

    def __init__(self, name: str, behaviours: Behaviours) -> None:
        self.name = name
        self._behaviours = behaviours
        self._counts: dict[str, Counts] = {}
        self._number = 0

    async def answer(self, request: Request, exchange: Exchange) -> None:
        asked = (request.method, request.path)
        if asked == ("GET", "/healthz"):
            await exchange.json(200, {"status": "ok", "endpoint": self.name})
        elif asked == ("GET", "/v1/models"):
            models = [{"id": name, "object": "model", "created": 0, "owned_by": self.name} for name in self._counts]
            await exchange.json(200, {"object": "list", "data": models})
        elif asked == ("GET", "/-/counts"):
            await exchange.json(200, {model: asdict(counts) for model, counts in self._counts.items()})
        elif asked == ("GET", "/-/behaviour"):
            await exchange.json(200, self._behaviours.shown(self.name))
        elif asked == ("PUT", "/-/behaviour"):
            await self._behave(request, exchange)
        elif request.method == "POST" and request.path in _ANSWERS:
            await self._model(request, exchange)
        else:
            await exchange.json(404, _error(f"There is nothing at {request.method} {request.path}", "not_found"))

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
        await exchange.json(200, self._behaviours.shown(self.name))

    async def _model(self, request: Request, exchange: Exchange) -> None:
        try:
            body = json.loads(request.body)
            model = body["model"]
        except (ValueError, TypeError, KeyError):
            body, model = None, None
        if not isinstance(body, dict) or not isinstance(model, str):
            await exchange.json(400, _error("The body needs a `model`", "invalid_body"))
            return
        counts = self._counts.setdefault(model, Counts())
        counts.requests += 1
        try:
            await self._simulate(request.path, body, self._behaviours.of(self.name, model), counts, exchange)
        except (asyncio.CancelledError, ConnectionResetError):
            counts.cancelled += 1
            raise

    async def _simulate(self, path: str, body: dict[str, Any], behaviour: Behaviour, counts: Counts, exchange: Exchange) -> None:
        if behaviour.latency_ms:
            await asyncio.sleep(behaviour.latency_ms / 1000)
        if behaviour.hang:
            await asyncio.Event().wait()
        if behaviour.fails(counts.requests):
            counts.errors += 1
            await exchange.json(behaviour.status or 500, _error("This failure is simulated", "simulated_failure"))
            return
        self._number += 1
        answer = _Answer(self.name, self._number, body, behaviour.output_tokens, path)
        counts.input_tokens += answer.input_tokens
        counts.output_tokens += answer.output_tokens
        if body.get("stream") is True and path != "/v1/embeddings":
            counts.streams += 1
            await _stream(exchange, list(answer.events()), die=behaviour.die_mid_stream)
            return
        content = json.dumps(_ANSWERS[path](answer), ensure_ascii=False).encode()
        await exchange.begin(200, b"application/json", len(content))
        if behaviour.die_mid_stream:
            await exchange.piece(content[: len(content) // 2])
            exchange.die()
        else:
            await exchange.piece(content)


async def _stream(exchange: Exchange, events: list[dict[str, Any]], *, die: bool) -> None:
    await exchange.begin(200, b"text/event-stream")
    for i, event in enumerate(events):
        if die and i >= len(events) // 2:
            exchange.die()
            return
        await exchange.piece(b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n")
        await asyncio.sleep(0)
    await exchange.piece(b"data: [DONE]\n\n")
    await exchange.end()


class _Answer:
    """What one request gets: a text of a given number of tokens (words) that names model and endpoint."""

    def __init__(self, endpoint: str, number: int, body: dict[str, Any], tokens: int, path: str) -> None:
        self.model: str = body["model"]
        self.body = body
        self.chat = path == "/v1/chat/completions"
        self.id = f"{'chatcmpl' if self.chat else 'cmpl'}-{endpoint}-{number}"
        self.created = int(time.time())
        asked = body.get("messages") or body.get("prompt") or body.get("input") or ""
        self.input_tokens = len(json.dumps(asked, ensure_ascii=False).split())
        self.output_tokens = 0 if path == "/v1/embeddings" else tokens
        words = f"Simulated answer of {self.model} at {endpoint}:".split()
        self.words = words + [f"word{i}" for i in range(1, max(1, tokens - len(words)) + 1)]

    @property
    def text(self) -> str:
        return " ".join(self.words)

    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
        }

    def events(self) -> Iterator[dict[str, Any]]:
        yield self._event(self._choice({"role": "assistant", "content": ""}, "", None))
        for i, word in enumerate(self.words):
            text = word if i == 0 else f" {word}"
            yield self._event(self._choice({"content": text}, text, None))
        yield self._event(self._choice({}, "", "stop"))
        options = self.body.get("stream_options")
        if isinstance(options, dict) and options.get("include_usage") is True:
            yield {**self._event(None), "usage": self.usage()}

    def _choice(self, delta: dict[str, str], text: str, reason: str | None) -> dict[str, Any]:
        content = {"delta": delta} if self.chat else {"text": text}
        return {"index": 0, **content, "logprobs": None, "finish_reason": reason}

    def _event(self, choice: dict[str, Any] | None) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        choices = [] if choice is None else [choice]
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def _chat(answer: _Answer) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    head = {"id": answer.id, "object": "chat.completion", "created": answer.created, "model": answer.model}
    return {**head, "choices": [choice], "usage": answer.usage()}


def _completion(answer: _Answer) -> dict[str, Any]:
    choice = {"index": 0, "text": answer.text, "logprobs": None, "finish_reason": "stop"}
    head = {"id": answer.id, "object": "text_completion", "created": answer.created, "model": answer.model}
    return {**head, "choices": [choice], "usage": answer.usage()}


def _embeddings(answer: _Answer) -> dict[str, Any]:
    asked = answer.body.get("input")
    texts = asked if isinstance(asked, list) else [asked]
    data = [
        {"object": "embedding", "index": i, "embedding": [((len(str(text)) + k) % 7) / 7 for k in range(8)]}
        for i, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": answer.input_tokens, "total_tokens": answer.input_tokens}
    return {"object": "list", "data": data, "model": answer.model, "usage": usage}


_ANSWERS = {"/v1/chat/completions": _chat, "/v1/completions": _completion, "/v1/embeddings": _embeddings}


def _error(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "simulated_error", "param": None, "code": code}}


def _endpoint(text: str) -> tuple[str, int]:
    name, _, port = text.partition("=")
    if not name or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=PORT")
    return name, int(port)


async def _serve(host: str, endpoints: list[tuple[str, int]], behaviours: Behaviours) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    servers = []
    for name, port in endpoints:
        server, got = await listen(host, port, ModelEndpoint(name, behaviours).answer)
        servers.append(server)
        print(f"model endpoint {name} listening on http://{host}:{got}", flush=True)
    await stop.wait()
    for server in servers:
        server.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m controller.testing.model_server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--endpoint", type=_endpoint, action="append", required=True, metavar="NAME=PORT")
    parser.add_argument("--state", type=Path, help="a file in which the behaviours are kept")
    arguments = parser.parse_args()
    try:
        asyncio.run(_serve(arguments.host, arguments.endpoint, Behaviours(arguments.state)))
    except (OSError, ValueError) as error:
        print(f"model_server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
