"""Which candidates go on to the next rung of a run's ladder of stages.

Two policies: the paper's (better than the baseline in loss and benchmark, then the best of those) and asynchronous
successive halving (Li et al. 2020, arXiv:1810.05934). Both keep to a budget of parameters and FLOPs relative to the
rung's baseline. What a rung remembers is bounded, so that a decision costs the same at any length of a run. Controls
go along with the first candidate of a rung and are not fed in here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

PLACES = 64
"""The most results that halving keeps in view at a rung: who falls out of the best 64 is never promoted any more."""


@dataclass(frozen=True, slots=True)
class Result:
    """One candidate's result at one rung; what was not measured is ``None``.

    ``fitness`` orders the candidates of a rung and means nothing beside it. ``loss`` is in nats, ``benchmark`` a score
    where more is better, ``flops`` are per token. Raises ``ValueError`` for a number that is not finite.
    """

    candidate: str
    fitness: float
    loss: float
    benchmark: float | None = None
    parameters: int | None = None
    flops: float | None = None

    def __post_init__(self) -> None:
        for name in ("fitness", "loss", "benchmark"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} of {self.candidate} must be finite; an unscored result is not promoted")


@dataclass(frozen=True, slots=True)
class Limit:
    """How far from the baseline's a number may lie, as a share; ``upwards`` bounds only what a candidate has more."""

    share: float
    upwards: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.share < math.inf:
            raise ValueError(f"a budget relative to the baseline must be a share of 0 or more, not {self.share!r}")

    def admits(self, value: float | None, reference: float | None) -> bool:
        """Whether ``value`` stays inside; what was not measured on either side does not."""
        if value is None or reference is None:
            return False
        excess = value - reference if self.upwards else abs(value - reference)
        return excess <= self.share * reference * (1 + 1e-12)


@dataclass(frozen=True, slots=True)
class Budget:
    """How far from the baseline's size and cost a candidate may be; ``None`` sets no limit.

    With ``match`` a candidate that has too many parameters, or too few, is trained again at the width that comes
    nearest to the baseline's, instead of being refused.
    """

    parameters: Limit | None = Limit(0.10)
    flops: Limit | None = Limit(0.10)
    match: bool = False

    def admits(self, result: Result, baseline: Result) -> bool:
        """Whether both stay inside."""
        if self.matched(result, baseline) is not None:
            return True
        sizes = ((self.parameters, result.parameters, baseline.parameters), (self.flops, result.flops, baseline.flops))
        return all(limit is None or limit.admits(value, reference) for limit, value, reference in sizes)

    def matched(self, result: Result, baseline: Result) -> int | None:
        """The parameters that the candidate is to be made as wide for; None where it is trained as it is."""
        known = result.parameters is not None and baseline.parameters is not None
        if not self.match or not known or self.parameters is None:
            return None
        return None if self.parameters.admits(result.parameters, baseline.parameters) else baseline.parameters


@dataclass(frozen=True, slots=True)
class Rung:
    """What is remembered of one rung: how many admitted results came, and those still in view.

    ``waiting`` came before the baseline was measured. ``kept`` is the open block (paper, in the order they came) or the
    best so far (halving, best first). ``promoted`` names those of ``kept`` that went on already.
    """

    waiting: tuple[Result, ...] = ()
    kept: tuple[Result, ...] = ()
    promoted: frozenset[str] = frozenset()
    count: int = 0


class PromotionPolicy(Protocol):
    """Chooses among the results of one rung."""

    @property
    def budget(self) -> Budget:
        """What a candidate may have and cost."""
        ...

    def kept(self, rung: Rung, result: Result) -> Rung:
        """The rung after one more admitted result."""
        ...

    def chosen(self, rung: Rung, baseline: Result, over: bool) -> tuple[Rung, tuple[Result, ...]]:
        """The rung after its decision, and who goes on now, best first. ``over``: no further result will come."""
        ...


@dataclass(frozen=True, slots=True)
class PaperPromotion:
    """After every ``block`` results of a rung, and at its end, the best ``top`` that beat the baseline in both."""

    block: int = 50
    top: int = 3
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        if self.block < 1 or self.top < 1:
            raise ValueError(f"promotion.block and promotion.top must be at least 1, not {self.block} and {self.top}")

    def kept(self, rung: Rung, result: Result) -> Rung:
        """The block, one longer."""
        return replace(rung, kept=(*rung.kept, result), count=rung.count + 1)

    def chosen(self, rung: Rung, baseline: Result, over: bool) -> tuple[Rung, tuple[Result, ...]]:
        """The best of a block that is full, or that stays as it is."""
        if len(rung.kept) < self.block and not over:
            return rung, ()
        better = [one for one in rung.kept if _beats(one, baseline)]
        return replace(rung, kept=()), tuple(_best(better)[: self.top])


@dataclass(frozen=True, slots=True)
class SuccessiveHalving:
    """At every moment the best 1/``eta`` of a rung's results go on; nobody waits for a rung to be complete.

    A rung that ends with fewer than ``eta`` results sends on its best, so that a short search has a finalist too.
    """

    eta: int = 4
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        if self.eta < 2:
            raise ValueError(f"promotion.eta must be at least 2, not {self.eta}: it is one over the share that goes on")

    def kept(self, rung: Rung, result: Result) -> Rung:
        """The best so far with the new one in its place."""
        best = tuple(_best([*rung.kept, result])[:PLACES])
        return replace(rung, kept=best, promoted=rung.promoted & {one.candidate for one in best}, count=rung.count + 1)

    def chosen(self, rung: Rung, baseline: Result, over: bool) -> tuple[Rung, tuple[Result, ...]]:
        """The best ⌊n / eta⌋ so far, less those that went on already; the baseline served for the budget only."""
        del baseline
        places = rung.count // self.eta or int(over)
        fresh = tuple(one for one in rung.kept[:places] if one.candidate not in rung.promoted)
        return replace(rung, promoted=rung.promoted | {one.candidate for one in fresh}), fresh


def decide(policy: PromotionPolicy, rung: Rung, baseline: Result | None, over: bool) -> tuple[Rung, tuple[Result, ...]]:
    """The rung after its waiting results were let in or turned away, and who goes on because of it, best first.

    While the baseline is not measured everybody waits. Those outside the budget neither go on nor take a place.
    """
    if baseline is None:
        return rung, ()
    for result in rung.waiting:
        if policy.budget.admits(result, baseline):
            rung = policy.kept(rung, result)
    return policy.chosen(replace(rung, waiting=()), baseline, over)


def matched_width(measured: Mapping[int, int], target: int) -> int:
    """The width whose measured parameter count is nearest to ``target``; ties go to the smaller width.

    ``measured`` maps widths to parameters. Raises ``ValueError`` when it is empty.
    """
    if not measured:
        raise ValueError("measured is empty: count the parameters at one width at least")
    return min(sorted(measured), key=lambda width: abs(measured[width] - target))


def reason(one: Result, baseline: Result) -> str:
    """Why a candidate goes on, in numbers."""
    text = f"loss {one.loss:.4f} against {baseline.loss:.4f} of the root"
    if one.benchmark is not None and baseline.benchmark is not None:
        text += f", benchmark {one.benchmark:.4g} against {baseline.benchmark:.4g}"
    return text


def _beats(one: Result, baseline: Result) -> bool:
    """In loss and in benchmark; what has no benchmark beats nobody."""
    if one.benchmark is None or baseline.benchmark is None:
        return False
    return one.loss < baseline.loss and one.benchmark > baseline.benchmark


def _best(results: Sequence[Result]) -> list[Result]:
    """Best fitness first; the earlier of equals, for sorting is stable."""
    return sorted(results, key=lambda one: -one.fitness)
