"""Rank correlation, a straight line with its band, and small least squares, all from their definitions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.domain.distributions import student_quantile, student_survival
from services.domain.statistics import LEVEL, Interval


@dataclass(frozen=True, slots=True)
class Correlation:
    """Spearman's rank correlation; ``p`` is two-sided (t approximation), ``None`` for fewer than three pairs."""

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
        """The line's value at ``x``."""
        return self.intercept + self.slope * x

    def band(self, x: float, level: float = LEVEL) -> Interval | None:
        """The confidence interval of the line (not of a new point) at ``x``; ``None`` for two points."""
        if self.deviation is None:
            return None
        error = self.deviation * math.sqrt(1 / self.count + (x - self.centre) ** 2 / self.spread)
        reach = student_quantile((1 + level) / 2, self.count - 2) * error
        return Interval(self.at(x) - reach, self.at(x) + reach, level)


def spearman(xs: Sequence[float], ys: Sequence[float]) -> Correlation:
    """Correlation of the ranks, ties sharing their mean rank.

    Raises ``ValueError`` for unequal lengths, fewer than two pairs, or a side that never varies (no order to compare).
    """
    _check_pairs(xs, ys)
    a, b = _ranks(xs), _ranks(ys)
    rho = _covariance(a, b) / math.sqrt(_varied("xs", a) * _varied("ys", b))
    rho = max(-1.0, min(1.0, rho))
    return Correlation(rho, _correlation_p(rho, len(xs)), len(xs))


def linear_fit(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """The least-squares line through at least two points whose x differ; ``ValueError`` otherwise."""
    _check_pairs(xs, ys)
    centre, middle, spread = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys), _varied("xs", xs)
    slope = _covariance(xs, ys) / spread
    intercept = middle - slope * centre
    squares = math.fsum((y - intercept - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    deviation = math.sqrt(squares / (len(xs) - 2)) if len(xs) > 2 else None
    return Line(slope, intercept, deviation, len(xs), centre, spread)


def least_squares(rows: Sequence[Sequence[float]], targets: Sequence[float], ridge: float = 0.0) -> list[float]:
    """The weights w that minimise Σ(row·w − target)² + ridge·|w|², by the normal equations.

    Meant for a handful of centred columns. Raises ``ValueError`` when the columns do not determine the weights.
    """
    width = len(rows[0]) if rows else 0
    if not width or len(rows) != len(targets) or any(len(row) != width for row in rows):
        raise ValueError("rows must be equally long, and as many as targets")
    matrix = [[math.fsum(row[i] * row[j] for row in rows) for j in range(width)] for i in range(width)]
    for place in range(width):
        matrix[place][place] += ridge
    right = [math.fsum(row[i] * target for row, target in zip(rows, targets, strict=True)) for i in range(width)]
    return _solve(matrix, right)


def _solve(matrix: list[list[float]], right: list[float]) -> list[float]:
    """Gaussian elimination with partial pivoting, of a small system."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    scale = max(abs(value) for row in matrix for value in row) or 1.0
    for place in range(len(rows)):
        pivot = max(range(place, len(rows)), key=lambda row: abs(rows[row][place]))
        if abs(rows[pivot][place]) <= 1e-13 * scale:
            raise ValueError("rows: the columns depend on each other, so the weights are not determined")
        rows[place], rows[pivot] = rows[pivot], rows[place]
        rows[place] = [value / rows[place][place] for value in rows[place]]
        for other in set(range(len(rows))) - {place}:
            factor = rows[other][place]
            rows[other] = [a - factor * b for a, b in zip(rows[other], rows[place], strict=True)]
    return [row[-1] for row in rows]


def _check_pairs(xs: Sequence[float], ys: Sequence[float]) -> None:
    if len(xs) != len(ys) or len(xs) < 2:
        raise ValueError(f"xs and ys must be equally long and at least two, not {len(xs)} and {len(ys)}")
    if not all(math.isfinite(value) for value in (*xs, *ys)):
        raise ValueError("xs and ys must be finite; leave out what was not measured")


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(values)
    first = {value: place for place, value in reversed(list(enumerate(order)))}
    last = {value: place for place, value in enumerate(order)}
    return [(first[value] + last[value]) / 2 + 1 for value in values]


def _covariance(xs: Sequence[float], ys: Sequence[float]) -> float:
    centre, middle = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    return math.fsum((x - centre) * (y - middle) for x, y in zip(xs, ys, strict=True))


def _varied(field: str, values: Sequence[float]) -> float:
    spread = _covariance(values, values)
    if spread <= 0:
        raise ValueError(f"{field} never varies: there is no relation to measure")
    return spread


def _correlation_p(rho: float, count: int) -> float | None:
    if count < 3:
        return None
    if abs(rho) == 1:
        return 0.0
    return 2 * student_survival(abs(rho) * math.sqrt((count - 2) / (1 - rho * rho)), count - 2)
