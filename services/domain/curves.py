"""Training curves and early stopping.

There are two rules of early stopping. Quantiles compare a training with earlier ones at the same step. Extrapolation
predicts the final loss by a linear regression over the finished curves on two features at a fraction of the steps: the
loss there, and its fall since half that fraction. `asi-arch table info` measures what each rule saves and loses.
"""

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

MINIMUM_FINISHED = 8
"""Fewer finished curves determine the regression too badly."""
WINDOW = 0.1
"""Share of all steps over which a loss is averaged."""
_RIDGE = 1e-6


@dataclass(frozen=True, slots=True)
class Curve:
    """A training curve; ``final`` is the held-out loss after ``total`` steps, None for one that stopped before."""

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
        nearest = min(range(len(self.steps)), key=lambda index: abs(self.steps[index] - high))
        return self.losses[nearest]


@dataclass(frozen=True, slots=True)
class Extrapolation:
    """A regression at one fraction; ``deviation`` (nats) is that of its residuals."""

    fraction: float
    final: float
    centre: tuple[float, float]
    weights: tuple[float, float]
    deviation: float = 0.0

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
    """The regression over finished curves, ``None`` for too few. Raises ``ValueError`` for a share outside (0, 1)."""
    _check_fraction(fraction)
    moments = _Moments()
    for curve in finished:
        moments.add(*features(curve, fraction), curve.ending)
    return moments.fit(fraction)


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


def expected_ends(curves: Sequence[Curve]) -> list[float | None]:
    """Each curve's ``final``; of one without, the value predicted at its last step from those with one.

    ``final`` may be another measure than the loss, of all curves alike. ``None`` if too few have one.
    """
    finished = [curve for curve in curves if curve.final is not None]
    fractions = {curve.progress for curve in curves if curve.final is None and curve.progress < 1}
    models = {fraction: fit(finished, fraction) for fraction in fractions}
    return [
        model.predict(curve) if curve.final is None and (model := models.get(curve.progress)) else curve.final
        for curve in curves
    ]


QUANTILES = ((0.25, 0.75), (0.5, 0.5))
"""At a quarter of the steps the worst quarter is stopped, at half of them the worse half of the rest."""
MIN_COMPARED = 16
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
            if reason := _behind(curve.level(fraction), losses, fraction, quantile):
                return reason
    return None


def _behind(loss: float, earlier: Sequence[float], fraction: float, quantile: float) -> Behind | None:
    if len(earlier) < MIN_COMPARED:
        return None
    bar = sorted(earlier)[min(len(earlier) - 1, int(quantile * len(earlier)))]
    return Behind(fraction, loss, quantile, bar, len(earlier)) if loss > bar else None


def replay_quantiles(curves: Sequence[Curve], finalists: int = 10) -> StoppingReplay:
    """Replay finished trainings in order with those that fell :func:`behind` stopped there."""
    ends, stopped, undone = [curve.ending for curve in curves], list[int](), 0.0
    reached: dict[float, list[float]] = {fraction: [] for fraction, _ in QUANTILES}
    for index, curve in enumerate(curves):
        for fraction, quantile in QUANTILES:
            loss, earlier = curve.level(fraction), reached[fraction]
            reason = _behind(loss, earlier, fraction, quantile)
            insort(earlier, loss)
            if reason:
                stopped.append(index)
                undone += (1 - fraction) * curve.total
                break
    return _replay(curves, ends, stopped, undone, finalists)


def replay_stopping(
    curves: Sequence[Curve], fraction: float, finalists: int = 10, margin: float = 1.0
) -> StoppingReplay:
    """Replay finished trainings in order with extrapolation at ``fraction``, each judged by the earlier ones."""
    _check_fraction(fraction)
    ends, stopped = [curve.ending for curve in curves], list[int]()
    moments, known = _Moments(), list[float]()  # ends, or estimates of stopped ones
    for index, curve in enumerate(curves):
        point = features(curve, fraction)
        model = moments.fit(fraction)
        if model and model.predict_from(point) - margin * model.deviation > median(known):
            stopped.append(index)
            insort(known, model.predict_from(point))
        else:
            moments.add(*point, ends[index])
            insort(known, ends[index])
    undone = sum((1 - fraction) * curves[index].total for index in stopped)
    return _replay(curves, ends, stopped, undone, finalists)


def _replay(
    curves: Sequence[Curve], ends: Sequence[float], stopped: Sequence[int], undone: float, finalists: int
) -> StoppingReplay:
    best = tuple(sorted(range(len(curves)), key=lambda index: ends[index])[:finalists])
    steps = sum(curve.total for curve in curves)
    lost = tuple(index for index in best if index in set(stopped))
    return StoppingReplay(tuple(stopped), undone / steps if steps else 0.0, best, lost)


class _Moments:
    """Means, and sums of products of deviations from them, of two features and the end, updated by Welford's method.

    A replay fits once per training: over all points each time it would take minutes for ten thousand.
    """

    def __init__(self) -> None:
        self._count = 0
        self._means = [0.0] * 3
        self._products = [[0.0] * 3 for _ in range(3)]

    def add(self, *values: float) -> None:
        self._count += 1
        before = [value - mean for value, mean in zip(values, self._means, strict=True)]
        self._means = [mean + delta / self._count for mean, delta in zip(self._means, before, strict=True)]
        for row, value, mean in zip(self._products, values, self._means, strict=True):
            for column, delta in enumerate(before):
                row[column] += (value - mean) * delta

    def fit(self, fraction: float) -> Extrapolation | None:
        """The ridge regression of the end; None while there are too few points."""
        if self._count < MINIMUM_FINISHED:
            return None
        (aa, ab, ay), (_, bb, by), (_, _, yy) = self._products
        determinant = (aa + _RIDGE) * (bb + _RIDGE) - ab * ab
        first, second = ((bb + _RIDGE) * ay - ab * by) / determinant, ((aa + _RIDGE) * by - ab * ay) / determinant
        squares = (
            yy - 2 * (first * ay + second * by) + first * first * aa + 2 * first * second * ab + second * second * bb
        )
        deviation = math.sqrt(max(0.0, squares) / (self._count - 3))
        *centre, final = self._means
        return Extrapolation(fraction, final, (centre[0], centre[1]), (first, second), deviation)


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, not {fraction!r}: it is where a run may be stopped")
