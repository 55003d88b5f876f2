"""What passes through the LangSmith door: data sets, experiments, results, and their form in LangSmith's API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from controller.clients.langsmith_sdk import dotted, named_id, timed_id
from controller.resource import digest


@dataclass(frozen=True)
class Example:
    """One row of a data set. `splits` is what LangSmith keeps in the metadata as dataset_split."""

    id: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any] | None
    metadata: Mapping[str, Any]
    splits: tuple[str, ...] = ("base",)

    def row(self) -> dict[str, Any]:
        """The form that users bring: inputs, outputs, metadata."""
        return {"inputs": dict(self.inputs), "outputs": dict(self.outputs or {}), "metadata": dict(self.metadata)}


@dataclass(frozen=True)
class Dataset:
    """A data set at one revision (LangSmith's time stamp of the version). `digest` covers the rows, not ids or their order."""

    id: str
    name: str
    revision: str
    digest: str
    examples: tuple[Example, ...]
    url: str

    def rows(self) -> list[dict[str, Any]]:
        return [example.row() for example in self.examples]


@dataclass(frozen=True)
class Experiment:
    """One side of an evaluation. `started` is the server's; the ids of its runs follow from it."""

    id: str
    name: str
    dataset_id: str
    started: datetime
    url: str


@dataclass(frozen=True)
class Score:
    """Feedback on one answer."""

    key: str
    score: float | bool | None
    comment: str | None = None


@dataclass(frozen=True)
class Result:
    """One answer to one example, as it was measured. Times are in UTC; tokens and cost are shown by LangSmith's tables."""

    example_id: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any] | None
    started: datetime
    ended: datetime
    scores: tuple[Score, ...] = ()
    error: str | None = None
    repetition: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Preference:
    """What a pairwise judge found for one example: experiment id -> score."""

    example_id: str
    scores: Mapping[str, float]
    key: str = "preference"
    comment: str | None = None
    repetition: int = 0


@dataclass(frozen=True)
class Comparison:
    """Two experiments side by side, and the page that shows them."""

    id: str
    url: str


Target = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Inputs of an example -> outputs."""

Evaluator = Callable[[Example, Mapping[str, Any]], Sequence[Score]]
"""An example (with its reference outputs) and what the target gave -> scores."""


def utc(moment: datetime) -> datetime:
    """A time without a zone is UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def example(found: Any) -> Example:
    """The SDK's example as ours."""
    metadata = dict(found.metadata or {})
    splits = metadata.pop("dataset_split", None) or ["base"]
    return Example(str(found.id), found.inputs or {}, found.outputs, metadata, tuple(splits))


def uploads(dataset_id: UUID, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows as the SDK uploads them; equal rows differ in how often they came before, so the ids are the same every time."""
    seen: Counter[str] = Counter()
    made = []
    for row in rows:
        content = digest(dict(row))
        split = row.get("split")
        made.append(
            {
                "id": str(named_id("example", dataset_id, content, seen[content])),
                "inputs": dict(row.get("inputs") or {}),
                "reference_outputs": dict(row.get("outputs") or {}),
                "metadata": dict(row.get("metadata") or {}),
                **({"split": split} if split else {}),
            }
        )
        seen[content] += 1
    return made


def run_id(experiment: Experiment, example_id: str, repetition: int) -> UUID:
    """Of the answer to one example; the server's time of the experiment makes it the same after a crash."""
    return timed_id(experiment.started, "run", experiment.id, example_id, repetition)


def run(experiment: Experiment, result: Result) -> dict[str, Any]:
    """Complete, under the id that follows from experiment, example and repetition."""
    own = run_id(experiment, result.example_id, result.repetition)
    usage = {
        "input_tokens": result.input_tokens,
        "output_tokens": result.output_tokens,
        "total_tokens": result.input_tokens + result.output_tokens,
        **({} if result.cost_usd is None else {"total_cost": result.cost_usd}),
    }
    started, ended = utc(result.started), utc(result.ended)
    return {
        "id": own,
        "trace_id": own,
        "dotted_order": dotted(started, own),
        "name": "answer",
        "run_type": "llm",
        "project_name": experiment.name,
        "reference_example_id": UUID(result.example_id),
        "start_time": started,
        "end_time": ended,
        "inputs": dict(result.inputs),
        "outputs": None if result.outputs is None else dict(result.outputs),
        "error": result.error,
        "extra": {"metadata": {**result.metadata, "repetition": result.repetition, "usage_metadata": usage}},
    }


def page(url: str | None, dataset_id: str, query: str) -> str:
    """LangSmith's page that compares experiments, from any address of its pages."""
    base = (url or "").split("?")[0].split("/projects/p/")[0].split("/datasets/")[0]
    return f"{base}/datasets/{dataset_id}/compare?{query}" if base else ""
