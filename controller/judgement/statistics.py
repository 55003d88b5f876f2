"""The tests and intervals of a verdict that have a formula: proportions, McNemar, randomisation, Holm, sample sizes.

Place in the flow: `evidence` calls these with paired results; `bootstrap` has the intervals that need resampling.
Why not a library: numpy and scipy would be the largest dependencies of the package, for a page of arithmetic with sources.

All levels are two-sided unless said; `confidence` 0.95 leaves 0.025 on each side. Nothing here rounds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, compress
from statistics import NormalDist
from typing import NamedTuple, TypeVar

BITS = bytes(value & 1 for value in range(256))
MOST = 1_000_000  # examples; a sample size beyond this is as good as never
Row = TypeVar("Row")


class Interval(NamedTuple):
    low: float
    high: float


def normal(share: float) -> float:
    """The z below which `share` of the standard normal distribution lies. 0 < share < 1."""
    return NormalDist().inv_cdf(share)


def z_of(confidence: float) -> float:
    """Half-width factor of a two-sided normal interval: 1.96 for 0.95. Raises ValueError outside 0..1."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}: allowed is a number above 0 and below 1, such as 0.95")
    return normal(0.5 + confidence / 2)


# -- proportions -------------------------------------------------------------------------------------------------------


def wilson(passed: int, total: int, confidence: float = 0.95) -> Interval:
    """Score interval of one proportion, 0..1 (Wilson, JASA 22 (1927) 209-212). No trials: all of 0..1."""
    _counts(passed=passed, failed=total - passed)
    if total == 0:
        return Interval(0.0, 1.0)
    z, p = z_of(confidence), passed / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return Interval(0.0 if passed == 0 else max(0.0, middle - half), 1.0 if passed == total else min(1.0, middle + half))


def newcombe(passed: int, total: int, other_passed: int, other_total: int, confidence: float = 0.95) -> Interval:
    """Difference of two independent proportions, hybrid score (Newcombe, Statistics in Medicine 17 (1998) 873-890, method 10)."""
    if not total or not other_total:
        return Interval(-1.0, 1.0)
    p, q = passed / total, other_passed / other_total
    low, high = wilson(passed, total, confidence)
    other_low, other_high = wilson(other_passed, other_total, confidence)
    return Interval(p - q - math.hypot(p - low, other_high - q), p - q + math.hypot(high - p, q - other_low))


def newcombe_paired(both: int, gained: int, lost: int, neither: int, confidence: float = 0.95) -> Interval:
    """Difference of two proportions of the same examples: candidate minus baseline, -1..1.

    `gained` passed with the candidate only, `lost` with the baseline only. Newcombe's hybrid score interval for paired data
    (Statistics in Medicine 17 (1998) 2635-2650, method 10: correlation with a continuity correction). Where no example differs
    the method gives no width at all, which claims too much: then the rule of three bounds what was not seen (`unseen`).
    """
    _counts(both=both, gained=gained, lost=lost, neither=neither)
    n = both + gained + lost + neither
    if n == 0:
        return Interval(-1.0, 1.0)
    if gained == lost == 0:
        bound = unseen(n, (1 - confidence) / 2)
        return Interval(-bound, bound)
    p, q = (both + gained) / n, (both + lost) / n
    low, high = wilson(both + gained, n, confidence)
    other_low, other_high = wilson(both + lost, n, confidence)
    phi = _phi(both, gained, lost, neither)

    def distance(mine: float, theirs: float) -> float:
        return math.sqrt(max(0.0, mine * mine - 2 * phi * mine * theirs + theirs * theirs))

    return Interval(
        max(-1.0, p - q - distance(p - low, other_high - q)),
        min(1.0, p - q + distance(high - p, q - other_low)),
    )


def _phi(both: int, gained: int, lost: int, neither: int) -> float:
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if margins == 0:
        return 0.0
    product = both * neither - gained * lost
    n = both + gained + lost + neither
    return (max(product - n / 2, 0.0) if product > 0 else float(product)) / math.sqrt(margins)


def unseen(total: int, level: float) -> float:
    """Largest share of examples that may differ although none of `total` did: 1 - level^(1/n).

    The exact form of the rule of three (Hanley and Lippman-Hand, JAMA 249 (1983) 1743-1745).
    """
    return 1.0 - math.pow(level, 1 / total) if total > 0 else 1.0


# -- p values ----------------------------------------------------------------------------------------------------------


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p that `gained` and `lost` are equally likely (McNemar, Psychometrika 12 (1947) 153-157; exact: binomial).

    Only examples where one side passes and the other fails count. None: p is 1.
    """
    _counts(gained=gained, lost=lost)
    m, fewer = gained + lost, min(gained, lost)
    if m == 0:
        return 1.0
    if m > 1000:  # the same sum in logarithms: integers of thousands of digits take seconds
        return min(1.0, 2 * math.fsum(_binomial(m, k, 0.5) for k in range(fewer + 1)))
    return min(1.0, 2 * sum(math.comb(m, k) for k in range(fewer + 1)) / (1 << m))


def sign_flip(differences: Sequence[float], *, draws: int, seed: int) -> float:
    """Two-sided p that a paired mean difference is chance: the signs are thrown again `draws` times.

    Fisher's randomisation test (The Design of Experiments, 1935, section 21). Valid at every size when both sides are alike,
    because then each difference is as likely as its opposite; (hits + 1) / (draws + 1) keeps it valid with few draws (Phipson and
    Smyth, SAGMB 9 (2010) 39).
    """
    if any(not math.isfinite(value) for value in differences):
        raise ValueError("a difference is not a finite number: drop examples without a value on both sides first")
    apart = [value for value in differences if value]
    total = sum(apart)
    if not apart:
        return 1.0
    bar = abs(total) - 1e-9 * sum(map(abs, apart))  # sums in another order differ in the last digits; a tie is a hit
    source, n = random.Random(seed), len(apart)
    hits = sum(abs(2 * sum(compress(apart, source.randbytes(n).translate(BITS))) - total) >= bar for _ in range(draws))
    return (hits + 1) / (draws + 1)


def swap(
    candidate: Sequence[Row],
    baseline: Sequence[Row],
    statistic: Callable[[Sequence[Row], Sequence[Row]], Sequence[float]],
    *,
    draws: int,
    seed: int,
) -> list[float]:
    """As `sign_flip`, for figures that are no means (percentiles, ratios): the sides of whole examples are swapped at random.

    Each figure of `statistic` is 0 when the sides are alike and changes its sign when they change places.
    """
    source, n = random.Random(seed), len(candidate)
    bars = [abs(value) * (1 - 1e-9) - 1e-12 for value in statistic(candidate, baseline)]
    hits = [0] * len(bars)
    other = bytes([1, 0]) + bytes(254)
    for _ in range(draws):
        stay = source.randbytes(n).translate(BITS)
        move = stay.translate(other)
        mine = [*compress(candidate, stay), *compress(baseline, move)]
        thrown = statistic(mine, [*compress(baseline, stay), *compress(candidate, move)])
        hits = [count + (abs(value) >= bar) for count, value, bar in zip(hits, thrown, bars, strict=True)]
    return [(count + 1) / (draws + 1) for count in hits]


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p values corrected for their number, so that the chance of any false finding is at most the level (Holm, Scand. J. Stat.
    6 (1979) 65-70).
    """
    ordered = sorted(p_values, key=lambda name: (p_values[name], name))
    steps = ((len(ordered) - rank) * p_values[name] for rank, name in enumerate(ordered))
    return dict(zip(ordered, (min(1.0, p) for p in accumulate(steps, max)), strict=True))


# -- how many examples -------------------------------------------------------------------------------------------------


def examples_for_mean(deviation: float, effect: float, *, alpha: float = 0.025, power: float = 0.8) -> int:
    """Examples with which a paired mean difference of `effect` is found with `power`, one-sided level `alpha`.

    ((z_a + z_b) s / d)^2 + z_a^2 / 2, where s is the standard deviation of the differences in the unit of `effect`
    (Guenther, The American Statistician 35 (1981) 243-244: the added term pays for not knowing s). At most `MOST`.
    """
    if not effect > 0 or not deviation >= 0 or math.isinf(deviation):
        raise ValueError(
            f"effect {effect} and deviation {deviation}: allowed are an effect above 0 and a finite deviation of at least 0"
        )
    if deviation == 0:  # none differed: enough to rule out by the rule of three that a share of `effect` does
        return min(MOST, math.ceil(math.log(alpha) / math.log1p(-min(effect, 0.999))))
    z = normal(1 - alpha)
    wanted = ((z + normal(power)) * deviation / effect) ** 2 + z * z / 2
    return MOST if wanted > MOST else math.ceil(wanted)


def examples_for_mcnemar(gained: float, lost: float, *, alpha: float = 0.025, power: float = 0.8) -> int:
    """Examples with which exact McNemar finds a difference of `gained - lost` (shares of all examples) with `power`.

    Connor's formula (Biometrics 43 (1987) 207-211), 1 / effect more because an exact test is discrete (its continuity correction),
    and up from there until the exact power is reached. At most `MOST`; beyond 20,000 the formula alone answers.
    """
    apart, effect = gained + lost, abs(gained - lost)
    if not 0 < effect <= apart <= 1:
        raise ValueError(f"shares gained {gained} and lost {lost}: they must differ, be at least 0 and sum to at most 1")
    z = normal(1 - alpha)
    n = math.ceil(
        ((z * math.sqrt(apart) + normal(power) * math.sqrt(max(0.0, apart - effect * effect))) / effect) ** 2 + 1 / effect
    )
    while n < 20_000 and mcnemar_power(n, gained, lost, alpha=alpha) < power:
        n = max(n + 1, math.ceil(n * 1.02))
    return min(n, MOST)


def mcnemar_power(n: int, gained: float, lost: float, *, alpha: float = 0.025) -> float:
    """Chance that exact McNemar (two-sided level 2 x alpha) finds the true direction among `n` examples: a sum over all outcomes.

    `gained` and `lost` are the true shares of examples that only one side passes (Duffy, Biometrics 40 (1984) 1005-1015).
    """
    more, fewer = max(gained, lost), min(gained, lost)
    apart = more + fewer
    found = 0.0
    for m in _likely(n, apart):
        critical, tail = -1, 0.0  # the largest count of the rarer outcome that is still significant
        for k in _likely(m, 0.5):
            tail += _binomial(m, k, 0.5)
            if tail > alpha * (1 + 1e-12):
                break
            critical = k
        share = fewer / apart
        found += _binomial(n, m, apart) * sum(_binomial(m, k, share) for k in _likely(m, share) if k <= critical)
    return min(1.0, found)


def _likely(n: int, p: float) -> range:
    """Where all but 1e-11 of a binomial distribution lies: eight standard deviations, and some for the small ones."""
    reach = 8 * math.sqrt(n * p * (1 - p)) + 8
    return range(max(0, math.floor(n * p - reach)), min(n, math.ceil(n * p + reach)) + 1)


def _binomial(n: int, k: int, p: float) -> float:
    if p in (0.0, 1.0):
        return float(k == n * p)
    log = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
    return math.exp(log) if log > -700 else 0.0


def _counts(**named: int) -> None:
    for name, value in named.items():
        if value < 0:
            raise ValueError(f"{name} is {value}: counts are at least 0")
