"""One request of the load (`load.py`) and what its client got: whole, refused, broken, or not what was asked for.

The simulated models (`model_server.py`) answer with a text that names model and endpoint and has as many words as the
request allows, and report how many words the prompt had. So an answer that belongs to another request does not pass.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec

CHAT = "/v1/chat/completions"
_FEWEST = 6  # words: fewer do not name model and endpoint


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `tokens` is how long the answer may be, `words` how long the prompt is."""

    id: str
    agent: str = "dev"
    stream: bool = False
    leave: bool = False  # as soon as there is a part of the answer's body
    fresh: bool = False  # on a new connection
    tokens: int = 8
    words: int = 1
    path: str = CHAT
    headers: tuple[tuple[str, str], ...] = ()

    def request(self, host: str, port: int) -> bytes:
        """As it goes over the wire."""
        content: dict[str, Any] = {"model": self.agent, "messages": self._messages(), "max_tokens": self.tokens}
        if self.stream:
            content |= {"stream": True, "stream_options": {"include_usage": True}}
        body = json.dumps(content).encode()
        more = "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        head = f"POST {self.path} HTTP/1.1\r\nhost: {host}:{port}\r\nx-request-id: {self.id}\r\n{more}"
        return f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body

    def _messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": "w " * (self.words - 1) + "w"}]

    @property
    def input_tokens(self) -> int:
        """What the simulated model counts for the prompt."""
        return len(json.dumps(self._messages()).split())


@dataclass(slots=True)
class Got:
    """What became of a request, for its client. `kind` is one of

    - `whole`: the answer that was asked for, to its end;
    - `error`: a well-formed error instead of an answer (`code` is its code, `replica` who said it, "" = the gateway);
    - `error_event`: a stream that ends, well-formed, with an error;
    - `short`: well-formed as HTTP, but a part of an answer is missing;
    - `cut`: an answer that was begun and whose end is missing;
    - `nothing`: no byte of an answer;
    - `left`: the client went away, as it was told to;
    - `wrong`: anything that must never be; `why` says what.
    """

    asked: Asked
    kind: str
    why: str
    status: int
    code: str
    headers: dict[str, str]
    began_ns: int
    ended_ns: int

    @property
    def id(self) -> str:
        return self.asked.id

    @property
    def replica(self) -> str:
        """Which upstream answered, by its own words."""
        return self.headers.get("x-replica", "")

    def turnout(self, name: str) -> str:
        """What the gateway says of who answered: agent, variant, version, model, endpoint, step."""
        return self.headers.get(f"x-turnout-{name}", "")

    def __str__(self) -> str:
        return f"{self.id}: {self.kind} {self.status} {self.code} of {self.replica or 'the gateway'} {self.why}".strip()


class _Error(msgspec.Struct):
    message: str
    type: str
    code: str | None = None


class _Said(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Said | None = None
    delta: _Said | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Content(msgspec.Struct):
    error: _Error | None = None
    choices: list[_Choice] = []
    usage: _Usage | None = None


_decoder = msgspec.json.Decoder(_Content)


@dataclass(slots=True)
class Answer:
    """What has come of an answer so far; the connection fills it."""

    asked: Asked
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    framed: bool = False  # to its end, as HTTP
    left: bool = False
    garbled: str = ""
    why: str = ""
    began_ns: int = field(default_factory=time.monotonic_ns)

    def got(self) -> Got:
        kind, why, code = self._judged()
        return Got(self.asked, kind, why or self.why, self.status, code, self.headers, self.began_ns, time.monotonic_ns())

    def _judged(self) -> tuple[str, str, str]:
        """Kind, why, and the code of an error."""
        if self.garbled:
            return "wrong", self.garbled, ""
        if self.status and self.headers.get("x-request-id") != self.asked.id:
            return "wrong", f"the answer is for {self.headers.get('x-request-id')}", ""
        if self.left:
            return "left", "", ""
        if not self.framed:
            return ("cut" if self.status else "nothing"), "", ""
        if self.status >= 400:
            content = _decoded(self.body)
            if content is None or content.error is None or not content.error.message:
                return "wrong", f"an error without its reason: {self.body[:200]!r}", ""
            return "error", content.error.message, content.error.code or ""
        if self.status != 200:
            return "wrong", f"the status {self.status}", ""
        if self.asked.path != CHAT:
            return ("whole" if _decoded(self.body) is not None else "short"), "", ""
        return self._stream() if self.asked.stream else self._whole()

    def _whole(self) -> tuple[str, str, str]:
        content = _decoded(self.body)
        if content is None or content.usage is None or len(content.choices) != 1 or content.choices[0].message is None:
            return "short", "", ""
        return self._compared(content.choices[0].message.content or "", content.usage)

    def _stream(self) -> tuple[str, str, str]:
        events = self.body.split(b"\n\n")
        if events.pop():
            return "short", "in the middle of an event", ""
        contents = [_decoded(event.removeprefix(b"data: ")) for event in events if event != b"data: [DONE]"]
        if None in contents or not all(event.startswith(b"data: ") for event in events):
            return "wrong", f"a stream that is no stream: {self.body[-300:]!r}", ""
        found = [content for content in contents if content is not None]
        errors = [content.error for content in found if content.error is not None]
        if errors:
            if found[-1].error is None or events[-1] == b"data: [DONE]" or len(errors) > 1:
                return "wrong", f"an error in the middle of a stream: {self.body[-300:]!r}", ""
            return "error_event", errors[0].message, errors[0].code or ""
        if events[-1:] != [b"data: [DONE]"] or events.count(b"data: [DONE]") != 1:
            return "short", "", ""
        said = [choice.delta.content or "" for content in found for choice in content.choices if choice.delta is not None]
        usage = [content.usage for content in found if content.usage is not None]
        return self._compared("".join(said), usage[0]) if len(usage) == 1 else ("wrong", f"{len(usage)} usages", "")

    def _compared(self, text: str, usage: _Usage) -> tuple[str, str, str]:
        """With what this very request must get."""
        asked, model, replica = self.asked, self.headers.get("x-turnout-model", ""), self.headers.get("x-replica", "")
        words = text.split(" ")
        right = len(words) == usage.completion_tokens == asked.tokens and usage.prompt_tokens == asked.input_tokens
        if asked.tokens >= _FEWEST:
            right = right and text.startswith(f"Simulated answer of {model} at {replica}:")
        return ("whole", "", "") if right else ("wrong", f"another answer than was asked for: {text[:200]!r} {usage}", "")


def _decoded(content: bytes) -> _Content | None:
    try:
        return _decoder.decode(content)
    except (ValueError, RecursionError):
        return None
