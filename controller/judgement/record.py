"""An ended evaluation as one value: all that its reports need, so that they can be made again from the log alone.

Place in the flow: the provider of evaluations stores it (the answers as a blob); `report` and `page` read it, and read nothing
else.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from controller.judgement.evidence import Evidence
from controller.judgement.results import Answer, Example, Judged, Scoring
from controller.judgement.scores import SCORE, Column, Measured, measure
from controller.judgement.verdict import Verdict, Word

HEADLINES: dict[Word, str] = {
    "deploy": "Deploy",
    "deploy_canary": "Deploy to a canary first",
    "needs_review": "A person should look",
    "reject": "Do not deploy",
    "not_enough_data": "Not enough data",
}
READING = {
    "better": "better",
    "worse": "worse",
    "within": "within its limit",
    "beyond": "beyond its limit",
    "shown": "",
}


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """Labels are free text. `links` by title, such as an experiment; only http and https are shown as links."""

    name: str
    agent: str
    candidate: str
    baseline: str
    dataset: str
    examples: tuple[Example, ...]
    answers: tuple[Answer, ...]
    judged: tuple[Judged, ...]
    scoring: Scoring
    verdict: Verdict
    seed: int
    judge: str = ""
    cost_usd: float | None = None
    links: dict[str, str] = {}


class Changed(NamedTuple):
    """One example on which the sides differ in `measure`."""

    example: str
    candidate: float
    baseline: float

    @property
    def difference(self) -> float:
        return self.candidate - self.baseline


def measured_again(record: Record) -> Measured:
    return measure(record.answers, record.judged, record.scoring)


def decisive(columns: dict[str, Column]) -> Column | None:
    """The measure by which examples are said to have changed: accuracy, or the score where nothing measures accuracy."""
    return columns.get("accuracy") or columns.get(SCORE)


def changed(column: Column | None) -> list[Changed]:
    """Examples where both sides differ, worst for the candidate first."""
    if column is None:
        return []
    rows = (Changed(*row) for row in zip(column.examples, column.candidate, column.baseline, strict=True))
    return sorted((row for row in rows if abs(row.difference) > 1e-9), key=lambda row: (row.difference, row.example))


def reading(evidence: Evidence) -> str:
    """What the evidence says, in a word or two."""
    if evidence.state == "unclear":
        return "not shown" if evidence.role == "gain" else "open"
    return READING[evidence.state]
