"""The door to LangSmith: data sets with their revision, experiments that survive a crash, comparisons, and traces of actions.

Everything is repeatable: the same experiment, results or comparison sent twice is one. Errors are Temporary or Permanent.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from controller.clients.langsmith_records import (
    Comparison,
    Dataset,
    Evaluator,
    Example,
    Experiment,
    Preference,
    Result,
    Score,
    Target,
    example,
    page,
    run,
    run_id,
    uploads,
    utc,
)
from controller.clients.langsmith_sdk import Access, named_id
from controller.clients.langsmith_trace import Counts, Traced, Tracer
from controller.errors import Permanent, Temporary, nearest
from controller.resource import digest
from controller.settings import Settings
from controller.vendors import LangSmithSpec

__all__ = [
    "Comparison", "Counts", "Dataset", "Evaluator", "Example", "Experiment", "LangSmith",
    "Preference", "Result", "Score", "Target", "Traced", "Tracer", "connect",
]  # fmt: skip

CHUNK = 50
"""Results between two flushes: the SDK drops silently what its buffers cannot hold."""


class LangSmith:
    """One LangSmith. Opens the SDK when it is first used; `close` when done."""

    def __init__(self, spec: LangSmithSpec, data: Path) -> None:
        self.access = Access(spec, data)
        self.tracer = Tracer(self.access)

    @functools.cached_property
    def _client(self) -> Any:
        return self.access.client(background=False)

    def close(self, seconds: float = 2.0) -> Counts:
        """Ends tracing; says what became of the traced actions."""
        counts = self.tracer.close(seconds)
        if "_client" in self.__dict__:
            self._client.close(timeout=0)
        return counts

    def trace(self, action: Traced) -> None:
        """Never raises, never waits."""
        self.tracer.trace(action)

    # -- data sets ---------------------------------------------------------------------------------------------------

    def dataset(self, name: str, revision: str = "latest", split: str | None = None) -> Dataset:
        """By name or id, at a revision, a tag or as it is now. Raises Temporary, Permanent."""
        with self.access.translated(f"reading data set {name!r}"):
            found = self._dataset(name)
            if found is None:
                raise Permanent(f"LangSmith at {self.access.url} has no data set {name!r}{self._like(name)}")
            as_of = self._revision(found, revision)
            splits = [split] if split else None
            listed = list(self._client.list_examples(dataset_id=found.id, as_of=as_of, splits=splits))
        listed.sort(key=lambda one: (one.created_at, str(one.id)))
        examples = tuple(example(one) for one in listed)
        rows = sorted(digest(one.row()) for one in examples)
        return Dataset(str(found.id), found.name, as_of.isoformat(), digest(rows), examples, found.url or "")

    def push(self, name: str, rows: Sequence[Mapping[str, Any]], description: str = "") -> Dataset:
        """Makes the data set if need be and adds the rows (inputs, outputs, metadata; `split` if any) that it lacks.

        Equal rows are told apart by how often they come. Nothing is removed. Raises Temporary, Permanent.
        """
        with self.access.translated(f"pushing data set {name!r}"):
            found = self._dataset(name) or self._make_dataset(name, description)
            wanted = uploads(found.id, rows)
            for _ in range(3):  # a lost answer to an upload shows as a conflict: look again, send the rest
                there = {str(one.id) for one in self._client.list_examples(dataset_id=found.id)}
                missing = [one for one in wanted if one["id"] not in there]
                if not missing:
                    return self.dataset(str(found.id))
                with contextlib.suppress(_conflict()):
                    self._client.create_examples(dataset_id=found.id, examples=missing)
            raise Temporary(f"LangSmith at {self.access.url} refuses examples of {name!r} as known, and does not list them")

    def _dataset(self, name: str) -> Any:
        is_id = _is_id(name)
        try:
            return self._client.read_dataset(dataset_id=name) if is_id else self._client.read_dataset(dataset_name=name)
        except _missing():
            return None

    def _make_dataset(self, name: str, description: str) -> Any:
        if _is_id(name):
            raise Permanent(f"LangSmith at {self.access.url} has no data set with the id {name}; a new one needs a name")
        try:
            return self._client.create_dataset(name, description=description or None)
        except _conflict():
            return self._client.read_dataset(dataset_name=name)

    def _revision(self, dataset: Any, revision: str) -> datetime:
        try:
            moment = datetime.fromisoformat(revision)
        except ValueError:
            return utc(self._client.read_dataset_version(dataset_id=dataset.id, tag=revision).as_of)
        return utc(self._client.read_dataset_version(dataset_id=dataset.id, as_of=moment).as_of)

    def _like(self, name: str) -> str:
        """` (did you mean ...?)`, if that can be found out."""
        with contextlib.suppress(Exception):
            return nearest(name, [one.name for one in self._client.list_datasets(limit=100)])
        return ""

    # -- experiments -------------------------------------------------------------------------------------------------

    def experiment(
        self,
        name: str,
        dataset_id: str,
        *,
        agent: str,
        model_version: str,
        experiment_type: str = "baseline_vs_candidate",
        metadata: Mapping[str, Any] | None = None,
        examples: int | None = None,
    ) -> Experiment:
        """The experiment of this name; made if it is not there, the same one after a crash. Raises Temporary, Permanent."""
        tags = {"agent": agent, "model_version": model_version, "experiment_type": experiment_type}
        with self.access.translated(f"making experiment {name!r}"):
            found = self._client.create_project(
                name,
                upsert=True,
                reference_dataset_id=dataset_id,
                metadata={**(metadata or {}), **tags},
                project_extra={"tags": [f"{key}:{value}" for key, value in tags.items()]},
                num_examples=examples,
            )
        if str(found.reference_dataset_id) != dataset_id:
            other = f"it was made for data set {found.reference_dataset_id}, not {dataset_id}"
            raise Permanent(f"LangSmith at {self.access.url} has an experiment {name!r} already: {other}; choose another name")
        url = page(found.url, dataset_id, f"selectedSessions={found.id}")
        return Experiment(str(found.id), name, dataset_id, utc(found.start_time), url)

    def log(self, experiment: Experiment, results: Sequence[Result]) -> None:
        """Answers that were measured elsewhere, with their scores; sent twice they are still one. Raises Temporary, Permanent."""
        doing = f"logging results of experiment {experiment.name!r}"
        with self._uploading(doing) as client:
            for start in range(0, len(results), CHUNK):
                for result in results[start : start + CHUNK]:
                    answer = run(experiment, result)
                    client.create_run(**answer)
                    for score in result.scores:
                        _give(client, answer["id"], score, experiment.id)
                client.flush()

    def evaluate(
        self,
        experiment: Experiment,
        target: Target,
        evaluators: Sequence[Evaluator],
        *,
        repetition: int = 0,
        revision: str = "latest",
        concurrency: int = 4,
    ) -> list[Result]:
        """Runs the target over the data set through the SDK's `evaluate`; what an earlier attempt finished is not run again.

        A Permanent of the target and any error of an evaluator end it and are raised; another error of the target is the
        result of that example. Returns what this call ran. Raises Temporary, Permanent.
        """
        from controller.clients.langsmith_evaluate import Ended, evaluate

        doing = f"evaluating experiment {experiment.name!r}"
        with self.access.translated(doing):
            as_of = self._revision(self._client.read_dataset(dataset_id=experiment.dataset_id), revision)
            listed = list(self._client.list_examples(dataset_id=experiment.dataset_id, as_of=as_of))
            done = self._finished(experiment, bool(evaluators))
        ids = {str(one.id): run_id(experiment, str(one.id), repetition) for one in listed}
        todo = [one for one in listed if str(ids[str(one.id)]) not in done]
        if not todo:
            return []
        ended = Ended()
        try:
            with self._uploading(doing) as client:
                found = evaluate(client, experiment, todo, ids, target, evaluators, repetition, concurrency, ended)
        except (Temporary, Permanent) as error:
            raise (ended.error or error) from None
        if ended.error is not None:
            raise ended.error
        return found

    def _finished(self, experiment: Experiment, scored: bool) -> set[str]:
        """Ids of the runs that are complete: ended, and with every score that any of them has.

        By HTTP: the SDK's `list_runs` goes away in 2027, and its successor is another API.
        """
        body: dict[str, Any] = {"session": [experiment.id], "is_root": True, "limit": 100}
        body["select"] = ["id", "end_time", "feedback_stats"]
        keys: dict[str, set[str]] = {}
        while True:
            found = self._client.request_with_retries("POST", "/runs/query", json=body).json()
            keys |= {one["id"]: set(one.get("feedback_stats") or {}) for one in found["runs"] if one.get("end_time")}
            body["cursor"] = (found.get("cursors") or {}).get("next")
            if not body["cursor"]:
                every = set().union(*keys.values())
                return {one for one, scores in keys.items() if scores == every and (scores or not scored)}

    # -- comparisons -------------------------------------------------------------------------------------------------

    def compare(self, name: str, experiments: Sequence[Experiment], preferences: Sequence[Preference] = ()) -> Comparison:
        """Experiments on one data set side by side, with a pairwise judge's findings if any. Raises Temporary, Permanent."""
        if len({one.dataset_id for one in experiments}) != 1 or len(experiments) < 2:
            raise Permanent(f"comparison {name!r} needs two or more experiments on one data set")
        comparison_id = named_id("comparison", name, *(one.id for one in experiments))
        dataset_id = experiments[0].dataset_id
        with self.access.translated(f"making comparison {name!r}"), contextlib.suppress(_conflict()):
            self._client.create_comparative_experiment(
                name, [one.id for one in experiments], reference_dataset=dataset_id, id=comparison_id
            )
        if preferences:
            self._prefer(name, comparison_id, {one.id: one for one in experiments}, preferences)
        sessions = "%2C".join(one.id for one in experiments)
        query = f"selectedSessions={sessions}&comparativeExperiment={comparison_id}"
        return Comparison(str(comparison_id), page(experiments[0].url, dataset_id, query))

    def _prefer(
        self, name: str, comparison_id: UUID, experiments: Mapping[str, Experiment], preferences: Sequence[Preference]
    ) -> None:
        with self._uploading(f"logging preferences of comparison {name!r}") as client:
            for one in preferences:
                group = named_id(comparison_id, one.example_id, one.repetition, one.key)
                for experiment_id, score in one.scores.items():
                    about = run_id(experiments[experiment_id], one.example_id, one.repetition)
                    given = Score(one.key, score, one.comment)
                    _give(client, about, given, experiment_id, comparative_experiment_id=comparison_id, feedback_group_id=group)

    @contextlib.contextmanager
    def _uploading(self, doing: str) -> Iterator[Any]:
        """A client that batches; on the way out everything has arrived, or this raises Temporary or Permanent."""
        client = self.access.client(background=True)
        try:
            with self.access.translated(doing):
                try:
                    yield client
                finally:
                    client.flush()  # also after a failure: what was finished is not lost
        finally:
            client.close(timeout=0)
        if client.failures:
            ours = [self.access.as_ours(doing, error) for error in client.failures]
            raise next((error for error in ours if isinstance(error, Permanent)), ours[0])


def connect(settings: Settings) -> LangSmith:
    """The door of an environment. Raises Permanent where environment.yaml names no LangSmith."""
    spec = settings.spec.langsmith
    if spec is None:
        where = f"environments/{settings.environment}/environment.yaml"
        raise Permanent(f"{where} has no spec.langsmith; add `langsmith: {{apiKey: env:LANGSMITH_API_KEY}}`")
    return LangSmith(spec, settings.data)


def _missing() -> type[Exception]:
    from langsmith.utils import LangSmithNotFoundError

    return LangSmithNotFoundError


def _conflict() -> type[Exception]:
    from langsmith.utils import LangSmithConflictError

    return LangSmithConflictError


def _is_id(name: str) -> bool:
    try:
        UUID(name)
    except ValueError:
        return False
    return True


def _give(client: Any, run_id: UUID, score: Score, experiment_id: str, **more: Any) -> None:
    client.create_feedback(
        run_id,
        score.key,
        score=score.score,
        comment=score.comment,
        trace_id=run_id,
        session_id=experiment_id,
        feedback_source_type="model",
        **more,
    )
