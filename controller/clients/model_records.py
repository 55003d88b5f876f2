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
    """A model that an endpoint lists. Prices in USD per token; None where it does not say.

    Where several providers serve it at prices of their own (the router of Hugging Face), the dearest that is live.
    """

    id: str
    name: str = ""
    context_length: int | None = None
    input_usd: float | None = None
    output_usd: float | None = None
    hugging_face_id: str | None = None


def listed_of(model: Any) -> Listed:
    """Of a model as the `openai` SDK lists it, whose server says more than OpenAI's does."""
    extra = model.model_extra or {}
    found = extra.get("pricing")
    pricing: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    length = extra.get("context_length")
    input_usd, output_usd = _price(pricing.get("prompt")), _price(pricing.get("completion"))
    if input_usd is None and output_usd is None:
        input_usd, output_usd = _dearest(extra.get("providers"))
    return Listed(
        id=model.id,
        name=str(extra.get("name") or ""),
        context_length=length if isinstance(length, int) else None,
        input_usd=input_usd,
        output_usd=output_usd,
        hugging_face_id=extra.get("hugging_face_id") or None,
    )


def _dearest(providers: Any) -> tuple[float | None, float | None]:
    """USD per token of the providers of Hugging Face's router, which writes USD per million and chooses one by itself."""
    rows = [each for each in providers if isinstance(each, Mapping)] if isinstance(providers, list) else []
    live = [each["pricing"] for each in rows if each.get("status", "live") == "live" and isinstance(each.get("pricing"), Mapping)]
    found = [(_price(each.get("input"), 1e-6), _price(each.get("output"), 1e-6)) for each in live]
    known = [(given, got) for given, got in found if given is not None and got is not None]
    return (max(given for given, _ in known), max(got for _, got in known)) if known else (None, None)


def _price(value: Any, unit: float = 1.0) -> float | None:
    """USD per token; OpenRouter writes text, and -1 where it depends on the provider that is chosen."""
    try:
        price = float(value) * unit
    except (TypeError, ValueError):
        return None
    return price if 0 <= price < 1 else None


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
