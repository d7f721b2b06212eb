"""Which candidates go on to the next stage.

Two policies: the paper's (better than the baseline in loss and benchmark, then the best of those) and asynchronous
successive halving (Li et al. 2020, arXiv:1810.05934), whose rungs are the stages. Both keep to a budget of parameters
and FLOPs relative to the stage's baseline. Controls are verified anyway and are not fed in here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Result:
    """One candidate's scored result at one stage; ``parameters`` and ``flops`` (per token) may be unmeasured."""

    candidate: str
    stage: str
    fitness: float
    loss: float
    benchmark: float
    parameters: int | None = None
    flops: float | None = None

    def __post_init__(self) -> None:
        for name in ("fitness", "loss", "benchmark"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} of {self.candidate} must be finite; an unscored result is not promoted")


@dataclass(frozen=True, slots=True)
class StageBaseline:
    """The measured baseline of one stage."""

    loss: float
    benchmark: float
    parameters: int | None = None
    flops: float | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """How far from the baseline's size and cost a candidate may be, as shares; ``None`` sets no limit."""

    parameters: float | None = 0.10
    flops: float | None = 0.10

    def admits(self, result: Result, baseline: StageBaseline) -> bool:
        """Whether both stay inside; what was not measured on either side does not."""
        return _inside(result.parameters, baseline.parameters, self.parameters) and _inside(
            result.flops, baseline.flops, self.flops
        )


@dataclass(frozen=True, slots=True)
class Promotion:
    """The decision that a candidate goes from one stage to the next, with its reason in words."""

    candidate: str
    source: str
    target: str
    reason: str


@dataclass(frozen=True, slots=True)
class PromotionState:
    """All results so far, in the order they came, and who was promoted from which stage."""

    results: tuple[Result, ...] = ()
    promoted: frozenset[tuple[str, str]] = frozenset()

    def at(self, stage: str) -> list[Result]:
        """The results of one stage, in the order they came."""
        return [result for result in self.results if result.stage == stage]


class PromotionPolicy(Protocol):
    """Chooses among the results of one stage."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages in order; nothing is promoted from the last."""
        ...

    def deserving(self, results: Sequence[Result], baseline: StageBaseline) -> Sequence[Result]:
        """Those of ``results`` (one stage, in the order they came) that may go on now, promoted already or not."""
        ...


@dataclass(frozen=True, slots=True)
class PaperPromotion:
    """After every ``block`` results of a stage, the best ``top`` of the block that beat the baseline in both."""

    stages: tuple[str, ...] = ("tiny", "explore", "verify", "final")
    block: int = 50
    top: int = 10
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        _check_stages(self.stages)
        if self.block < 1 or self.top < 1:
            raise ValueError(f"promotion.block and promotion.top must be at least 1, not {self.block} and {self.top}")

    def deserving(self, results: Sequence[Result], baseline: StageBaseline) -> list[Result]:
        """The best of every full block."""
        found: list[Result] = []
        for start in range(0, len(results) - self.block + 1, self.block):
            block = results[start : start + self.block]
            better = [one for one in block if one.loss < baseline.loss and one.benchmark > baseline.benchmark]
            found += _best([one for one in better if self.budget.admits(one, baseline)], self.top)
        return found


@dataclass(frozen=True, slots=True)
class SuccessiveHalving:
    """At every moment the best 1/``eta`` of a stage's results go on; nobody waits for a stage to be complete.

    Results outside the budget neither go on nor take a place.
    """

    stages: tuple[str, ...] = ("tiny", "explore", "verify", "final")
    eta: int = 4
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        _check_stages(self.stages)
        if self.eta < 2:
            raise ValueError(f"promotion.eta must be at least 2, not {self.eta}: it is one over the share that goes on")

    def deserving(self, results: Sequence[Result], baseline: StageBaseline) -> list[Result]:
        """The best ⌊n / eta⌋ so far."""
        admitted = [one for one in results if self.budget.admits(one, baseline)]
        return _best(admitted, len(admitted) // self.eta)


def decide(
    policy: PromotionPolicy, state: PromotionState, result: Result, baselines: Mapping[str, StageBaseline]
) -> tuple[PromotionState, tuple[Promotion, ...]]:
    """The state after one more result, and who is promoted because of it, best first.

    A second result of a candidate at a stage is a redelivery and changes nothing. Nobody is promoted twice from a
    stage. Raises ``ValueError`` for a stage that the policy does not know or that has no baseline yet.
    """
    if result.stage not in policy.stages:
        raise ValueError(f"stage {result.stage!r} is none of the run's stages {', '.join(policy.stages)}")
    if any((known.candidate, known.stage) == (result.candidate, result.stage) for known in state.results):
        return state, ()
    results = (*state.results, result)
    chosen = _chosen(policy, PromotionState(results, state.promoted), result.stage, baselines)
    promoted = state.promoted | {(one.candidate, one.source) for one in chosen}
    return PromotionState(results, promoted), chosen


def matched_width(measured: Mapping[int, int], target: int) -> int:
    """The width whose measured parameter count is nearest to ``target``: how a candidate is matched instead of refused.

    ``measured`` maps widths to parameters; ties go to the smaller width. Raises ``ValueError`` when it is empty.
    """
    if not measured:
        raise ValueError("measured is empty: count the parameters at one width at least")
    return min(sorted(measured), key=lambda width: abs(measured[width] - target))


def _chosen(
    policy: PromotionPolicy, state: PromotionState, stage: str, baselines: Mapping[str, StageBaseline]
) -> tuple[Promotion, ...]:
    place = policy.stages.index(stage)
    if place + 1 == len(policy.stages):
        return ()
    if stage not in baselines:
        raise ValueError(f"stage {stage!r} has no measured baseline yet; train the baselines before any candidate")
    target = policy.stages[place + 1]
    fresh = [
        one
        for one in policy.deserving(state.at(stage), baselines[stage])
        if (one.candidate, stage) not in state.promoted
    ]
    return tuple(Promotion(one.candidate, stage, target, _reason(one, baselines[stage])) for one in fresh)


def _reason(one: Result, baseline: StageBaseline) -> str:
    return (
        f"fitness {one.fitness:.4g}; loss {one.loss:.4f} against {baseline.loss:.4f}, "
        f"benchmark {one.benchmark:.4g} against {baseline.benchmark:.4g}"
    )


def _best(results: Sequence[Result], count: int) -> list[Result]:
    """Best fitness first; the earlier of equals, for sorting is stable."""
    return sorted(results, key=lambda one: -one.fitness)[:count]


def _inside(value: float | None, reference: float | None, share: float | None) -> bool:
    if share is None:
        return True
    if value is None or reference is None:
        return False
    return abs(value - reference) <= share * reference * (1 + 1e-12)


def _check_stages(stages: tuple[str, ...]) -> None:
    if not stages or len(set(stages)) < len(stages):
        raise ValueError(f"promotion.stages must be different names, at least one, not {stages!r}")
