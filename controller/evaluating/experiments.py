"""The evaluation in LangSmith, where it is configured: an experiment a side, scores as feedback, both side by side.

Place in the flow: last, after the verdict. Nothing here may fail an evaluation that was paid: what goes wrong becomes a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from controller.clients.evaluation_work import Order
from controller.clients.langsmith import Experiment, LangSmith, Preference, Result, Score
from controller.evaluating.questions import Questions
from controller.evaluating.result import Result as Concluded
from controller.judgement.results import SIDES, Answer, Side
from controller.resource import digest


def logged(langsmith: LangSmith | None, order: Order, questions: Questions, result: Concluded) -> tuple[dict[str, str], str]:
    """Links by title, and a note of what went wrong. Never raises."""
    if langsmith is None:
        return {}, ""
    try:
        return _logged(langsmith, order, questions, result), ""
    except Exception as error:  # whatever the SDK or its server does, the verdict stands
        return {}, f"LangSmith was not told: {str(error) or type(error).__name__}."


def _logged(langsmith: LangSmith, order: Order, questions: Questions, result: Concluded) -> dict[str, str]:
    dataset, ids = _dataset(langsmith, order, questions)
    experiments: dict[Side, Experiment] = {}
    for side in SIDES:
        experiments[side] = langsmith.experiment(
            f"{order.name}-{side}-{order.intent[:8]}",
            dataset,
            agent=order.agent,
            model_version=getattr(order, side)["version"],
            metadata={
                "evaluation": order.name,
                "side": side,
                "verdict": result.report.verdict.verdict,
                "model": getattr(order, side)["model"],
            },
            examples=len(questions.by_id),
        )
        answers = [answer for answer in result.full.answers if answer.side == side and answer.example in ids]
        langsmith.log(experiments[side], [_result(answer, ids, questions, experiments[side]) for answer in answers])
    preferences = [
        Preference(
            ids[one.example],
            {
                experiments["candidate"].id: {"candidate": 1.0, "baseline": 0.0, "tie": 0.5}[one.winner],
                experiments["baseline"].id: {"candidate": 0.0, "baseline": 1.0, "tie": 0.5}[one.winner],
            },
            comment=" | ".join(one.reasons) or None,
            repetition=one.repetition,
        )
        for one in result.full.judged
        if not one.error and one.example in ids
    ]
    comparison = langsmith.compare(f"{order.name}-{order.intent[:8]}", [experiments[side] for side in SIDES], preferences)
    return {"LangSmith comparison": comparison.url, **{f"LangSmith {side}": experiments[side].url for side in SIDES}}


def _dataset(langsmith: LangSmith, order: Order, questions: Questions) -> tuple[str, Mapping[str, str]]:
    """Id of the data set, and the id of each question in it. Questions from files are pushed: an experiment is about a data set."""
    if "id" in questions.source:
        return questions.source["id"], {name: name for name in questions.by_id}
    rows = {name: _row(one.example) for name, one in questions.by_id.items()}
    name = f"turnout-{order.agent}-{digest(sorted(digest(row) for row in rows.values()))[:12]}"
    found = langsmith.push(name, list(rows.values()), f"Questions of {order.state['dataset']}")
    known = {digest(one.row()): one.id for one in found.examples}
    return found.id, {name: known[digest(row)] for name, row in rows.items() if digest(row) in known}


def _row(example: Any) -> dict[str, Any]:
    return {"inputs": example.inputs, "outputs": example.outputs, "metadata": example.metadata}


def _result(answer: Answer, ids: Mapping[str, str], questions: Questions, experiment: Experiment) -> Result:
    """Times of answers are spread from the experiment's start on: the cache may have had an answer for weeks."""
    started = experiment.started.astimezone(UTC) if experiment.started.tzinfo else datetime.now(UTC)
    return Result(
        example_id=ids[answer.example],
        inputs=questions.by_id[answer.example].example.inputs,
        outputs=None if answer.error else {"answer": answer.text},
        started=started,
        ended=started + timedelta(seconds=answer.seconds or 0.0),
        scores=tuple(Score(name, value) for name, value in sorted(answer.scores.items())),
        error=answer.error or None,
        repetition=answer.repetition,
        input_tokens=answer.tokens_in or 0,
        output_tokens=answer.tokens_out or 0,
        cost_usd=answer.cost_usd,
        metadata={"side": answer.side},
    )
