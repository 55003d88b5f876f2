"""What a user writes for a Conversion, and what is true of one.

`ConversionState` holds all that a run started with (the defaults of that day too), so that nothing which changes later changes it,
and all that is needed to fetch its files and to trust them: names, sizes, sha256.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from controller.errors import listed, nearest
from controller.model import Name, Seconds, Spec, Text

SEMANTIC = r"^v?(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$"
REPOSITORY = "{org}/{prefix}-{agent}-{version}-GGUF"
BITS = {"F16": 16.1, "Q8_0": 8.6, "Q6_K": 6.9, "Q5_K_M": 6.1, "Q5_K_S": 6.0, "Q5_0": 6.0, "Q4_K_M": 5.4, "Q4_K_S": 5.1, "Q4_0": 5.1}
"""What the conversion program makes (a test compares), with an upper estimate of bits a weight."""
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def _semantic(value: str) -> str:
    if not re.fullmatch(SEMANTIC, value):
        raise ValueError(f"{value!r} is not a semantic version; write one like v1.1.0 or v1.1.0-beta.1")
    return value


def _quantization(value: Any) -> Any:
    """In any case of letters: people write f16 and Q4_K_M."""
    value = getattr(value, "text", value)
    if not isinstance(value, str):
        return value
    if value.upper() not in BITS:
        raise ValueError(f"{value!r} is not a quantization{nearest(value.upper(), BITS)}; allowed: {listed(BITS, len(BITS))}")
    return value.upper()


def _repository(value: str) -> str:
    if not _REPO.fullmatch(value):
        raise ValueError(f"{value!r} is not a repository of the Hub; write ORG/NAME, as in Qwen/Qwen2.5-Coder-7B")
    return value


Version = Annotated[Text, AfterValidator(_semantic), WithJsonSchema({"type": "string", "pattern": SEMANTIC})]
Quantization = Annotated[
    str, BeforeValidator(_quantization), WithJsonSchema({"type": "string", "enum": [*BITS, *(each.lower() for each in BITS)]})
]
Repo = Annotated[Text, AfterValidator(_repository)]


class Source(Spec):
    """What is converted: a training of this repository, or a model of the Hub."""

    training: Name | None = Field(
        None, title="Training", description="Name of a TrainingRequest; waits until it has succeeded.", examples=["docs-v1"]
    )
    repo: Repo | None = Field(
        None, title="Repository", description="Model of the Hub, with safetensors.", examples=["Qwen/Qwen2.5-Coder-7B"]
    )
    revision: Text | None = Field(
        None, title="Revision", description="Branch, tag or commit of `repo`; default: main.", examples=["main"]
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.training is None) == (self.repo is None):
            raise ValueError("exactly one of training and repo is needed: {training: NAME} or {repo: ORG/NAME}")
        if self.training is not None and self.revision is not None:
            raise ValueError("revision goes with repo; a training has one result only")
        return self


class Smoke(Spec):
    """Each file is loaded and has to generate before it counts."""

    prompt: Text = Field("The quick brown fox", title="Prompt", description="What is continued.", examples=["def add(a, b):"])
    tokens: int = Field(32, ge=1, le=512, title="Tokens", description="Generated at most, greedily.", examples=[32])


class ConversionSpec(Spec):
    """A new name is a new run; an ended one is never started again."""

    agent: Name = Field(title="Agent", description="Whose model it is.", examples=["feature_dev"])
    version: Version = Field(
        title="Version", description="Semantic version of what is made.", examples=["v1.1.0-beta.1"], max_length=64
    )
    source: Source = Field(title="Source", description="What is converted.", examples=[{"training": "docs-v1"}])
    quantizations: tuple[Quantization, ...] = Field(
        ("Q4_K_M",),
        title="Quantizations",
        description="Files that are made; F16 is none and the way to all others.",
        examples=[["F16", "Q4_K_M"]],
        strict=False,
        json_schema_extra={"minItems": 1},
    )
    smoke: Smoke = Field(Smoke(), title="Smoke test", description="Of every file.", examples=[{"prompt": "def add(a, b):"}])
    backend: Literal["local", "hf_jobs"] | None = Field(
        None, title="Backend", description="Where it runs; default: `training.backend` of the environment.", examples=["hf_jobs"]
    )
    hardware: Text | None = Field(
        None,
        title="Hardware",
        description="Name in the backend's price list; default: the smallest CPU machine whose disk is large enough.",
        examples=["cpu-upgrade"],
    )
    budget_usd: float | None = Field(
        None, gt=0, alias="budgetUsd", title="Budget", description="All attempts together cost no more (USD).", examples=[0.5]
    )
    timeout: Seconds = Field(7200.0, gt=0, title="Time-out", description="Of one attempt; bounds its cost.", examples=["2h"])
    deadline: Seconds | None = Field(
        None, gt=0, title="Deadline", description="From the start, over all attempts; then it is stopped.", examples=["6h"]
    )
    retries: int | None = Field(
        None,
        ge=0,
        le=10,
        title="Retries",
        description="Further attempts when it was preempted, lost, or did not reach the Hub; default: the environment's.",
        examples=[2],
    )
    push: bool | None = Field(
        None, title="Push", description="Whether the files go to the Hub; default: yes on hf_jobs, no on local.", examples=[True]
    )
    repository: Text = Field(
        REPOSITORY,
        title="Repository",
        description="Name on the Hub, of {org} {prefix} {agent} {version} {date}.",
        examples=[REPOSITORY],
    )

    @model_validator(mode="after")
    def _some_and_each_once(self) -> Self:
        if not self.quantizations:
            raise ValueError(f"quantizations: none is named; write some of {listed(BITS, len(BITS))}, or leave the field out")
        twice = {each for each in self.quantizations if self.quantizations.count(each) > 1}
        if twice:
            raise ValueError(f"quantizations: {listed(twice)} is there twice")
        return self


class ConversionState(Spec):
    """Where a conversion is: what it started with, its job, and what came of it. Money in USD, lengths of time in seconds."""

    phase: str  # queued, running, verifying, succeeded, failed, cancelled
    agent: str
    version: str
    source: dict[str, Any] = {}  # training, base_model; repo and revision on the Hub, or job and digest on this machine; bytes
    quantizations: list[str] = []
    prompt: str = ""
    tokens: int = 0
    backend: str
    hardware: str = ""
    usd_per_hour: float = 0.0
    timeout: float = 0.0  # of the attempt that runs now
    deadline: float | None = None
    budget_usd: float | None = None
    attempts: int = 1  # that it may have
    attempt: int = 1
    repo: str = ""  # empty = not pushed
    intent: str = ""  # of the run; every attempt's begins with it
    job: str = ""  # the handle of the attempt that runs now
    revision: str = ""  # commit on the Hub
    files: list[dict[str, Any]] = []  # name, quantization, bytes, sha256
    metadata: dict[str, Any] = {}  # architecture, parameters, context_length, tokenizer, packages
    smoke: dict[str, Any] = {}  # prompt, answers {quantization: {text, tokens}}
    result: str = ""  # digest of files
    seconds: float = 0.0  # of the attempt that made it
    cost_usd: float = 0.0
    spent_usd: float = 0.0  # by earlier attempts
    started_at: str = ""
    ended_at: str = ""
    said: str = ""  # how it ended


class TrainingFacts(Spec):
    """What a conversion reads of a TrainingRequest's state; other fields are of no concern here."""

    phase: str = ""
    version: str = ""
    base_model: str = ""
    repo: str = ""
    revision: str = ""
    job: str = ""
    result: str = ""
    backend: str = ""
    bytes: int = 0
