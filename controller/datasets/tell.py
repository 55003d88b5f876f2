"""The report on a data set, told: for a terminal and for a pull request.

Place in the flow: after `validate`. Nothing of a row is shown but names of fields, and these pass `hostile`.
"""

from __future__ import annotations

from controller.datasets.sensitive import hidden
from controller.datasets.validate import Finding, Report
from controller.judgement.hostile import code_span, line


def as_text(report: Report) -> str:
    """For a terminal."""
    lines = [_summary(report)]
    for finding in report.findings:
        lines.append(f"{finding.severity.upper()}  {line(finding.message, 300)}")
        lines += [f"      {place}" for place in _places(finding)]
        lines.append(f"      -> {finding.advice}")
    return "\n".join([*lines, _conclusion(report)]) + "\n"


def as_markdown(report: Report) -> str:
    """For a pull request: a table; nothing of a row is in it but names of fields."""
    lines = [_summary(report), ""]
    if report.findings:
        lines += ["| | Finding | Where | What to do |", "|---|---|---|---|"]
    for finding in report.findings:
        where = ", ".join(code_span(place, 100, cell=True) for place in _places(finding))
        told = code_span(finding.message, 300, cell=True)
        lines.append(f"| {finding.severity} | {told} | {where} | {finding.advice} |")
    return "\n".join([*lines, *([""] if report.findings else []), f"**{_conclusion(report)}**"]) + "\n"


def _places(finding: Finding) -> list[str]:
    rest = finding.count - len(finding.places)
    return [*finding.places, *([f"and {rest} more"] if finding.places and rest > 0 else [])]


def _summary(report: Report) -> str:
    forms = ", ".join(f"{count} {name}" for name, count in report.formats.items()) or "none recognised"
    parts = [f"{report.rows} rows ({forms}), {report.usable} usable, {report.distinct} distinct."]
    if report.lengths:
        how = " (estimated as bytes / 4; the model's tokenizer is exact)" if report.lengths.estimated else ""
        size = report.lengths
        parts.append(f"Tokens a row: median {size.middle}, p95 {size.p95}, longest {size.longest}; {size.total} in all{how}.")
    if report.evaluation_rows:
        parts.append(f"Evaluation set: {report.evaluation_rows}.")
    if report.taken:
        parts.append(f"Read as: {line(hidden(', '.join(report.taken)), 300)}.")
    return " ".join(parts)


def _conclusion(report: Report) -> str:
    if report.stops:
        return f"Training cannot start{f': at least {report.more} more rows are needed' if report.more else ''}."
    return "Training can start." if not report.findings else "Training can start; look at the warnings."
