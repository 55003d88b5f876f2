"""The Markdown of an evaluation for a pull request: verdict, reasons, one table, what changed. Short, and from data alone.

Place in the flow: after the verdict; `page` has everything else. Text that is not ours stands in code spans only (`hostile`).
"""

from __future__ import annotations

from collections.abc import Sequence

from controller.judgement.evidence import Evidence
from controller.judgement.hostile import code_span
from controller.judgement.record import HEADLINES, Changed, Record, changed, decisive, measured_again, reading
from controller.judgement.verdict import Verdict
from controller.judgement.words import change, figure, label, measured_as, p_value, share, span

MOST_CHANGED = 5  # of each direction
MOST_REASONS = 12


def markdown(record: Record) -> str:
    """A few thousand characters, whatever the answers hold."""
    verdict = record.verdict
    parts = [
        f"### {HEADLINES[verdict.verdict]}: evaluation {code_span(record.name)}",
        _what(record),
        "\n".join(f"- {reason}" for reason in verdict.reasons[:MOST_REASONS]),
        table(verdict.evidence, verdict.rules.confidence) if verdict.evidence else "",
        _doubts(verdict),
        _changes(record),
        _how(record),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(evidence: Sequence[Evidence], confidence: float) -> str:
    """One row a measure; gains first, then guards."""
    rows = [
        f"| Measure | Candidate | Baseline | Difference | {100 * confidence:g} % interval | p, corrected | |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for e in evidence:
        name = label(e.measure).capitalize() + (" (judge)" if e.judged else "")
        cells = [
            f"**{name}**" if e.role == "gain" else name,
            measured_as(e.measure, e.candidate),
            measured_as(e.measure, e.baseline),
            change(e.difference, e.relative),
            span(e.low, e.high, e.relative),
            "" if e.p_corrected is None else p_value(e.p_corrected).removeprefix("p = ").removeprefix("p "),
            reading(e),
        ]
        rows.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(rows)


def _what(record: Record) -> str:
    verdict = record.verdict
    scores = ""
    if verdict.candidate_score is not None and verdict.baseline_score is not None:
        scores = f" Score {share(verdict.candidate_score)} against {share(verdict.baseline_score)} of 100."
    enough = f" About **{figure(verdict.needed)} examples** would be enough." if verdict.needed else ""
    return (
        f"{code_span(record.candidate)} against {code_span(record.baseline)} for {code_span(record.agent)},"
        f" {figure(verdict.examples)} examples of {code_span(record.dataset)}.{scores}{enough}"
        f" Verdict: `{verdict.verdict}`, by the rule `{verdict.rule}`."
    )


def _doubts(verdict: Verdict) -> str:
    lines = [f"- {flag.message}" for flag in verdict.flags if flag.message not in verdict.reasons]
    lines += [f"- {note}" for note in verdict.notes]
    return "**To keep in mind**\n\n" + "\n".join(lines) if lines else ""


def _changes(record: Record) -> str:
    column = decisive(measured_again(record).columns)
    rows = changed(column)
    if column is None or not rows:
        return ""
    worse = [row for row in rows if row.difference < 0]
    better = [row for row in reversed(rows) if row.difference > 0]
    inputs = {example.id: example.inputs for example in record.examples}
    lines = [
        f"**Examples that changed** ({label(column.name)}): {len(better)} better, {len(worse)} worse, of {len(column.examples)}.",
        "",
    ]
    for word, some in (("worse", worse), ("better", better)):
        lines += [_change(word, row, inputs.get(row.example, {})) for row in some[:MOST_CHANGED]]
    return "\n".join(lines)


def _change(word: str, row: Changed, inputs: dict[str, object]) -> str:
    asked = " ".join(str(value) for value in inputs.values())
    question = f": {code_span(asked, 100)}" if asked.strip() else ""
    how = "" if {row.baseline, row.candidate} == {0.0, 1.0} else f", {share(row.baseline)} to {share(row.candidate)}"
    return f"- {word}{how}: {code_span(row.example, 60)}{question}"


def _how(record: Record) -> str:
    rules = record.verdict.rules
    weights = ", ".join(f"{code_span(name)} {weight:.4g} %" for name, weight in record.verdict.weights.items())
    often = f"{100 * rules.alpha:g} %"
    parts = [
        f"If both sides were no different, the verdict would be `deploy` or `deploy_canary` in at most {often} of evaluations.",
        f"Weights: {weights}." if weights else "",
        f"Judge: {code_span(record.judge)}." if record.judge else "",
        f"Cost: {record.cost_usd:.2f} USD." if record.cost_usd is not None else "",
        f"Seed {record.seed}.",
    ]
    return f"<sub>{' '.join(part for part in parts if part)}</sub>"
