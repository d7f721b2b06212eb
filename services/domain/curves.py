"""Discoveries against compute, relations between stages, and early stopping.

There are two rules of early stopping. Quantiles compare a training with earlier ones at the same step. Extrapolation
predicts the final loss by a linear regression over the finished curves on two features at a fraction of the steps: the
loss there, and its fall since half that fraction. `asi-arch table info` measures what each rule saves and loses.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from services.domain.statistics import (
    LEVEL,
    Correlation,
    Interval,
    Line,
    Noise,
    chi_square_quantile,
    least_squares,
    linear_fit,
    normal_quantile,
    pooled_noise,
    spearman,
    student_quantile,
)

LEAST_FITTED = 3
"""Fewer discoveries determine no line."""
LEAST_CORRELATED = 4
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
    if len(points) < LEAST_FITTED:
        why = f"{len(points)} of {LEAST_FITTED} confirmed discoveries that a line needs"
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

    def reach(self, seeds: int = 1, level: float = LEVEL) -> float:
        """How far below the control the mean of ``seeds`` trainings must lie to differ significantly."""
        quantile = student_quantile((1 + level) / 2, self.noise.freedom)
        return quantile * self.noise.deviation * math.sqrt(1 / self.seeds + 1 / seeds)

    def is_beaten(self, loss: float, seeds: int = 1) -> bool:
        """Whether a mean loss is significantly below the control's."""
        return loss < self.loss - self.reach(seeds)


def strongest_control(controls: Mapping[str, Sequence[float]], name: str | None = None) -> Control:
    """The control with the lowest mean loss, or the one with the name. ``controls`` holds losses by seed.

    Raises ``ValueError`` if no control has two seeds, or none has the name.
    """
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
            raise ValueError(f"{self.successes} of {LEAST_FITTED} successes that an exponent needs")
        runs = len(self.totals)
        return self.successes / runs * math.pow(compute * runs / math.fsum(self.totals), power)


def discovery_scaling(runs: Sequence[Sequence[tuple[float, bool]]], level: float = LEVEL) -> DiscoveryScaling:
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
    count, total, tail = len(logs), math.fsum(totals), (1 - level) / 2
    low = chi_square_quantile(tail, 2 * count) / 2
    high = chi_square_quantile(1 - tail, 2 * count + 2) / 2
    exponent, interval = None, None
    if count >= LEAST_FITTED and math.fsum(logs) > 0:
        exponent = count / math.fsum(logs)
        least, most = (chi_square_quantile(share, 2 * count) / (2 * count) for share in (tail, 1 - tail))
        interval = Interval(exponent * least, exponent * most, level)
    rate_interval = Interval(low / total, high / total, level)
    return DiscoveryScaling(tuple(points), tuple(totals), count, count / total, rate_interval, exponent, interval)


def stage_relation(earlier: Sequence[float], later: Sequence[float], level: float = LEVEL) -> StageRelation:
    """Spearman's correlation of the same candidates at two stages, with Bonett & Wright's (2000) interval.

    Raises ``ValueError`` for fewer than four candidates or a stage without variation.
    """
    if len(earlier) < LEAST_CORRELATED:
        raise ValueError(f"{len(earlier)} candidates were trained at both stages; {LEAST_CORRELATED} are needed")
    correlation = spearman(earlier, later)
    rho = max(-1 + 1e-12, min(1 - 1e-12, correlation.rho))
    reach = normal_quantile((1 + level) / 2) * math.sqrt((1 + rho * rho / 2) / (correlation.count - 3))
    centre = math.atanh(rho)
    return StageRelation(correlation, Interval(math.tanh(centre - reach), math.tanh(centre + reach), level))


def partial_rank_correlation(values: Sequence[float], later: Sequence[float], control: Sequence[float]) -> float | None:
    """Spearman's partial correlation of ``values`` and ``later`` given ``control``.

    ``None`` if one never varies or ``control`` determines another.
    """
    try:
        direct, first, second = (spearman(*pair).rho for pair in ((values, later), (values, control), (control, later)))
    except ValueError:
        return None
    rest = (1 - first**2) * (1 - second**2)
    return (direct - first * second) / math.sqrt(rest) if rest > 1e-12 else None


MINIMUM_FINISHED = 8
"""Fewer finished curves determine the regression too badly."""
WINDOW = 0.1
"""Share of all steps over which a loss is averaged."""
_RIDGE = 1e-6


@dataclass(frozen=True, slots=True)
class Curve:
    """A training curve with the ``total`` steps of a whole training.

    ``final`` is the held-out loss of a whole training; None for one that has not ended, or was stopped.
    """

    steps: tuple[int, ...]
    losses: tuple[float, ...]
    total: int
    final: float | None = None

    def __post_init__(self) -> None:
        if not self.steps or len(self.steps) != len(self.losses):
            raise ValueError(f"curve needs as many losses as steps, not {len(self.losses)} and {len(self.steps)}")
        if any(later <= earlier for earlier, later in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError("curve.steps must increase")
        if not all(math.isfinite(loss) for loss in self.losses):
            raise ValueError("curve.losses must be finite; a diverged run is rejected, not extrapolated")
        if self.final is not None and not math.isfinite(self.final):
            raise ValueError("curve.final must be finite; leave it out when nothing was scored")
        if self.total < self.steps[-1]:
            raise ValueError(f"curve.total ({self.total}) is below its last step ({self.steps[-1]})")

    @property
    def progress(self) -> float:
        """The share of steps done."""
        return self.steps[-1] / self.total

    @property
    def ending(self) -> float:
        """The held-out loss, else the mean training loss of the last steps."""
        return self.level(1.0) if self.final is None else self.final

    def level(self, fraction: float) -> float:
        """The mean loss of the last tenth of all steps before ``fraction`` (the nearest point if none lies there)."""
        high = fraction * self.total
        low = high - WINDOW * self.total
        inside = [loss for step, loss in zip(self.steps, self.losses, strict=True) if low < step <= high]
        if inside:
            return math.fsum(inside) / len(inside)
        nearest = min(range(len(self.steps)), key=lambda place: abs(self.steps[place] - high))
        return self.losses[nearest]


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """A regression at one fraction; ``deviation`` (nats) is that of its residuals."""

    fraction: float
    final: float
    centre: tuple[float, float]
    weights: tuple[float, float]
    deviation: float

    def predict(self, curve: Curve) -> float:
        """The predicted final loss (nats)."""
        return self.predict_from(features(curve, self.fraction))

    def predict_from(self, values: tuple[float, float]) -> float:
        """The predicted final loss from :func:`features`."""
        return self.final + sum(
            weight * (value - centre) for weight, value, centre in zip(self.weights, values, self.centre, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Forecast:
    """Predicted final loss, the fit's residual deviation, and the median to beat (all nats)."""

    predicted: float
    deviation: float
    bar: float
    finished: int

    def hopeless(self, margin: float = 1.0) -> bool:
        """Whether it misses the median by more than ``margin`` deviations."""
        return self.predicted - margin * self.deviation > self.bar


@dataclass(frozen=True, slots=True)
class StoppingReplay:
    """The effect of stopping on finished trainings, by index. ``saved`` is the share of all steps."""

    stopped: tuple[int, ...]
    saved: float
    finalists: tuple[int, ...]
    lost: tuple[int, ...]


def features(curve: Curve, fraction: float) -> tuple[float, float]:
    """The loss at ``fraction`` and how far it has fallen since half that way."""
    here = curve.level(fraction)
    return here, curve.level(fraction / 2) - here


def fit(finished: Sequence[Curve], fraction: float) -> Extrapolation | None:
    """The regression over finished curves, or ``None`` while there are fewer than :data:`MINIMUM_FINISHED`.

    Raises ``ValueError`` for a fraction outside (0, 1).
    """
    _check_fraction(fraction)
    return _fit([features(curve, fraction) for curve in finished], [curve.ending for curve in finished], fraction)


def forecast(
    finished: Sequence[Curve], unfinished: Curve, fraction: float, stopped: Sequence[Curve] = ()
) -> Forecast | None:
    """The forecast of a training at ``fraction``; ``None`` before it, or if too few others have finished.

    Trainings that were ``stopped`` count in the median with their predicted ends, else each stop would raise it.
    """
    model = fit(finished, fraction)
    if model is None or unfinished.progress < fraction:
        return None
    estimates = [model.predict(other) for other in stopped if other.progress >= fraction]
    bar = median([*(curve.ending for curve in finished), *estimates])
    return Forecast(model.predict(unfinished), model.deviation, bar, len(finished))


QUANTILES = ((0.25, 0.75), (0.5, 0.5))
"""At a quarter of the steps the worst quarter is stopped, at half of them the worse half of the rest."""
LEAST_COMPARED = 16
"""Quantiles need at least as many trainings."""


@dataclass(frozen=True, slots=True)
class Behind:
    """A training whose loss at a fraction of the steps exceeds a quantile of the earlier ones'."""

    fraction: float
    loss: float
    quantile: float
    bar: float
    compared: int


def behind(curve: Curve, earlier: Sequence[Curve]) -> Behind | None:
    """Where a training has fallen behind; None if it has not, or too few are known."""
    for fraction, quantile in QUANTILES:
        if curve.progress >= fraction:
            losses = [other.level(fraction) for other in earlier if other.progress >= fraction]
            reason = _behind(curve.level(fraction), losses, fraction, quantile)
            if reason:
                return reason
    return None


def _behind(loss: float, earlier: Sequence[float], fraction: float, quantile: float) -> Behind | None:
    if len(earlier) < LEAST_COMPARED:
        return None
    bar = sorted(earlier)[min(len(earlier) - 1, int(quantile * len(earlier)))]
    return Behind(fraction, loss, quantile, bar, len(earlier)) if loss > bar else None


def replay_quantiles(curves: Sequence[Curve], finalists: int = 10) -> StoppingReplay:
    """Replay finished trainings in order with those that fell :func:`behind` stopped there."""
    ends, stopped, undone = [curve.ending for curve in curves], list[int](), 0.0
    reached: dict[float, list[float]] = {fraction: [] for fraction, _ in QUANTILES}
    for place, curve in enumerate(curves):
        for fraction, quantile in QUANTILES:
            loss, earlier = curve.level(fraction), reached[fraction]
            reason = _behind(loss, earlier, fraction, quantile)
            earlier.append(loss)
            if reason:
                stopped.append(place)
                undone += (1 - fraction) * curve.total
                break
    return _replay(curves, ends, stopped, undone, finalists)


def replay_stopping(
    curves: Sequence[Curve], fraction: float, finalists: int = 10, margin: float = 1.0
) -> StoppingReplay:
    """Replay finished trainings in order with extrapolation at ``fraction``, each judged by the earlier ones."""
    _check_fraction(fraction)
    ends, stopped = [curve.ending for curve in curves], list[int]()
    inputs, finished, estimates = list[tuple[float, float]](), list[float](), list[float]()
    for place, curve in enumerate(curves):
        point = features(curve, fraction)
        model = _fit(inputs, finished, fraction)
        if model and model.predict_from(point) - margin * model.deviation > median([*finished, *estimates]):
            stopped.append(place)
            estimates.append(model.predict_from(point))
        else:
            inputs.append(point)
            finished.append(ends[place])
    undone = sum((1 - fraction) * curves[place].total for place in stopped)
    return _replay(curves, ends, stopped, undone, finalists)


def _replay(
    curves: Sequence[Curve], ends: Sequence[float], stopped: Sequence[int], undone: float, finalists: int
) -> StoppingReplay:
    best = tuple(sorted(range(len(curves)), key=lambda place: ends[place])[:finalists])
    steps = sum(curve.total for curve in curves)
    lost = tuple(place for place in best if place in set(stopped))
    return StoppingReplay(tuple(stopped), undone / steps if steps else 0.0, best, lost)


def _fit(points: Sequence[tuple[float, float]], ends: Sequence[float], fraction: float) -> Extrapolation | None:
    if len(points) < MINIMUM_FINISHED:
        return None
    count = len(points)
    centre = (math.fsum(point[0] for point in points) / count, math.fsum(point[1] for point in points) / count)
    final = math.fsum(ends) / count
    rows = [(level - centre[0], fall - centre[1]) for level, fall in points]
    first, second = least_squares(rows, [end - final for end in ends], _RIDGE)
    model = Extrapolation(fraction, final, centre, (first, second), 0.0)
    squares = math.fsum((end - model.predict_from(point)) ** 2 for point, end in zip(points, ends, strict=True))
    return Extrapolation(fraction, final, centre, (first, second), math.sqrt(squares / (count - 3)))


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, not {fraction!r}: it is where a run may be stopped")
