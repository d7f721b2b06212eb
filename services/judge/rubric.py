"""The judge's rubric: three sub-scores of 1–10, their weights, and how measurements give them without a language model.

Source: arXiv:2507.18074 weighs performance 30%, innovation 25%, complexity and efficiency 45%. It calibrates DeltaNet
at 5 and Gated DeltaNet at 10, which leaves no room for anything better; here Gated DeltaNet is at 7. The offline
formula measures against DeltaNet (the baseline, exactly 5 in everything) and takes its scale from Gated DeltaNet as
measured in the same run (the anchor). Efficiency is parameters and FLOPs: speed depends on what else a machine does.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from services.domain.fitness import WINDOW, refuse_impossible

LOWEST, MIDDLE, ANCHOR, HIGHEST = 1.0, 5.0, 7.0, 10.0
WEIGHTS: Mapping[str, float] = MappingProxyType({"performance": 0.30, "innovation": 0.25, "complexity": 0.45})
_ROOM = (HIGHEST - MIDDLE) / (ANCHOR - MIDDLE)
"""How many times the anchor's lead the highest score stands for."""
LEAST_LEAD = 0.4
"""The anchor stretches the scale only where it leads the baseline by this much; less would magnify noise."""
_COSTS = ("parameters", "flops_per_token")


@dataclass(frozen=True, slots=True)
class SubScores:
    """The three sub-scores, each 1–10. Raises ``ValueError`` naming one that is not."""

    performance: float
    innovation: float
    complexity: float

    def __post_init__(self) -> None:
        for name in WEIGHTS:
            if not LOWEST <= getattr(self, name) <= HIGHEST:
                raise ValueError(f"{name} must be between 1 and 10, not {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class Observation:
    """What was measured of one model; ``None`` is not measured. Raises ``ValueError`` for an impossible number.

    ``distance`` (0–1) is one minus the structural similarity to the nearest of the baseline and its relatives.
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
    """The offline judge's sub-scores, their weighted mean, and ``raw``, which is that mean on the anchors' scale."""

    scores: SubScores
    weighted: float
    raw: float


def combine(scores: SubScores) -> float:
    """The weighted mean of the sub-scores, 1–10."""
    return math.fsum(weight * getattr(scores, name) for name, weight in WEIGHTS.items())


def judge_offline(candidate: Observation, baseline: Observation, anchor: Observation | None) -> Judgement | None:
    """Judge from measurements; ``None`` where a sub-score has nothing to be computed from.

    The anchor is Gated DeltaNet's observation; without it the default scales hold and nothing is stretched.
    """
    scores = offline_scores(candidate, baseline, anchor)
    if scores is None:
        return None
    lead = offline_scores(anchor, baseline, anchor) if anchor else None
    weighted = combine(scores)
    return Judgement(scores, weighted, calibrated(weighted, combine(lead) if lead else None))


def offline_scores(candidate: Observation, baseline: Observation, anchor: Observation | None) -> SubScores | None:
    """The three sub-scores before calibration, or ``None`` if one cannot be computed."""
    performance = _performance(candidate, baseline, anchor)
    innovation = _innovation(candidate, anchor)
    complexity = _complexity(candidate, baseline)
    if performance is None or innovation is None or complexity is None:
        return None
    return SubScores(performance, innovation, complexity)


def calibrated(weighted: float, anchor: float | None) -> float:
    """``weighted`` mapped so that 5 stays, the anchor's own weighted score becomes 7, and 10 stays: linear between.

    That is possible only where the anchor leads by :data:`LEAST_LEAD`; otherwise the score stays.
    """
    if anchor is None or not MIDDLE + LEAST_LEAD <= anchor < HIGHEST or weighted <= MIDDLE:
        return weighted
    if weighted <= anchor:
        return MIDDLE + (weighted - MIDDLE) * (ANCHOR - MIDDLE) / (anchor - MIDDLE)
    return ANCHOR + (weighted - anchor) * (HIGHEST - ANCHOR) / (HIGHEST - anchor)


def _performance(candidate: Observation, baseline: Observation, anchor: Observation | None) -> float | None:
    """7 for as much relative gain as the anchor's, 10 for 2.5 times as much (25% where it has none); 10% worse is 1."""
    gain = _relative_gain(candidate, baseline)
    lead = _relative_gain(anchor, baseline) if anchor else None
    return None if gain is None else _scaled(gain, _ROOM * (lead if lead is not None and lead > 0 else WINDOW), WINDOW)


def _innovation(candidate: Observation, anchor: Observation | None) -> float | None:
    """5 for a copy, 7 for a distance to its relatives as great as the anchor's from the baseline, at most 10."""
    if candidate.distance is None:
        return None
    lead = anchor.distance if anchor else None
    return _scaled(candidate.distance, _ROOM * lead if lead else 1.0, 1.0)


def _complexity(candidate: Observation, baseline: Observation) -> float | None:
    """5 at the baseline's cost, 10 at half and 1 at twice of it: the geometric mean of the cost ratios known."""
    pairs = [(getattr(candidate, name), getattr(baseline, name)) for name in _COSTS]
    logs = [math.log(ours / theirs) for ours, theirs in pairs if ours and theirs]
    return _scaled(-math.fsum(logs) / len(logs), math.log(2), math.log(2)) if logs else None


def _relative_gain(observation: Observation, baseline: Observation) -> float | None:
    """Mean of the relative gains in loss and, where both measured it, in benchmark."""
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
