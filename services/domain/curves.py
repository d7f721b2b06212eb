"""Discoveries against compute, and whether one stage predicts the next: what a run's own record says about both."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.domain.distributions import normal_quantile
from services.domain.regression import Correlation, Line, linear_fit, spearman
from services.domain.statistics import LEVEL, Interval

LEAST_FITTED = 3
"""Fewer discoveries than this lie on a line whatever they are."""
LEAST_CORRELATED = 4
"""Fisher's interval of a correlation needs one pair more than three."""


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of paid work, in the order in which it was paid for; ``confirmed`` names the claim that it settled."""

    compute: float
    confirmed: str | None = None


@dataclass(frozen=True, slots=True)
class DiscoveryCurve:
    """Confirmed discoveries against the compute spent until each stood, in the unit of the work.

    ``line`` is the least-squares line through the discoveries; ``unfitted`` says why there is none.
    """

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
    for one in work:
        if not one.compute >= 0:
            raise ValueError(f"compute must not be negative, but is {one.compute!r}")
        spent += one.compute
        if one.confirmed is not None:
            points.append((one.confirmed, spent, len(points) + 1))
    if len(points) < LEAST_FITTED:
        why = f"{len(points)} of {LEAST_FITTED} confirmed discoveries that a line needs"
        return DiscoveryCurve(tuple(points), spent, None, why)
    try:
        line = linear_fit([x for _, x, _ in points], [float(count) for _, _, count in points])
    except ValueError:
        return DiscoveryCurve(tuple(points), spent, None, "all discoveries stood at the same moment")
    return DiscoveryCurve(tuple(points), spent, line)


def stage_relation(earlier: Sequence[float], later: Sequence[float], level: float = LEVEL) -> StageRelation:
    """Spearman's correlation of the same candidates at two stages, with Fisher's interval.

    The interval uses Bonett & Wright's (2000) variance (1 + ρ²/2) / (n − 3). Raises ``ValueError`` for fewer than four
    candidates or a stage at which all are alike.
    """
    if len(earlier) < LEAST_CORRELATED:
        raise ValueError(f"{len(earlier)} candidates were trained at both stages; {LEAST_CORRELATED} are needed")
    found = spearman(earlier, later)
    rho = max(-1 + 1e-12, min(1 - 1e-12, found.rho))
    reach = normal_quantile((1 + level) / 2) * math.sqrt((1 + rho * rho / 2) / (found.count - 3))
    centre = math.atanh(rho)
    return StageRelation(found, Interval(math.tanh(centre - reach), math.tanh(centre + reach), level))
