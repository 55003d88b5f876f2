"""What a user writes for an Evaluation, and what is known of one.

Defaults of weights and thresholds are those of `judgement`; whatever `judgement` would refuse is refused here, at the file's line.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from controller.judgement.results import WEIGHTS, Scoring
from controller.judgement.rules import GAINS, KEEP, WATCH, Rules
from controller.model import Name, Seconds, Spec, Text

Measure = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Share = Annotated[float, Field(ge=0, le=10)]
RepoFile = Annotated[Text, Field(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*\.jsonl$")]
LANGSMITH, HUB = "ls://", "hf://"
SHORT = r"^(ls://\S+|hf://[\w.-]+/[\w.-]+(@[^\s@]+)?)$"


class Side(Spec):
    """One of the two: a model version, the artefact of a training run, or what the agent uses when the evaluation starts."""

    model: Text | None = Field(
        None, title="Model", description="Identifier at its endpoint; needs a version too.", examples=["acme/feature-dev-v2"]
    )
    endpoint: Name | None = Field(
        None,
        title="Endpoint",
        description="Name of an endpoint in environment.yaml; for an artefact, where it is served.",
        examples=["huggingface"],
    )
    version: Text | None = Field(
        None, title="Version", description="Version label, kept as written.", examples=["v2.0.0"], max_length=128
    )
    training: Name | None = Field(
        None, title="Training", description="The artefact of this TrainingRequest, once it is there.", examples=["feature_dev-v2"]
    )
    bound: Literal[True] | None = Field(
        None, title="Bound", description="What the agent's ModelBinding uses when the evaluation starts.", examples=[True]
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        forms = {"model": self.model, "training": self.training, "bound": self.bound}
        chosen = [name for name, value in forms.items() if value is not None]
        if len(chosen) != 1:
            raise ValueError(f"exactly one of model, training, bound is needed, found {', '.join(chosen) or 'none'}")
        if self.model is not None and (self.endpoint is None or self.version is None):
            raise ValueError("a model needs its endpoint and its version")
        if self.training is not None and self.endpoint is None:
            raise ValueError("an artefact needs the endpoint that serves it")
        if self.model is None and self.version is not None:
            raise ValueError(f"version belongs to a model; {chosen[0]} brings its own")
        if self.bound and self.endpoint is not None:
            raise ValueError("endpoint belongs to a model or an artefact; bound brings its own")
        return self


class Dataset(Spec):
    """The questions; never those of the training. Short forms: `ls://name-or-id`, `hf://org/name` or `hf://org/name@revision`."""

    langsmith: Text | None = Field(
        None, title="LangSmith", description="Name or id of a data set.", examples=["feature-dev-evaluation"]
    )
    huggingface: Annotated[Text, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = Field(
        None, title="Hugging Face", description="Dataset repository of the Hub.", examples=["acme/feature-dev-evaluation"]
    )
    revision: Text | None = Field(
        None,
        title="Revision",
        description="Of LangSmith: a time or a tag; of the Hub: a branch, a tag or a commit; default: the newest.",
        examples=["2026-11-01T00:00:00Z"],
    )
    split: Text | None = Field(
        None, title="Split", description="Of the LangSmith or Hub data set; default: all.", examples=["test"]
    )
    files: list[RepoFile] = Field(
        [],
        title="Files",
        description="JSON lines in this repository, from its root.",
        max_length=50,
        examples=[["datasets/feature-dev-evaluation.jsonl"]],
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        """The short form is part of the schema, so that editors accept it."""
        schema: dict[str, Any] = handler.resolve_ref_schema(handler(core))
        schema.update(type=["object", "string"], pattern=SHORT)
        return schema

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not re.fullmatch(SHORT, value):
            raise ValueError(
                f"{value!r} is no data set; write ls://name-or-id, hf://org/name, or files: [datasets/evaluation.jsonl]"
            )
        if value.startswith(LANGSMITH):
            return {"langsmith": value.removeprefix(LANGSMITH)}
        name, _, revision = value.removeprefix(HUB).partition("@")
        return {"huggingface": name, **({"revision": revision} if revision else {})}

    @model_validator(mode="after")
    def _one(self) -> Self:
        forms = {"langsmith": self.langsmith, "huggingface": self.huggingface, "files": self.files}
        found = [name for name, value in forms.items() if value]
        if len(found) != 1:
            told = f"found {', '.join(found) or 'none'}"
            raise ValueError(
                f"exactly one of langsmith (short: ls://name-or-id), huggingface (hf://org/name), files is needed, {told}"
            )
        if self.files and (self.revision or self.split):
            raise ValueError("revision and split belong to a data set of LangSmith or the Hub; files are read at the commit")
        return self

    @property
    def label(self) -> str:
        """In the form of a training's `source`, without a revision."""
        if self.huggingface:
            return f"{HUB}{self.huggingface}"
        return f"{LANGSMITH}{self.langsmith}" if self.langsmith else ", ".join(self.files)


class Evaluator(Spec):
    """A deterministic check of each answer: the same answer always gets the same score."""

    name: Measure = Field(title="Name", description="In tables and events.", examples=["tests"])
    kind: Literal["exact", "contains", "regex", "json_schema", "code"] = Field(
        title="Kind",
        description="exact: equal; contains: all parts; regex: found; json_schema: follows; code: passes tests, sandboxed.",
        examples=["code"],
    )
    expected: str | list[str] | dict[str, Any] | None = Field(
        None, title="Expected", description="The same for every question; else `field`.", examples=["return"]
    )
    field: Text | None = Field(
        None, title="Field", description="Where a row has what is expected, with dots.", examples=["outputs.tests"]
    )
    fold: bool = Field(False, title="Fold", description="Case does not count.", examples=[True])
    any_of: bool = Field(False, alias="anyOf", title="Any of", description="One part is enough (contains).", examples=[True])
    partial: bool = Field(
        False, title="Partial", description="The share that passes instead of all or nothing (contains, code).", examples=[True]
    )
    seconds: float = Field(10.0, gt=0, le=120, title="Seconds", description="Limit of one run of code.", examples=[10.0])
    weak_sandbox: bool = Field(
        False,
        alias="weakSandbox",
        title="Weak sandbox",
        description="Run code also where nothing isolates it; only for code that you trust.",
        examples=[False],
    )
    feeds: Measure | None = Field(
        None,
        title="Feeds",
        description="The dimension that it measures; default: its own name, else accuracy.",
        examples=["accuracy"],
    )

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        if self.expected is None and self.field is None:
            raise ValueError("nothing to compare with: give expected, or field with a path such as outputs.answer")
        if self.kind == "regex" and isinstance(self.expected, str):
            try:
                re.compile(self.expected)
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"{self.expected!r} is not a regular expression: {error}") from None
        return self


class Judge(Spec):
    """An LLM that compares both answers, asked twice with the order swapped. Its price counts."""

    model: Text = Field(title="Model", description="Identifier at its endpoint.", examples=["openai/gpt-4o"])
    endpoint: Name = Field(title="Endpoint", description="Name of an endpoint in environment.yaml.", examples=["openrouter"])
    prompt: Literal["pairwise-1"] = Field(
        "pairwise-1",
        title="Prompt",
        description="Version of the wording; another one is another instrument.",
        examples=["pairwise-1"],
    )
    max_tokens: int = Field(800, alias="maxTokens", ge=100, le=8000, title="Tokens", description="Of one opinion.", examples=[800])
    preference: Measure | None = Field(
        None,
        title="Preference",
        description="The dimension that which answer it prefers feeds; its marks feed those of their names.",
        examples=["accuracy"],
    )


class Thresholds(Spec):
    """What a deployment needs. Shares: 0.02 is two points of a score, or two percent of latency or cost."""

    alpha: float = Field(
        0.025,
        ge=0.0001,
        le=0.25,
        title="Alpha",
        description="How often a candidate that is no different may be deployed, at most.",
        examples=[0.025],
    )
    power: float = Field(
        0.8, ge=0.5, le=0.999, title="Power", description="For the number of examples that would be enough.", examples=[0.8]
    )
    gains: dict[Measure, Share] = Field(
        GAINS, title="Gains", description="One must get better; the smallest gain worth a deployment.", examples=[{"score": 0.02}]
    )
    keep: dict[Measure, Share] = Field(
        KEEP, title="Keep", description="Worse by more than this rejects.", examples=[{"accuracy": 0.03, "success_rate": 0.02}]
    )
    watch: dict[Measure, Share] = Field(
        WATCH, title="Watch", description="Worse by more than this asks a person.", examples=[{"latency_p95": 0.2}]
    )
    judge_disagrees: float = Field(
        0.25,
        alias="judgeDisagrees",
        ge=0,
        le=1,
        title="Judge disagrees",
        description="Share of pairs on which the judge may change its mind with the order.",
        examples=[0.25],
    )


class EvaluationSpec(Spec):
    """A new name is a new run; an ended one is never started again."""

    agent: Name = Field(title="Agent", description="Whose model it is about.", examples=["feature_dev"])
    candidate: Side = Field(
        title="Candidate",
        description="What may be deployed.",
        examples=[{"model": "acme/feature-dev-v2", "endpoint": "huggingface", "version": "v2.0.0"}],
    )
    baseline: Side = Field(
        Side(bound=True),
        title="Baseline",
        description="What it is compared with; default: what is bound.",
        examples=[{"bound": True}],
    )
    dataset: Dataset = Field(
        title="Data set",
        description="The questions; short: ls://name-or-id or hf://org/name.",
        examples=["ls://feature-dev-evaluation"],
    )
    evaluators: list[Evaluator] = Field(
        [],
        title="Evaluators",
        description="Deterministic checks; these or a judge are needed.",
        max_length=20,
        examples=[[{"name": "tests", "kind": "code", "field": "outputs.tests"}]],
    )
    judge: Judge | None = Field(
        None, title="Judge", description="An LLM as judge.", examples=[{"model": "openai/gpt-4o", "endpoint": "openrouter"}]
    )
    weights: dict[Measure, float] = Field(
        WEIGHTS, title="Weights", description="Of the score, in percent; they sum to 100.", examples=[WEIGHTS]
    )
    thresholds: Thresholds = Field(
        Thresholds(), title="Thresholds", description="What the verdict needs.", examples=[{"gains": {"score": 0.02}}]
    )
    repetitions: int = Field(1, ge=1, le=20, title="Repetitions", description="Of each question on each side.", examples=[1])
    seed: int = Field(0, ge=0, title="Seed", description="Of the order of calls, of a sample, and of the intervals.", examples=[7])
    examples: int = Field(
        200,
        ge=10,
        le=10_000,
        title="Examples",
        description="At most so many questions; of a larger data set the seed chooses. The ceiling of the cost follows from it.",
        examples=[200],
    )
    minimum_examples: int = Field(
        30,
        alias="minimumExamples",
        ge=10,
        le=10_000,
        title="Minimum",
        description="With fewer measured on both sides the verdict is not_enough_data.",
        examples=[30],
    )
    system: Text | None = Field(
        None, title="System prompt", description="Put before every question, on both sides.", examples=["You write Python."]
    )
    temperature: float = Field(0.0, ge=0, le=2, title="Temperature", description="Of both sides.", examples=[0.0])
    max_tokens: int = Field(
        1024, alias="maxTokens", ge=1, le=100_000, title="Tokens", description="Of one answer.", examples=[1024]
    )
    max_input_tokens: int = Field(
        4096,
        alias="maxInputTokens",
        ge=16,
        le=1_000_000,
        title="Input tokens",
        description="Of one question (bytes / 4); longer ones are left out, and that is said.",
        examples=[4096],
    )
    concurrency: int = Field(4, ge=1, le=64, title="Concurrency", description="Calls at a time.", examples=[4])
    budget_usd: float = Field(
        10.0,
        alias="budgetUsd",
        gt=0,
        title="Budget",
        description="USD that it may cost; it waits rather than exceed it.",
        examples=[10.0],
    )
    deadline: Seconds = Field(6 * 3600.0, gt=0, title="Deadline", description="It ends as failed after this.", examples=["6h"])

    @model_validator(mode="after")
    def _sound(self) -> Self:
        names = [each.name for each in self.evaluators]
        if len(set(names)) != len(names):
            raise ValueError(f"evaluators: two are called {next(n for n in names if names.count(n) > 1)}; give each its own name")
        if not names and self.judge is None:
            raise ValueError("nothing measures the answers: give evaluators, a judge, or both")
        if self.minimum_examples > self.examples:
            raise ValueError(f"minimumExamples is {self.minimum_examples}, more than examples ({self.examples})")
        _ = self.scoring, self.rules
        return self

    @property
    def scoring(self) -> Scoring:
        """How measures become one score. Raises ValueError."""
        feeds = {each.name: each.feeds for each in self.evaluators if each.feeds}
        if self.judge and self.judge.preference:
            feeds["judge.preference"] = self.judge.preference
        return Scoring(weights=dict(self.weights), measures=feeds)

    @property
    def rules(self) -> Rules:
        """By which the verdict is found. Raises ValueError."""
        own = self.thresholds
        return Rules(
            alpha=own.alpha,
            power=own.power,
            minimum_examples=self.minimum_examples,
            gains=dict(own.gains),
            keep=dict(own.keep),
            watch=dict(own.watch),
            judge_disagrees=own.judge_disagrees,
        )


class EvaluationState(Spec):
    """Where an evaluation is. `verdict` is empty until it has ended as completed. Money is USD, scores are 0..1.

    `endpoints`: who is asked at another endpoint than the one that is written, and at which. `prices`: of the endpoints' own
    lists, USD per million tokens. `serving`: the Inference Endpoints that it creates, by side. `revision`: of the data set.
    """

    agent: str
    phase: str
    candidate: dict[str, str]
    baseline: dict[str, str]
    dataset: str
    judge: str = ""
    verdict: str = ""
    reasons: list[str] = []
    score: dict[str, float | None] = {}
    needed: int | None = None
    examples: int | None = None
    ceiling: float = 0.0
    cost: float | None = None
    resumed: int = 0
    resumed_at: int = 0
    links: dict[str, str] = {}
    endpoints: dict[str, str] = {}
    prices: dict[str, dict[str, Any]] = {}
    serving: dict[str, dict[str, Any]] = {}
    revision: str = ""


class TrainingFacts(Spec):
    """What an evaluation reads of a TrainingRequest's state."""

    phase: str = ""
    version: str = ""
    repo: str = ""
    dataset: dict[str, Any] = {}
    revision: str = ""

    @property
    def at(self) -> str | None:
        """Revision of the data set that was trained on."""
        found = self.dataset.get("revision")
        return str(found) if found else None

    @property
    def source(self) -> str:
        """In the form of `Dataset.label`, without a revision."""
        source = self.dataset.get("source") or ""
        return source.partition("@")[0] if isinstance(source, str) else ", ".join(source)

    @property
    def split(self) -> str | None:
        found = self.dataset.get("split")
        return str(found) if found else None
