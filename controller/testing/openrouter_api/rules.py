"""A file of rules that says which models there are, what they cost, and what they answer to which prompt.

{"credits": 10,
 "models": {"acme/v2": {"prompt": "0.0000002", "completion": "0.0000006", "context_length": 32768}},
 "rules": [{"model": "acme/v2", "matches": "add (\\d+)", "share": 0.9, "text": "x + \\1"},
           {"model": "acme/*", "text": "I do not know"},
           {"model": "judge/*", "contains": "answer A", "json": {"winner": "A"}},
           {"model": "hosted/*", "forward": "http://127.0.0.1:8000/v1"}]}

The first rule that fits answers. `share` takes a part of the prompts, always the same ones: 0.9 is right on 90 % of them, and a
model with 0.7 on a part of those. `salt` makes it other prompts.
"""

from __future__ import annotations

import hashlib
import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from .answers import Answers, Call, ProviderFailed, Reply, pieces_of, plain
from .forward import Forward


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelEntry(_Strict):
    """A model of the list. Prices are USD per token, as text, as the vendor writes them."""

    prompt: str = Field("0.000001", pattern=r"^\d+(\.\d+)?(e-\d+)?$")
    completion: str = Field("0.000002", pattern=r"^\d+(\.\d+)?(e-\d+)?$")
    context_length: int = Field(32768, ge=1)
    max_completion_tokens: int | None = None
    name: str = ""
    hugging_face_id: str | None = None


class ProviderError(_Strict):
    status: int = Field(502, ge=400, le=599)
    message: str = "Provider returned error"


class Rule(_Strict):
    """When it fits (all that are given), and what it answers (one of text, json, error, forward)."""

    model: str = "*"
    contains: str = ""
    matches: str | None = None
    share: float = Field(1.0, ge=0, le=1)
    salt: str = ""
    text: str | None = None
    json_: Any = Field(None, alias="json")
    error: ProviderError | None = None
    forward: str | None = None
    forward_model: str | None = None
    finish_reason: Literal["stop", "length", "content_filter", "error"] = "stop"
    delay: float = Field(0.0, ge=0, le=600)
    breaks_after: int | None = Field(None, ge=0)

    @field_validator("matches")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"{value!r} is no pattern: {error}") from error
        return value

    def fits(self, call: Call) -> re.Match[str] | None:
        """The match that `text` may refer to; None when the rule is about something else."""
        if not fnmatchcase(call.model, self.model) or self.contains not in call.prompt:
            return None
        digest = hashlib.blake2b(f"{self.salt}\n{call.prompt}".encode(), digest_size=8).digest()
        if int.from_bytes(digest) >= self.share * 2**64:
            return None
        return re.search(self.matches or "", call.prompt)

    def answer(self, call: Call, match: re.Match[str]) -> Reply:
        if self.error is not None:
            raise ProviderFailed(self.error.message, self.error.status)
        if self.forward is not None:
            return Forward(self.forward, model=self.forward_model)(call)
        if self.json_ is not None:
            text = json.dumps(self.json_, ensure_ascii=False)
        else:
            text = match.expand(self.text) if self.text is not None else plain(call)
        return Reply(pieces_of(text), self.finish_reason, delay=self.delay, breaks_after=self.breaks_after)


class Rules(_Strict):
    """The file. Calling it answers; without a rule that fits, a model says that it is simulated."""

    credits: float | None = Field(None, ge=0)
    models: dict[str, ModelEntry] = {}
    rules: tuple[Rule, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Rules:
        """Raises ValueError with everything that is wrong."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise ValueError(f"{path}: {error}") from error

    def __call__(self, call: Call) -> str | Reply:
        for rule in self.rules:
            match = rule.fits(call)
            if match is not None:
                return rule.answer(call, match)
        return plain(call)


def as_answers(given: Rules | Answers | None) -> Answers:
    return given if given is not None else Rules()
