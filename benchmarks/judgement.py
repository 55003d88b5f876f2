"""Does a verdict keep its promises? Coverage of intervals, false deployments where nothing differs, power where something does.

Simulated evaluations with known truth, from fixed seeds: the same figures on every machine. Nothing is timed. It takes a
quarter of an hour on two cores; `TURNOUT_EVALUATIONS=200 python -m benchmarks judgement` is a quick look (default 2,000 a line,
fewer for the large ones).
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import fmean

from benchmarks.measure import table
from controller.judgement.bootstrap import bca_interval, means_of, percentile_interval, resample
from controller.judgement.results import Answer, Judged, Scoring, Side
from controller.judgement.rules import Rules
from controller.judgement.statistics import Interval, mcnemar, mcnemar_power, newcombe_paired, sign_flip, wilson
from controller.judgement.verdict import evaluated

EVALUATIONS = int(os.environ.get("TURNOUT_EVALUATIONS", "2000"))
RULES = Rules(draws=400)  # fewer draws than in earnest: the tests stay exact, the intervals get a little noisier
ACCURACY = Rules(draws=400, gains={"accuracy": 0.02}, keep={"success_rate": 0.02})
TWO = Rules(draws=400, gains={"score": 0.02, "accuracy": 0.02}, keep={"success_rate": 0.02})

World = Callable[[random.Random], tuple[list[Answer], list[Judged]]]


# -- a world with known truth ------------------------------------------------------------------------------------------


def world(
    source: random.Random,
    n: int,
    *,
    accuracy: float = 0.0,
    speed: float = 1.0,
    price: float = 1.0,
    completeness: float = 0.0,
    repetitions: int = 1,
    judge: float = 0.15,
) -> tuple[list[Answer], list[Judged]]:
    """`n` examples of unequal difficulty. The candidate passes `accuracy` more of them, takes `speed` and `price` times as much.

    About one example in six is passed by one side only where nothing differs. The judge marks completeness with noise and
    disagrees with itself on a share `judge` of the examples.
    """
    answers, judged = [], []
    for number in range(n):
        name, hard, length = f"e{number:05d}", source.random(), source.lognormvariate(0, 0.5)
        skill = {}
        for side, gain, factors in (("candidate", accuracy, (speed, price)), ("baseline", 0.0, (1.0, 1.0))):
            for again in range(repetitions):
                skill[side] = 0.7 + gain - hard + source.gauss(0, 0.12)
                answers.append(_answer(source, name, side, again, skill[side] > 0, length, factors))  # type: ignore[arg-type]
        judged.append(_judged(source, name, skill["candidate"] + completeness, skill["baseline"], judge))
    return answers, judged


def _answer(
    source: random.Random, name: str, side: Side, again: int, passed: bool, length: float, factors: tuple[float, float]
) -> Answer:
    seconds = length * source.lognormvariate(0.5, 0.4) * factors[0]
    tokens = max(1, int(300 * length * source.lognormvariate(0, 0.2)))
    return Answer(
        example=name,
        side=side,
        repetition=again,
        seconds=seconds,
        cost_usd=tokens * 1e-6 * factors[1],
        tokens_in=200,
        tokens_out=tokens,
        scores={"tests": float(passed)},
    )


def _judged(source: random.Random, name: str, mine: float, theirs: float, unsteady: float) -> Judged:
    """Marks of 1 to 5 that follow the quality of the answers, with noise."""
    marks = [min(4, max(0, round(2.5 + 4 * (skill - 0.2) + source.gauss(0, 0.5)))) / 4 for skill in (mine, theirs)]
    agreed = source.random() >= unsteady
    if not agreed:
        marks = [sum(marks) / 2] * 2
    winner = "tie" if marks[0] == marks[1] else "candidate" if marks[0] > marks[1] else "baseline"
    place = "" if agreed else source.choice(("first", "second"))
    said = [{"completeness": mark} for mark in marks]
    return Judged(name, winner, agreed, preferred_place=place, candidate=said[0], baseline=said[1])  # type: ignore[arg-type]


def unequal(source: random.Random, n: int, share: float) -> tuple[list[Answer], list[Judged]]:
    """Equal means, unequal shapes: a little better on most examples, and 40 points worse on a `share` of them."""
    answers = []
    for number in range(n):
        base = source.uniform(0.45, 0.5)
        gain = -0.4 if source.random() < share else 0.4 * share / (1 - share) + source.gauss(0, 0.01)
        for side, score in (("baseline", base), ("candidate", base + gain)):
            answers.append(Answer(f"e{number:05d}", side, scores={"quality": score}))  # type: ignore[arg-type]
    return answers, []


# -- what is printed ---------------------------------------------------------------------------------------------------


def words(make: World, rules: Rules, name: str, seeds: range) -> Counter[str]:
    """Verdicts of many evaluations."""
    found: Counter[str] = Counter()
    for seed in seeds:
        answers, judged = make(random.Random(f"{name}-{seed}"))
        found[evaluated(answers, judged, Scoring(), rules, seed=seed).verdict] += 1
    return found


def spread(pool: ProcessPoolExecutor, make: World, rules: Rules, name: str, count: int) -> Counter[str]:
    chunk = max(1, count // 40)
    jobs = [pool.submit(words, make, rules, name, range(low, min(count, low + chunk))) for low in range(0, count, chunk)]
    return sum((job.result() for job in jobs), Counter())


def false_deploys(pool: ProcessPoolExecutor) -> None:
    rows = [["no difference", "evaluations", "deploy", "deploy or canary", "(interval)", "promised"]]
    alike: list[tuple[str, World, Rules, int]] = [
        ("30 examples, score", partial(world, n=30), RULES, EVALUATIONS),
        ("100 examples, score", partial(world, n=100), RULES, EVALUATIONS),
        ("300 examples, score", partial(world, n=300), RULES, EVALUATIONS // 2),
        ("100 examples, accuracy", partial(world, n=100), ACCURACY, EVALUATIONS),
        ("300 examples, accuracy", partial(world, n=300), ACCURACY, EVALUATIONS // 2),
        ("100 examples, score or accuracy", partial(world, n=100), TWO, EVALUATIONS),
        ("50 examples x 3, score", partial(world, n=50, repetitions=3), RULES, EVALUATIONS),
        ("100 examples, steady judge", partial(world, n=100, judge=0.0), RULES, EVALUATIONS),
        ("100 examples, equal means, 1 in 10 much worse", partial(unequal, n=100, share=0.1), ACCURACY, EVALUATIONS),
        ("100 examples, equal means, 1 in 50 much worse", partial(unequal, n=100, share=0.02), ACCURACY, EVALUATIONS),
    ]
    for name, make, rules, count in alike:
        found = spread(pool, make, rules, name, count)
        gone = found["deploy"] + found["deploy_canary"]
        low, high = wilson(gone, count)
        promise = "none" if make.func is unequal else f"{100 * rules.alpha:.1f} %"  # type: ignore[attr-defined]
        interval = f"{100 * low:.1f} to {100 * high:.1f} %"
        rows.append([name, f"{count:,}", _percent(found["deploy"], count), _percent(gone, count), interval, promise])
    table("False deployments: both sides are the same", rows)


def power(pool: ProcessPoolExecutor) -> None:
    rows = [
        [
            "candidate passes 6 points more",
            "evaluations",
            "deploy",
            "deploy or canary",
            "not enough data",
            "review",
            "reject",
            "McNemar",
        ]
    ]
    for n, count in ((100, EVALUATIONS // 2), (300, EVALUATIONS // 4), (1000, EVALUATIONS // 10)):
        gained, lost = apart(20_000)
        for title, rules in (("score", RULES), ("accuracy", ACCURACY)):
            name = f"{n} examples, {title}"
            found = spread(pool, partial(world, n=n, accuracy=0.06), rules, name, count)
            shares = [
                found["deploy"],
                found["deploy"] + found["deploy_canary"],
                found["not_enough_data"],
                found["needs_review"],
                found["reject"],
            ]
            exact = f"{100 * mcnemar_power(n, gained, lost):.0f} %" if rules is ACCURACY else ""
            rows.append([name, f"{count:,}", *(_percent(value, count) for value in shares), exact])
    table("Power: the last column is the exact power of McNemar's test alone, the upper limit for accuracy", rows)


def apart(count: int) -> tuple[float, float]:
    """Shares of examples of this world that only the candidate and only the baseline passes, at +6 points."""
    answers, _ = world(random.Random("apart"), count, accuracy=0.06)
    passed = {(answer.example, answer.side): answer.scores["tests"] for answer in answers}
    both = [(passed[name, "candidate"], passed[name, "baseline"]) for name, side in passed if side == "candidate"]
    return fmean(mine > theirs for mine, theirs in both), fmean(mine < theirs for mine, theirs in both)


def coverage() -> None:
    """How often a 95 % interval holds the truth, and how often a 5 % test fires where nothing differs."""
    source = random.Random("coverage")
    rows = [["95 % intervals hold the truth", "n = 30", "n = 100", "n = 300"]]
    for title, holds in (
        ("Wilson, 3 % of examples", lambda n: _wilson(source, n, 0.03)),
        ("Wilson, 40 %", lambda n: _wilson(source, n, 0.4)),
        ("Newcombe paired, 2 % only one side, no difference", lambda n: _newcombe(source, n, 0.01, 0.01)),
        ("Newcombe paired, +6 points", lambda n: _newcombe(source, n, 0.13, 0.07)),
        ("Bootstrap BCa, normal differences", lambda n: _bootstrap(source, n, lambda: source.gauss(0.02, 0.2), 0.02)),
        ("Bootstrap BCa, skewed", lambda n: _bootstrap(source, n, lambda: source.expovariate(5), 0.2)),
        ("Bootstrap BCa, mostly zero", lambda n: _bootstrap(source, n, lambda: source.choice(LUMPY), fmean(LUMPY))),
        (
            "Bootstrap percentiles, skewed (for comparison)",
            lambda n: _bootstrap(source, n, lambda: source.expovariate(5), 0.2, False),
        ),
    ):
        rows.append([title, *(f"{100 * fmean(holds(n) for _ in range(EVALUATIONS)):.1f} %" for n in (30, 100, 300))])
    table(f"Coverage ({EVALUATIONS:,} intervals each)", rows)
    rows = [["fires where nothing differs", "n = 30", "n = 100", "n = 300"]]
    for title, fires in (
        ("the higher mean wins", lambda n: _fires(source, n, lambda differences: sum(differences) > 0)),
        ("exact McNemar, p <= 5 %", lambda n: _fires(source, n, lambda d: mcnemar(d.count(1.0), d.count(-1.0)) <= 0.05)),
        (
            "sign flips (400), p <= 5 %",
            lambda n: _fires(source, n, lambda d: sign_flip(d, draws=399, seed=source.randrange(1 << 30)) <= 0.05),
        ),
    ):
        rows.append([title, *(f"{100 * fmean(fires(n) for _ in range(EVALUATIONS)):.1f} %" for n in (30, 100, 300))])
    table(f"Rules of decision ({EVALUATIONS:,} evaluations each, one example in five differs)", rows)


LUMPY = [0.0] * 14 + [0.25, 0.25, -0.25, 0.5, 1.0, -1.0]


def _inside(interval: Interval, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def _wilson(source: random.Random, n: int, share: float) -> bool:
    return _inside(wilson(sum(source.random() < share for _ in range(n)), n), share)


def _newcombe(source: random.Random, n: int, gained: float, lost: float) -> bool:
    drawn = Counter(source.choices("glbn", (gained, lost, 0.6, 0.4 - gained - lost), k=n))
    return _inside(newcombe_paired(drawn["b"], drawn["g"], drawn["l"], drawn["n"]), gained - lost)


def _bootstrap(source: random.Random, n: int, draw: Callable[[], float], truth: float, corrected: bool = True) -> bool:
    values = [draw() for _ in range(n)]
    (means,) = resample(n, means_of([values]), draws=400, seed=source.randrange(1 << 30))
    return _inside(bca_interval(values, means) if corrected else percentile_interval(means), truth)


def _fires(source: random.Random, n: int, rule: Callable[[list[float]], bool]) -> bool:
    return rule(source.choices((1.0, -1.0, 0.0), (0.1, 0.1, 0.8), k=n))


def _percent(count: int, total: int) -> str:
    return f"{100 * count / total:.1f} %"


def main() -> None:
    coverage()
    with ProcessPoolExecutor() as pool:
        false_deploys(pool)
        power(pool)
