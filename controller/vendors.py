"""Where vendors are and as whom they are used: parts of environment.yaml that the doors in `clients` open with. Data only."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from controller.model import LocalSecret, Seconds, Spec, Text


class HuggingFace(Spec):
    """Where Hugging Face is, and as whom it is used."""

    url: Text = Field(
        "https://huggingface.co",
        title="URL",
        description="Of the Hub; Jobs answer there too.",
        examples=["https://huggingface.co"],
        pattern=r"^https?://[^\s/@]+/?$",
    )
    inference_endpoints_url: Text = Field(
        "https://api.endpoints.huggingface.cloud/v2",
        alias="inferenceEndpointsUrl",
        title="Inference Endpoints",
        description="Base URL of the API of Inference Endpoints.",
        examples=["https://api.endpoints.huggingface.cloud/v2"],
        pattern=r"^https?://[^\s/@]+(/|$)",
    )
    namespace: Text | None = Field(
        None,
        title="Namespace",
        description="User or organisation that owns and pays; default: the user of the token.",
        examples=["acme"],
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
    )
    token: LocalSecret | None = Field(
        None,
        title="Token",
        examples=["env:HF_TOKEN"],
        description="Reference to the token; default: HUGGINGFACE_HUB_TOKEN, else HF_TOKEN of the process environment.",
    )
    simulated: bool = Field(
        False,
        title="Simulated",
        description="`turnout up` starts a double on this URL's port; jobs are processes of this machine.",
        examples=[True],
    )

    @model_validator(mode="after")
    def _kept_here(self) -> Self:
        if self.simulated and not (self.token or "").startswith("file:"):
            raise ValueError("simulated needs a token of the form file:NAME, which `turnout up` makes")
        return self


class InferenceEndpoint(Spec):
    """An Inference Endpoint of Hugging Face that an evaluation creates for a side, and deletes when it has its answers."""

    vendor: Text = Field("aws", title="Vendor", description="Cloud that it runs in.", examples=["aws"])
    region: Text = Field(title="Region", description="Of the vendor.", examples=["us-east-1"])
    accelerator: Text = Field("gpu", title="Accelerator", description="cpu, gpu, neuron.", examples=["gpu"])
    instance_type: Text = Field(alias="instanceType", title="Type", description="Of the hardware.", examples=["nvidia-l4"])
    instance_size: Text = Field("x1", alias="instanceSize", title="Size", description="Of the hardware.", examples=["x1"])
    revision: Text | None = Field(
        None, title="Revision", description="Of the model; default: the artefact's, else the newest.", examples=["main"]
    )
    framework: Text = Field("pytorch", title="Framework", description="Of the model.", examples=["pytorch"])
    task: Text = Field("text-generation", title="Task", description="What it serves.", examples=["text-generation"])
    image: dict[str, Any] | None = Field(
        None,
        title="Image",
        description="Container of an OpenAI-compatible server; default: the vendor's choice.",
        examples=[{"url": "vllm/vllm-openai:v0.11.0", "health_route": "/health"}],
    )
    env: dict[str, Text] = Field({}, title="Variables", description="Of the container.", examples=[{"MAX_INPUT_TOKENS": "8192"}])
    secrets: dict[str, LocalSecret] = Field(
        {}, title="Secrets", description="References, for the container.", examples=[{"HF_TOKEN": "env:HF_TOKEN"}]
    )
    scale_to_zero: Seconds = Field(
        900.0,
        ge=60,
        alias="scaleToZero",
        title="Scale to zero",
        description="Without requests for so long it stops by itself: bounds what can be lost.",
        examples=["15m"],
    )
    boot: Seconds = Field(1800.0, gt=0, title="Boot", description="Longest wait until it serves.", examples=["30m"])
    usd_per_hour: float | None = Field(
        None, ge=0, alias="usdPerHour", title="Price", description="Where the vendor's list cannot be read.", examples=[0.8]
    )
    as_of: Text | None = Field(None, alias="asOf", title="As of", description="When the price was read.", examples=["2026-11-01"])

    @model_validator(mode="after")
    def _dated(self) -> Self:
        if (self.usd_per_hour is None) != (self.as_of is None):
            raise ValueError("usdPerHour and asOf belong together: a price has a date")
        return self


class LangSmithSpec(Spec):
    """LangSmith, where evaluations are shown and actions are traced. Without it the same evaluation runs on local files."""

    url: Text = Field(
        "https://api.smith.langchain.com",
        title="URL",
        description="Address of the API.",
        examples=["https://eu.api.smith.langchain.com"],
        pattern=r"^https?://[^\s/@]+(/|$)",
    )
    api_key: LocalSecret = Field(
        "env:LANGSMITH_API_KEY",
        alias="apiKey",
        title="Key",
        description="Reference to the key; never the value.",
        examples=["env:LANGSMITH_API_KEY"],
    )
    workspace: Text | None = Field(
        None, title="Workspace", description="Id of the workspace; needed by keys of an organisation.", examples=["7e0a2f5c-..."]
    )
    web: Text | None = Field(
        None,
        title="Pages",
        description="Address of the pages, where it does not follow from the URL.",
        examples=["https://ls.acme.dev"],
    )
    project: Text = Field("turnout", title="Project", description="Where actions are traced.", examples=["turnout-production"])
    trace: bool = Field(True, title="Trace", description="Whether actions are traced at all.", examples=[False])
    timeout: Seconds = Field(20.0, gt=0, title="Time-out", description="Longest wait for one answer.", examples=["20s"])
    simulated: bool = Field(
        False, title="Simulated", description="`turnout up` starts a double on this URL's port.", examples=[True]
    )

    @model_validator(mode="after")
    def _kept_here(self) -> Self:
        if self.simulated and not self.api_key.startswith("file:"):
            raise ValueError("simulated needs an apiKey of the form file:NAME, which `turnout up` makes")
        return self


class InferenceSpec(Spec):
    """How evaluations call models; which endpoints there are stands under `endpoints`."""

    concurrency: int = Field(8, ge=1, le=256, title="Concurrency", description="Calls at a time.", examples=[8])
    attempts: int = Field(4, ge=1, le=20, title="Attempts", description="Of one call, the first included.", examples=[4])
    timeout: Seconds = Field(120.0, gt=0, title="Time-out", description="Longest time of one attempt.", examples=["120s"])
    patience: Seconds = Field(
        60.0, title="Patience", description="Longest wait that an endpoint may ask for (Retry-After).", examples=["60s"]
    )
    outage: int = Field(
        10, ge=1, title="Outage", description="So many calls in a row without an answer end an evaluation for now.", examples=[10]
    )
    cache: Text = Field(
        "model-calls", title="Cache", description="Folder of answers, relative to the environment's data.", examples=["model-calls"]
    )
