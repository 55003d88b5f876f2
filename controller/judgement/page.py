"""The page of an evaluation: one HTML file with everything in it, from data alone: evidence, plots, answers side by side.

Place in the flow: beside `report`, for who wants to look closer. No script, nothing loaded: a content security policy in the
page forbids both, so that an answer that slips through an escape still cannot act. Text that is not ours passes `hostile.page`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import zip_longest

import msgspec

from controller.judgement.evidence import Evidence
from controller.judgement.hostile import page as safe
from controller.judgement.plots import curves, forest, steps
from controller.judgement.record import HEADLINES, Record, changed, decisive, measured_again, reading
from controller.judgement.results import Answer, Example, Judged, Pair
from controller.judgement.scores import SCORE, Measured
from controller.judgement.style import POLICY, STYLE
from controller.judgement.words import change, figure, label, measured_as, p_value, share, span

MOST_EXAMPLES = 200
MOST_CHARACTERS = 4_000_000  # of answers on one page; each is cut so that all fit
LONGEST = 20_000


def html_page(record: Record) -> str:
    """The whole file."""
    measured = measured_again(record)
    verdict = record.verdict
    word = HEADLINES[verdict.verdict]
    doubts = [*(flag.message for flag in verdict.flags), *verdict.notes]
    body = [
        f'<h1><span class="word {verdict.verdict}">{word}</span> {safe(record.name, 200)}</h1>',
        _head(record),
        _listed(verdict.reasons),
        "<h2>Evidence</h2>",
        _table(verdict.evidence, verdict.rules.confidence),
        *_plots(record, measured),
        f"<h2>Doubts and notes</h2>{_listed(doubts)}" if doubts else "",
        _examples(record, measured),
        _method(record),
    ]
    head = [
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{word}: {safe(record.name, 200)}</title>",
        f"<style>{STYLE}</style>",
    ]
    parts = ['<!doctype html>\n<html lang="en"><head>', *head, "</head><body>", *body, "</body></html>\n"]
    return "\n".join(part for part in parts if part)


def _head(record: Record) -> str:
    verdict = record.verdict
    links = [
        f'<a href="{safe(link, 2000)}" rel="noreferrer noopener">{safe(name, 80)}</a>'
        for name, link in sorted(record.links.items())
        if link.startswith(("https://", "http://"))
    ]
    enough = f" About {figure(verdict.needed)} examples would be enough." if verdict.needed else ""
    facts = [
        f"Candidate <b>{safe(record.candidate, 200)}</b>, baseline <b>{safe(record.baseline, 200)}</b>.",
        f"Agent {safe(record.agent, 100)}.",
        f"{figure(verdict.examples)} examples of {safe(record.dataset, 200)}.{enough}",
        f"Judge: {safe(record.judge, 200)}." if record.judge else "",
        f"It cost {record.cost_usd:.2f} USD." if record.cost_usd is not None else "",
        " ".join(links),
    ]
    return f"<p>{'<br>'.join(fact for fact in facts if fact)}</p>"


def _listed(items: Iterable[str]) -> str:
    return f"<ul>{''.join(f'<li>{safe(item)}</li>' for item in items)}</ul>"


def _table(evidence: Sequence[Evidence], confidence: float) -> str:
    if not evidence:
        return "<p>Nothing was measured on both sides.</p>"
    interval = f"{100 * confidence:g} % interval"
    heads = ("Measure", "Candidate", "Baseline", "Difference", interval, "p", "p, corrected", "Examples", "How", "Reading")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(map(_row, evidence))}</table></div>'


def _row(e: Evidence) -> str:
    how = ", ".join(part for part in (e.interval, e.test, "judged" if e.judged else "") if part)
    cells = [
        label(e.measure).capitalize(),
        measured_as(e.measure, e.candidate),
        measured_as(e.measure, e.baseline),
        change(e.difference, e.relative),
        span(e.low, e.high, e.relative),
        "" if e.p is None else p_value(e.p),
        "" if e.p_corrected is None else p_value(e.p_corrected),
        figure(e.n),
        how,
        reading(e),
    ]
    return f"<tr>{''.join(f'<td>{safe(cell)}</td>' for cell in cells)}</tr>"


def _plots(record: Record, measured: Measured) -> list[str]:
    points = [e for e in record.verdict.evidence if not e.relative]
    ratios = [e for e in record.verdict.evidence if e.relative]
    score = measured.columns.get(SCORE)
    timed = measured.timed
    mine, theirs = ([value for usage in side for value in usage.seconds] for side in (timed.candidate, timed.baseline))
    drawn = [
        ("Differences (right is better)", forest(points, "Difference of each measure with its interval")),
        ("Ratios (left is better)", forest(ratios, "Relative change of latency and cost with its interval")),
        ("Score of every example, candidate minus baseline", steps(score.differences, "Differences, sorted") if score else ""),
        ("Seconds of all calls", curves(mine, theirs, "Cumulative distribution of seconds of both sides", "s")),
    ]
    return [f"<h2>{title}</h2>{plot}" for title, plot in drawn if plot]


# -- answers side by side ----------------------------------------------------------------------------------------------


def _examples(record: Record, measured: Measured) -> str:
    """Changed ones first, the largest change first, then the others."""
    differences = {row.example: row.difference for row in changed(decisive(measured.columns))}
    pairs = sorted(measured.pairs, key=lambda pair: (-abs(differences.get(pair.example, 0)), pair.example))
    shown = pairs[:MOST_EXAMPLES]
    if not shown:
        return ""
    known = {example.id: example for example in record.examples}
    calls = sum(len(pair.candidate) + len(pair.baseline) for pair in shown)
    most = min(LONGEST, max(500, MOST_CHARACTERS // max(1, calls)))
    rest = f" Shown are the {len(shown)} with the largest differences of {len(pairs)}." if len(pairs) > len(shown) else ""
    blocks = [_pair(pair, known.get(pair.example), differences.get(pair.example, 0.0), most) for pair in shown]
    told = f"<p>{len(differences)} of {len(pairs)} examples changed.{rest}</p>"
    return f"<h2>Answers side by side</h2>{told}{''.join(blocks)}"


def _pair(pair: Pair, example: Example | None, difference: float, most: int) -> str:
    word = f"{'better' if difference > 0 else 'worse'} by {abs(100 * difference):.0f}" if difference else "same"
    asked = example.inputs if example else {}
    question = " ".join(str(value) for value in asked.values())
    said = [text for one in pair.judged for text in (_told(one), *one.reasons)]
    sides = [
        f"<div><b>Candidate</b>{_answer(mine, most)}</div><div><b>Baseline</b>{_answer(theirs, most)}</div>"
        for mine, theirs in zip_longest(pair.candidate, pair.baseline)
    ]
    parts = [
        f"<details><summary>{word}: {safe(pair.example, 120)} <small>{safe(question, 160)}</small></summary>",
        f"<p>Asked</p><pre>{safe(_text(asked), most)}</pre>" if asked else "",
        f"<p>Expected</p><pre>{safe(_text(example.outputs), most)}</pre>" if example and example.outputs else "",
        f'<div class="pair">{"".join(sides)}</div>',
        _listed(said) if said else "",
        "</details>",
    ]
    return "".join(parts)


def _told(one: Judged) -> str:
    if one.error:
        return f"The judge gave no usable answer: {one.error}"
    return f"Judge: {one.winner}." if one.agreed else "Judge: changed its mind with the order, counted as a tie."


def _answer(answer: Answer | None, most: int) -> str:
    if answer is None:
        return "<p>not asked</p>"
    scores = ", ".join(f"{name} {share(value)}" for name, value in sorted(answer.scores.items()))
    tokens = f"{answer.tokens_out} tokens" if answer.tokens_out is not None else ""
    seconds = f"{figure(answer.seconds)} s" if answer.seconds is not None else ""
    facts = ", ".join(part for part in (scores, seconds, tokens) if part)
    text = f"failed: {answer.error}" if answer.error else answer.text or "(empty)"
    return f"<pre>{safe(text, most)}</pre><small>{safe(facts, 500)}</small>"


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, default=str)


def _method(record: Record) -> str:
    verdict = record.verdict
    told = {"rules": msgspec.to_builtins(verdict.rules), "weights": verdict.weights, "seed": record.seed, "rule": verdict.rule}
    often = f"{100 * verdict.rules.alpha:g} %"
    return (
        "<h2>How it was judged</h2>"
        f"<p>If both sides were no different, the verdict would be deploy or deploy_canary in at most {often} of evaluations.</p>"
        f"<pre>{safe(_text(told))}</pre>"
    )
