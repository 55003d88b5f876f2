"""A double of OpenRouter's HTTP API, for the real `openai` SDK: models with prices, chat (JSON and SSE) with its cost, credits.

`with OpenRouterApi(data, answers=...) as api: OpenAI(base_url=api.base_url, api_key=api.key)`, or as a process
`python -m controller.testing.openrouter_api --port P --data DIR --rules FILE`. Written against the vendor's published OpenAPI
description; it refuses what the vendor refuses: no or a wrong key 401, no credits 402, an unknown model 404, a wrong body 400,
a provider that fails 502. Faults: `vendor_faults.KINDS`. What was called and what it cost: GET `/-/ledger`.

What models answer is a Python callable (`answers.Answers`), a file of rules (`rules.Rules`), or another OpenAI-compatible URL
(`forward.Forward`), so that a candidate is really better or worse than a baseline on given prompts.

Not here: tools, images, plugins, presets, routing between providers. A token is four characters.
"""

from __future__ import annotations

from .answers import Answers, Call, ProviderFailed, Reply
from .api import OpenRouterApi
from .forward import Forward
from .rules import Rules

__all__ = ["Answers", "Call", "Forward", "OpenRouterApi", "ProviderFailed", "Reply", "Rules"]
