"""Models that predict scores from earlier candidates.

`expected_improvement` is that of a Gaussian process over descriptions whose kernel decreases with the number of
different fields, and may begin with a `Prior`; `Bandit` has a posterior of each move's gain and samples from it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.mixers.description import Mixer
from services.mixers.moves import LIBRARY, Move

LENGTH = 2.5
"""The number of different fields at which the correlation is 1/e."""
NOISE = 0.05
"""Variance of a score over seeds, as a share of the variance over mixers."""
WORST = 3.0
"""In deviations below the median: lower scores count as this one. Else one program that hardly trains would set the
scale, on which the good ones are equal."""

SHARE_OF_PRIOR = 4.0
"""Prior variance of the factor between a prior and the scores, both in standard deviations: the data determine it."""

Prior = Callable[[Sequence[Mixer]], NDArray[np.float64]]
"""Predicts mixers from measurements elsewhere, in these measurements' standard deviations; higher is better."""


def expected_improvement(
    mixers: Sequence[Mixer], measured: Sequence[Mixer], scores: Sequence[float], prior: Prior | None = None
) -> NDArray[np.float64]:
    """The expected improvement of each mixer over the best prediction for a measured one; at least zero.

    At least two mixers are measured, and higher scores are better. With noise, the best score would be one of the
    luckiest. With a prior, the scores are modelled as a multiple of it, as far as they follow it, plus the rest.
    """
    known, targets = [_fields(mixer) for mixer in measured], _without_outliers(scores)
    scale = float(targets.std()) or 1.0
    kernel, shared = _kernel(known, known), _kernel([_fields(mixer) for mixer in mixers], known)
    variance = np.ones(len(mixers))
    if prior is not None:
        ours, theirs = prior(mixers), prior(measured)
        kernel += SHARE_OF_PRIOR * np.outer(theirs, theirs)
        shared += SHARE_OF_PRIOR * np.outer(ours, theirs)
        variance += SHARE_OF_PRIOR * ours**2
    factor, weights = _solved(kernel, (targets - targets.mean()) / scale)
    solved = np.linalg.solve(factor, shared.T)
    mean, deviation = shared @ weights, np.sqrt(np.maximum(variance - (solved * solved).sum(axis=0), 1e-9))
    z = (mean - (kernel @ weights).max()) / deviation
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in z])
    gain = deviation * (z * below + np.exp(-z * z / 2) / math.sqrt(2 * math.pi))
    improvement: NDArray[np.float64] = scale * np.maximum(gain, 0.0)
    return improvement


def prior_from(measured: Sequence[Mixer], scores: Sequence[float]) -> Prior:
    """The mean predictions of the model after these measurements. Higher scores are better."""
    known, targets = [_fields(mixer) for mixer in measured], np.array(scores, dtype=float)
    _, weights = _solved(_kernel(known, known), (targets - targets.mean()) / targets.std())

    def predict(mixers: Sequence[Mixer]) -> NDArray[np.float64]:
        return _kernel([_fields(mixer) for mixer in mixers], known) @ weights

    return predict


def _without_outliers(scores: Sequence[float]) -> NDArray[np.float64]:
    targets = np.array(scores, dtype=float)
    median = np.median(targets)
    deviation = 1.4826 * np.median(np.abs(targets - median))  # the standard deviation, if scores are normal
    raised: NDArray[np.float64] = np.maximum(targets, median - WORST * deviation) if deviation else targets
    return raised


def _solved(
    kernel: NDArray[np.float64], targets: NDArray[np.float64]
) -> tuple[NDArray[np.floating[Any]], NDArray[np.float64]]:
    """The Cholesky factor of the kernel with noise, and the weights of the targets."""
    factor = np.linalg.cholesky(kernel + NOISE * np.eye(len(targets)))
    weights: NDArray[np.float64] = np.linalg.solve(factor.T, np.linalg.solve(factor, targets))
    return factor, weights


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


# In units of the root mean square of observed gains, since fitness has no fixed scale.
PRIOR_SPREAD = 0.25  # standard deviation of the prior of a move's gain, with mean 0
NOISE_SPREAD = 0.25  # standard deviation of a measured gain
REJECTION_GAIN = -0.25  # the gain of a rejected child: minus one noise spread
HINT_BONUS = 0.15  # added to a draw for a move that cognition suggests


@dataclass(frozen=True)
class Observation:
    """An earlier candidate: its moves and its gain."""

    moves: tuple[str, ...]
    gain: float | None  # its fitness minus its parent's; None for a rejected candidate

    def __post_init__(self) -> None:
        if self.gain is not None and not math.isfinite(self.gain):
            raise ValueError(f"gain of an observation must be finite, not {self.gain}; use None for a rejection")


@dataclass(frozen=True)
class Belief:
    """A normal posterior of a move's gain in fitness, from a number of observations."""

    mean: float
    spread: float
    observations: int


@dataclass(frozen=True)
class Bandit:
    """Thompson sampling over moves. A child's gain is shared equally among its moves."""

    beliefs: Mapping[str, Belief]
    hinted: frozenset[str] = field(default_factory=frozenset)
    unit: float = 1.0  # root mean square of observed gains

    @classmethod
    def learned(cls, history: Iterable[Observation], hinted: Collection[str] = ()) -> Bandit:
        """The posterior after all observations, in any order."""
        observations = list(history)
        gains = [observation.gain for observation in observations if observation.gain]
        unit = math.sqrt(math.fsum(gain**2 for gain in gains) / len(gains)) if gains else 1.0
        shares: dict[str, list[float]] = {}
        for observation in observations:
            gain = REJECTION_GAIN * unit if observation.gain is None else observation.gain
            for name in observation.moves:
                shares.setdefault(name, []).append(gain / len(observation.moves))
        return cls({name: _belief(share, unit) for name, share in shares.items()}, frozenset(hinted), unit)

    def belief(self, move: str) -> Belief:
        """The belief about a move; the prior if it was never observed."""
        return self.beliefs.get(move, Belief(0.0, PRIOR_SPREAD * self.unit, 0))

    def ranking(self, rng: random.Random) -> Sequence[Move]:
        """All moves, best draw first."""
        draws: dict[str, float] = {}
        for move in LIBRARY:
            belief, bonus = self.belief(move.name), HINT_BONUS * self.unit if move.name in self.hinted else 0.0
            draws[move.name] = rng.gauss(belief.mean, belief.spread) + bonus
        return sorted(LIBRARY, key=lambda move: draws[move.name], reverse=True)


def _belief(gains: Sequence[float], unit: float) -> Belief:
    """The posterior for a normal prior and normal noise with known spreads."""
    precision = PRIOR_SPREAD**-2 + len(gains) * NOISE_SPREAD**-2
    mean = math.fsum(gains) * NOISE_SPREAD**-2 / precision
    return Belief(mean, precision**-0.5 * unit, len(gains))
