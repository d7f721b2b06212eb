"""The rubric: three sub-scores from 1 to 10, their weights, and their computation from measurements.

Weights are those of arXiv:2507.18074: performance 30%, innovation 25%, complexity and efficiency 45%. The paper
calibrates DeltaNet at 5 and Gated DeltaNet at 10, which leaves no room for better ones; here Gated DeltaNet is at 7.
Offline scores are relative to DeltaNet (the baseline, 5 in each), on a scale from Gated DeltaNet in the same run (the
anchor). Efficiency is parameters and FLOPs, as speed depends on other work of the machine.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from services.domain.fitness import WINDOW, refuse_impossible

LOWEST, MIDDLE, ANCHOR, HIGHEST = 1.0, 5.0, 7.0, 10.0
WEIGHTS: Mapping[str, float] = MappingProxyType({"performance": 0.30, "innovation": 0.25, "complexity": 0.45})
_RANGE = (HIGHEST - MIDDLE) / (ANCHOR - MIDDLE)
"""The lead of the highest score as a multiple of the anchor's."""
MIN_LEAD = 0.4
"""The lead over the baseline from which on the anchor calibrates the scale; less would amplify noise."""
_COSTS = ("parameters", "flops_per_token")


@dataclass(frozen=True, slots=True)
class SubScores:
    """The three sub-scores. Raises ``ValueError`` for one outside 1–10."""

    performance: float
    innovation: float
    complexity: float

    def __post_init__(self) -> None:
        for name in WEIGHTS:
            if not LOWEST <= getattr(self, name) <= HIGHEST:
                raise ValueError(f"{name} must be between 1 and 10, not {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class Observation:
    """Measurements of one model, ``None`` if missing. Raises ``ValueError`` for an impossible number.

    ``distance`` (0–1) is one minus the structural similarity to its nearest relative.
    """

    loss: float | None
    benchmark: float | None
    distance: float | None
    parameters: float | None = None
    flops_per_token: float | None = None

    def __post_init__(self) -> None:
        for name in ("loss", "benchmark", "distance", *_COSTS):
            refuse_impossible(name, getattr(self, name))
        if self.distance is not None and self.distance > 1:
            raise ValueError(f"distance must be between 0 and 1, not {self.distance!r}")


@dataclass(frozen=True, slots=True)
class Judgement:
    """The offline judge's sub-scores, their weighted mean, and ``raw``, which is calibrated if ``scaled``."""

    scores: SubScores
    weighted: float
    raw: float
    scaled: bool


def combine(scores: SubScores) -> float:
    """The weighted mean of the sub-scores, 1–10."""
    return math.fsum(weight * getattr(scores, name) for name, weight in WEIGHTS.items())


def judge_offline(candidate: Observation, baseline: Observation, anchor: Observation | None) -> Judgement | None:
    """Judge from measurements; ``None`` if a sub-score is unknown. Scaled if the anchor leads by :data:`MIN_LEAD`."""
    scores = offline_scores(candidate, baseline, anchor)
    if scores is None:
        return None
    lead = offline_scores(anchor, baseline, anchor) if anchor else None
    weighted = combine(scores)
    if lead is None or not MIDDLE + MIN_LEAD <= combine(lead) < HIGHEST:
        return Judgement(scores, weighted, weighted, scaled=False)
    return Judgement(scores, weighted, calibrated(weighted, combine(lead)), scaled=True)


def offline_scores(candidate: Observation, baseline: Observation, anchor: Observation | None) -> SubScores | None:
    """The three sub-scores before calibration, or ``None`` if one cannot be computed."""
    performance = _performance(candidate, baseline, anchor)
    innovation = _innovation(candidate, anchor)
    complexity = _complexity(candidate, baseline)
    if performance is None or innovation is None or complexity is None:
        return None
    return SubScores(performance, innovation, complexity)


def calibrated(weighted: float, anchor: float) -> float:
    """``weighted`` mapped piecewise linearly, so that the anchor's score becomes 7 while 5 and 10 do not change."""
    if weighted <= MIDDLE:
        return weighted
    if weighted <= anchor:
        return MIDDLE + (weighted - MIDDLE) * (ANCHOR - MIDDLE) / (anchor - MIDDLE)
    return ANCHOR + (weighted - anchor) * (HIGHEST - ANCHOR) / (HIGHEST - anchor)


def _performance(candidate: Observation, baseline: Observation, anchor: Observation | None) -> float | None:
    """7 at the anchor's relative gain (10% without one), 10 at 2.5 times as much, 1 at a relative loss of 10%."""
    gain = _relative_gain(candidate, baseline)
    if gain is None:
        return None
    lead = _relative_gain(anchor, baseline) if anchor else None
    return _scaled(gain, _RANGE * (lead if lead is not None and lead > 0 else WINDOW), WINDOW)


def _innovation(candidate: Observation, anchor: Observation | None) -> float | None:
    """5 for a copy, 7 at the anchor's distance from the baseline, at most 10."""
    if candidate.distance is None:
        return None
    lead = anchor.distance if anchor else None
    return _scaled(candidate.distance, _RANGE * lead if lead else 1.0, 1.0)


def _complexity(candidate: Observation, baseline: Observation) -> float | None:
    """5 at the baseline's cost, 10 at half and 1 at twice of it, from the geometric mean of the known cost ratios."""
    pairs = [(getattr(candidate, name), getattr(baseline, name)) for name in _COSTS]
    logs = [math.log(ours / theirs) for ours, theirs in pairs if ours and theirs]
    return _scaled(-math.fsum(logs) / len(logs), math.log(2), math.log(2)) if logs else None


def _relative_gain(observation: Observation, baseline: Observation) -> float | None:
    """The mean of the relative gains in loss and, if both have one, in the benchmark."""
    if observation.loss is None or not baseline.loss:
        return None
    gains = [(baseline.loss - observation.loss) / baseline.loss]
    if observation.benchmark is not None and baseline.benchmark:
        gains.append((observation.benchmark - baseline.benchmark) / baseline.benchmark)
    return math.fsum(gains) / len(gains)


def _scaled(gain: float, up: float, down: float) -> float:
    """5 at zero, 10 at ``up``, 1 at ``−down``, linear between and constant beyond."""
    if gain >= 0:
        return min(HIGHEST, MIDDLE + (HIGHEST - MIDDLE) * gain / up)
    return max(LOWEST, MIDDLE + (MIDDLE - LOWEST) * gain / down)
