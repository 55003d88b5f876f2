"""A reply -> an Answer with the scores of every deterministic evaluator that could measure it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from controller.clients.model_records import Reply
from controller.judgement.evaluators import Check, score
from controller.judgement.orders import Call
from controller.judgement.results import Answer, Example


def checks_of(spec: Mapping[str, Any]) -> list[Check]:
    """The evaluators of an Evaluation's spec."""
    return [
        Check(
            name=each["name"],
            kind=each["kind"],
            expected=each["expected"],
            field=each["field"] or "",
            fold=each["fold"],
            any_of=each["anyOf"],
            partial=each["partial"],
            seconds=each["seconds"],
            weak_sandbox=each["weakSandbox"],
        )
        for each in spec["evaluators"]
    ]


def answer_of(call: Call, reply: Reply, checks: Sequence[Check], example: Example) -> tuple[Answer, dict[str, str]]:
    """The answer, and why an evaluator could not measure it, by evaluator."""
    if reply.error:
        return Answer(example=call.example, side=call.side, repetition=call.repetition, error=reply.error), {}
    found = {check.name: score(check, reply.text, example) for check in checks}
    answer = Answer(
        example=call.example,
        side=call.side,
        repetition=call.repetition,
        text=reply.text,
        seconds=reply.seconds,
        cost_usd=reply.cost_usd,
        tokens_in=reply.input_tokens,
        tokens_out=reply.output_tokens,
        scores={name: each.score for name, each in found.items() if each.score is not None},
    )
    return answer, {name: each.why for name, each in found.items() if each.score is None}
