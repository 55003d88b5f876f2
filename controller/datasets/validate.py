"""Is a data set fit to train on? Every finding says where, how bad, and what to collect and how many more.

Place in the flow: before anything is paid. `stop` keeps the run from starting, `warn` is told and goes on. Values of rows are never
shown beyond a field's name or kind, because a report is pasted into pull requests.

The minimum sizes are this project's rule of thumb (below them a held-out tenth holds too few examples to see that anything was
learnt); a spec may set its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import msgspec

from controller.datasets.rows import Fault, Row, alike, exactly, read
from controller.datasets.sensitive import Severity, hidden, scan
from controller.judgement.hostile import line

Method = Literal["sft", "dpo", "orpo"]
MINIMUM: dict[Method, int] = {"sft": 50, "dpo": 100, "orpo": 100}
ENOUGH: dict[Method, int] = {"sft": 500, "dpo": 500, "orpo": 500}
PLACES = 5
CUT_STOPS = 0.1  # share of rows that lose their end: above it the model learns to stop in mid-sentence
FAILED_STOPS = 0.5


class Needs(msgspec.Struct, frozen=True):
    """What a run asks of its data. `minimum` 0: the method's own. `answer`: the output field that is the answer."""

    method: Method = "sft"
    sequence_length: int = 8192
    minimum: int = 0
    answer: str = ""

    @property
    def least(self) -> int:
        return self.minimum or MINIMUM[self.method]


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """`code` is stable, for scripts. `places` are the first few; `count` is all."""

    code: str
    severity: Severity
    message: str
    advice: str
    count: int = 1
    places: tuple[str, ...] = ()
    more: int = 0  # rows to collect


class Lengths(msgspec.Struct, frozen=True):
    """Tokens of the longest sequence of each row; `estimated`: by bytes, not by the model's tokenizer."""

    total: int
    middle: int
    p95: int
    longest: int
    estimated: bool


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    rows: int
    usable: int
    distinct: int
    formats: dict[str, int]
    findings: tuple[Finding, ...]
    evaluation_rows: int = 0
    lengths: Lengths | None = None
    taken: tuple[str, ...] = ()

    @property
    def stops(self) -> bool:
        return any(finding.severity == "stop" for finding in self.findings)

    @property
    def more(self) -> int:
        """Rows to collect before a run may start."""
        return max((finding.more for finding in self.findings if finding.severity == "stop"), default=0)


def estimated_tokens(text: str) -> int:
    """Bytes / 4: an estimate for English and code, low for other languages. A tokenizer is better."""
    return (len(text.encode("utf-8", "surrogatepass")) + 3) // 4


def validate(
    rows: Sequence[Any], needs: Needs, *, evaluation: Sequence[Any] = (), count_tokens: Callable[[str], int] | None = None
) -> Report:
    """The report on training rows, beside the evaluation rows where there are some. Never raises for what a row holds."""
    good, bad = read(rows, answer=needs.answer)
    tested, untestable = read(evaluation, answer=needs.answer)
    fit, unfit = _for_method(good, needs)
    distinct = {alike(row.text()) for row in fit}
    lengths, too_long = _lengths(fit, needs, count_tokens)
    findings = [
        *_broken([*bad, *unfit], "training"),
        *_broken(untestable, "evaluation"),
        *_size(len(distinct), needs),
        *_repeated(fit),
        *too_long,
        *_overlap(good, tested),
        *_sensitive(rows, "training"),
        *_sensitive(evaluation, "evaluation"),
        *_success(fit, needs),
        *_same_preference(fit),
    ]
    order = {"stop": 0, "warn": 1}
    return Report(
        rows=len(rows),
        usable=len(fit),
        distinct=len(distinct),
        formats=dict(sorted(Counter(row.format for row in good).items())),
        findings=tuple(sorted(findings, key=lambda finding: (order[finding.severity], finding.code, finding.message))),
        evaluation_rows=len(evaluation),
        lengths=lengths,
        taken=tuple(
            sorted({f"{part} from {field}" for row in fit[:1000] if row.format == "example" for part, field in row.taken.items()})
        ),
    )


# -- single checks -----------------------------------------------------------------------------------------------------


def _for_method(rows: Sequence[Row], needs: Needs) -> tuple[list[Row], list[Fault]]:
    wanted = "answer" if needs.method == "sft" else "chosen"
    fit = [row for row in rows if getattr(row, wanted)]
    asks = "an answer (inputs and outputs, or messages)" if needs.method == "sft" else "chosen and rejected"
    unfit = [
        Fault(row.number, "", f"{needs.method} needs {asks}, this row is a {row.format}", "WrongForMethod")
        for row in rows
        if not getattr(row, wanted)
    ]
    return fit, unfit


def _broken(faults: Sequence[Fault], name: str) -> list[Finding]:
    """One finding a kind of fault."""
    by: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        by.setdefault((fault.code, _unnumbered(fault.field)), []).append(fault)
    return [
        Finding(
            code=code,
            severity="stop",
            message=f"{_rows(len(some), name)} cannot be used: {hidden(some[0].message)}",
            advice="correct or remove them",
            count=len(some),
            places=tuple(_place(fault.row, fault.field) for fault in some[:PLACES]),
        )
        for (code, _), some in by.items()
    ]


def _size(distinct: int, needs: Needs) -> list[Finding]:
    examples = "examples" if needs.method == "sft" else "pairs of a chosen and a rejected answer"
    if distinct < needs.least:
        more = needs.least - distinct
        message = f"{distinct} distinct usable rows; {needs.method} needs at least {needs.least}"
        return [Finding("TooFew", "stop", message, f"collect {more} more {examples}", count=distinct, more=more)]
    enough = max(needs.least, ENOUGH[needs.method])
    if distinct < enough:
        more = enough - distinct
        message = f"{distinct} distinct usable rows are enough to start and few to learn from"
        return [
            Finding("Few", "warn", message, f"collect about {more} more {examples} for a lasting effect", count=distinct, more=more)
        ]
    return []


def _repeated(rows: Sequence[Row]) -> list[Finding]:
    findings = []
    same, near = _again(rows, exactly), _again(rows, alike)
    if same:
        places = tuple(f"row {row} as row {first}" for row, first in list(same.items())[:PLACES])
        advice = "remove them: what is seen twice is learnt by heart"
        findings.append(Finding("Duplicates", "warn", f"the same as an earlier row: {_rows(len(same))}", advice, len(same), places))
    only_near = {row: first for row, first in near.items() if row not in same}
    if only_near:
        places = tuple(f"row {row} as row {first}" for row, first in list(only_near.items())[:PLACES])
        message = f"the same as an earlier row but for case, spaces or punctuation: {_rows(len(only_near))}"
        findings.append(Finding("NearDuplicates", "warn", message, "keep one of each", len(only_near), places))
    return findings


def _again(rows: Sequence[Row], digest: Callable[[str], str]) -> dict[int, int]:
    """Row number to the number of the first row that is the same."""
    first: dict[str, int] = {}
    again = {}
    for row in rows:
        key = digest(row.text())
        if key in first:
            again[row.number] = first[key]
        else:
            first[key] = row.number
    return again


def _lengths(rows: Sequence[Row], needs: Needs, count: Callable[[str], int] | None) -> tuple[Lengths | None, list[Finding]]:
    if not rows:
        return None, []
    counted = [(count or estimated_tokens)(row.longest()) for row in rows]
    ordered = sorted(counted)
    lengths = Lengths(
        total=sum(counted),
        middle=ordered[len(ordered) // 2],
        p95=ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)],
        longest=ordered[-1],
        estimated=count is None,
    )
    over = [(row, size) for row, size in zip(rows, counted, strict=True) if size > needs.sequence_length]
    if not over:
        return lengths, []
    severity: Severity = "stop" if len(over) > CUT_STOPS * len(rows) else "warn"
    about = "about " if lengths.estimated else ""
    finding = Finding(
        code="TooLong",
        severity=severity,
        message=f"{_of(len(over), rows)} longer than the sequence length of {needs.sequence_length} tokens: their end is cut off",
        advice=f"shorten or split them, or raise the sequence length (the longest has {about}{lengths.longest} tokens)",
        count=len(over),
        places=tuple(f"row {row.number}: {about}{size} tokens" for row, size in over[:PLACES]),
    )
    return lengths, [finding]


def _overlap(training: Sequence[Row], evaluation: Sequence[Row]) -> list[Finding]:
    seen: dict[str, int] = {}
    for row in training:
        seen.setdefault(row.key(), row.number)
    both = [(row.number, seen[key]) for row in evaluation if (key := row.key()) in seen]
    if not both:
        return []
    message = f"{len(both)} of {_rows(len(evaluation))} of the evaluation set: the training set asks the same"
    advice = "remove them from the training set: an evaluation on what was trained says nothing"
    places = tuple(f"evaluation row {row} as training row {first}" for row, first in both[:PLACES])
    return [Finding("Overlap", "stop", message, advice, len(both), places)]


def _sensitive(rows: Iterable[Any], name: str) -> list[Finding]:
    by: dict[tuple[str, Severity], list[str]] = {}
    for number, raw in enumerate(rows, 1):
        for hit in scan(raw):
            by.setdefault((hit.kind, hit.severity), []).append(_place(number, hit.field))
    findings = []
    for (kind, severity), places in by.items():
        secret = severity == "stop"
        advice = (
            "remove it and revoke it: it is in the data already"
            if secret
            else "replace it with a placeholder unless it may be there"
        )
        message = f"{kind} in {len(places)} field{'s' if len(places) > 1 else ''} of the {name} set"
        code = "Secret" if secret else "PersonalData"
        findings.append(Finding(code, severity, message, advice, len(places), tuple(places[:PLACES])))
    return findings


def _success(rows: Sequence[Row], needs: Needs) -> list[Finding]:
    """Class of `metadata.success`. Supervised training imitates what it sees, failures too."""
    known = [row for row in rows if isinstance(row.metadata.get("success"), bool)]
    failed = [row for row in known if row.metadata["success"] is False]
    findings = []
    if failed and needs.method == "sft":
        share = len(failed) / len(rows)
        severity: Severity = "stop" if share > FAILED_STOPS else "warn"
        left = len(rows) - len(failed)
        advice = "remove them, or use them as rejected answers of dpo or orpo"
        more = max(0, needs.least - left)
        if more:
            advice += f"; then collect {more} more that succeeded"
        message = f"{_of(len(failed), rows)} marked metadata.success false: sft would imitate failures"
        places = tuple(_place(row.number, "metadata.success") for row in failed[:PLACES])
        findings.append(Finding("Failures", severity, message, advice, len(failed), places, more))
    if known and len(known) < len(rows):
        lacking = len(rows) - len(known)
        message = f"{_of(lacking, rows)} without metadata.success (true or false) while others have it"
        findings.append(Finding("SuccessUnknown", "warn", message, "say it for all rows or for none", lacking))
    return findings


def _same_preference(rows: Sequence[Row]) -> list[Finding]:
    same = [row for row in rows if row.chosen and _said(row.chosen) == _said(row.rejected)]
    if not same:
        return []
    places = tuple(_place(row.number, row.taken.get("rejected", "rejected")) for row in same[:PLACES])
    message = f"chosen and rejected are the same in {_rows(len(same))}"
    return [Finding("NoPreference", "stop", message, "remove them: they teach nothing and cost a step each", len(same), places)]


def _said(messages: Iterable[Any]) -> str:
    return alike("\n".join(message.content for message in messages))


def _rows(count: int, name: str = "") -> str:
    return f"{count} {name + ' ' if name else ''}row{'' if count == 1 else 's'}"


def _of(count: int, rows: Sequence[Any]) -> str:
    """`1 of 82 rows is`, `3 of 82 rows are`."""
    return f"{count} of {_rows(len(rows))} {'is' if count == 1 else 'are'}"


def _place(row: int, field: str) -> str:
    return line(hidden(f"row {row}, {field}" if field else f"row {row}"), 120)


def _unnumbered(field: str) -> str:
    return "".join(char for char in field if not char.isdigit())
