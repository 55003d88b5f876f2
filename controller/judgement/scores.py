"""From raw measures to columns of figures: per example and side a value of 0..1 for each dimension, and the weighted score.

Place in the flow: `results` in, `Measured` out; `evidence` compares its columns.

How a raw measure becomes 0..1:
- a check that passes is 1, one that fails 0; a graded one is what it says; several checks of a dimension: their mean
- a judge's mark of 1..5 is (mark - 1) / 4; its preference is 1 for the winner, 0 for the loser, 0.5 for a tie
- seconds and dollars x become r / (r + x): 1 at nothing, 0.5 at the reference r, towards 0 beyond. r is fixed in the spec or the
  median of *both sides together*, so that no side is its own yardstick and swapping the sides swaps the scores and nothing else
- a call that failed is 0 for seconds, dollars and every check: an error is neither fast nor cheap. A judge is not asked about it,
  so what only a judge marks leaves the example out; the success rate still counts it Repetitions of an example are averaged: the
  example is the unit, since its repetitions are not independent. A dimension that nothing measures gives its weight to the
  others, in proportion, and the report says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, median

import msgspec

from controller.judgement.results import SIDES, Answer, Judged, Pair, Scoring, Side, as_score, paired, usable

SCORE = "score"
SUCCESS = "success_rate"


class Column(msgspec.Struct, frozen=True):
    """One measure of every example that has it, higher is better, 0..1. `judged`: (also) an LLM's opinion."""

    name: str
    examples: tuple[str, ...]
    candidate: tuple[float, ...]
    baseline: tuple[float, ...]
    judged: bool = False

    @property
    def differences(self) -> list[float]:
        return [mine - theirs for mine, theirs in zip(self.candidate, self.baseline, strict=True)]

    @property
    def pass_fail(self) -> bool:
        return {*self.candidate, *self.baseline} <= {0.0, 1.0}


class Usage(msgspec.Struct, frozen=True):
    """What an example took on one side, repetitions together. Seconds are of calls that answered."""

    seconds: tuple[float, ...]
    cost_usd: float
    tokens: int
    calls: int


class Use(msgspec.Struct, frozen=True):
    """Seconds, dollars and tokens of the examples where both sides know them."""

    examples: tuple[str, ...]
    candidate: tuple[Usage, ...]
    baseline: tuple[Usage, ...]


class Measured(msgspec.Struct, frozen=True):
    """All columns, what could not be used, and the weights that were really applied (percent)."""

    columns: dict[str, Column]
    timed: Use
    priced: Use
    pairs: tuple[Pair, ...]
    alone: tuple[str, ...]
    weights: dict[str, float]
    efficiency_by: str
    unusable: int
    notes: tuple[str, ...]


def measure(answers: Iterable[Answer], judged: Iterable[Judged], scoring: Scoring) -> Measured:
    """Columns of everything that was measured on both sides."""
    pairs, alone = paired(answers, judged)
    values, opinions = _dimensions(pairs, scoring)
    efficiency_by, costs = _costs(pairs)
    seconds = {id(a): None if a.error else usable(a.seconds) for a in _answers(pairs)}
    for name, raw, reference in (
        ("efficiency", costs, scoring.cost_reference if efficiency_by == "dollars" else None),
        ("latency", seconds, scoring.latency_reference),
    ):
        if name in scoring.weights and any(value is not None for value in raw.values()):
            values.setdefault(name, {}).update(_against(pairs, raw, reference))
    columns = {name: _column(name, pairs, by, name in opinions) for name, by in values.items()}
    columns = {name: column for name, column in columns.items() if column.examples}
    weights = _applied(scoring.weights, columns)
    if weights:
        columns[SCORE] = _score(columns, weights)
    answered = {(pair.example, side): fmean(not a.error for a in pair.of(side)) for pair in pairs for side in SIDES}
    if pairs:
        columns[SUCCESS] = _column(SUCCESS, pairs, answered, False)
    return Measured(
        columns=columns,
        timed=_use(pairs, lambda usage: bool(usage.seconds)),
        priced=_use(pairs, lambda usage: usage.cost_usd >= 0),
        pairs=tuple(pairs),
        alone=tuple(alone),
        weights=weights,
        efficiency_by=efficiency_by,
        unusable=_unusable(pairs),
        notes=_notes(scoring, weights, efficiency_by),
    )


# -- dimensions --------------------------------------------------------------------------------------------------------

Values = dict[tuple[str, Side], float]


def _dimensions(pairs: Sequence[Pair], scoring: Scoring) -> tuple[dict[str, Values], set[str]]:
    """Values of every dimension that checks and judges feed, and the names of those that a judge feeds."""
    found: dict[str, dict[tuple[str, Side], list[float]]] = {}
    opinions: set[str] = set()
    for pair in pairs:
        for side in SIDES:
            for answer in pair.of(side):
                for dimension, scores in _checked(answer, scoring, pair).items():
                    found.setdefault(dimension, {}).setdefault((pair.example, side), []).append(fmean(scores))
    heard: dict[str, dict[tuple[str, Side], list[float]]] = {}
    for pair in pairs:
        for one in pair.judged:
            for dimension, side, value in _opinions(one, scoring):
                opinions.add(dimension)
                heard.setdefault(dimension, {}).setdefault((pair.example, side), []).append(value)
    for dimension, by in heard.items():
        for key, marks in by.items():
            found.setdefault(dimension, {}).setdefault(key, []).append(fmean(marks))
    return {dimension: {key: fmean(scores) for key, scores in by.items()} for dimension, by in found.items()}, opinions


def _checked(answer: Answer, scoring: Scoring, pair: Pair) -> dict[str, list[float]]:
    """Scores of one call by dimension. A failed call scores 0 in all dimensions that any call of its example was checked for."""
    names = answer.scores if not answer.error else {name for side in SIDES for other in pair.of(side) for name in other.scores}
    by: dict[str, list[float]] = {}
    for name in sorted(names):
        score = 0.0 if answer.error else as_score(answer.scores, name)
        dimension = dimension_of(name, scoring)
        if score is not None and dimension:
            by.setdefault(dimension, []).append(score)
    return by


def _opinions(one: Judged, scoring: Scoring) -> list[tuple[str, Side, float]]:
    if one.error:
        return []
    won = {"candidate": (1.0, 0.0), "baseline": (0.0, 1.0), "tie": (0.5, 0.5)}[one.winner]
    found: list[tuple[str, Side, float]] = []
    chosen = scoring.measures.get("judge.preference")
    if chosen:
        found += [(chosen, "candidate", won[0]), (chosen, "baseline", won[1])]
    for criterion in sorted({*one.candidate} & {*one.baseline}):
        dimension = dimension_of(f"judge.{criterion}", scoring)
        mine, theirs = as_score(one.candidate, criterion), as_score(one.baseline, criterion)
        if dimension and mine is not None and theirs is not None:
            found += [(dimension, "candidate", mine), (dimension, "baseline", theirs)]
    return found


def dimension_of(evaluator: str, scoring: Scoring) -> str | None:
    """The dimension an evaluator feeds: what the spec says, else the one of its name, else accuracy (a judge's other criteria:
    none).
    """
    own = evaluator.removeprefix("judge.")
    if evaluator in scoring.measures:
        return scoring.measures[evaluator]
    if own in scoring.weights and own not in ("latency", "efficiency"):
        return own
    return "accuracy" if own == evaluator and "accuracy" in scoring.weights else None


def _against(pairs: Sequence[Pair], raw: dict[int, float | None], fixed: float | None) -> Values:
    """r / (r + x), averaged over the calls of an example; failed calls are 0. An example where a side knows nothing is left out."""
    known = [value for value in raw.values() if value is not None]
    reference = fixed or median(known) or fmean(known)
    values: Values = {}
    for pair in pairs:
        marks: dict[Side, list[float]] = {"candidate": [], "baseline": []}
        for side in SIDES:
            for answer in pair.of(side):
                value = raw[id(answer)]
                if answer.error:
                    marks[side].append(0.0)
                elif value is not None:
                    marks[side].append(reference / (reference + value) if reference else 0.5)
        if all(marks.values()):
            values |= {(pair.example, side): fmean(each) for side, each in marks.items()}
    return values


def _costs(pairs: Sequence[Pair]) -> tuple[str, dict[int, float | None]]:
    """Dollars of each call; where a side has no price at all, output tokens (a proxy, and the report says so)."""
    dollars = {id(a): None if a.error else usable(a.cost_usd) for a in _answers(pairs)}
    if all(any(dollars[id(a)] is not None for pair in pairs for a in pair.of(side)) for side in SIDES):
        return "dollars", dollars
    return "output tokens", {id(a): None if a.error else usable(a.tokens_out) for a in _answers(pairs)}


def _column(name: str, pairs: Sequence[Pair], values: Values, judged: bool) -> Column:
    both = [pair.example for pair in pairs if all((pair.example, side) in values for side in SIDES)]
    mine, theirs = (tuple(values[example, side] for example in both) for side in SIDES)
    return Column(name, tuple(both), mine, theirs, judged)


def _applied(weights: dict[str, float], columns: dict[str, Column]) -> dict[str, float]:
    present = {name: weight for name, weight in weights.items() if name in columns and weight > 0}
    total = sum(present.values())
    return {name: 100 * weight / total for name, weight in present.items()}


def _score(columns: dict[str, Column], weights: dict[str, float]) -> Column:
    """The weighted score; an example without one of the dimensions spreads that weight over its others, on both sides alike."""
    sums: dict[str, list[float]] = {}
    for name, weight in weights.items():
        column = columns[name]
        for example, mine, theirs in zip(column.examples, column.candidate, column.baseline, strict=True):
            total = sums.setdefault(example, [0.0, 0.0, 0.0])
            total[0] += weight * mine
            total[1] += weight * theirs
            total[2] += weight
    names = tuple(sorted(sums))
    candidate, baseline = (tuple(sums[name][side] / sums[name][2] for name in names) for side in (0, 1))
    return Column(SCORE, names, candidate, baseline, any(columns[name].judged for name in weights))


# -- seconds, dollars, tokens ------------------------------------------------------------------------------------------


def _use(pairs: Sequence[Pair], known: Callable[[Usage], bool]) -> Use:
    rows = [(pair.example, _usage(pair.candidate), _usage(pair.baseline)) for pair in pairs]
    rows = [row for row in rows if known(row[1]) and known(row[2])]
    return Use(tuple(r[0] for r in rows), tuple(r[1] for r in rows), tuple(r[2] for r in rows))


def _usage(answers: Sequence[Answer]) -> Usage:
    """`cost_usd` is -1 where one of the calls has no known price."""
    answered = [answer for answer in answers if not answer.error]
    seconds = [usable(answer.seconds) for answer in answered]
    costs = [usable(answer.cost_usd) for answer in answered]
    tokens = sum(int(usable(a.tokens_in) or 0) + int(usable(a.tokens_out) or 0) for a in answered)
    unknown = not answered or any(cost is None for cost in costs)
    spent = -1.0 if unknown else sum(cost for cost in costs if cost is not None)
    return Usage(tuple(value for value in seconds if value is not None), spent, tokens, len(answered))


def _answers(pairs: Sequence[Pair]) -> list[Answer]:
    return [answer for pair in pairs for side in SIDES for answer in pair.of(side)]


def _unusable(pairs: Sequence[Pair]) -> int:
    """Measures that were given and cannot be counted with (NaN, infinite, negative, a score outside 0..1)."""
    count = 0
    for answer in _answers(pairs):
        given = (answer.seconds, answer.cost_usd, answer.tokens_in, answer.tokens_out)
        count += sum(value is not None and usable(value) is None for value in given)
        count += sum(as_score(answer.scores, name) is None for name in answer.scores)
    return count


def _notes(scoring: Scoring, weights: dict[str, float], efficiency_by: str) -> tuple[str, ...]:
    notes = []
    missing = sorted(name for name, weight in scoring.weights.items() if weight > 0 and name not in weights)
    if missing and weights:
        applied = ", ".join(f"{name} {weight:.1f} %" for name, weight in weights.items())
        notes.append(f"Nothing measured {', '.join(missing)}: the weights applied are {applied}.")
    if "efficiency" in weights and efficiency_by != "dollars":
        notes.append("No price is known for one side: efficiency is judged by output tokens.")
    return tuple(notes)
