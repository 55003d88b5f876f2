"""The answers of simulated models in OpenAI's form, as its API and vLLM give them; its own client accepts them all."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Iterator
from typing import Any

from .model_answer import Answer, Problem, Stream, event
from .model_http import Request
from .model_multipart import fields_of

_DONE = b"data: [DONE]\n\n"


def error(problem: Problem) -> dict[str, Any]:
    return {"error": {"message": problem.message, "type": "simulated_error", "param": None, "code": problem.code}}


def broken(problem: Problem) -> bytes:
    return event(error(problem))


def _usage(answer: Answer) -> dict[str, int]:
    used_in, used_out = answer.input_tokens, answer.output_tokens
    return {"prompt_tokens": used_in, "completion_tokens": used_out, "total_tokens": used_in + used_out}


def _reason(answer: Answer) -> str:
    return "length" if answer.cut_short else "stop"


# /v1/chat/completions and /v1/completions


def chat(answer: Answer) -> dict[str, Any]:
    message = {"role": "assistant", "content": answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(answer)}
    head = {"id": answer.name("chatcmpl"), "object": "chat.completion", "created": answer.created, "model": answer.model}
    return {**head, "choices": [choice], "usage": _usage(answer)}


def completion(answer: Answer) -> dict[str, Any]:
    choice = {"index": 0, "text": answer.text, "logprobs": None, "finish_reason": _reason(answer)}
    head = {"id": answer.name("cmpl"), "object": "text_completion", "created": answer.created, "model": answer.model}
    return {**head, "choices": [choice], "usage": _usage(answer)}


def chat_stream(answer: Answer) -> Stream:
    head = {"id": answer.name("chatcmpl"), "object": "chat.completion.chunk"}
    return _chunks(answer, head, {"delta": {"role": "assistant", "content": ""}}, {"delta": {}}, chat=True)


def completion_stream(answer: Answer) -> Stream:
    head = {"id": answer.name("cmpl"), "object": "text_completion"}
    return _chunks(answer, head, {"text": ""}, {"text": ""}, chat=False)


def _chunks(answer: Answer, head: dict[str, Any], first: dict[str, Any], last: dict[str, Any], *, chat: bool) -> Stream:
    """The usage comes only when asked for, in an event of its own; then the other events say null."""
    options = answer.body.get("stream_options")
    asked = isinstance(options, dict) and options.get("include_usage") is True
    head = {**head, "created": answer.created, "model": answer.model}
    no_usage = {"usage": None} if asked else {}

    def chunk(content: dict[str, Any], reason: str | None) -> bytes:
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": reason}
        return event({**head, "choices": [choice], **no_usage})

    def events() -> Iterator[bytes]:
        yield chunk(first, None)
        for piece in answer.pieces():
            yield chunk({"delta": {"content": piece}} if chat else {"text": piece}, None)
        yield chunk(last, _reason(answer))
        if asked:
            yield event({**head, "choices": [], "usage": _usage(answer)})
        yield _DONE

    tokens = len(answer.words)
    return Stream(events(), tokens + (4 if asked else 3), first=0, tokens=range(1, 1 + tokens))


# /v1/embeddings


def embeddings(answer: Answer) -> dict[str, Any]:
    asked = answer.body.get("input")
    texts = asked if isinstance(asked, list) and not all(isinstance(token, int) for token in asked) else [asked]
    size = answer.body.get("dimensions")
    size = size if isinstance(size, int) and 1 <= size <= 4096 else 8
    data: list[dict[str, Any]] = []
    for i, text in enumerate(texts):
        vector: Any = [((len(str(text)) + k) % 7) / 7 for k in range(size)]
        if answer.body.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        data.append({"object": "embedding", "index": i, "embedding": vector})
    usage = {"prompt_tokens": answer.input_tokens, "total_tokens": answer.input_tokens}
    return {"object": "list", "data": data, "model": answer.model, "usage": usage}


# /v1/responses


def response(answer: Answer) -> dict[str, Any]:
    done = "incomplete" if answer.cut_short else "completed"
    return _response(answer, done, [_message(answer, done, [_part(answer.text)])])


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _message(answer: Answer, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": answer.name("msg"), "type": "message", "role": "assistant", "status": status, "content": content}


def _response(answer: Answer, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    ended = status != "in_progress"
    usage = {
        "input_tokens": answer.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer.input_tokens + answer.output_tokens,
    }
    return {
        "id": answer.name("resp"),
        "object": "response",
        "created_at": answer.created,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": None,
        "model": answer.model,
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "metadata": {},
        "usage": usage if ended else None,
    }


def response_stream(answer: Answer) -> Stream:
    done = "incomplete" if answer.cut_short else "completed"
    item = {"item_id": answer.name("msg"), "output_index": 0, "content_index": 0}

    def contents() -> Iterator[tuple[str, dict[str, Any]]]:
        yield "response.created", {"response": _response(answer, "in_progress", [])}
        yield "response.in_progress", {"response": _response(answer, "in_progress", [])}
        yield "response.output_item.added", {"output_index": 0, "item": _message(answer, "in_progress", [])}
        yield "response.content_part.added", {**item, "part": _part("")}
        for piece in answer.pieces():
            yield "response.output_text.delta", {**item, "delta": piece, "logprobs": []}
        yield "response.output_text.done", {**item, "text": answer.text, "logprobs": []}
        yield "response.content_part.done", {**item, "part": _part(answer.text)}
        yield "response.output_item.done", {"output_index": 0, "item": _message(answer, done, [_part(answer.text)])}
        yield f"response.{done}", {"response": response(answer)}

    events = (event({"type": name, "sequence_number": i, **more}, name) for i, (name, more) in enumerate(contents()))
    tokens = len(answer.words)
    return Stream(events, tokens + 8, first=2, tokens=range(4, 4 + tokens))


def response_broken(problem: Problem) -> bytes:
    content = {"type": "error", "code": problem.code, "message": problem.message, "param": None, "sequence_number": 0}
    return event(content, "error")


# /v1/audio/transcriptions


def read_audio(request: Request) -> dict[str, Any] | Problem:
    fields = fields_of(request)
    if isinstance(fields, str):
        return Problem(400, fields, "invalid_body")
    if "model" not in fields or "file" not in fields:
        return Problem(400, "The form needs a `model` and a `file`", "invalid_body")
    text = {name: value.decode("utf-8", "replace") for name, value in fields.items() if name != "file"}
    return {**text, "stream": text.get("stream") == "true", "audio": fields["file"]}


def _transcript(answer: Answer) -> str:
    audio: bytes = answer.body["audio"]
    return f"{answer.text} ({len(audio)} bytes, sha256 {hashlib.sha256(audio).hexdigest()})"


def transcription(answer: Answer) -> Any:
    """The text names length and digest of the file. Subtitles are not simulated: they come as plain text."""
    text = _transcript(answer)
    form = answer.body.get("response_format", "json")
    if form in ("text", "srt", "vtt"):
        return text.encode() + b"\n"
    if form == "verbose_json":
        return {"task": "transcribe", "language": "english", "duration": 1.0, "text": text, "segments": [], "words": []}
    return {"text": text, "usage": _audio_usage(answer)}


def _audio_usage(answer: Answer) -> dict[str, Any]:
    used_in, used_out = answer.input_tokens, answer.output_tokens
    return {"type": "tokens", "input_tokens": used_in, "output_tokens": used_out, "total_tokens": used_in + used_out}


def transcription_stream(answer: Answer) -> Stream:
    def events() -> Iterator[bytes]:
        for piece in answer.pieces():
            yield event({"type": "transcript.text.delta", "delta": piece})
        yield event({"type": "transcript.text.done", "text": _transcript(answer), "usage": _audio_usage(answer)})

    tokens = len(answer.words)
    return Stream(events(), tokens + 1, first=0, tokens=range(tokens))
