"""Means, paired tests, intervals, corrections and fits over seeds and evaluation items.

A positive difference means that the candidate is better. What one seed cannot tell is ``None``, not zero.
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from statistics import quantiles
from typing import Any

LARGEST = 1e100
"""Larger numbers are no measurements: their squares, and the sums of them, are infinite or raise OverflowError."""


def _special() -> Any:
    from scipy import special  # imported late: half a second, which reading an archive does not need

    return special


def normal_quantile(share: float) -> float:
    """The z with P(Z ≤ z) = ``share``."""
    return float(_special().ndtri(share))


def student_survival(t: float, freedom: float) -> float:
    """P(T > t) of Student's t distribution with ``freedom`` > 0 degrees of freedom."""
    if freedom <= 0:
        raise ValueError(f"freedom must be positive, not {freedom!r}: a test needs at least two observations")
    return float(_special().stdtr(freedom, -t))


def student_quantile(share: float, freedom: float) -> float:
    """The t with P(T ≤ t) = ``share``. Raises ``ValueError`` for a share outside (0, 1)."""
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, not {share!r}")
    return float(_special().stdtrit(freedom, share))


def chi_square_quantile(share: float, freedom: float) -> float:
    """The x with P(χ² ≤ x) = ``share``; 0 without any degree of freedom."""
    return 2.0 * float(_special().gammaincinv(freedom / 2, share)) if freedom > 0 else 0.0


def benjamini_hochberg(ps: Sequence[float], tried: int) -> list[float]:
    """Adjusted p-values, in the order given, that control the false discovery rate (Benjamini & Hochberg 1995).

    ``tried`` counts all hypotheses; those that were not tested count with p = 1. Raises ``ValueError`` for a p outside
    [0, 1] or fewer tried than tested.
    """
    _check_probabilities(ps)
    if tried < len(ps):
        raise ValueError(f"tried ({tried}) is fewer than the {len(ps)} that were tested; count every candidate")
    adjusted, smallest = [0.0] * len(ps), 1.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index], reverse=True)):
        adjusted[index] = smallest = min(smallest, ps[index] * tried / (len(ps) - rank))
    return adjusted


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given, that control the chance of even one false discovery (Holm 1979)."""
    _check_probabilities(ps)
    adjusted, largest = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        adjusted[index] = largest = min(1.0, max(largest, ps[index] * (len(ps) - rank)))
    return adjusted


def _check_probabilities(ps: Sequence[float]) -> None:
    if not all(0 <= p <= 1 for p in ps):
        raise ValueError("p-values must lie between 0 and 1")


LEVEL = 0.95
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval and its level (0.95 means 95%)."""

    low: float
    high: float
    level: float

    @property
    def crosses_zero(self) -> bool:
        """Whether the sign is undetermined."""
        return self.low <= 0 <= self.high

    def widened(self, reach: float) -> "Interval":
        """The interval with a further, independent error, half of whose interval is `reach`, in quadrature."""
        middle, half = (self.low + self.high) / 2, math.hypot((self.high - self.low) / 2, reach)
        return Interval(middle - half, middle + half, self.level)


@dataclass(frozen=True, slots=True)
class Noise:
    """A standard deviation with the degrees of freedom that it was estimated from."""

    deviation: float
    freedom: int


@dataclass(frozen=True, slots=True)
class PairedTest:
    """A one-sided paired t-test of "the mean difference is positive"."""

    effect: float
    standard_error: float
    t: float
    freedom: int
    p: float
    count: int

    def interval(self) -> Interval:
        """The two-sided interval around the effect."""
        reach = student_quantile((1 + LEVEL) / 2, self.freedom) * self.standard_error
        return Interval(self.effect - reach, self.effect + reach, LEVEL)


def mean(values: Sequence[float]) -> float:
    """The mean. Raises ``ValueError`` for no values or one that is not finite."""
    if not values:
        raise ValueError("values is empty: there is nothing to average")
    if not all(math.isfinite(value) for value in values):
        raise ValueError("values holds a number that is not finite; leave out what was not measured")
    return math.fsum(values) / len(values)


def pooled_noise(groups: Iterable[Sequence[float]]) -> Noise:
    """The deviation within groups whose true deviations are alike. Raises ``ValueError`` if none has two values."""
    squares, freedom = 0.0, 0
    for group in groups:
        centre = mean(group)
        squares += math.fsum((value - centre) ** 2 for value in group)
        freedom += len(group) - 1
    if freedom < 1:
        raise ValueError("values: a deviation needs at least two values under the same conditions; add seeds")
    return Noise(math.sqrt(squares / freedom), freedom)


def differences(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """``theirs − ours`` over the common seeds, in their order. Raises ``ValueError`` without any."""
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise ValueError("seeds: nothing to pair, for the two have no seed in common; train both with the same seeds")
    return [theirs[seed] - ours[seed] for seed in shared]


def paired_test(gains: Sequence[float], pooled: Noise | None = None) -> PairedTest:
    """Test that the mean of paired differences is positive. ``pooled`` replaces the sample's own deviation.

    Without any scatter t is infinite, or 0 with p = 1 for no difference.
    """
    effect, noise = mean(gains), pooled or pooled_noise([gains])
    error = noise.deviation / math.sqrt(len(gains))
    if error == 0:
        t, p = math.copysign(math.inf, effect) if effect else 0.0, 0.0 if effect > 0 else 1.0
    else:
        t = effect / error
        p = student_survival(t, noise.freedom)
    return PairedTest(effect, error, t, noise.freedom, p, len(gains))


def with_seed_noise(items: Interval, between: Noise, seeds: int) -> Interval:
    """An interval over items, widened by the deviation ``between`` seeds of one model's mean loss, in quadrature.

    A difference of two models has √2 of that deviation, or less where seeds are paired: the interval is conservative.
    """
    quantile = student_quantile((1 + items.level) / 2, between.freedom)
    return items.widened(quantile * between.deviation * math.sqrt(2 / seeds))


def bootstrap(gains: Sequence[Sequence[float]], rng: random.Random, resamples: int = RESAMPLES) -> Interval:
    """The paired interval of the mean difference over seeds and items, where all seeds have the same items.

    ``gains[seed][item]`` is one paired difference. The items' part is a bootstrap of the means over seeds; the seeds'
    part, Student's t, is added in quadrature, since resampling two or three seeds underestimates their noise. With one
    seed the interval is over items only. Raises ``ValueError`` for empty or uneven rows.
    """
    mean([mean(row) for row in gains])
    if len({len(row) for row in gains}) > 1:
        raise ValueError("gains: the seeds have different numbers of items; pair them")
    items = [math.fsum(column) / len(gains) for column in zip(*gains, strict=True)]
    means = [math.fsum(rng.choices(items, k=len(items))) / len(items) for _ in range(resamples)]
    low, *_, high = quantiles(means, n=round(2 / (1 - LEVEL)), method="inclusive")
    interval = Interval(low, high, LEVEL)
    if len(gains) == 1:
        return interval
    over_seeds = paired_test([mean(row) for row in gains]).interval()
    return interval.widened((over_seeds.high - over_seeds.low) / 2)


def power(effect: float, deviation: float, count: int, alpha: float = 0.05) -> float:
    """The chance that the paired test finds a true ``effect``; ``deviation`` is that of one paired difference."""
    if count < 2 or not deviation > 0:
        raise ValueError(f"power needs at least two pairs and a positive deviation, not {count} and {deviation!r}")
    critical = student_quantile(1 - alpha, count - 1)
    return 1.0 - float(_special().nctdtr(count - 1, effect / deviation * math.sqrt(count), critical))


MAX_EXACT = 8
"""Up to so many pairs a correlation is compared with that of all orders: the t approximation gives p = 0 if all agree,
which three pairs do in a third of all cases by chance."""


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's rank correlation; ``p`` is two-sided (exact up to eight pairs, else by the t approximation), ``None``
    for fewer than three pairs."""

    rho: float
    p: float | None
    count: int


@dataclass(frozen=True, slots=True)
class Line:
    """A least-squares line and what its uncertainty needs; the residuals' ``deviation`` is ``None`` for two points."""

    slope: float
    intercept: float
    deviation: float | None
    count: int
    centre: float
    spread: float
    """Sum of squared distances of the x from their mean ``centre``."""

    def at(self, x: float) -> float:
        return self.intercept + self.slope * x

    def band(self, x: float) -> Interval | None:
        """The confidence interval of the line (not of a new point) at ``x``; ``None`` for two points."""
        if self.deviation is None:
            return None
        error = self.deviation * math.sqrt(1 / self.count + (x - self.centre) ** 2 / self.spread)
        reach = student_quantile((1 + LEVEL) / 2, self.count - 2) * error
        return Interval(self.at(x) - reach, self.at(x) + reach, LEVEL)


def spearman(xs: Sequence[float], ys: Sequence[float]) -> Correlation:
    """Correlation of ranks, ties sharing their mean. Raises ``ValueError`` for uneven, too few or constant values."""
    _check_pairs(xs, ys)
    if min(ys) == max(ys):
        raise ValueError("ys never varies: there is no relation to measure")
    from scipy import stats  # importing it takes a second, which no service should pay at its start

    rho, p = map(float, stats.spearmanr(xs, ys))
    if len(xs) <= MAX_EXACT:
        first, second = (ranks - ranks.mean() for ranks in (stats.rankdata(xs), stats.rankdata(ys)))
        products = abs(second[_orders(len(xs))] @ first)
        p = float((products >= abs(first @ second) - 1e-9).mean())
    return Correlation(rho, p if len(xs) > 2 else None, len(xs))


@cache
def _orders(count: int) -> Any:
    """All orders of so many things, an array of shape [count!, count]."""
    import numpy as np

    return np.array(list(permutations(range(count))))


def linear_fit(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """The least-squares line through at least two points whose x differ; ``ValueError`` otherwise."""
    _check_pairs(xs, ys)
    import numpy as np

    slope, intercept = map(float, np.polynomial.polynomial.polyfit(xs, ys, 1)[::-1])
    squares = math.fsum((y - intercept - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    deviation = math.sqrt(squares / (len(xs) - 2)) if len(xs) > 2 else None
    return Line(slope, intercept, deviation, len(xs), float(np.mean(xs)), float(np.var(xs) * len(xs)))


def _check_pairs(xs: Sequence[float], ys: Sequence[float]) -> None:
    if len(xs) != len(ys) or len(xs) < 2:
        raise ValueError(f"xs and ys must be equally long and at least two, not {len(xs)} and {len(ys)}")
    if not all(math.isfinite(value) for value in (*xs, *ys)):
        raise ValueError("xs and ys must be finite; leave out what was not measured")
    if min(xs) == max(xs):
        raise ValueError("xs never varies: there is no relation to measure")
