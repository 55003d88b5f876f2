"""Which path of a simulated endpoint (`model_server.py`) answers in which form. Any other path under `/v1/` is echoed."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from . import model_anthropic as anthropic
from . import model_openai as openai
from .model_answer import Answer, Form
from .model_behaviour import ALL
from .model_http import Request

_OPENAI = (openai.error, openai.broken)
_ANTHROPIC = (anthropic.error, anthropic.broken, anthropic.check)
FORMS: dict[str, Form] = {
    "/v1/chat/completions": Form(openai.chat, openai.chat_stream, *_OPENAI),
    "/v1/completions": Form(openai.completion, openai.completion_stream, *_OPENAI),
    "/v1/embeddings": Form(openai.embeddings, None, *_OPENAI, writes=False),
    "/v1/responses": Form(openai.response, openai.response_stream, openai.error, openai.response_broken),
    "/v1/audio/transcriptions": Form(openai.transcription, openai.transcription_stream, *_OPENAI, read=openai.read_audio),
    "/v1/messages": Form(anthropic.message, anthropic.message_stream, *_ANTHROPIC, anthropic.read),
    "/v1/messages/count_tokens": Form(anthropic.count, None, *_ANTHROPIC, anthropic.read_to_count, writes=False),
}


def _read_any(request: Request) -> dict[str, Any]:
    """What is echoed belongs to the model that its JSON names, else to all."""
    try:
        body = msgspec.json.decode(request.body)
    except ValueError:
        body = None
    model = body.get("model") if isinstance(body, dict) else None
    return {"model": model if isinstance(model, str) else ALL}


def _echo(answer: Answer) -> dict[str, Any]:
    request = answer.request
    return {
        "object": "echo",
        "endpoint": answer.endpoint,
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers],
        "body_length": len(request.body),
        "body_sha256": hashlib.sha256(request.body).hexdigest(),
    }


ECHO = Form(_echo, None, *_OPENAI, read=_read_any, methods=(), writes=False)


def models_page(request: Request, names: list[str], owner: str) -> dict[str, Any]:
    """`/v1/models` and `/v1/models/{model}`, in the form of the vendor whose version header the request has."""
    if request.header(b"anthropic-version"):
        about = {"type": "model", "created_at": "1970-01-01T00:00:00Z", "lifecycle": "active"}
        found = [{**about, "id": name, "display_name": name} for name in names]
        page = {"has_more": False, "first_id": names[0] if names else None, "last_id": names[-1] if names else None}
        return {"data": found, **page}
    return {"object": "list", "data": [{"id": name, "object": "model", "created": 0, "owned_by": owner} for name in names]}
