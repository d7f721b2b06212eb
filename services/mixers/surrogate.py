"""A Gaussian process of scores over descriptions; its kernel decreases with the number of different fields."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.mixers.description import Mixer

LENGTH = 2.5
"""The number of different fields at which the correlation is 1/e."""
NOISE = 0.05
"""Variance of a score over seeds, as a share of the variance over mixers."""


class Surrogate:
    """Fitted to measured mixers, at least two; higher scores are better."""

    def __init__(self, mixers: Sequence[Mixer], scores: Sequence[float]) -> None:
        self._fields = [_fields(mixer) for mixer in mixers]
        targets = np.array(scores, dtype=float)
        self._mean, self._scale = float(targets.mean()), float(targets.std()) or 1.0
        self._best = (float(targets.max()) - self._mean) / self._scale
        self._factor = np.linalg.cholesky(_kernel(self._fields, self._fields) + NOISE * np.eye(len(targets)))
        self._weights = np.linalg.solve(
            self._factor.T, np.linalg.solve(self._factor, (targets - self._mean) / self._scale)
        )

    def predict(self, mixers: Sequence[Mixer]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and deviation of each mixer's score."""
        mean, deviation = self._standard(mixers)
        return self._mean + self._scale * mean, self._scale * deviation

    def expected_improvement(self, mixers: Sequence[Mixer]) -> NDArray[np.float64]:
        """The expected improvement of each mixer over the best score; at least zero."""
        mean, deviation = self._standard(mixers)
        z = (mean - self._best) / deviation
        below = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in z])
        gain = deviation * (z * below + np.exp(-z * z / 2) / math.sqrt(2 * math.pi))
        improvement: NDArray[np.float64] = self._scale * np.maximum(gain, 0.0)
        return improvement

    def _standard(self, mixers: Sequence[Mixer]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        shared = _kernel([_fields(mixer) for mixer in mixers], self._fields)
        solved = np.linalg.solve(self._factor, shared.T)
        mean: NDArray[np.float64] = shared @ self._weights
        return mean, np.sqrt(np.maximum(1.0 - (solved * solved).sum(axis=0), 1e-9))


def _fields(mixer: Mixer) -> dict[str, object]:
    """The fields of the canonical description; each path counts as one field."""
    tree = mixer.canonical().model_dump()
    flat = {f"paths.{path['kind']}": path["size"] or True for path in tree.pop("paths")}
    return flat | {f"{part}.{name}": value for part, values in tree.items() for name, value in values.items()}


def _kernel(ours: Sequence[dict[str, object]], theirs: Sequence[dict[str, object]]) -> NDArray[np.float64]:
    names = sorted({key for fields in (*ours, *theirs) for key in fields})
    numbers: dict[tuple[str, object], int] = {}
    rows, columns = (
        np.array([[numbers.setdefault((key, fields.get(key)), len(numbers)) for key in names] for fields in side])
        for side in (ours, theirs)
    )
    different = (rows[:, None, :] != columns[None, :, :]).sum(axis=2)
    kernel: NDArray[np.float64] = np.exp(-different / LENGTH)
    return kernel
