"""A pair of answers -> what the judge says of it, asked twice with the order swapped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

from controller.clients.model_records import Call, Verdict
from controller.clients.models import Models
from controller.evaluating.questions import Question
from controller.judgement.judge import TEMPLATES, Opinion, both, failed, questions
from controller.judgement.results import Answer, Judged

Mark = Literal[1, 2, 3, 4, 5]


class Marks(BaseModel):
    """By criterion, 1 (useless) to 5 (flawless)."""

    accuracy: Mark
    completeness: Mark
    integration: Mark


class JudgeReply(BaseModel):
    """The form that is asked for; `judgement.judge.Opinion` as a schema."""

    reason: str
    first: Marks
    second: Marks
    winner: Literal["first", "second", "tie"]

    def opinion(self) -> Opinion:
        return Opinion(self.reason, self.first.model_dump(), self.second.model_dump(), self.winner)


def judged(
    models: Models, judge: Mapping[str, Any], question: Question, candidate: Answer, baseline: Answer
) -> tuple[Judged, list[Verdict[JudgeReply]]]:
    """The result, and both verdicts for the bill. Raises Temporary, Permanent."""
    asked = " ".join(str(value) for value in question.example.inputs.values())
    verdicts = []
    for first, second in ((candidate.text, baseline.text), (baseline.text, candidate.text)):
        template = TEMPLATES[str(judge["prompt"])]
        messages = questions(template, question=asked, reference=question.reference, first=first, second=second)
        call = Call(
            endpoint=str(judge["endpoint"]),
            model=str(judge["model"]),
            messages=tuple(messages),
            parameters={"temperature": 0.0, "max_tokens": judge["maxTokens"]},
            sample=candidate.repetition,
        )
        verdicts.append(models.ask_as(call, JudgeReply))
    usd = sum(one.cost_usd or 0.0 for one in verdicts)
    straight, swapped = (one.value for one in verdicts)
    if straight is None or swapped is None:
        problem = next(one.problem for one in verdicts if one.value is None)
        return failed(question.example.id, problem, repetition=candidate.repetition, cost_usd=usd), verdicts
    return both(question.example.id, straight.opinion(), swapped.opinion(), repetition=candidate.repetition, cost_usd=usd), verdicts
