"""Promotion: which candidates of one rung are trained again at the next stage. `services.domain.ladder` has the rungs.

Two policies choose: the paper's, and asynchronous successive halving (Li et al. 2020, arXiv:1810.05934), within a
budget of parameters and FLOPs relative to the baseline. A rung's state is bounded.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from services.domain.objectives import Costs, dominates, nsga_order

MAX_KEPT = 64
"""Results kept per rung; halving never promotes candidates outside the best 64."""


@dataclass(frozen=True, slots=True)
class Result:
    """One candidate's result at one rung; what was not measured is ``None``.

    ``fitness`` ranks the search, ``loss`` (nats) the rungs above it, ``costs`` runs with several objectives; ``flops``
    are per token. Raises ``ValueError`` for a number that is not finite.
    """

    candidate: str
    fitness: float | None
    loss: float
    benchmark: float | None = None
    parameters: int | None = None
    flops: float | None = None
    costs: Costs | None = None

    def __post_init__(self) -> None:
        for name in ("fitness", "loss", "benchmark"):
            value = getattr(self, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} of {self.candidate} must be finite; an unscored result is not promoted")


@dataclass(frozen=True, slots=True)
class Limit:
    """The permitted deviation from the baseline, as a share; ``upwards`` bounds increases only."""

    share: float
    upwards: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.share < math.inf:
            raise ValueError(f"a budget relative to the baseline must be a share of 0 or more, not {self.share!r}")

    def admits(self, value: float | None, reference: float | None) -> bool:
        """Whether ``value`` is within the limit; False if either was not measured."""
        if value is None or reference is None:
            return False
        excess = value - reference if self.upwards else abs(value - reference)
        return excess <= self.share * reference * (1 + 1e-12)


@dataclass(frozen=True, slots=True)
class Budget:
    """Limits of a candidate's size and cost relative to the baseline; ``None`` sets no limit.

    With ``match`` a candidate outside the limit of parameters is trained at the width nearest to the baseline's.
    """

    parameters: Limit | None = Limit(0.10)
    flops: Limit | None = Limit(0.10)
    match: bool = False

    def admits(self, result: Result, baseline: Result) -> bool:
        """Whether size and cost are within the limits."""
        if self.matched(result, baseline) is not None:
            return True
        sizes = ((self.parameters, result.parameters, baseline.parameters), (self.flops, result.flops, baseline.flops))
        return all(limit is None or limit.admits(value, reference) for limit, value, reference in sizes)

    def matched(self, result: Result, baseline: Result) -> int | None:
        """The parameter count to match; None for a candidate that keeps its width."""
        measured = result.parameters is not None and baseline.parameters is not None
        if not self.match or not measured or self.parameters is None:
            return None
        return None if self.parameters.admits(result.parameters, baseline.parameters) else baseline.parameters


@dataclass(frozen=True, slots=True)
class Rung:
    """The state of one rung; ``count`` is the number of admitted results.

    ``waiting`` arrived before the baseline. ``kept`` is the open block (paper) or the best so far (halving).
    ``promoted`` names those of ``kept`` that were promoted. ``outside`` are the best outside the budget, which a fork
    with another budget may admit.
    """

    waiting: tuple[Result, ...] = ()
    kept: tuple[Result, ...] = ()
    promoted: frozenset[str] = frozenset()
    count: int = 0
    outside: tuple[Result, ...] = ()


class PromotionPolicy(Protocol):
    """Chooses among the results of one rung."""

    @property
    def budget(self) -> Budget:
        """The limits on size and cost."""

    def admitted(self, rung: Rung, result: Result) -> Rung:
        """The rung after one more admitted result."""

    def chosen(self, rung: Rung, baseline: Result, over: bool) -> tuple[Rung, tuple[Result, ...]]:
        """The rung after its decision, and the promoted, best first; ``over``: no further result will come."""


@dataclass(frozen=True, slots=True)
class PaperPromotion:
    """The best ``top`` of every ``block`` results that beat the baseline, or with costs are not dominated by it."""

    block: int = 50
    top: int = 3
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        for policy, value in (("block", self.block), ("verify", self.top)):
            if value < 1:
                raise ValueError(f"policy {policy} must be at least 1, not {value}")

    def admitted(self, rung: Rung, result: Result) -> Rung:
        return replace(rung, kept=(*rung.kept, result), count=rung.count + 1)

    def chosen(self, rung: Rung, baseline: Result, over: bool) -> tuple[Rung, tuple[Result, ...]]:
        """The best of a full block, or of the last one."""
        if len(rung.kept) < self.block and not over:
            return rung, ()
        better = [result for result in rung.kept if _beats(result, baseline)]
        return replace(rung, kept=()), tuple(_best(better)[: self.top])


@dataclass(frozen=True, slots=True)
class SuccessiveHalving:
    """The best 1/``eta`` of a rung's results so far; of a rung that ends with fewer than ``eta`` results, the best."""

    eta: int = 4
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        if self.eta < 2:
            raise ValueError(f"policy eta must be at least 2, not {self.eta}: it is one over the share that goes on")

    def admitted(self, rung: Rung, result: Result) -> Rung:
        best = tuple(_best([*rung.kept, result])[:MAX_KEPT])
        promoted = rung.promoted & {member.candidate for member in best}
        return replace(rung, kept=best, promoted=promoted, count=rung.count + 1)

    def chosen(self, rung: Rung, baseline: Result, over: bool) -> tuple[Rung, tuple[Result, ...]]:
        """The best ⌊n / eta⌋ so far that were not promoted yet."""
        del baseline
        count = rung.count // self.eta or int(over)
        chosen = tuple(result for result in rung.kept[:count] if result.candidate not in rung.promoted)
        return replace(rung, promoted=rung.promoted | {result.candidate for result in chosen}), chosen


def decide(policy: PromotionPolicy, rung: Rung, baseline: Result | None, over: bool) -> tuple[Rung, tuple[Result, ...]]:
    """The rung after its waiting results were admitted or excluded, and the promoted candidates, best first.

    Results wait until the baseline is measured.
    """
    if baseline is None:
        return rung, ()
    for result in rung.waiting:
        if policy.budget.admits(result, baseline):
            rung = policy.admitted(rung, result)
        else:
            rung = replace(rung, outside=tuple(_best([*rung.outside, result])[:MAX_KEPT]))
    return policy.chosen(replace(rung, waiting=()), baseline, over)


def matched_width(measured: Mapping[int, int], target: int) -> int:
    """The width with a parameter count nearest to ``target``, the smaller of two. Raises ``ValueError`` without any."""
    if not measured:
        raise ValueError("measured is empty: count the parameters at one width at least")
    return min(sorted(measured), key=lambda width: abs(measured[width] - target))


def reason(result: Result, baseline: Result) -> str:
    """The reason of a promotion, in numbers."""
    text = f"loss {result.loss:.4f} against {baseline.loss:.4f} of the root"
    if result.benchmark is not None and baseline.benchmark is not None:
        text += f", benchmark {result.benchmark:.4g} against {baseline.benchmark:.4g}"
    return text


def _beats(result: Result, baseline: Result) -> bool:
    """Better in loss and benchmark; with several objectives, not dominated by the baseline."""
    if baseline.costs is not None:
        return result.costs not in (None, baseline.costs) and not dominates(baseline.costs, result.costs)
    if result.benchmark is None or baseline.benchmark is None:
        return False
    return result.loss < baseline.loss and result.benchmark > baseline.benchmark


def _best(results: Sequence[Result]) -> list[Result]:
    """Those with costs in the order of NSGA-II, then by fitness, then by loss; the earlier of equals."""
    costs = [(result, result.costs) for result in results if result.costs is not None]
    first = [costs[index][0] for index in nsga_order([cost for _, cost in costs])]
    rest = [result for result in results if result.costs is None]
    return [*first, *sorted(rest, key=lambda result: (result.fitness is None, -(result.fitness or 0.0), result.loss))]
