"""How two answers are compared: relative to their own size, and blind to values that are non-finite in both."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from services.engineer.checks.report import JSON

_FLOOR = 1e-12  # an all-zero output (a zero-initialised projection) has no size to be relative to


def size_of(values: Tensor) -> float:
    """Root mean square of the finite values; a small floor where there are none."""
    finite = values[values.isfinite()].double()
    return max(float(finite.pow(2).mean().sqrt()), _FLOOR) if finite.numel() else _FLOOR


def gaps(left: Tensor, right: Tensor) -> Tensor:
    """Absolute differences in double precision; 0 where both are non-finite, infinite where only one is."""
    finite = left.isfinite() & right.isfinite()
    distance = (left.detach().double() - right.detach().double()).abs()
    alike = ~(left.isfinite() | right.isfinite())
    return torch.where(finite, distance, torch.where(alike, 0.0, math.inf))


@dataclass(frozen=True)
class Gap:
    """The largest difference between two outputs [..., length, width], relative to their size, and where it is."""

    relative: float
    position: int
    positions: int

    def evidence(self) -> dict[str, JSON]:
        """As evidence: the magnitude, where it is largest, and how many positions differ at all."""
        return {
            "relative_difference": number(self.relative),
            "position": self.position,
            "positions_affected": self.positions,
        }


def largest_gap(left: Tensor, right: Tensor, tolerance: float) -> Gap:
    """Compares two outputs [..., length, width]; `positions` counts those that differ by more than `tolerance`."""
    size = min(size_of(left), size_of(right)) if left.numel() else _FLOOR
    by_position = gaps(left, right).amax(dim=-1).flatten(0, -2).amax(dim=0) / size
    position = int(by_position.argmax())
    return Gap(float(by_position[position]), position, int((by_position > tolerance).sum()))


def number(value: float) -> JSON:
    """A float for evidence: three significant digits, and a word where JSON has no number."""
    if math.isnan(value):
        return "not a number"
    return float(f"{value:.3g}") if math.isfinite(value) else "infinite"
