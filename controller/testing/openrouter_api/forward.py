"""Answers of a real model behind the double: any OpenAI-compatible URL, streamed as it streams."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

from .answers import Call, ProviderFailed, Reply

SECONDS = 300.0


class Forward:
    """Passes a call on, under another model's name if given. What the other side refuses is a provider's error."""

    def __init__(self, url: str, key: str = "", model: str | None = None) -> None:
        self._url, self._key, self._model = url.rstrip("/"), key, model
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def __call__(self, call: Call) -> Reply:
        body = {**call.body, "model": self._model or call.model}
        if call.streams:
            body["stream_options"] = {"include_usage": True}
        try:
            answer = self._open(self._request(body), timeout=SECONDS)
        except urllib.error.HTTPError as error:
            with error:
                raise ProviderFailed(error.read().decode("utf-8", "replace")[:1000], error.code, self._url) from error
        except OSError as error:
            raise ProviderFailed(f"does not answer: {error}", 502, self._url) from error
        return self._streamed(answer) if call.streams else self._whole(answer)

    def _request(self, body: dict[str, Any]) -> urllib.request.Request:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key or 'none'}"}
        return urllib.request.Request(f"{self._url}/chat/completions", json.dumps(body).encode(), headers, method="POST")

    def _whole(self, answer: Any) -> Reply:
        with answer:
            content = json.loads(answer.read())
        choice, usage = content["choices"][0], content.get("usage") or {}
        text = choice["message"].get("content") or ""
        tokens = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
        return Reply([text], choice.get("finish_reason") or "stop", *tokens)

    def _streamed(self, answer: Any) -> Reply:
        reply = Reply(())
        reply.pieces = self._pieces(answer, reply)
        return reply

    def _pieces(self, answer: Any, reply: Reply) -> Iterator[str]:
        with answer:
            for line in answer:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                usage = event.get("usage")
                if usage:
                    reply.input_tokens, reply.output_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
                for choice in event.get("choices") or ():
                    reply.finish_reason = choice.get("finish_reason") or reply.finish_reason
                    if text := choice.get("delta", {}).get("content"):
                        yield text
