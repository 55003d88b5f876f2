"""What a user writes for a Rollout, and what is true of one."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from controller.model import Name, Percent, Seconds, Spec, Text, Worsening

DAY = 86400.0


class Target(Spec):
    """A model version somewhere."""

    model: Text = Field(title="Model", description="Identifier at its endpoint.", examples=["acme/feature-dev-v2"])
    endpoint: Name = Field(title="Endpoint", description="Name of an endpoint in environment.yaml.", examples=["huggingface"])
    version: Text = Field(title="Version", description="Version label, kept as written.", examples=["v2.0.0"], max_length=128)


class CanaryStep(Spec):
    """One share of the sessions, for at least some time."""

    weight: Percent = Field(title="Weight", description="Percent of sessions that go to the candidate.", examples=[20])
    hold: Seconds = Field(DAY, title="Hold", description="How long at least, measured by the proxy.", examples=["24h"])


class Immediate(Spec):
    """All sessions at once; the promotion follows in the same breath."""


class BlueGreen(Spec):
    """The candidate runs beside, reachable by `X-Turnout-Variant: candidate`; then all sessions switch at once."""

    preview: Seconds = Field(0.0, title="Preview", description="How long only testers reach it.", examples=["1h"])
    hold: Seconds = Field(3600.0, title="Hold", description="How long it is judged with all sessions.", examples=["1h"])


class Shadow(Spec):
    """Copies of requests go to the candidate; its answers reach nobody."""

    percent: Percent = Field(100.0, title="Percent", description="Of the requests that are copied.", examples=["10%"])
    hold: Seconds = Field(DAY, title="Hold", description="How long it is judged.", examples=["24h"])
    then: Literal["promote", "end"] = Field("promote", title="Then", description="What follows a pass.", examples=["promote"])


class Split(Spec):
    """A fixed split (A/B): both stay until the file is removed or the time is over; nothing is promoted."""

    weight: Percent = Field(50.0, title="Weight", description="Percent of sessions for the candidate.", examples=[50])
    hold: Seconds | None = Field(
        None, title="For", description="It ends by itself after this; none = when removed.", examples=["7d"]
    )


class Strategy(Spec):
    """Exactly one of them. Short forms: `immediate`, `canary_20pct`."""

    canary: list[CanaryStep] | None = Field(
        None,
        title="Canary",
        min_length=1,
        max_length=50,
        description="Growing shares of the sessions.",
        examples=[[{"weight": 20, "hold": "24h"}, {"weight": 50, "hold": "24h"}]],
    )
    immediate: Immediate | None = Field(None, title="Immediate", description="At once.", examples=[{}])
    blue_green: BlueGreen | None = Field(
        None,
        alias="blueGreen",
        title="Blue-green",
        description="Beside, then all at once.",
        examples=[{"preview": "1h", "hold": "1h"}],
    )
    shadow: Shadow | None = Field(None, title="Shadow", description="Copies only.", examples=[{"percent": "10%"}])
    split: Split | None = Field(None, title="Split", description="Fixed shares, no promotion.", examples=[{"weight": 50}])

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The short forms are part of the schema, so that editors accept them."""
        schema = handler.resolve_ref_schema(handler(core))
        schema.update(type=["object", "string"], pattern=r"^(immediate|canary_\d{1,3}pct)$")
        return schema

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if value == "immediate":
            return {"immediate": {}}
        short = re.fullmatch(r"canary_(\d{1,3})pct", value) if isinstance(value, str) else None
        if short:
            return {"canary": [{"weight": int(short[1])}]}
        if isinstance(value, str):
            raise ValueError(f"{value!r} is no strategy; allowed: canary, immediate, blueGreen, shadow, split, canary_20pct")
        return value

    @model_validator(mode="after")
    def _one(self) -> Self:
        chosen = [name for name in ("canary", "immediate", "blue_green", "shadow", "split") if getattr(self, name) is not None]
        if len(chosen) != 1:
            raise ValueError("exactly one of canary, immediate, blueGreen, shadow, split is needed")
        weights = [step.weight for step in self.canary or ()]
        if weights != sorted(weights):
            raise ValueError(f"weights of canary steps may not fall: {', '.join(f'{w:g}' for w in weights)}")
        return self


class RateLimit(Spec):
    """For a rate in percent."""

    worse_by: Worsening | None = Field(
        None, alias="worseBy", title="Worse by", examples=["1%"], description="Percentage points above the stable version's."
    )
    at_most: Percent | None = Field(None, alias="atMost", title="At most", description="Absolute ceiling.", examples=["5%"])


class RelativeLimit(Spec):
    """For a figure that is compared in proportion."""

    worse_by: Worsening | None = Field(
        None, alias="worseBy", title="Worse by", examples=["20%"], description="Percent above the stable version's."
    )
    at_most: float | None = Field(
        None,
        alias="atMost",
        ge=0,
        title="At most",
        examples=[2.0],
        description="Absolute ceiling: seconds for latency, USD for cost.",
    )


class Analysis(Spec):
    """What the candidate is judged by, from the gateways' own figures."""

    error_rate: RateLimit | None = Field(
        RateLimit.model_validate({"worseBy": 1.0}),
        alias="errorRate",
        title="Error rate",
        examples=[{"worseBy": "1%"}],
        description="Failed requests (time-outs, 429, 5xx, died mid-stream); null = not judged.",
    )
    latency_p95: RelativeLimit | None = Field(
        None,
        alias="latencyP95",
        title="p95 latency",
        examples=[{"worseBy": "20%"}],
        description="95th percentile of the time to the last byte.",
    )
    cost_per_request: RelativeLimit | None = Field(
        None,
        alias="costPerRequest",
        title="Cost",
        examples=[{"worseBy": "10%"}],
        description="Mean USD of requests whose cost is known.",
    )
    minimum_samples: int = Field(
        100,
        alias="minimumSamples",
        ge=1,
        title="Minimum samples",
        examples=[200],
        description="Requests that each side needs in a step; fewer are inconclusive, never a pass.",
    )


class Guard(Spec):
    """At this error rate the proxy itself goes back to stable, without asking anybody."""

    error_rate: Percent = Field(50.0, alias="errorRate", title="Error rate", description="Of the candidate.", examples=["50%"])
    minimum: int = Field(20, ge=1, title="Minimum", description="Requests before it counts.", examples=[20])


class RolloutSpec(Spec):
    """A new name is a new run; an ended one is never started again."""

    binding: Name = Field(title="Binding", description="Name of the ModelBinding that moves.", examples=["feature_dev"])
    candidate: Target | None = Field(
        None,
        title="Candidate",
        description="Where it moves to; default: the candidate of its evaluation.",
        examples=[{"model": "acme/feature-dev-v2", "endpoint": "huggingface", "version": "v2.0.0"}],
    )
    strategy: Strategy = Field(title="Strategy", description="How it moves.", examples=[{"canary": [{"weight": 20}]}])
    evaluation: Name | None = Field(
        None,
        title="Evaluation",
        description="It starts only on the verdict of this Evaluation: deploy, or deploy_canary for growing shares and copies.",
        examples=["feature_dev-v2"],
    )
    analysis: Analysis = Field(
        Analysis(),
        title="Analysis",
        description="How it is judged.",
        examples=[{"errorRate": {"worseBy": "1%"}, "minimumSamples": 200}],
    )
    guard: Guard | None = Field(
        Guard(),
        title="Guard",
        description="Hard ceiling in the proxy; null = none.",
        examples=[{"errorRate": "50%", "minimum": 20}],
    )
    paused: bool = Field(False, title="Paused", description="Stay where it is; may be edited while it runs.", examples=[False])

    @model_validator(mode="after")
    def _knows_where_to(self) -> Self:
        if self.candidate is None and self.evaluation is None:
            raise ValueError("candidate is needed: model, endpoint and version; or the evaluation whose candidate it is")
        return self


class RolloutState(Spec):
    """Where a rollout is."""

    binding: str
    phase: str
    step: int
    steps: int
    weight: float
    shadow: float
    step_id: str
    salt: str
    stable: dict[str, str]
    candidate: dict[str, str]
    guard: dict[str, float] | None = None
    baseline: dict[str, float | None] | None = None
    settled: bool = False
    verdict: str = ""


class EvaluationFacts(Spec):
    """What a rollout reads of an Evaluation's state."""

    phase: str = ""
    verdict: str = ""
    reasons: list[str] = []
    candidate: dict[str, str] = {}
