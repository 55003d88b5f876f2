"""The verdict: one word, the rule that gave it, the reasons in sentences and the evidence behind each.

Place in the flow: `evidence` and `flags` in, `Verdict` out; a rollout may start on it, a person reads it in the pull request.

The first rule that holds decides. "Shown" means that the interval excludes the opposite and, for a gain, that the corrected p is
at most 2 x alpha; "looks" means the estimate alone.

| rule | when | verdict |
|---|---|---|
| too_few | fewer pairs than `minimum_examples`, or a gain was not measured | not_enough_data |
| worse_than_kept | a `keep` measure is shown worse by more than its limit | reject |
| doubtful | a flag blocks: the judge contradicts itself or the checks, calls are missing | needs_review |
| trade | a gain is shown better, and a guard looks worse by more than its limit or another gain is shown worse | needs_review |
| worse | a gain is shown worse and none better | reject |
| better | a gain is shown better and looks worthwhile, and for every guard worsening beyond its limit is ruled out | deploy |
| probably_better | a gain is shown better, but it looks small, a guard is open or a `keep` measure is missing | deploy_canary |
| no_gain | for every gain a worthwhile one is ruled out | reject |
| open | fewer examples than a worthwhile gain needs to be found | not_enough_data |
| between | enough examples, and the gain lies between nothing and worthwhile | needs_review |

**Guarantee.** If candidate and baseline are no different (each example's two results could as well have been the other way
round), `deploy` and `deploy_canary` together happen in at most a share `alpha` of evaluations, at every number of examples and
for every setting of the guards. Both need a gain shown better, that is p <= 2 alpha in the right direction after Holm's
correction over the gains; exact McNemar and the sign-flip test keep their level exactly then, half of it in each direction, and
every other rule can only take a deployment away. Guards need no correction among themselves: all must pass (intersection-union
test, Berger, Technometrics 24 (1982) 295-300).

What it does not promise: alpha is per evaluation (evaluating until one says deploy defeats it); examples are taken as independent
and as a fair sample of what the agent meets; equal means with unequal shapes are only approximately covered
(`benchmarks/judgement.py` prints how well).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from controller.judgement.evidence import Evidence, gather
from controller.judgement.flags import Flag, raise_flags
from controller.judgement.results import Answer, Judged, Scoring
from controller.judgement.rules import Rules
from controller.judgement.scores import SCORE, Measured, measure
from controller.judgement.statistics import MOST
from controller.judgement.words import change, figure, label, listed, p_value, share, span

Word = Literal["deploy", "deploy_canary", "needs_review", "reject", "not_enough_data"]


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """`needed`: examples that would be enough, where that is the question. Scores are 0..1; None where nothing was measured."""

    verdict: Word
    rule: str
    reasons: tuple[str, ...]
    evidence: tuple[Evidence, ...]
    flags: tuple[Flag, ...]
    examples: int
    rules: Rules
    needed: int | None = None
    candidate_score: float | None = None
    baseline_score: float | None = None
    weights: dict[str, float] = {}
    notes: tuple[str, ...] = ()

    @property
    def improvement_pct(self) -> float | None:
        """The score's change relative to the baseline's, in percent."""
        if self.candidate_score is None or not self.baseline_score:
            return None
        return 100 * (self.candidate_score / self.baseline_score - 1)


def evaluated(answers: Sequence[Answer], judged: Sequence[Judged], scoring: Scoring, rules: Rules, *, seed: int) -> Verdict:
    """From raw answers to the verdict. The same data, rules and seed give the same verdict."""
    return decide(measure(answers, judged, scoring), rules, seed=seed)


def decide(measured: Measured, rules: Rules, *, seed: int) -> Verdict:
    """The verdict on what was measured."""
    evidence = gather(measured, rules, seed=seed)
    flags = raise_flags(measured, rules)
    verdict, rule, reasons, needed = _first(measured, rules, evidence, flags)
    scored = next((e for e in evidence if e.measure == SCORE), None)
    return Verdict(
        verdict=verdict,
        rule=rule,
        reasons=tuple(reasons),
        evidence=tuple(evidence),
        flags=tuple(flags),
        examples=len(measured.pairs),
        rules=rules,
        needed=needed,
        candidate_score=scored.candidate if scored else None,
        baseline_score=scored.baseline if scored else None,
        weights=measured.weights,
        notes=(*measured.notes, *_unwatched(evidence, rules)),
    )


def _unwatched(evidence: Sequence[Evidence], rules: Rules) -> list[str]:
    names = [label(name) for name in sorted(set(rules.watch) - {e.measure for e in evidence})]
    return [f"Not measured, and so not watched: {listed(names)}."] if names else []


Decision = tuple[Word, str, list[str], int | None]


def _first(measured: Measured, rules: Rules, evidence: Sequence[Evidence], flags: Sequence[Flag]) -> Decision:
    gains = [e for e in evidence if e.role == "gain"]
    guards = [e for e in evidence if e.role in ("keep", "watch")]
    few = _too_few(measured, rules, gains)
    if few:
        return few
    lost = [e for e in guards if e.role == "keep" and e.state == "beyond"]
    if lost:
        return "reject", "worse_than_kept", [_beyond(e) for e in lost], None
    doubts = [flag.message for flag in flags if flag.blocks]
    if doubts:
        return "needs_review", "doubtful", [*doubts, *(_of_gain(e) for e in gains)], None
    better = [e for e in gains if e.state == "better"]
    worse = [e for e in gains if e.state == "worse"]
    if better:
        return _better(better, worse, guards, sorted(set(rules.keep) - {e.measure for e in evidence}))
    if worse:
        return "reject", "worse", [_of_gain(e) for e in worse], None
    return _open(gains, measured)


def _too_few(measured: Measured, rules: Rules, gains: Sequence[Evidence]) -> Decision | None:
    absent = sorted(set(rules.gains) - {e.measure for e in gains})
    if absent and measured.pairs:
        names = ", ".join(label(name) for name in absent)
        return "not_enough_data", "too_few", [f"Nothing measured {names}, which must get better: add an evaluator that does."], None
    count = min((e.n for e in gains), default=0)
    if count >= rules.minimum_examples:
        return None
    wanted = rules.minimum_examples
    reason = (
        f"{count} examples were answered and measured on both sides: at least {wanted} are needed before any difference is judged."
    )
    if count >= 10 and (planned := _needed(gains)):
        reason += f" To find a gain of {_gains(rules)} about {figure(planned)} would be enough."
        wanted = max(wanted, planned)
    return "not_enough_data", "too_few", [reason], wanted


def _better(better: Sequence[Evidence], worse: Sequence[Evidence], guards: Sequence[Evidence], unseen: Sequence[str]) -> Decision:
    told = [_of_gain(e) for e in better]
    looks = [e for e in guards if e.limit is not None and e.state != "within" and e.worsening > e.limit]
    if worse or looks:
        return "needs_review", "trade", [*told, *(_of_gain(e) for e in worse), *(_looks(e) for e in looks)], None
    worthwhile = any((e.difference or 0) >= (e.limit or 0) for e in better)
    unclear = [e for e in guards if e.state not in ("within", "beyond")]
    if worthwhile and not unclear and not unseen:
        names = listed([label(e.measure) for e in guards])
        return (
            "deploy",
            "better",
            [*told, f"Worsening beyond its limit is ruled out for {names}." if names else "No guard is set."],
            None,
        )
    if not worthwhile:
        told.append(f"The gain is real and smaller than the {_limits(better)} that were asked for.")
    told += [f"Nothing measured {label(name)}, which must not get worse: add an evaluator that does." for name in unseen]
    told += [_unclear(e) for e in unclear]
    return "deploy_canary", "probably_better", told, max((e.needed for e in unclear if e.needed), default=None)


def _open(gains: Sequence[Evidence], measured: Measured) -> Decision:
    told = [_of_gain(e) for e in gains]
    if all(e.high is not None and e.limit is not None and e.high < e.limit for e in gains):
        return "reject", "no_gain", [*told, f"A gain of {_limits(gains)} or more is ruled out."], None
    needed = _needed(gains)
    if needed and needed > len(measured.pairs):
        enough = f"more than {figure(MOST)}" if needed >= MOST else f"about {figure(needed)}"
        told.append(
            f"To find a gain of {_limits(gains)}, {enough} examples would be enough; there are {figure(len(measured.pairs))}."
        )
        return "not_enough_data", "open", told, needed
    told.append(f"There are enough examples for a gain of {_limits(gains)}: the true one probably lies between nothing and that.")
    return "needs_review", "between", told, None


def _needed(gains: Sequence[Evidence]) -> int | None:
    return min((e.needed for e in gains if e.needed), default=None)


# -- sentences ---------------------------------------------------------------------------------------------------------


def _of_gain(e: Evidence) -> str:
    head = f"{label(e.measure).capitalize()} {share(e.candidate)} against {share(e.baseline)}: {change(e.difference, e.relative)}"
    if e.low is None or e.high is None:
        return f"{head}, without an interval."
    tail = {"better": "better beyond chance", "worse": "worse beyond chance"}.get(e.state, "chance explains it")
    return f"{head} (interval {span(e.low, e.high, e.relative)}, {p_value(e.p_corrected)}): {tail}."


def _beyond(e: Evidence) -> str:
    if e.low is None or e.high is None:
        return f"{label(e.measure).capitalize()} {figure(e.candidate)} against {figure(e.baseline)}: worse without bound."
    return (
        f"{label(e.measure).capitalize()} is worse: {change(e.difference, e.relative)},"
        f" interval {span(e.low, e.high, e.relative)}; allowed is {_allowed(e)}."
    )


def _looks(e: Evidence) -> str:
    if e.state == "beyond":
        return _beyond(e)
    return f"{label(e.measure).capitalize()} looks worse: {change(e.difference, e.relative)}; allowed is {_allowed(e)}."


def _unclear(e: Evidence) -> str:
    more = f"; about {figure(e.needed)} examples would settle it if both sides are alike" if e.needed and e.needed > e.n else ""
    found = f"{change(e.difference, e.relative)}, {_range(e)}"
    return f"{label(e.measure).capitalize()} may be worse than its limit of {_allowed(e)}: {found}{more}."


def _range(e: Evidence) -> str:
    if e.low is None or e.high is None:
        return "no interval"
    return f"interval {span(e.low, e.high, e.relative)}"


def _allowed(e: Evidence) -> str:
    return change(e.limit if e.relative else -(e.limit or 0.0), e.relative)


def _limits(gains: Sequence[Evidence]) -> str:
    return listed([f"{100 * (e.limit or 0):g} points in {label(e.measure)}" for e in gains], "or")


def _gains(rules: Rules) -> str:
    return listed([f"{100 * limit:g} points in {label(name)}" for name, limit in rules.gains.items()], "or")
