"""What environment.yaml may say: endpoints, prices, proxies, clients, limits, rules. Data only; `settings.py` reads the files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from controller.errors import listed, nearest
from controller.model import LocalSecret, Name, Percent, Seconds, Spec, Text
from controller.vendors import HuggingFace, InferenceEndpoint, InferenceSpec, LangSmithSpec

BaseUrl = Annotated[str, Field(pattern=r"^https?://[^\s/@]+(/|$)")]
UrlPath = Annotated[str, Field(pattern=r"^/[!-~]*$")]


class HealthCheck(Spec):
    """Active checks of each replica."""

    path: UrlPath = Field(title="Path", description="Asked at the origin of each replica; 2xx is well.", examples=["/health"])
    interval: Seconds = Field(30.0, gt=0, title="Interval", description="How often.", examples=["30s"])
    timeout: Seconds = Field(5.0, gt=0, title="Time-out", description="How long one check may take.", examples=["5s"])
    fall: int = Field(2, ge=1, title="Fall", description="Failures in a row that take a replica out.", examples=[2])
    rise: int = Field(1, ge=1, title="Rise", description="Successes in a row that bring it back.", examples=[1])


class EjectionRule(Spec):
    """Passive checks: what requests say about a replica."""

    failures: int = Field(5, ge=0, title="Failures", description="In a row; 0 = never ejected.", examples=[5])
    seconds: Seconds = Field(10.0, gt=0, alias="for", title="For", description="First time out; doubles.", examples=["10s"])
    most: Percent = Field(50.0, title="Most", description="Share of replicas that may be out at once.", examples=["50%"])


class QueueRule(Spec):
    """Who waits while every replica is full."""

    size: int = Field(1024, ge=0, title="Size", description="Requests that may wait; more get 429.", examples=[1024])
    wait: Seconds = Field(30.0, gt=0, title="Wait", description="Longest wait, then 429.", examples=["30s"])


class Endpoint(Spec):
    """Where models answer: one base URL, several replicas that serve the same, or one that each evaluation creates."""

    url: BaseUrl | None = Field(
        None,
        title="Base URL",
        description="OpenAI-compatible base URL, with /v1. This, replicas or inferenceEndpoint.",
        examples=["https://openrouter.ai/api/v1"],
    )
    replicas: tuple[BaseUrl, ...] = Field(
        (),
        title="Replicas",
        description="Base URLs of several servers of the same models.",
        examples=[["http://gpu1:5900/v1", "http://gpu2:5900/v1"]],
        strict=False,
    )
    inference_endpoint: InferenceEndpoint | None = Field(
        None,
        alias="inferenceEndpoint",
        title="Inference Endpoint",
        description="One of Hugging Face that each evaluation creates for its side; only evaluations can name it.",
        examples=[{"region": "us-east-1", "instanceType": "nvidia-l4"}],
    )
    fallback: Name | None = Field(
        None,
        title="Fallback",
        description="Endpoint that evaluations ask instead for a model that this one does not list.",
        examples=["huggingface"],
    )
    api_key: LocalSecret | None = Field(
        None,
        alias="apiKey",
        title="Key",
        examples=["env:OPENROUTER_API_KEY"],
        description="Reference to the key; resolved by the proxy, never stored.",
    )
    auth: Literal["bearer", "x-api-key"] = Field(
        "bearer", title="Authentication", description="How the key is sent; x-api-key for Anthropic.", examples=["bearer"]
    )
    timeout: Seconds = Field(300.0, gt=0, title="Time-out", description="Longest silence of one request.", examples=["300s"])
    first_byte: Seconds | None = Field(
        None,
        gt=0,
        alias="firstByte",
        title="First byte",
        description="Longest wait of one try for the first byte.",
        examples=["60s"],
    )
    total: Seconds | None = Field(
        None, gt=0, title="Total", description="Longest time of a request with all its tries.", examples=["600s"]
    )
    connect: Seconds = Field(10.0, gt=0, title="Connect", description="Longest wait for a connection.", examples=["10s"])
    retries: int = Field(2, ge=0, le=10, title="Retries", description="Further tries before the first byte.", examples=[2])
    strategy: Literal["least_load", "round_robin", "least_connections", "least_latency"] = Field(
        "least_load", title="Strategy", description="Which replica gets the next request.", examples=["least_load"]
    )
    affinity: Literal["session", "prefix"] | None = Field(
        None, title="Affinity", description="What keeps coming to the same replica, for its KV cache.", examples=["session"]
    )
    load: UrlPath | None = Field(
        None, title="Load", description="Path of vLLM's metrics at each replica, for least_load.", examples=["/metrics"]
    )
    slow_start: Seconds | None = Field(
        None,
        gt=0,
        alias="slowStart",
        title="Slow start",
        description="How long a replica that came back warms up.",
        examples=["30s"],
    )
    max_in_flight: int | None = Field(
        None, ge=1, alias="maxInFlight", title="In flight", description="Requests at one replica at once.", examples=[64]
    )
    queue: QueueRule = Field(QueueRule(), title="Queue", description="Who waits beyond that.", examples=[{"size": 1024}])
    health: HealthCheck | None = Field(None, title="Health", description="Active checks.", examples=[{"path": "/health"}])
    ejection: EjectionRule = Field(EjectionRule(), title="Ejection", description="Passive checks.", examples=[{"failures": 5}])
    simulated: bool = Field(
        False, title="Simulated", examples=[True], description="`turnout up` starts a simulated endpoint on this URL's port."
    )

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where a client that asks directly, past the proxies, goes; none for an endpoint that has to be created first."""
        return (self.url,) if self.url else self.replicas

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        forms = {"url": self.url, "replicas": self.replicas, "inferenceEndpoint": self.inference_endpoint}
        found = [name for name, value in forms.items() if value]
        if len(found) != 1:
            raise ValueError(f"exactly one of {', '.join(forms)} is needed, found {', '.join(found) or 'none'}")
        if len(set(self.replicas)) != len(self.replicas):
            raise ValueError("replicas: the same URL stands there twice")
        if self.simulated and self.url is None:
            raise ValueError("simulated needs url")
        if self.inference_endpoint and (self.api_key or self.fallback):
            wrong = "apiKey" if self.api_key else "fallback"
            raise ValueError(f"{wrong} does not fit inferenceEndpoint: it is asked with the Hub's token, and serves any model")
        return self


def with_fallbacks(endpoints: Mapping[str, Endpoint], name: str) -> Iterator[str]:
    """An endpoint that is there, and those behind it, in order."""
    while name in endpoints:
        yield name
        name = endpoints[name].fallback or ""


def wrong_fallbacks(endpoints: Mapping[str, Endpoint]) -> Iterator[tuple[str, str]]:
    """Name of an endpoint and what is wrong with its fallback: it is not there, or leads back."""
    for name in endpoints:
        chain = [name]
        while (following := endpoints[chain[-1]].fallback) is not None:
            if following not in endpoints:
                if len(chain) == 1:
                    hint = nearest(following, endpoints)
                    yield name, f"there is no endpoint {following!r}{hint}; allowed: {listed(e for e in endpoints if e != name)}"
                break
            if following in chain:
                if following == name:
                    yield name, f"leads back to itself ({' -> '.join([*chain, following])}); one of them has to be the last"
                break
            chain.append(following)


class UsageLimits(Spec):
    """What one client or one agent may use at the proxies."""

    requests_per_minute: float | None = Field(
        None, gt=0, alias="requestsPerMinute", title="Requests", description="A minute, over a sliding window.", examples=[600]
    )
    tokens_per_minute: float | None = Field(
        None, gt=0, alias="tokensPerMinute", title="Tokens", description="A minute, over a sliding window.", examples=[200000]
    )
    budget_usd: float | None = Field(
        None, ge=0, alias="budgetUsd", title="Budget", description="USD a period; then requests get 402.", examples=[50.0]
    )
    budget_period: Literal["day", "month"] = Field(
        "month", alias="budgetPeriod", title="Period", description="In UTC.", examples=["month"]
    )


class ApiClient(UsageLimits):
    """Who may use the proxies, with its limits. Without any client everybody may."""

    keys: tuple[Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")], ...] = Field(
        (),
        title="Keys",
        description="Digests of keys (`turnout key`); never a key.",
        examples=[["sha256:" + "0" * 64]],
        strict=False,
    )
    agents: tuple[Name, ...] | None = Field(
        None, title="Agents", description="Which agents it may ask; default: all.", examples=[["feature_dev"]], strict=False
    )


class SessionHeaders(Spec):
    """Names of the headers with which agents tell about their work."""

    session: Text = Field("X-Session-ID", title="Session", description="Which conversation.", examples=["X-Session-ID"])
    task: Text = Field("X-Task-ID", title="Task", description="Which task.", examples=["X-Task-ID"])
    client: Text = Field("X-Client-ID", title="Client", description="Which program.", examples=["X-Client-ID"])
    pre: Text = Field("X-Timing-Pre-Ms", title="Before", description="The agent's own time before.", examples=["X-Timing-Pre-Ms"])
    post: Text = Field("X-Timing-Post-Ms", title="After", description="The agent's own time after.", examples=["X-Timing-Post-Ms"])


class Price(Spec):
    """Dated price of a model, US dollars per million tokens."""

    input: float = Field(ge=0, title="Input", description="USD per million input tokens.", examples=[3.0])
    output: float = Field(ge=0, title="Output", description="USD per million output tokens.", examples=[15.0])
    as_of: Text | None = Field(None, alias="asOf", title="As of", description="When it was read.", examples=["2026-11-01"])


class Hyperparameters(Spec):
    """How a LoRA is trained."""

    learning_rate: float = Field(
        2e-5, gt=0, alias="learningRate", title="Learning rate", description="Highest of the schedule.", examples=[2e-5]
    )
    epochs: float = Field(3.0, gt=0, title="Epochs", description="How often each row is seen.", examples=[3])
    batch: int = Field(4, ge=1, title="Batch", description="Rows at once on the hardware.", examples=[4])
    accumulation: int = Field(4, ge=1, title="Accumulation", description="Batches an optimizer step.", examples=[4])
    warmup_ratio: float = Field(
        0.1, ge=0, lt=1, alias="warmupRatio", title="Warm-up", description="Share of the steps.", examples=[0.1]
    )
    max_length: int = Field(
        8192, ge=16, alias="maxLength", title="Sequence length", description="Tokens of prompt and answer.", examples=[8192]
    )
    lora_rank: int = Field(32, ge=1, alias="loraRank", title="LoRA rank", description="16 to 32 is sane.", examples=[32])
    lora_alpha: float = Field(
        64.0, gt=0, alias="loraAlpha", title="LoRA alpha", description="Usually twice the rank.", examples=[64]
    )
    lora_dropout: float = Field(0.1, ge=0, lt=1, alias="loraDropout", title="LoRA dropout", description="Share.", examples=[0.1])
    lora_targets: tuple[Text, ...] = Field(
        ("q_proj", "v_proj", "k_proj", "o_proj"),
        alias="loraTargets",
        title="LoRA targets",
        description="Layers that get adapters; `all-linear` = every one.",
        examples=[["q_proj", "v_proj"]],
        strict=False,
    )
    beta: float = Field(0.1, gt=0, title="Beta", description="Of dpo and orpo.", examples=[0.1])
    seed: int = Field(42, ge=0, title="Seed", description="Of all that is drawn.", examples=[42])


class TrainingMode(Spec):
    """What a mode changes."""

    examples: int | None = Field(None, ge=3, title="Examples", description="Rows at most; none = all.", examples=[100])
    timeout: Seconds = Field(10800.0, gt=0, title="Time-out", description="Of one attempt; bounds its cost.", examples=["3h"])
    minimum: int = Field(0, ge=0, title="Minimum", description="Distinct rows at least; 0 = the method's own.", examples=[50])
    lora_rank: int | None = Field(None, ge=1, alias="loraRank", title="LoRA rank", description="In this mode.", examples=[16])
    lora_alpha: float | None = Field(None, gt=0, alias="loraAlpha", title="LoRA alpha", description="In this mode.", examples=[32])


class HardwareChoice(Spec):
    """Hardware for models up to a size: the first name that the backend lists."""

    below: float | None = Field(None, gt=0, title="Below", description="Billions of parameters; none = all others.", examples=[3])
    names: tuple[Text, ...] = Field(title="Names", description="In order of preference.", examples=[["a10g-small"]], strict=False)


class HardwarePrice(Spec):
    """A dated price of hardware, for where the backend's own list cannot be read."""

    usd_per_hour: float = Field(ge=0, alias="usdPerHour", title="Price", description="USD an hour.", examples=[1.1])
    gpu: str = Field("", title="GPU", description="Model of the accelerators.", examples=["A10G"])
    gpus: int = Field(0, ge=0, title="GPUs", description="How many.", examples=[1])
    as_of: Text = Field(alias="asOf", title="As of", description="When it was read.", examples=["2026-11-01"])


def _choices() -> tuple[HardwareChoice, ...]:
    """Under 3B one A10G, to 13B two, above the largest that is listed (Hugging Face Jobs has no H100: an H200)."""
    small, middle, large = ("a10g-small", "a10g-large"), ("a10g-largex2",), ("h100", "h200", "a100-large")
    return (HardwareChoice(below=3.0, names=small), HardwareChoice(below=13.0, names=middle), HardwareChoice(names=large))


def _fallback_prices() -> dict[str, HardwarePrice]:
    """Of November 2026: what teams assumed for A10G and H100, and what Hugging Face listed for the H200."""
    rows = {"a10g-small": (1.1, "A10G", 1), "a10g-largex2": (2.2, "A10G", 2), "h100": (4.5, "H100", 1), "h200": (5.0, "H200", 1)}
    return {name: HardwarePrice(usd_per_hour=usd, gpu=gpu, gpus=n, as_of="2026-11-01") for name, (usd, gpu, n) in rows.items()}


class TrainingDefaults(Spec):
    """Defaults of training requests; frozen into a run when it starts."""

    backend: Literal["local", "hf_jobs"] = Field("local", title="Backend", description="Where it trains.", examples=["hf_jobs"])
    base_model: Text | None = Field(
        None, alias="baseModel", title="Base model", description="Where a request names none.", examples=["Qwen/Qwen2.5-Coder-7B"]
    )
    org: Text | None = Field(None, title="Organisation", description="`{org}` of repository names.", examples=["acme"])
    prefix: Text = Field("turnout", title="Prefix", description="`{prefix}` of repository names.", examples=["code-chef"])
    repository: Text = Field(
        "{org}/{prefix}-{agent}-{version}",
        title="Repository",
        description="Name on the Hub, of {org} {prefix} {agent} {version} {date}.",
        examples=["{org}/{prefix}-{agent}-{version}"],
    )
    python: Text | None = Field(
        None,
        title="Python",
        description="Interpreter with the program's packages, for local; default: TURNOUT_TRAINING_PYTHON, else this one.",
        examples=["/opt/training/bin/python"],
    )
    token: LocalSecret | None = Field(
        None, title="Token", description="Hub token of the program; default: HF_TOKEN of this process.", examples=["env:HF_TOKEN"]
    )
    retries: int = Field(2, ge=0, le=10, title="Retries", description="After out-of-memory or preemption.", examples=[2])
    setup: Seconds = Field(300.0, title="Set-up", description="Packages and weights, before training.", examples=["5m"])
    hyperparameters: Hyperparameters = Field(
        Hyperparameters(), title="Hyperparameters", description="Of every run.", examples=[{"epochs": 3}]
    )
    demo: TrainingMode = Field(
        TrainingMode(examples=100, timeout=1800.0, minimum=20, lora_rank=16, lora_alpha=32.0),
        title="Demo",
        description="A quick look: about 0.50 USD, 5 minutes.",
        examples=[{"examples": 100}],
    )
    production: TrainingMode = Field(
        TrainingMode(),
        title="Production",
        description="The whole data set: 3.50 to 15 USD, 90 minutes.",
        examples=[{"timeout": "3h"}],
    )
    hardware: tuple[HardwareChoice, ...] = Field(
        _choices(), title="Hardware", description="By size of the base model.", examples=[[{"names": ["h200"]}]], strict=False
    )
    prices: dict[str, HardwarePrice] = Field(
        _fallback_prices(),
        title="Prices",
        description="Where the backend's list cannot be read.",
        examples=[{"a10g-small": {"usdPerHour": 1.1, "gpu": "A10G", "gpus": 1, "asOf": "2026-11-01"}}],
    )


class ProxyAddress(Spec):
    """A data plane that this environment drives."""

    url: Text = Field(
        title="URL", description="Where the proxy listens.", examples=["http://127.0.0.1:5800"], pattern=r"^https?://[^\s/@]+(/|$)"
    )
    token: LocalSecret | None = Field(
        None, title="Token", description="Reference to the admin token.", examples=["file:gateway.token"]
    )
    workers: int = Field(
        1, ge=1, le=64, title="Workers", description="Processes that share the port, where `turnout up` starts it.", examples=[2]
    )
    access_log: Text | None = Field(
        None,
        alias="accessLog",
        title="Access log",
        description="File for a JSON line a request.",
        examples=["/var/log/proxy.jsonl"],
    )
    otel: Annotated[str, Field(pattern=r"^https?://")] | None = Field(
        None, title="OpenTelemetry", description="OTLP/HTTP collector of spans.", examples=["http://127.0.0.1:4318/v1/traces"]
    )


class HaproxyAddress(Spec):
    """An HAProxy that this environment drives: where its process is asked what it serves and has counted."""

    socket: Text = Field(
        title="Socket",
        description="Its runtime socket (`stats socket`), made by the configuration that Turnout writes.",
        pattern=r"^/[A-Za-z0-9_./-]+$",
        max_length=90,
        examples=["/run/haproxy/turnout.sock"],
    )
    master_socket: Text | None = Field(
        None,
        alias="masterSocket",
        title="Master socket",
        description="That of its master process (`haproxy -W -S PATH`), by which it is reloaded.",
        pattern=r"^/[A-Za-z0-9_./-]+$",
        max_length=90,
        examples=["/run/haproxy/master.sock"],
    )


class Author(Spec):
    """Who the controller's commits are from."""

    name: Text = Field("Turnout", title="Name", description="Author of commits.", examples=["Turnout"])
    email: Text = Field("turnout@localhost", title="E-mail", description="Author's address.", examples=["turnout@acme.dev"])


class Rule(Spec):
    """One policy rule over changes."""

    match: Text = Field("*", title="Match", description="Pattern over addresses.", examples=["ModelBinding/*"])
    actions: tuple[Literal["create", "update", "replace", "delete", "run", "step"], ...] = Field(
        (), title="Actions", description="Which actions; empty = all.", examples=[["delete"]], strict=False
    )
    reason: Text = Field("policy", title="Reason", description="Shown to whoever waits.", examples=["frozen for the release"])


class Brake(Spec):
    """How much may be removed at once."""

    fraction: Percent = Field(30.0, title="Fraction", description="Percent of what exists.", examples=["30%"])
    population: int = Field(10, ge=1, title="Population", description="From how many resources on it counts.", examples=[10])


class Rules(Spec):
    """Policy of the environment."""

    deny: tuple[Rule, ...] = Field((), title="Deny", description="Changes that never go.", examples=[[]], strict=False)
    approve: tuple[Rule, ...] = Field(
        (), title="Approve", description="Changes that need a second person.", examples=[[{"match": "Gateway/*"}]], strict=False
    )
    approval_above_usd: float = Field(
        10.0,
        ge=0,
        alias="approvalAboveUsd",
        title="Approval above",
        description="USD; dearer needs a second person.",
        examples=[10],
    )
    brake: Brake = Field(Brake(), title="Brake", description="Against mass removal.", examples=[{"fraction": "30%"}])


class BudgetSpec(Spec):
    """What paid work may cost in a month (UTC): spent, reserved by what runs, and the ceiling of what would start."""

    monthly_usd: float | None = Field(
        None, ge=0, alias="monthlyUsd", title="Monthly", description="USD for everything.", examples=[500]
    )
    agents: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {}, title="Agents", description="USD a month for one agent.", examples=[{"feature_dev": 100}]
    )


class EnvironmentSpec(Spec):
    """One environment: what it reads, what it drives, and its rules."""

    branch: Text | None = Field(
        None, title="Branch", description="Branch of the desired state; default: the one HEAD names.", examples=["main"]
    )
    state: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$")] = Field(
        "state", title="State", description="Folder of the shared desired state.", examples=["state"]
    )
    remote: Text | None = Field(
        None, title="Remote", description="git remote that holds the truth; none = this repository.", examples=["origin"]
    )
    resync: Seconds = Field(
        60.0, gt=0, title="Resync", description="How often reality is looked at although nothing moved.", examples=["60s"]
    )
    poll: Seconds = Field(30.0, title="Poll", description="How often the remote is asked.", examples=["30s"])
    write_back: Literal["direct", "hold"] = Field(
        "direct",
        alias="writeBack",
        title="Write-back",
        examples=["direct"],
        description="direct: commit promotions and reverts; hold: say what to merge.",
    )
    author: Author = Field(Author(), title="Author", description="Of the controller's commits.", examples=[{"name": "Turnout"}])
    endpoints: dict[str, Endpoint] = Field(
        {},
        title="Endpoints",
        description="Where models answer, by name.",
        examples=[{"openrouter": {"url": "https://openrouter.ai/api/v1"}}],
    )
    prices: dict[str, Price] = Field(
        {}, title="Prices", description="Dated prices by model.", examples=[{"acme/small": {"input": 0.2, "output": 0.6}}]
    )
    training: TrainingDefaults = Field(
        TrainingDefaults(), title="Training", description="Defaults of training requests.", examples=[{"backend": "hf_jobs"}]
    )
    huggingface: HuggingFace = Field(
        HuggingFace(), title="Hugging Face", description="The Hub, Jobs, Inference Endpoints.", examples=[{"namespace": "acme"}]
    )
    langsmith: LangSmithSpec | None = Field(
        None,
        title="LangSmith",
        description="Data sets, experiments, traces of actions; none = not used.",
        examples=[{"apiKey": "env:LANGSMITH_API_KEY"}],
    )
    inference: InferenceSpec = Field(
        InferenceSpec(), title="Inference", description="How evaluations call models.", examples=[{"concurrency": 8}]
    )
    proxies: dict[str, ProxyAddress] = Field(
        {}, title="Proxies", description="Data planes by name.", examples=[{"main": {"url": "http://127.0.0.1:5800"}}]
    )
    haproxies: dict[str, HaproxyAddress] = Field(
        {},
        title="HAProxies",
        description="HAProxy processes by name.",
        examples=[{"edge": {"socket": "/run/haproxy/turnout.sock"}}],
    )
    clients: dict[str, ApiClient] = Field(
        {}, title="Clients", description="Who may use the proxies; none = everybody.", examples=[{"ci": {"keys": []}}]
    )
    limits: dict[str, UsageLimits] = Field(
        {}, title="Limits", description="What an agent may use, by agent.", examples=[{"docs": {"budgetUsd": 50}}]
    )
    headers: SessionHeaders = Field(
        SessionHeaders(), title="Headers", description="Names of session headers.", examples=[{"session": "X-Session-ID"}]
    )
    log_content: bool = Field(
        False, alias="logContent", title="Log content", description="Whether proxies may log prompts and answers.", examples=[False]
    )
    budget: BudgetSpec = Field(BudgetSpec(), title="Budget", description="Of paid work.", examples=[{"monthlyUsd": 500}])
    rules: Rules = Field(Rules(), title="Rules", description="Policy.", examples=[{"approvalAboveUsd": 10}])


class EnvironmentMetadata(Spec):
    """Which environment."""

    name: Name = Field(title="Name", description="The folder's name.", examples=["local"])


class EnvironmentFile(Spec):
    """environments/<name>/environment.yaml"""

    api_version: Literal["turnout/v1"] = Field(
        alias="apiVersion", title="Version", description="Always turnout/v1.", examples=["turnout/v1"]
    )
    kind: Literal["Environment"] = Field(title="Kind", description="Always Environment.", examples=["Environment"])
    metadata: EnvironmentMetadata = Field(title="Metadata", description="Name.", examples=[{"name": "local"}])
    spec: EnvironmentSpec = Field(EnvironmentSpec(), title="Spec", description="Settings.", examples=[{"branch": "main"}])
