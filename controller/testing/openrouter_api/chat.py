"""Chat of OpenRouter's double: who may, what it says, as JSON or as a stream, and what it costs.

A call is billed by its tokens when the model has finished, also when nobody listens any more; a provider's refusal is free.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..vendor_double import Route
from ..vendor_http import Answer, Asked, Refused
from .answers import CHARACTERS_A_TOKEN, Call, ProviderFailed, Reply, tokens
from .bodies import problems

if TYPE_CHECKING:
    from .api import OpenRouterApi


@dataclass
class Generation:
    """One answer in the making."""

    call: Call
    reply: Reply
    id: str = field(default_factory=lambda: f"gen-{int(time.time())}-{uuid.uuid4().hex[:20]}")
    created: float = field(default_factory=time.time)
    first: float | None = None
    text: str = ""
    finish_reason: str = ""

    def pieces(self, api: OpenRouterApi) -> Iterator[str]:
        """The text piece by piece, cut at max_tokens. Raises ProviderFailed where the provider breaks off."""
        api.stopping.wait(self.reply.delay)
        limit = self.call.body.get("max_completion_tokens") or self.call.body.get("max_tokens")
        most = limit * CHARACTERS_A_TOKEN if limit else None
        for index, piece in enumerate(self.reply.pieces):
            if index == self.reply.breaks_after:
                self.finish_reason = "error"
                raise ProviderFailed("Provider disconnected")
            self.first = self.first or time.time()
            kept = piece if most is None else piece[: most - len(self.text)]
            self.text += kept
            if kept:
                yield kept
            if most is not None and len(self.text) >= most:
                self.finish_reason = "length"
                return
        self.finish_reason = self.reply.finish_reason

    def usage(self, api: OpenRouterApi) -> dict[str, Any]:
        entry, reply = api.models[self.call.model], self.reply
        prompt = self.call.input_tokens if reply.input_tokens is None else reply.input_tokens
        said = tokens(self.text) if reply.output_tokens is None else reply.output_tokens
        costs = (prompt * float(entry.prompt), said * float(entry.completion))
        details = {"upstream_inference_prompt_cost": costs[0], "upstream_inference_completions_cost": costs[1]}
        return {
            "prompt_tokens": prompt,
            "completion_tokens": said,
            "total_tokens": prompt + said,
            "cost": sum(costs),
            "is_byok": False,
            "cost_details": {"upstream_inference_cost": None, **details},
        }

    def bill(self, api: OpenRouterApi, cancelled: bool = False) -> dict[str, Any]:
        usage = self.usage(api)
        with api.lock:
            api.tables.put("generations", self.id, _entry(self, usage, cancelled))
            api.spent += usage["cost"]
        return usage


def _entry(made: Generation, usage: dict[str, Any], cancelled: bool) -> dict[str, Any]:
    """In the form of GET /generation, which has many fields that are always empty here."""
    empty = "upstream_id cache_discount upstream_inference_cost app_id moderation_latency service_tier num_media_prompt"
    more = "num_input_audio_prompt num_media_completion num_search_results num_fetches web_search_engine external_user"
    rest = "preset_id router provider_responses user_agent http_referer workspace_id native_tokens_completion_images"
    now = time.time()
    return {
        **dict.fromkeys(f"{empty} {more} {rest}".split()),
        "id": made.id,
        "model": made.call.model,
        "created_at": datetime.fromtimestamp(made.created, UTC).isoformat(),
        "total_cost": usage["cost"],
        "usage": usage["cost"],
        "tokens_prompt": usage["prompt_tokens"],
        "tokens_completion": usage["completion_tokens"],
        "native_tokens_prompt": usage["prompt_tokens"],
        "native_tokens_completion": usage["completion_tokens"],
        "native_tokens_reasoning": 0,
        "native_tokens_cached": 0,
        "streamed": made.call.streams,
        "cancelled": cancelled,
        "provider_name": "Double",
        "latency": ((made.first or now) - made.created) * 1000,
        "generation_time": (now - (made.first or now)) * 1000,
        "finish_reason": made.finish_reason or None,
        "native_finish_reason": made.finish_reason or None,
        "origin": "",
        "is_byok": False,
        "api_type": "completions",
        "data_region": "global",
    }


def _chat(api: OpenRouterApi, asked: Asked) -> Answer:
    call = _admitted(api, asked)
    try:
        given = api.answers(call)
    except ProviderFailed as failure:
        raise Refused(_provider_error(api, failure)) from failure
    made = Generation(call, Reply.of(given) if isinstance(given, str) else given)
    if call.streams:
        return Answer(200, pieces=_stream(api, made))
    try:
        for _ in made.pieces(api):
            pass
    except ProviderFailed as failure:
        raise Refused(_provider_error(api, failure)) from failure
    return Answer(200, _whole(made, made.bill(api)))


def _admitted(api: OpenRouterApi, asked: Asked) -> Call:
    """Raises Refused: 400 for a wrong body, 404 for an unknown model, 402 for who cannot pay even the question."""
    try:
        body = json.loads(asked.body)
    except ValueError as error:
        raise Refused(api.error(400, f"Invalid JSON: {error}", {"error_type": "invalid_request"})) from error
    if found := problems(body):
        raise Refused(api.error(400, f"Invalid request: {found}", {"error_type": "invalid_request"}))
    wanted = [body["model"]] if body.get("model") else list(body.get("models") or ())
    if not wanted:
        raise Refused(api.error(400, "No models provided"))
    model = next((name for name in wanted if name in api.models), None)
    if model is None:
        raise Refused(api.error(404, f"No endpoints found for {wanted[0]}.", {"error_type": "not_found"}))
    call, entry = Call(model, body), api.models[model]
    asked_for, most = call.input_tokens, entry.context_length
    if asked_for > most:
        message = f"This endpoint's maximum context length is {most} tokens. However, you requested about {asked_for} tokens"
        raise Refused(api.error(400, message, {"error_type": "context_length_exceeded"}))
    left = api.credits - api.spent
    if left <= 0 or left < asked_for * float(entry.prompt):
        message = "Insufficient credits. Add more in your account's settings"
        raise Refused(api.error(402, message, {"error_type": "payment_required"}))
    return call


def _provider_error(api: OpenRouterApi, failure: ProviderFailed) -> Answer:
    status = failure.status if failure.status in (400, 403, 408, 413, 422, 429) else 502
    return api.error(status, "Provider returned error", {"provider_name": failure.provider, "raw": failure.message})


def _whole(made: Generation, usage: dict[str, Any]) -> dict[str, Any]:
    message = {"role": "assistant", "content": made.text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": made.finish_reason}
    head = {"id": made.id, "object": "chat.completion", "created": int(made.created), "model": made.call.model}
    return {**head, "choices": [choice], "system_fingerprint": None, "usage": usage}


def _stream(api: OpenRouterApi, made: Generation) -> Iterator[bytes]:
    """Comments while it thinks, words, the end, the bill. Who leaves early pays for what was said by then."""
    billed = False
    try:
        yield b": OPENROUTER PROCESSING\n\n"
        yield _event(made, {"role": "assistant", "content": ""})
        try:
            for piece in made.pieces(api):
                yield _event(made, {"content": piece})
        except ProviderFailed as failure:
            error = {"code": 502, "message": failure.message, "metadata": {"error_type": "provider_unavailable"}}
            yield _event(made, {"content": ""}, "error", error=error)
            return
        yield _event(made, {"content": ""}, made.finish_reason)
        usage = made.bill(api)
        billed = True
        yield _event(made, None, usage=usage)
        yield b"data: [DONE]\n\n"
    finally:
        if not billed:
            made.bill(api, cancelled=True)


def _event(made: Generation, delta: dict[str, str] | None, reason: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    head = {"id": made.id, "object": "chat.completion.chunk", "created": int(made.created), "model": made.call.model}
    return b"data: " + json.dumps({**head, "choices": choices, **more}, ensure_ascii=False).encode() + b"\n\n"


ROUTES = (Route("POST", "/chat/completions", _chat),)
