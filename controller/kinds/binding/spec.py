"""What a user writes for a ModelBinding, and what is true of one."""

from __future__ import annotations

from pydantic import Field

from controller.model import Name, Spec, Text


class BindingSpec(Spec):
    """The agent's name is the name of the resource: clients send `model="feature_dev"`."""

    model: Text = Field(
        title="Model",
        description="Identifier of the model at its endpoint.",
        examples=["anthropic/claude-3.5-sonnet", "acme/feature-dev-v2"],
    )
    endpoint: Name = Field(
        title="Endpoint", description="Name of an endpoint in environment.yaml.", examples=["openrouter", "huggingface"]
    )
    version: Text = Field(
        title="Version", description="Version label, kept as written.", examples=["v1.4.0", "v2-finetuned"], max_length=128
    )
    fallbacks: list[Name] = Field(
        [],
        title="Fallbacks",
        max_length=8,
        examples=[["code_review"]],
        description="Agents whose model answers when this one cannot, before the first byte.",
    )


class BindingState(BindingSpec):
    """Declared: what was last allowed is what is true."""
