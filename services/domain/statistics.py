"""Means, paired tests and intervals over seeds and evaluation items. Randomness is an argument; nothing needs numpy.

A difference is positive where the candidate is better. One seed has no standard error: that is ``None``, not zero.
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from services.domain.distributions import (
    noncentral_student_survival,
    normal_quantile,
    normal_survival,
    student_quantile,
    student_survival,
)

LEVEL = 0.95
RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its standard error, which is ``None`` for a single value."""

    mean: float
    standard_error: float | None
    count: int


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval and its level (0.95 means 95%)."""

    low: float
    high: float
    level: float

    @property
    def crosses_zero(self) -> bool:
        """Whether nothing may be called better or worse."""
        return self.low <= 0 <= self.high


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

    def interval(self, level: float = LEVEL) -> Interval:
        """The two-sided interval around the effect."""
        reach = student_quantile((1 + level) / 2, self.freedom) * self.standard_error
        return Interval(self.effect - reach, self.effect + reach, level)


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error. Raises ``ValueError`` for no values or one that is not finite."""
    mean = _mean(values)
    if len(values) < 2:
        return Estimate(mean, None, 1)
    return Estimate(mean, noise(values).deviation / math.sqrt(len(values)), len(values))


def noise(values: Sequence[float]) -> Noise:
    """The sample deviation of at least two values."""
    return pooled_noise([values])


def pooled_noise(groups: Iterable[Sequence[float]]) -> Noise:
    """One deviation from several groups with means of their own; groups of one value say nothing and are passed over.

    It holds where the groups' true deviations are alike. Raises ``ValueError`` when no group has two values.
    """
    squares, freedom = 0.0, 0
    for group in groups:
        mean = _mean(group)
        squares += math.fsum((value - mean) ** 2 for value in group)
        freedom += len(group) - 1
    if freedom < 1:
        raise ValueError("values: a deviation needs at least two values under the same conditions; add seeds")
    return Noise(math.sqrt(squares / freedom), freedom)


def differences(ours: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """``theirs − ours`` over the seeds both have, in seed order: positive where our loss is lower.

    Raises ``ValueError`` when they have no seed in common.
    """
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise ValueError("seeds: nothing to pair, for the two have no seed in common; train both with the same seeds")
    return [theirs[seed] - ours[seed] for seed in shared]


def paired_test(gains: Sequence[float], known: Noise | None = None) -> PairedTest:
    """Test that the mean of paired differences is positive.

    ``known`` replaces the sample's own deviation by a pooled one, whose degrees of freedom it then uses.
    Without any scatter the t is infinite (or 0 for no difference at all, with p = 1: nothing speaks for a gain).
    """
    mean, spread = _mean(gains), known or noise(gains)
    error = spread.deviation / math.sqrt(len(gains))
    if error == 0:
        t = math.copysign(math.inf, mean) if mean else 0.0
        return PairedTest(mean, 0.0, t, spread.freedom, 0.0 if mean > 0 else 1.0, len(gains))
    t = mean / error
    return PairedTest(mean, error, t, spread.freedom, student_survival(t, spread.freedom), len(gains))


def normal_test(effect: float, standard_error: float) -> float:
    """One-sided p of a positive effect whose standard error is known well (many items)."""
    if not standard_error > 0:
        raise ValueError(f"standard_error must be positive, not {standard_error!r}")
    return normal_survival(effect / standard_error)


def normal_interval(mean: float, standard_error: float, level: float = LEVEL) -> Interval:
    """The interval of a mean whose standard error is known well (many items)."""
    reach = normal_quantile((1 + level) / 2) * standard_error
    return Interval(mean - reach, mean + reach, level)


def with_seed_noise(items: Interval, between: Noise, seeds: int) -> Interval:
    """An interval over items alone, widened by what other seeds would have given.

    ``between`` is the deviation of one model's mean loss from seed to seed; a difference of two has √2 of it, or less
    where the seeds are paired: so this is wide rather than narrow. The two half-widths are added in quadrature.
    """
    reach = student_quantile((1 + items.level) / 2, between.freedom) * between.deviation * math.sqrt(2 / seeds)
    middle, half = (items.low + items.high) / 2, math.hypot((items.high - items.low) / 2, reach)
    return Interval(middle - half, middle + half, items.level)


def bootstrap(
    gains: Sequence[Sequence[float]],
    rng: random.Random,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    shared_items: bool = True,
) -> Interval:
    """The paired bootstrap interval of the mean difference, over seeds and, within them, items.

    ``gains[seed][item]`` is one paired difference. ``shared_items`` says that every seed was evaluated on the same
    items, so one draw of items serves all seeds (items that favour a model favour it under every seed); otherwise
    each seed draws its own. The percentiles are widened for few seeds (Hesterberg 2015, "expanded percentile
    interval"), since resampling three seeds alone is far too sure of itself. With one seed it speaks about the items
    only. Raises ``ValueError`` for empty or uneven rows and for an impossible level or number of resamples.
    """
    _check_rows(gains, shared_items)
    if not 0 < level < 1 or resamples < 2:
        raise ValueError(f"level must be in (0, 1) and resamples at least 2, not {level!r} and {resamples!r}")
    means = sorted(_resample(gains, rng, shared_items) for _ in range(resamples))
    tail = _expanded_tail((1 - level) / 2, len(gains))
    return Interval(_percentile(means, tail), _percentile(means, 1 - tail), level)


def power(effect: float, deviation: float, count: int, alpha: float = 0.05) -> float:
    """The chance that the paired test with ``count`` pairs finds a true ``effect`` at level ``alpha`` (one-sided).

    ``deviation`` is that of one paired difference.
    """
    if count < 2 or not deviation > 0:
        raise ValueError(f"power needs at least two pairs and a positive deviation, not {count} and {deviation!r}")
    critical = student_quantile(1 - alpha, count - 1)
    return noncentral_student_survival(critical, count - 1, effect / deviation * math.sqrt(count))


def seeds_needed(effect: float, deviation: float, alpha: float = 0.05, wanted: float = 0.8, most: int = 1000) -> int:
    """The fewest pairs with which :func:`power` reaches ``wanted``. Raises ``ValueError`` when ``most`` do not."""
    for count in range(2, most + 1):
        if power(effect, deviation, count, alpha) >= wanted:
            return count
    raise ValueError(f"effect {effect!r} is too small: even {most} seeds do not reach a power of {wanted}")


def _mean(values: Sequence[float]) -> float:
    if not values:
        raise ValueError("values is empty: there is nothing to average")
    if not all(math.isfinite(value) for value in values):
        raise ValueError("values holds a number that is not finite; leave out what was not measured")
    return math.fsum(values) / len(values)


def _check_rows(rows: Sequence[Sequence[float]], shared: bool) -> None:
    _mean([_mean(row) for row in rows])
    if shared and len({len(row) for row in rows}) > 1:
        raise ValueError("gains: the seeds have different numbers of items; pair them, or say shared_items=False")


def _resample(rows: Sequence[Sequence[float]], rng: random.Random, shared: bool) -> float:
    drawn = rng.choices(rows, k=len(rows))
    if shared:
        items = rng.choices(range(len(rows[0])), k=len(rows[0]))
        return sum(sum(map(row.__getitem__, items)) for row in drawn) / (len(items) * len(drawn))
    return sum(sum(rng.choices(row, k=len(row))) / len(row) for row in drawn) / len(drawn)


def _expanded_tail(tail: float, count: int) -> float:
    if count < 2:
        return tail
    return normal_survival(math.sqrt(count / (count - 1)) * student_quantile(1 - tail, count - 1))


def _percentile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
