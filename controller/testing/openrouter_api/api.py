"""OpenRouter's double itself: its routes, keys, models, credits and the ledger of what was billed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..vendor_double import Double, Route
from ..vendor_http import Answer, Asked, Refused
from . import chat
from .answers import Answers
from .rules import ModelEntry, Rules, as_answers

KEY = "sk-or-v1-double"
MODELS: Mapping[str, ModelEntry] = {
    "anthropic/claude-3.5-sonnet": ModelEntry(prompt="0.000003", completion="0.000015", context_length=200_000),
    "openai/gpt-4o-mini": ModelEntry(prompt="0.00000015", completion="0.0000006", context_length=128_000),
    "qwen/qwen2.5-coder-7b-instruct": ModelEntry(prompt="0.00000003", completion="0.00000009"),
}
"""Listed unless told otherwise; prices of November 2026, for tests, not for bills."""

OPEN = ("/models",)
"""What the vendor answers without a key."""


class OpenRouterApi(Double):
    """`answers`: what models say; a `Rules` also brings models and credits. `keys`: which keys it knows.

    `credits` and `spent` are in USD; `spent` is what was billed so far.
    """

    name = "openrouter"
    prefixes = ("/api/v1",)
    serial = False

    def __init__(
        self,
        data: Path | None = None,
        port: int = 0,
        answers: Rules | Answers | None = None,
        models: Mapping[str, ModelEntry] | None = None,
        credits: float | None = None,
        keys: Collection[str] = (KEY,),
    ) -> None:
        super().__init__(data, port)
        self.keys = frozenset(keys)
        self.models = dict(MODELS if models is None else models)
        self.credits = 100.0 if credits is None else credits
        self.answers = as_answers(answers)
        self.spent = sum(float(one["total_cost"]) for one in self.tables.all("generations"))
        if isinstance(answers, Rules):
            self.models = dict(answers.models or self.models)
            self.credits = answers.credits if credits is None and answers.credits is not None else self.credits

    @property
    def key(self) -> str:
        """One that it knows."""
        return min(self.keys)

    @property
    def base_url(self) -> str:
        """What an OpenAI client is given."""
        return f"{self.url}/api/v1"

    def check(self, asked: Asked, route: Route) -> None:
        if route.path in OPEN:
            return
        key = asked.headers.get("authorization", "").removeprefix("Bearer ")
        if not key:
            raise Refused(self.error(401, "No cookie auth credentials found"))
        if key not in self.keys:
            raise Refused(self.error(401, "User not found."))

    def error(self, status: int, message: str, metadata: Mapping[str, Any] | None = None) -> Answer:
        more = {"metadata": dict(metadata)} if metadata else {}
        headers = {"Retry-After": "1"} if status == 429 else {}
        return Answer(status, {"error": {"code": status, "message": message, **more}}, headers)

    def ledger(self) -> dict[str, Any]:
        """What was billed, whether the answer arrived or not."""
        entries = self.tables.all("generations")
        by_model: dict[str, dict[str, Any]] = {}
        for one in entries:
            sums = by_model.setdefault(one["model"], {"calls": 0, "input_tokens": 0, "output_tokens": 0, "usd": 0.0})
            sums["calls"] += 1
            sums["input_tokens"] += one["tokens_prompt"]
            sums["output_tokens"] += one["tokens_completion"]
            sums["usd"] += one["total_cost"]
        return {"calls": len(entries), "usd": self.spent, "by_model": by_model, "entries": entries}

    def control(self, asked: Asked) -> Answer:
        if asked.path == "/-/ledger":
            return Answer(200, self.ledger())
        return super().control(asked)


def _models(api: OpenRouterApi, asked: Asked) -> Answer:
    try:
        offset, limit = (int(asked.query.get(name, [default])[-1]) for name, default in (("offset", "0"), ("limit", "500")))
    except ValueError as error:
        raise Refused(api.error(400, f"Invalid query: {error}")) from error
    if offset < 0 or not 1 <= limit <= 1000:
        raise Refused(api.error(400, "Invalid query: offset is 0 or more, limit 1 to 1000"))
    data = [_listed(name, entry) for name, entry in api.models.items()][offset : offset + limit]
    following = offset + limit if offset + limit < len(api.models) else None
    links = {"next": None if following is None else f"/api/v1/models?offset={following}&limit={limit}"}
    return Answer(200, {"data": data, "total_count": len(api.models), "links": links})


def _listed(name: str, entry: ModelEntry) -> dict[str, Any]:
    architecture = {
        "modality": "text->text",
        "input_modalities": ["text"],
        "output_modalities": ["text"],
        "tokenizer": "Other",
        "instruct_type": None,
    }
    provider = {
        "context_length": entry.context_length,
        "max_completion_tokens": entry.max_completion_tokens,
        "is_moderated": False,
    }
    return {
        "id": name,
        "canonical_slug": name,
        "hugging_face_id": entry.hugging_face_id,
        "name": entry.name or name,
        "created": 1_760_000_000,
        "description": "Simulated.",
        "context_length": entry.context_length,
        "architecture": architecture,
        "pricing": {"prompt": entry.prompt, "completion": entry.completion, "request": "0", "image": "0"},
        "top_provider": provider,
        "per_request_limits": None,
        "supported_parameters": ["max_tokens", "temperature", "top_p", "seed", "stop", "response_format", "structured_outputs"],
        "default_parameters": None,
        "supported_voices": None,
        "links": {"details": f"/api/v1/models/{name}/endpoints"},
    }


def _generation(api: OpenRouterApi, asked: Asked) -> Answer:
    wanted = asked.query.get("id", [""])[-1]
    if not wanted:
        raise Refused(api.error(400, "id is required"))
    found = api.tables.get("generations", wanted)
    if found is None:
        raise Refused(api.error(404, f"Generation {wanted} not found"))
    return Answer(200, {"data": found})


def _credits(api: OpenRouterApi, asked: Asked) -> Answer:
    return Answer(200, {"data": {"total_credits": api.credits, "total_usage": api.spent}})


def _key(api: OpenRouterApi, asked: Asked) -> Answer:
    spent = api.spent
    periods = {f"{kind}usage{period}": 0.0 for kind in ("", "byok_") for period in ("", "_daily", "_weekly", "_monthly")}
    data = {
        **periods,
        "label": "sk-or-v1-dou...ble",
        "usage": spent,
        "usage_daily": spent,
        "usage_weekly": spent,
        "usage_monthly": spent,
        "limit": None,
        "limit_remaining": None,
        "limit_reset": None,
        "include_byok_in_limit": False,
        "is_free_tier": False,
        "is_management_key": False,
        "is_provisioning_key": False,
        "creator_user_id": None,
        "rate_limit": {"requests": -1, "interval": "10s", "note": "This field is deprecated and safe to ignore."},
    }
    return Answer(200, {"data": data})


OpenRouterApi.routes = (
    Route("GET", "/models", _models),
    Route("GET", "/generation", _generation),
    Route("GET", "/credits", _credits),
    Route("GET", "/key", _key),
    *chat.ROUTES,
)
