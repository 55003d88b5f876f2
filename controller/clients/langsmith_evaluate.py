"""The SDK's own `evaluate`, made repeatable: known run ids, runs posted complete, evaluators that leave no runs of their own."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from controller.clients.langsmith_records import Evaluator, Experiment, Result, Score, Target, utc
from controller.clients.langsmith_records import example as as_example
from controller.errors import Permanent


class Fatal:
    """The first error of a kind in any thread, after which such calls are not made any more: they would fail too, for money."""

    def __init__(self, kinds: type[Exception]) -> None:
        self.error: Exception | None = None
        self._kinds = kinds
        self._lock = threading.Lock()

    def guard(self, call: Callable[[], Any]) -> Any:
        if self.error is not None:
            raise RuntimeError("not done: the evaluation has ended")
        try:
            return call()
        except self._kinds as error:
            with self._lock:
                self.error = self.error or error
            raise


class Ended:
    """What ended an evaluation early: a Permanent of the target, or anything that an evaluator raised."""

    def __init__(self) -> None:
        self.target, self.evaluators = Fatal(Permanent), Fatal(Exception)

    @property
    def error(self) -> Exception | None:
        return self.target.error or self.evaluators.error


def evaluate(
    client: Any,
    experiment: Experiment,
    examples: Sequence[Any],
    ids: Mapping[str, UUID],
    target: Target,
    evaluators: Sequence[Evaluator],
    repetition: int,
    concurrency: int,
    ended: Ended,
) -> list[Result]:
    """`examples` are the SDK's, `ids` the run id of each; `client` batches and is flushed by the caller.

    What ends it early is left in `ended`. Answers that are there by then are still scored, so that they need not be paid again.
    """
    import langsmith

    session = client.read_project(project_id=experiment.id)
    client.aborted = lambda: ended.target.error is not None
    client.extra[experiment.id] = {name: value for name, value in (session.extra or {}).items() if name != "metadata"}
    rows = langsmith.evaluate(
        _identified(target, ids, ended),
        data=list(examples),
        evaluators=[_adapted(one, ended) for one in evaluators],
        experiment=session,
        client=client,
        max_concurrency=concurrency,
        disable_evaluator_tracing=True,  # else every score is a run of its own, in a project of its own
    )
    return [_result(row, repetition) for row in rows]


def _identified(target: Target, ids: Mapping[str, UUID], ended: Ended) -> Any:
    """The target, traced under the id that its example has; `langsmith_extra` is how the SDK lets one choose it."""
    import langsmith

    def answer(inputs: dict[str, Any]) -> dict[str, Any]:
        return dict(ended.target.guard(lambda: target(inputs)))

    traced: Any = langsmith.traceable(name="answer", process_inputs=lambda given: given["inputs"])(answer)

    @functools.wraps(traced)  # also copies the mark by which the SDK knows that this is traced already
    def identified(inputs: dict[str, Any], *, langsmith_extra: Any) -> Any:
        chosen = ids[str(langsmith_extra["reference_example_id"])]
        return traced(inputs, langsmith_extra={**langsmith_extra, "run_id": chosen})

    return identified


def _adapted(evaluator: Evaluator, ended: Ended) -> Any:
    def scored(run: Any, example: Any) -> dict[str, Any]:
        found: Sequence[Score] = ()
        if not (run.error and ended.target.error):  # that run is not posted, so nothing may be said about it
            # An error is kept in `ended` and raised at the end; the SDK would make a score of it.
            with contextlib.suppress(Exception):
                found = ended.evaluators.guard(lambda: evaluator(as_example(example), dict(run.outputs or {})))
        return {"results": [{"key": one.key, "score": one.score, "comment": one.comment} for one in found]}

    scored.__name__ = getattr(evaluator, "__name__", "evaluator")
    return scored


def _result(row: Any, repetition: int) -> Result:
    run, about = row["run"], row["example"]
    scores = tuple(Score(one.key, one.score, one.comment) for one in row["evaluation_results"]["results"])
    return Result(
        example_id=str(about.id),
        inputs=about.inputs or {},
        outputs=run.outputs,
        started=utc(run.start_time),
        ended=utc(run.end_time),
        scores=scores,
        error=run.error,
        repetition=repetition,
    )
