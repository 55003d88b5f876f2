"""Answers -> the verdict, and a report of bounded size that goes into the log: every figure, the texts of at most 200 pairs.

Place in the flow: after the last call. The figures of all examples are kept, so that the verdict can be found again from the log
alone; texts are cut, and the report says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from controller.clients.evaluation_work import Order
from controller.evaluating.questions import Questions
from controller.judgement.hostile import clipped
from controller.judgement.record import Record, changed, decisive, measured_again
from controller.judgement.results import Answer, Example, Judged, Scoring
from controller.judgement.rules import Rules
from controller.judgement.verdict import evaluated

MOST_PAIRS = 200
MOST_CHARACTERS = 2000
MOST_REASON = 500


class Result(msgspec.Struct, frozen=True):
    """What the child hands back; `report` is a `judgement.record.Record`, `full` the same with every text.

    `revision` is that of the data set, empty for files.
    """

    report: Record
    full: Record
    cost_usd: float | None
    revision: str = ""

    def with_links(self, links: dict[str, str], note: str) -> Result:
        verdict = self.report.verdict
        if note:
            verdict = msgspec.structs.replace(verdict, notes=(*verdict.notes, note))
        return msgspec.structs.replace(self, report=msgspec.structs.replace(self.report, verdict=verdict, links=links))

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": {
                "verdict": self.report.verdict.verdict,
                "reasons": list(self.report.verdict.reasons),
                "needed": self.report.verdict.needed,
                "examples": self.report.verdict.examples,
                "candidate_score": self.report.verdict.candidate_score,
                "baseline_score": self.report.verdict.baseline_score,
            },
            "report": msgspec.to_builtins(self.report),
            "cost_usd": self.cost_usd,
            "links": self.report.links,
            "revision": self.revision,
        }


def concluded(
    order: Order,
    questions: Questions,
    answers: Sequence[Answer],
    judged: Sequence[Judged],
    cost: float | None,
    notes: Sequence[str],
) -> Result:
    """Pure: the same answers give the same verdict and the same report."""
    spec = order.spec
    scoring, rules = scoring_of(spec), rules_of(spec)
    verdict = evaluated(answers, judged, scoring, rules, seed=spec["seed"])
    verdict = msgspec.structs.replace(verdict, notes=(*verdict.notes, *notes))
    full = Record(
        name=order.name,
        agent=order.agent,
        candidate=_label(order.candidate),
        baseline=_label(order.baseline),
        dataset=str(order.state["dataset"]),
        examples=tuple(one.example for one in questions.by_id.values()),
        answers=tuple(answers),
        judged=tuple(judged),
        scoring=scoring,
        verdict=verdict,
        seed=spec["seed"],
        judge=str(order.state.get("judge", "")),
        cost_usd=cost,
    )
    return Result(bounded(full), full, cost, questions.source.get("revision", ""))


def scoring_of(spec: dict[str, Any]) -> Scoring:
    """As `EvaluationSpec.scoring`, from the spec as data."""
    feeds = {each["name"]: each["feeds"] for each in spec["evaluators"] if each.get("feeds")}
    if spec["judge"] and spec["judge"].get("preference"):
        feeds["judge.preference"] = spec["judge"]["preference"]
    return Scoring(weights=dict(spec["weights"]), measures=feeds)


def rules_of(spec: dict[str, Any]) -> Rules:
    """As `EvaluationSpec.rules`, from the spec as data."""
    own = spec["thresholds"]
    return Rules(
        alpha=own["alpha"],
        power=own["power"],
        minimum_examples=spec["minimumExamples"],
        gains=own["gains"],
        keep=own["keep"],
        watch=own["watch"],
        judge_disagrees=own["judgeDisagrees"],
    )


def bounded(record: Record) -> Record:
    """The pairs with the largest differences keep their texts, cut; of the others only figures are kept."""
    measured = measured_again(record)
    apart = {row.example: abs(row.difference) for row in changed(decisive(measured.columns))}
    ordered = sorted((pair.example for pair in measured.pairs), key=lambda name: (-apart.get(name, 0.0), name))
    shown = set(ordered[:MOST_PAIRS])
    cut = sum(len(answer.text) > MOST_CHARACTERS for answer in record.answers if answer.example in shown)
    notes = []
    if len(ordered) > len(shown):
        notes.append(f"The texts of {len(shown)} of {len(ordered)} examples are kept, those with the largest differences.")
    if cut:
        notes.append(f"{cut} answers are cut to {MOST_CHARACTERS} characters.")
    return msgspec.structs.replace(
        record,
        examples=tuple(_short_example(each) for each in record.examples if each.id in shown),
        answers=tuple(_short_answer(each, each.example in shown) for each in record.answers),
        judged=tuple(_short_judged(each, each.example in shown) for each in record.judged),
        verdict=msgspec.structs.replace(record.verdict, notes=(*record.verdict.notes, *notes)),
    )


def _short_example(one: Example) -> Example:
    return Example(one.id, _short(one.inputs), _short(one.outputs), _short(one.metadata))


def _short_answer(one: Answer, shown: bool) -> Answer:
    text = clipped(one.text, MOST_CHARACTERS) if shown else ""
    return msgspec.structs.replace(one, text=text, error=clipped(one.error, MOST_REASON))


def _short_judged(one: Judged, shown: bool) -> Judged:
    reasons = tuple(clipped(reason, MOST_REASON) for reason in one.reasons) if shown else ()
    return msgspec.structs.replace(one, reasons=reasons, error=clipped(one.error, MOST_REASON))


def _short(value: Any) -> Any:
    if isinstance(value, str):
        return clipped(value, MOST_CHARACTERS)
    if isinstance(value, dict):
        return {key: _short(each) for key, each in list(value.items())[:50]}
    return [_short(each) for each in value[:50]] if isinstance(value, list) else value


def _label(target: dict[str, str]) -> str:
    return f"{target['model']} {target['version']} at {target['endpoint']}"
