"""Predicting a curve's end from its beginning, by regression on the curves of finished trainings.

On published 340M curves such a regression had a rank correlation with the final order of 0.75 at 25% of the steps, 0.89
at 50% and 0.98 at 60% (raw loss: 0.41, 0.80, 0.92). It is a policy, switched on per run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

LEAST_FINISHED = 8
"""Below this many finished curves no prediction is made: the fit would be noise."""


@dataclass(frozen=True)
class Curve:
    """A finished training: (share of the steps, training loss) rising in share, and the final held-out loss."""

    points: tuple[tuple[float, float], ...]
    final: float


@dataclass(frozen=True)
class Prediction:
    """A predicted final loss and the residual standard deviation of the fit, nats per token."""

    loss: float
    deviation: float


def predict(points: Sequence[tuple[float, float]], finished: Sequence[Curve]) -> Prediction | None:
    """Ridge regression of the final loss on the level now and the slope over the second half of what was seen.

    None with fewer than `LEAST_FINISHED` finished curves that cover the same share of the steps.
    """
    share = points[-1][0] if points else 0.0
    usable = [curve for curve in finished if curve.points and curve.points[-1][0] >= share]
    if share <= 0 or len(usable) < LEAST_FINISHED:
        return None
    features = np.array([_features(curve.points, share) for curve in usable])
    finals = np.array([curve.final for curve in usable])
    centre, middle = features.mean(axis=0), finals.mean()
    spread = np.maximum(features.std(axis=0), 1e-9)
    x = (features - centre) / spread
    weights = np.linalg.solve(x.T @ x + np.eye(2), x.T @ (finals - middle))
    residuals = finals - middle - x @ weights
    now = (np.array(_features(points, share)) - centre) / spread
    return Prediction(float(middle + now @ weights), float(np.sqrt((residuals**2).sum() / (len(finals) - 3))))


def predicted_to_end_worse(points: Sequence[tuple[float, float]], finished: Sequence[Curve]) -> str | None:
    """A sentence if the end is predicted above the median of the finished by more than the fit's own deviation."""
    prediction = predict(points, finished)
    if prediction is None:
        return None
    bar = median(curve.final for curve in finished)
    if prediction.loss - prediction.deviation <= bar:
        return None
    return (
        f"At {points[-1][0]:.0%} of the steps the final loss is predicted to be {prediction.loss:.3f} "
        f"± {prediction.deviation:.3f}, above the median {bar:.3f} of {len(finished)} finished trainings."
    )


def _features(points: Sequence[tuple[float, float]], share: float) -> tuple[float, float]:
    shares, losses = np.array([p[0] for p in points]), np.array([p[1] for p in points])
    now, halfway = np.interp([share, share / 2], shares, losses)
    return float(now), float(now - halfway)
