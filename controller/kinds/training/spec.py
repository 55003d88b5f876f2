"""What a user writes for a TrainingRequest, and what is true of one.

`TrainingState` holds all that a run started with (the defaults of that day too), so that nothing which changes later changes it,
and all that an evaluation or a rollout may want to know of its result.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, GetJsonSchemaHandler, WithJsonSchema, model_validator
from pydantic_core import CoreSchema

from controller.model import Name, Percent, Seconds, Spec, Text

SEMANTIC = r"^v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$"
TINY = "tiny"
_SOURCE = re.compile(r"(ls://[^\s@]+|hf://[\w.-]+/[\w.-]+)(@[^\s@]+)?")
_FORMS = "ls://NAME-OR-ID, hf://ORG/NAME (each with @REVISION if it has to be one), or {files: [...]}"


def _semantic(value: str) -> str:
    if not re.fullmatch(SEMANTIC, value):
        raise ValueError(f"{value!r} is not a semantic version; write one like v1.1.0 or v1.1.0-beta.1")
    return value


Version = Annotated[Text, AfterValidator(_semantic), WithJsonSchema({"type": "string", "pattern": SEMANTIC})]


class Dataset(Spec):
    """Rows, and exactly where they are. Short form: the text of `source`."""

    source: Text | None = Field(
        None,
        title="Source",
        description="LangSmith `ls://name-or-id` or Hub `hf://org/name`, with `@revision` if it has to be one.",
        examples=["ls://feature-dev-2026"],
    )
    files: tuple[Text, ...] = Field(
        (), title="Files", description="JSON-lines files of this repository.", examples=[["data/feature_dev.jsonl"]], strict=False
    )
    split: Text | None = Field(None, title="Split", description="Which split of the source; none = all.", examples=["train"])

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The short form is part of the schema, so that editors accept it."""
        schema = handler.resolve_ref_schema(handler(core))
        schema.update(type=["object", "string"])
        return schema

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.source is None) == (not self.files):
            raise ValueError(f"exactly one of source and files is needed: {_FORMS}")
        if self.source is not None and not _SOURCE.fullmatch(self.source):
            raise ValueError(f"{self.source!r} is not a data set; allowed: {_FORMS}")
        for path in self.files:
            if path.startswith("/") or ".." in path.split("/"):
                raise ValueError(f"{path!r} is not a path inside this repository")
        return self

    @property
    def shown(self) -> str:
        """For people."""
        return self.source or ", ".join(self.files)


class Overrides(Spec):
    """Hyperparameters that differ from the environment's."""

    learning_rate: float | None = Field(
        None, gt=0, alias="learningRate", title="Learning rate", description="Highest of the schedule.", examples=[2e-5]
    )
    epochs: float | None = Field(None, gt=0, title="Epochs", description="How often each row is seen.", examples=[3])
    batch: int | None = Field(None, ge=1, title="Batch", description="Rows at once on the hardware.", examples=[4])
    accumulation: int | None = Field(None, ge=1, title="Accumulation", description="Batches an optimizer step.", examples=[4])
    warmup_ratio: float | None = Field(
        None, ge=0, lt=1, alias="warmupRatio", title="Warm-up", description="Share of the steps.", examples=[0.1]
    )
    max_length: int | None = Field(
        None, ge=16, alias="maxLength", title="Sequence length", description="Tokens of prompt and answer.", examples=[8192]
    )
    lora_rank: int | None = Field(None, ge=1, alias="loraRank", title="LoRA rank", description="16 to 32 is sane.", examples=[32])
    lora_alpha: float | None = Field(
        None, gt=0, alias="loraAlpha", title="LoRA alpha", description="Usually twice the rank.", examples=[64]
    )
    lora_dropout: float | None = Field(
        None, ge=0, lt=1, alias="loraDropout", title="LoRA dropout", description="Share.", examples=[0.1]
    )
    lora_targets: tuple[Text, ...] | None = Field(
        None,
        alias="loraTargets",
        title="LoRA targets",
        description="Layers that get adapters; `all-linear` = every one.",
        examples=[["q_proj", "v_proj"]],
        strict=False,
    )
    beta: float | None = Field(None, gt=0, title="Beta", description="Of dpo and orpo.", examples=[0.1])
    seed: int | None = Field(None, ge=0, title="Seed", description="Of all that is drawn.", examples=[42])


class TrainingSpec(Spec):
    """A new name is a new run; an ended one is never started again."""

    agent: Name = Field(title="Agent", description="Whose model it is.", examples=["feature_dev"])
    version: Version = Field(
        title="Version", description="Semantic version of the result.", examples=["v1.1.0-beta.1"], max_length=64
    )
    method: Literal["sft", "dpo", "orpo"] = Field(title="Method", description="How it learns.", examples=["sft"])
    dataset: Dataset = Field(title="Data set", description="What it learns from.", examples=["ls://feature-dev-2026"])
    evaluation: Dataset | None = Field(
        None,
        title="Evaluation set",
        description="Data set that later judges it; no question of it may be trained on.",
        examples=["ls://feature-dev-eval"],
    )
    base_model: Text | None = Field(
        None,
        alias="baseModel",
        title="Base model",
        description="Hub id, or `tiny` = a model of 1.3 million parameters made on the spot; default: the environment's.",
        examples=["Qwen/Qwen2.5-Coder-7B"],
    )
    base_revision: Text | None = Field(
        None, alias="baseRevision", title="Base revision", description="Of the base model; default: the newest.", examples=["main"]
    )
    parameters: float | None = Field(
        None, gt=0, title="Parameters", description="Billions, where the name of the base model does not say it.", examples=[7]
    )
    mode: Literal["demo", "production"] = Field(
        "production", title="Mode", description="demo: few rows, cheap, to see whether it works at all.", examples=["demo"]
    )
    held_out: Percent = Field(
        10.0, le=50, alias="heldOut", title="Held out", description="Share of the rows that is only measured on.", examples=["10%"]
    )
    overrides: Overrides = Field(
        Overrides(), title="Overrides", description="Hyperparameters unlike the environment's.", examples=[{"epochs": 2}]
    )
    backend: Literal["local", "hf_jobs"] | None = Field(
        None, title="Backend", description="Where it trains; default: the environment's.", examples=["hf_jobs"]
    )
    hardware: Text | None = Field(
        None,
        title="Hardware",
        description="Name in the backend's price list; default: by the size of the base model.",
        examples=["a10g-large"],
    )
    budget_usd: float | None = Field(
        None, gt=0, alias="budgetUsd", title="Budget", description="All attempts together cost no more (USD).", examples=[5.0]
    )
    timeout: Seconds | None = Field(
        None, gt=0, title="Time-out", description="Of one attempt; default: the mode's.", examples=["2h"]
    )
    deadline: Seconds | None = Field(
        None, gt=0, title="Deadline", description="From the start, over all attempts; then it is stopped.", examples=["12h"]
    )
    retries: int | None = Field(
        None,
        ge=0,
        le=10,
        title="Retries",
        description="Further attempts after out-of-memory or preemption; default: the environment's.",
        examples=[2],
    )
    push: bool | None = Field(
        None, title="Push", description="Whether the result goes to the Hub; default: yes on hf_jobs, no on local.", examples=[True]
    )
    repository: Text | None = Field(
        None,
        title="Repository",
        description="Name on the Hub, of {org} {prefix} {agent} {version} {date}; default: the environment's.",
        examples=["{org}/{prefix}-{agent}-{version}"],
    )


class TrainingState(Spec):
    """Where a training is: what it started with, its job, and what came of it. Money in USD, lengths of time in seconds."""

    phase: str  # queued, running, verifying, succeeded, failed, cancelled
    agent: str
    version: str
    method: str
    base_model: str
    base_revision: str | None = None
    dataset: dict[str, Any] = {}  # name, revision, digest, rows, split, source
    parameters: dict[str, Any] = {}  # hyperparameters, examples, held_out
    backend: str
    hardware: str = ""
    usd_per_hour: float = 0.0
    timeout: float = 0.0  # of the attempt that runs now
    deadline: float | None = None
    budget_usd: float | None = None
    attempts: int = 1  # that it may have
    attempt: int = 1
    batch: int = 0
    accumulation: int = 0
    repo: str = ""  # empty = not pushed
    intent: str = ""  # of the run; every attempt's begins with it
    job: str = ""  # the handle of the attempt that runs now
    revision: str = ""  # commit on the Hub
    metrics: dict[str, Any] = {}
    progress: dict[str, Any] = {}  # of this attempt, as last told: step, steps, loss, tokens_per_second, eta_seconds, cost_usd
    cost_usd: float = 0.0
    spent_usd: float = 0.0  # by earlier attempts
    started_at: str = ""
    ended_at: str = ""
    result: str = ""  # digest of names, sizes and sha256 of all files
    files: int = 0
    bytes: int = 0
    said: str = ""  # how it ended
