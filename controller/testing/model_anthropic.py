"""The answers of simulated models in Anthropic's form (`/v1/messages`), with its checks; its own client accepts them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .model_answer import Answer, Problem, Stream, event, read_json
from .model_http import Request

_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def error(problem: Problem) -> dict[str, Any]:
    kind = _ERRORS.get(problem.status, "api_error" if problem.status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": problem.message}, "request_id": "req_simulated"}


def broken(problem: Problem) -> bytes:
    return event(error(problem), "error")


def check(request: Request) -> Problem | None:
    """As the vendor: a key (any will do) in `x-api-key` or as a bearer token, and a version."""
    bearer = (request.header(b"authorization") or "").lower().startswith("bearer ")
    if not bearer and not request.header(b"x-api-key"):
        return Problem(401, "x-api-key header is required", "authentication_error")
    if not request.header(b"anthropic-version"):
        return Problem(400, "anthropic-version: header is required", "invalid_request_error")
    return None


def read(request: Request) -> dict[str, Any] | Problem:
    body = read_json(request)
    if isinstance(body, Problem):
        return body
    tokens = body.get("max_tokens")
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
        return Problem(400, "max_tokens: Field required, at least 1", "invalid_request_error")
    return body if isinstance(body.get("messages"), list) else Problem(400, "messages: Field required", "invalid_request_error")


def read_to_count(request: Request) -> dict[str, Any] | Problem:
    body = read_json(request)
    if isinstance(body, Problem) or isinstance(body.get("messages"), list):
        return body
    return Problem(400, "messages: Field required", "invalid_request_error")


def count(answer: Answer) -> dict[str, Any]:
    return {"input_tokens": answer.input_tokens}


def message(answer: Answer) -> dict[str, Any]:
    return _message(answer, [{"type": "text", "text": answer.text}], _reason(answer), answer.output_tokens)


def _reason(answer: Answer) -> str:
    return "max_tokens" if answer.cut_short else "end_turn"


def _message(answer: Answer, content: list[dict[str, Any]], reason: str | None, tokens: int) -> dict[str, Any]:
    usage = {
        "input_tokens": answer.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": tokens,
    }
    head = {"id": answer.name("msg"), "type": "message", "role": "assistant", "model": answer.model}
    return {**head, "content": content, "stop_reason": reason, "stop_sequence": None, "usage": usage}


def message_stream(answer: Answer) -> Stream:
    """`message_start` has the input tokens, `message_delta` all output tokens so far."""

    def contents() -> Iterator[dict[str, Any]]:
        yield {"type": "message_start", "message": _message(answer, [], None, 1)}
        yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        yield {"type": "ping"}
        for piece in answer.pieces():
            yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
        yield {"type": "content_block_stop", "index": 0}
        delta = {"stop_reason": _reason(answer), "stop_sequence": None}
        yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": answer.output_tokens}}
        yield {"type": "message_stop"}

    tokens = len(answer.words)
    return Stream((event(one, one["type"]) for one in contents()), tokens + 6, first=3, tokens=range(3, 3 + tokens))
