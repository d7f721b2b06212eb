"""Discoveries against compute, the strongest control, and relations between stages."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from services.domain.statistics import (
    LEVEL,
    Correlation,
    Interval,
    Line,
    Noise,
    chi_square_quantile,
    linear_fit,
    normal_quantile,
    pooled_noise,
    spearman,
    student_quantile,
)

MIN_FITTED = 3
"""Fewer discoveries determine no line."""
MIN_CORRELATED = 4
"""Fisher's interval of a correlation needs one pair more than three."""


@dataclass(frozen=True, slots=True)
class Work:
    """One training; ``confirmed`` names the claim that it settled."""

    compute: float
    confirmed: str | None = None


@dataclass(frozen=True, slots=True)
class DiscoveryCurve:
    """Confirmed discoveries: id, compute spent until then, and count. ``unfitted`` is why there is no ``line``."""

    points: tuple[tuple[str, float, int], ...]
    total: float
    line: Line | None
    unfitted: str = ""


@dataclass(frozen=True, slots=True)
class StageRelation:
    """How two stages order the same candidates: rank correlation with its interval."""

    correlation: Correlation
    interval: Interval


def discovery_curve(work: Sequence[Work]) -> DiscoveryCurve:
    """The cumulative count of confirmed discoveries. Raises ``ValueError`` for work of negative compute."""
    spent, points = 0.0, list[tuple[str, float, int]]()
    for training in work:
        if not training.compute >= 0:
            raise ValueError(f"compute must not be negative, but is {training.compute!r}")
        spent += training.compute
        if training.confirmed is not None:
            points.append((training.confirmed, spent, len(points) + 1))
    if len(points) < MIN_FITTED:
        why = f"{len(points)} of {MIN_FITTED} confirmed discoveries that a line needs"
        return DiscoveryCurve(tuple(points), spent, None, why)
    try:
        line = linear_fit([x for _, x, _ in points], [float(count) for _, _, count in points])
    except ValueError:
        return DiscoveryCurve(tuple(points), spent, None, "all discoveries stood at the same moment")
    return DiscoveryCurve(tuple(points), spent, line)


@dataclass(frozen=True, slots=True)
class Control:
    """A control's mean loss over its seeds, and the ``noise`` between seeds, pooled over all controls."""

    name: str
    loss: float
    seeds: int
    noise: Noise

    def reach(self, seeds: int = 1) -> float:
        """How far below the control the mean of ``seeds`` trainings must lie to differ significantly."""
        quantile = student_quantile((1 + LEVEL) / 2, self.noise.freedom)
        return quantile * self.noise.deviation * math.sqrt(1 / self.seeds + 1 / seeds)

    def is_beaten(self, loss: float, seeds: int = 1) -> bool:
        """Whether a mean loss is significantly below the control's."""
        return loss < self.loss - self.reach(seeds)


def strongest_control(controls: Mapping[str, Sequence[float]], name: str | None = None) -> Control:
    """The named or strongest control. Raises ``ValueError`` if there is none, or no control has two seeds."""
    noise = pooled_noise(controls.values())
    if name is not None and name not in controls:
        raise ValueError(f"no control is called {name!r}; there are {', '.join(sorted(controls))}")
    chosen = name or min(sorted(controls), key=lambda control: fmean(controls[control]))
    return Control(chosen, fmean(controls[chosen]), len(controls[chosen]), noise)


@dataclass(frozen=True, slots=True)
class DiscoveryScaling:
    """Successes against compute in one or several runs: a Poisson process with N(C) ∝ C^exponent (Crow 1974).

    Below 1 successes become rarer. ``rate`` is successes per unit of compute. Intervals are exact at 95 %; the exponent
    is ``None`` for fewer than three successes.
    """

    runs: tuple[tuple[tuple[float, int], ...], ...]
    """Of each run, the compute spent until each success, and the count there."""
    totals: tuple[float, ...]
    successes: int
    rate: float
    rate_interval: Interval
    exponent: float | None
    exponent_interval: Interval | None

    def expected(self, compute: float, exponent: float | None = None) -> float:
        """The expected successes of one run up to ``compute``. Raises ``ValueError`` without an exponent."""
        power = self.exponent if exponent is None else exponent
        if power is None:
            raise ValueError(f"{self.successes} of {MIN_FITTED} successes that an exponent needs")
        runs = len(self.totals)
        return self.successes / runs * math.pow(compute * runs / math.fsum(self.totals), power)


def discovery_scaling(runs: Sequence[Sequence[tuple[float, bool]]]) -> DiscoveryScaling:
    """From the cost and success of each run's trainings, in order. Raises ``ValueError`` if nothing was spent."""
    points, totals, logs = list[tuple[tuple[float, int], ...]](), list[float](), list[float]()
    for run in runs:
        spent, reached, middles = 0.0, list[tuple[float, int]](), list[float]()
        for cost, success in run:
            spent += cost
            if success:
                reached.append((spent, len(reached) + 1))
                middles.append(spent - cost / 2)  # the ends would bias the exponent upwards
        if not spent > 0:
            raise ValueError("nothing was spent: successes need compute to be set against")
        points.append(tuple(reached))
        totals.append(spent)
        logs += [math.log(spent / at) for at in middles]
    count, total, tail = len(logs), math.fsum(totals), (1 - LEVEL) / 2
    low = chi_square_quantile(tail, 2 * count) / 2
    high = chi_square_quantile(1 - tail, 2 * count + 2) / 2
    exponent, interval = None, None
    if count >= MIN_FITTED and math.fsum(logs) > 0:
        exponent = count / math.fsum(logs)
        lower, upper = (chi_square_quantile(share, 2 * count) / (2 * count) for share in (tail, 1 - tail))
        interval = Interval(exponent * lower, exponent * upper, LEVEL)
    rate_interval = Interval(low / total, high / total, LEVEL)
    return DiscoveryScaling(tuple(points), tuple(totals), count, count / total, rate_interval, exponent, interval)


def stage_relation(earlier: Sequence[float], later: Sequence[float]) -> StageRelation:
    """Spearman's correlation of the same candidates at two stages, with Bonett & Wright's (2000) interval.

    For the interval the correlation is at most that of an order with one swap of neighbours: all of a few candidates
    are often in order by chance, and the formula would then give no width at all. With this limit, simulated coverage
    is 95 % or more from four candidates on, instead of 44 to 90 % with up to seven.

    Raises ``ValueError`` for fewer than four candidates or a stage without variation.
    """
    if len(earlier) < MIN_CORRELATED:
        raise ValueError(f"{len(earlier)} candidates were trained at both stages; {MIN_CORRELATED} are needed")
    correlation = spearman(earlier, later)
    rho, count = correlation.rho, correlation.count
    swapped = 1 - 12 / (count * (count * count - 1))
    limited = max(-swapped, min(swapped, rho))
    reach = normal_quantile((1 + LEVEL) / 2) * math.sqrt((1 + limited * limited / 2) / (count - 3))
    low, high = math.tanh(math.atanh(limited) - reach), math.tanh(math.atanh(limited) + reach)
    return StageRelation(correlation, Interval(min(low, rho), max(high, rho), LEVEL))


def partial_rank_correlation(values: Sequence[float], later: Sequence[float], control: Sequence[float]) -> float | None:
    """Spearman's partial correlation given ``control``; ``None`` if one never varies or it determines another."""
    try:
        direct, first, second = (spearman(*pair).rho for pair in ((values, later), (values, control), (control, later)))
    except ValueError:
        return None
    rest = (1 - first**2) * (1 - second**2)
    return (direct - first * second) / math.sqrt(rest) if rest > 1e-12 else None
