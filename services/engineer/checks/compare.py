"""Comparison of two outputs, relative to their size; values that are non-finite in both count as equal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.engineer.checks.report import JSON

Values = NDArray[np.floating[Any]]
_FLOOR = 1e-12  # the size of an all-zero output, such as that of a zero-initialised projection


def size_of(values: Values) -> float:
    """Root mean square of the finite values, at least a small floor."""
    finite = values[np.isfinite(values)].astype(np.float64)
    return max(float(np.sqrt(np.mean(finite**2))), _FLOOR) if finite.size else _FLOOR


def gaps(left: Values, right: Values) -> NDArray[np.float64]:
    """Absolute differences in double precision; 0 where both are non-finite, infinity where only one is."""
    left_finite, right_finite = np.isfinite(left), np.isfinite(right)
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(left.astype(np.float64) - right.astype(np.float64))
    return np.where(left_finite & right_finite, distance, np.where(left_finite | right_finite, math.inf, 0.0))


@dataclass(frozen=True)
class Gap:
    """The largest relative difference between two outputs, its position, and the number of positions that differ."""

    relative: float
    position: int
    positions: int

    def evidence(self) -> dict[str, JSON]:
        return {
            "relative_difference": number(self.relative),
            "position": self.position,
            "positions_affected": self.positions,
        }


def largest_gap(left: Values, right: Values, tolerance: float) -> Gap:
    """Compare two outputs [..., length, width]; `positions` counts those that differ by more than `tolerance`."""
    size = min(size_of(left), size_of(right)) if left.size else _FLOOR
    by_position = gaps(left, right).max(axis=-1).reshape(-1, left.shape[-2]).max(axis=0) / size
    position = int(by_position.argmax())
    return Gap(float(by_position[position]), position, int((by_position > tolerance).sum()))


def other_shape(output: Sequence[int], inputs: Sequence[int]) -> str:
    """The message on an output that does not have the shape of the input."""
    shapes = f"the output has shape {tuple(output)} for an input of shape {tuple(inputs)}"
    return f"{shapes}: forward takes and returns [batch, length, width]"


def relative_gap(expected: NDArray[Any], value: NDArray[Any], floor: float) -> float:
    """The largest difference relative to the largest expected value, which is taken as at least `floor`.

    Infinite for another shape, and for values that are not finite.
    """
    if value.shape != expected.shape or not np.isfinite(value).all():
        return math.inf
    distance = np.abs(np.subtract(value, expected, dtype=np.float64)).max(initial=0.0)
    return float(distance) / max(float(np.abs(expected).max(initial=0.0)), floor)


def number(value: float) -> JSON:
    """A float as JSON with three significant digits; text for NaN and infinity."""
    if math.isnan(value):
        return "not a number"
    return float(f"{value:.3g}") if math.isfinite(value) else "infinite"


def exponent(costs: Sequence[float]) -> float:
    """The growth exponent from the last three costs, at doubling lengths: log2 of the ratio of their increments."""
    before, middle, last = costs[-3:]
    if last <= middle:
        return 0.0
    if middle <= before:
        return math.log2(last / middle) if middle else math.inf
    return math.log2((last - middle) / (middle - before))
