"""What passes through the inference door: a call, the record of its answer, a listed model, a judge's verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel

from controller.resource import digest


@dataclass(frozen=True)
class Call:
    """One question to one model. `parameters` are sent as they are (temperature, max_tokens, seed ...).

    `sample` tells repetitions of the same question apart: the same sample is paid once. `stream` gives the time to the first token.
    """

    endpoint: str
    model: str
    messages: tuple[Mapping[str, Any], ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    sample: int = 0
    stream: bool = True

    def key(self, url: str) -> str:
        """Under which its answer is kept."""
        messages = [dict(one) for one in self.messages]
        asked = {"model": self.model, "endpoint": url, "messages": messages, "parameters": dict(self.parameters)}
        return digest({**asked, "sample": self.sample, "stream": self.stream})


ErrorKind = Literal["", "temporary", "refused"]


@dataclass(frozen=True)
class Reply:
    """What one call gave. Times in seconds, of the attempt that was answered; cost in USD, None where nobody knows it.

    `error` is empty for an answer. `temporary`: asked again it may be answered; `refused`: this question will not be.
    `unanswered` counts attempts that the endpoint may have billed although no answer came.
    """

    text: str
    model: str
    endpoint: str
    started: str
    seconds: float
    first_token_seconds: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    cost_from: Literal["", "endpoint", "prices"] = ""
    finish_reason: str = ""
    id: str = ""
    attempts: int = 1
    unanswered: int = 0
    error: str = ""
    error_kind: ErrorKind = ""
    cached: bool = False

    @property
    def paid_usd(self) -> float | None:
        """What this call added to the bill: nothing when the answer was kept from before."""
        return 0.0 if self.cached else self.cost_usd


@dataclass(frozen=True)
class Listed:
    """A model that an endpoint lists. Prices in USD per token; None where it does not say or they depend on the provider."""

    id: str
    name: str = ""
    context_length: int | None = None
    input_usd: float | None = None
    output_usd: float | None = None
    hugging_face_id: str | None = None


T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Verdict(Generic[T]):
    """A structured answer. `value` is None with the `problem`; `replies` are the answer and, if it came to that, its repair."""

    value: T | None
    replies: tuple[Reply, ...]
    problem: str = ""

    @property
    def cost_usd(self) -> float | None:
        """Of all replies; None when one of them is unknown."""
        costs = [reply.cost_usd for reply in self.replies]
        return None if any(cost is None for cost in costs) else sum(cost or 0.0 for cost in costs)

    @property
    def repaired(self) -> bool:
        return self.value is not None and len(self.replies) > 1
