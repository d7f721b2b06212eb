"""The normal and Student's t distribution, as far as the tests need them; checked against published tables."""

import functools
import math
from statistics import NormalDist

_NORMAL = NormalDist()
_STEPS = 400
"""Intervals of Simpson's rule; the power then agrees with published tables to four digits."""


def normal_survival(z: float) -> float:
    """P(Z > z) of the standard normal distribution, accurate far into the tail."""
    return math.erfc(z / math.sqrt(2)) / 2


def normal_quantile(share: float) -> float:
    """The z with P(Z ≤ z) = ``share``."""
    return _NORMAL.inv_cdf(share)


def student_survival(t: float, freedom: float) -> float:
    """P(T > t) of Student's t distribution with ``freedom`` > 0 degrees of freedom."""
    if freedom <= 0:
        raise ValueError(f"freedom must be positive, not {freedom!r}: a test needs at least two observations")
    tail = incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2
    return tail if t >= 0 else 1 - tail


@functools.lru_cache(maxsize=1024)
def student_quantile(share: float, freedom: float) -> float:
    """The t with P(T ≤ t) = ``share``, found by bisection. Raises ``ValueError`` for a share outside (0, 1)."""
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, not {share!r}")
    if share < 0.5:
        return -student_quantile(1 - share, freedom)
    low, high = 0.0, 1.0
    while student_survival(high, freedom) > 1 - share:
        high *= 2
    while high - low > 1e-12 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if student_survival(middle, freedom) > 1 - share else (low, middle)
    return (low + high) / 2


def noncentral_student_survival(t: float, freedom: float, shift: float) -> float:
    """P((Z + shift) / √(χ²/freedom) > t): the power of a t-test whose true effect is ``shift`` standard errors.

    Integrates the normal tail over the distribution of the estimated deviation (as a share of the true one).
    """
    highest = 1 + 12 / math.sqrt(2 * freedom)
    width = highest / _STEPS
    total = 0.0
    for step in range(_STEPS + 1):
        ratio = step * width
        weight = 1 if step in (0, _STEPS) else 4 if step % 2 else 2
        total += weight * _deviation_density(ratio, freedom) * normal_survival(t * ratio - shift)
    return min(1.0, total * width / 3)


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b) for 0 ≤ x ≤ 1, by its continued fraction (DLMF 8.17.22)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    return front / a / _continued_fraction(a, b, x)


def _continued_fraction(a: float, b: float, x: float) -> float:
    """1 + d₁/(1 + d₂/(1 + …)), evaluated from the end: 200 terms are far past convergence on this side of the mean."""
    value = 1.0
    for n in range(200, 0, -1):
        m = n // 2
        if n % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        value = 1 + d / value
    return value


def _deviation_density(ratio: float, freedom: float) -> float:
    """Density of √(χ²/freedom) at ``ratio``."""
    if ratio == 0:
        return math.sqrt(2 / math.pi) if freedom == 1 else 0.0
    half = freedom / 2
    logarithm = half * math.log(half) - math.lgamma(half) + (freedom - 1) * math.log(ratio) - half * ratio * ratio
    return 2 * math.exp(logarithm)
