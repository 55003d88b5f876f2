"""One attempt at one call through the `openai` SDK: what was said and when, or why it failed and whether to try again.

OpenAI-compatible servers fail in more ways than by status: with an error inside a 200, in the middle of a stream, by a stream
that just ends. Each is told apart here, so that the door above it only retries, gives up or stops.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from controller.clients.model_records import Call

RESERVED = ("model", "messages", "stream", "stream_options")
CONNECT_SECONDS = 10.0


@dataclass
class Said:
    """An answer in the making. Times are the clock's."""

    begun: float
    first: float | None = None
    ended: float = 0.0
    pieces: list[str] = field(default_factory=list)
    finish_reason: str = ""
    id: str = ""
    model: str = ""
    usage: Any = None

    def take(self, text: str | None, clock: Callable[[], float]) -> None:
        if text:
            self.first = self.first if self.first is not None else clock()
            self.pieces.append(text)


class Failed(Exception):
    """`temporary`: try again; `refused`: not this question; `fatal`: no question at all. `sent`: it may have been billed."""

    def __init__(
        self,
        kind: Literal["temporary", "refused", "fatal"],
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        sent: bool = False,
    ) -> None:
        super().__init__(message)
        self.kind, self.message, self.status = kind, message, status
        self.retry_after, self.sent = retry_after, sent


def attempt(client: Any, call: Call, timeout: float, silence: float, clock: Callable[[], float]) -> Said:
    """`timeout` for all of it (looked at with every piece), `silence` between two pieces, in seconds. Raises Failed."""
    import openai

    said = Said(clock())
    wait = openai.Timeout(connect=min(CONNECT_SECONDS, timeout), read=min(silence, timeout), write=timeout, pool=timeout)
    try:
        if call.stream:
            _stream(client, call, wait, said, said.begun + timeout, clock)
        else:
            _whole(client, call, wait, said, clock)
    except openai.APIError as error:
        raise failure(error) from error
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError, IndexError) as error:
        raise Failed("temporary", f"answered something else than a chat completion ({type(error).__name__})", sent=True) from error
    if said.finish_reason == "error":
        raise Failed("temporary", "the provider failed in the middle of its answer", sent=True)
    if not said.finish_reason:
        raise Failed("temporary", "the answer has no end", sent=True)
    said.ended = clock()
    return said


def _stream(client: Any, call: Call, wait: Any, said: Said, deadline: float, clock: Callable[[], float]) -> None:
    options = {"include_usage": True}
    with client.chat.completions.create(**_arguments(call), stream=True, stream_options=options, timeout=wait) as events:
        for event in events:
            said.id, said.model = event.id or said.id, event.model or said.model
            said.usage = event.usage or said.usage
            for choice in event.choices or ():
                said.take(choice.delta.content if choice.delta else None, clock)
                said.finish_reason = choice.finish_reason or said.finish_reason
            if clock() > deadline:
                raise Failed("temporary", "took too long", sent=True)


def _whole(client: Any, call: Call, wait: Any, said: Said, clock: Callable[[], float]) -> None:
    answer = client.chat.completions.create(**_arguments(call), timeout=wait)
    error = (answer.model_extra or {}).get("error")
    if error:
        raise of_body(error, sent=True)
    choice = answer.choices[0]
    said.id, said.model, said.usage = answer.id or "", answer.model or "", answer.usage
    said.pieces.append(choice.message.content or "")
    said.finish_reason = choice.finish_reason or "stop"


def _arguments(call: Call) -> dict[str, Any]:
    """Parameters go as they are: the SDK knows OpenAI's by name, and other servers have more."""
    return {"model": call.model, "messages": [dict(one) for one in call.messages], "extra_body": dict(call.parameters)}


def failure(error: Any) -> Failed:
    """An SDK's error as Failed."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return Failed("temporary", "does not answer in time", sent=not _unsent(error))
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        return Failed("temporary", f"the connection failed ({type(cause).__name__})", sent=not _unsent(error))
    if isinstance(error, openai.APIStatusError):
        return of_status(error.status_code, _message(error.body) or error.response.text, error.body, error.response.headers)
    return of_body(error.body if error.body is not None else {"message": str(error)}, sent=True)


def _unsent(error: BaseException) -> bool:
    """Whether the connection was never made, so that nothing can have been billed."""
    cause = error.__cause__
    return cause is not None and type(cause).__name__ in ("ConnectError", "ConnectTimeout", "PoolTimeout")


def of_status(status: int, message: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Failed:
    """What a status means for this question and for the next ones."""
    said = message.strip()
    waits = _retry_after(headers or {})
    if status in (408, 425, 429) or status >= 500:
        return Failed("temporary", said, status=status, retry_after=waits, sent=status in (408, 504, 524))
    flagged = status == 403 and bool(_metadata(body))
    unknown_model = status == 400 and "not a valid model" in said
    if status in (401, 402, 404) or (status == 403 and not flagged) or unknown_model:
        return Failed("fatal", said, status=404 if unknown_model else status)
    return Failed("refused", said, status=status)


def of_body(body: Any, sent: bool) -> Failed:
    """An error that came inside an answer; its code is a status, or a word."""
    code = body.get("code") if isinstance(body, Mapping) else None
    message = _message(body) or "the endpoint reports an error"
    if isinstance(code, int) and 400 <= code < 600:
        found = of_status(code, message, body)
        found.sent = sent
        return found
    return Failed("temporary", message, sent=sent)


def _message(body: Any) -> str:
    """The error's text, with what the provider behind the endpoint said."""
    error = body.get("error", body) if isinstance(body, Mapping) else body
    if not isinstance(error, Mapping):
        return error if isinstance(error, str) else ""
    raw = _metadata(error).get("raw")
    message = str(error.get("message") or "")
    return f"{message}: {raw}" if isinstance(raw, str) and raw else message


def _metadata(body: Any) -> Mapping[str, Any]:
    error = body.get("error", body) if isinstance(body, Mapping) else {}
    found = error.get("metadata") if isinstance(error, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from a number or a date; None when it does not say or says nonsense."""
    value = headers.get("retry-after")
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError, TypeError):
        at, now = parsedate_to_datetime(value), parsedate_to_datetime(headers.get("date") or "")
        return max(0.0, (at - now).total_seconds())
    return None
