"""Intervals by resampling examples: for means with the BCa correction, for percentiles and ratios plain.

Place in the flow: `evidence` draws once for all measures of the same examples (`resample`) and reads an interval from each list
of draws. Why the standard library: 10,000 draws of 1,000 examples cost under a second of CPU with `random.choices`; numpy would
be the largest dependency of the package for that.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from operator import itemgetter
from statistics import NormalDist
from typing import Any

from controller.judgement.statistics import Interval, normal, unseen, z_of

Pick = Callable[[Sequence[Any]], tuple[Any, ...]]


def resample(count: int, statistic: Callable[[Pick], Sequence[float]], *, draws: int, seed: int) -> list[list[float]]:
    """The figures of `statistic` on `draws` resamples of `count` examples, each figure's draws sorted (Efron, Annals of
    Statistics 7 (1979) 1-26).

    `statistic` gets `pick`, which takes the drawn examples out of any sequence of that length: both sides of an example stay
    together, and so do all measures of it. Raises ValueError for fewer than two examples.
    """
    if count < 2:
        raise ValueError(f"{count} examples: resampling needs at least 2")
    source, places = random.Random(seed), list(range(count))
    drawn = [statistic(itemgetter(*source.choices(places, k=count))) for _ in range(draws)]
    return [sorted(values) for values in zip(*drawn, strict=True)]


def means_of(columns: Sequence[Sequence[float]]) -> Callable[[Pick], Sequence[float]]:
    """The mean of each column, as a statistic for `resample`."""
    count = len(columns[0])
    return lambda pick: [sum(pick(column)) / count for column in columns]


def percentile_interval(draws: Sequence[float], confidence: float = 0.95) -> Interval:
    """The middle `confidence` of sorted draws (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13)."""
    tail = (1 - confidence) / 2
    return Interval(_at(draws, tail), _at(draws, 1 - tail))


def bca_interval(values: Sequence[float], draws: Sequence[float], confidence: float = 0.95) -> Interval:
    """Interval of the mean of `values` from its sorted draws: bias-corrected and accelerated.

    Efron, JASA 82 (1987) 171-185; the acceleration of a mean has a closed form (skewness / 6 sqrt(n)). The normal quantile is
    widened as Hesterberg proposes for small samples (The American Statistician 69 (2015) 371-386), because resampling divides by
    n. Where all values are equal nothing can be resampled: then the rule of three says what may have gone unseen, for values
    within -1..1.
    """
    count = len(values)
    mean = sum(values) / count
    moments = [sum((value - mean) ** power for value in values) for power in (2, 3)]
    if moments[0] <= 1e-24 * count:
        bound = unseen(count, (1 - confidence) / 2)
        return Interval(mean - bound, mean + bound)
    below = (bisect_left(draws, mean) + bisect_right(draws, mean)) / (2 * len(draws))
    if not 0 < below < 1:
        return percentile_interval(draws, confidence)
    bias, acceleration = normal(below), moments[1] / (6 * moments[0] ** 1.5)
    z = math.sqrt(count / (count - 1)) * student(z_of(confidence), count - 1)

    def adjusted(side: float) -> float:
        shift = bias + side * z
        return NormalDist().cdf(bias + shift / max(1e-6, 1 - acceleration * shift))

    return Interval(_at(draws, adjusted(-1)), _at(draws, adjusted(1)))


def bootstrap_mean(differences: Sequence[float], *, confidence: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """BCa interval of the mean of paired differences, for a single measure. Raises ValueError for fewer than two or for NaN."""
    if any(not math.isfinite(value) for value in differences):
        raise ValueError("a difference is not a finite number: drop examples without a value on both sides first")
    (means,) = resample(len(differences), means_of([differences]), draws=draws, seed=seed)
    return bca_interval(differences, means, confidence)


def student(z: float, freedom: int) -> float:
    """Student's t quantile from the normal one: Peiser's expansion (Abramowitz and Stegun 26.7.5), good to 0.01 from 5 degrees
    on.
    """
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between neighbours (type 7 of Hyndman and Fan, The American Statistician 50 (1996) 361-365). `ordered` is sorted,
    not empty.
    """
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    if low + 1 >= len(ordered):
        return ordered[-1]
    return ordered[low] + (place - low) * (ordered[low + 1] - ordered[low])


def _at(draws: Sequence[float], share: float) -> float:
    """Order statistic (B + 1) share, as for a Monte Carlo quantile; infinite draws stay what they are."""
    return draws[min(len(draws) - 1, max(0, math.ceil((len(draws) + 1) * share) - 1))]
