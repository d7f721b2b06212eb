"""Which model to ask: an upper confidence bound on fitness gained per unit of cost.

Sources: UCB1, Auer et al. 2002 (mean + sqrt(2 ln t / n)); arms with a cost, Tran-Thanh et al. 2012, arXiv:1204.1909
(the bound divided by the mean cost). Gains come late (a candidate trains for minutes), so questions still without a
gain count for the width of the bound, and many askers at once spread over the models.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

_CHEAPEST_SHARE = 0.01  # a free model counts as this share of the dearest one's cost


@dataclass(frozen=True, slots=True)
class Arm:
    """What is known of one model in one role; `cost` is summed over `asked` and `gain` over `rewarded`."""

    asked: int = 0
    rewarded: int = 0
    gain: float = 0.0
    cost: float = 0.0


class Bandit:
    """An immutable state: every method that learns returns the next one."""

    def __init__(self, arms: Mapping[str, Arm]) -> None:
        self.arms = dict(arms)

    @classmethod
    def of(cls, models: Sequence[str]) -> "Bandit":
        """A bandit that knows nothing of these models yet."""
        return cls(dict.fromkeys(models, Arm()))

    def order(self) -> list[str]:
        """Models, most promising first: those never asked in the given order, then by bound; ties keep the order."""
        return sorted(self.arms, key=lambda model: -self._bound(model))

    def asked(self, model: str, cost: float = 0.0, times: int = 1) -> "Bandit":
        """`model` was asked, or (with times=0) a question counted before turned out to cost `cost`."""
        arm = self.arms[model]
        return self._with(model, replace(arm, asked=arm.asked + times, cost=arm.cost + cost))

    def rewarded(self, model: str, gain: float) -> "Bandit":
        """An answer of `model` brought `gain`, which is limited to 0 to 1. Raises ValueError when it is not finite."""
        if not math.isfinite(gain):
            raise ValueError(f"the gain of {model} must be a finite number, not {gain!r}")
        arm = self.arms[model]
        kept = min(max(gain, 0.0), 1.0)
        return self._with(model, replace(arm, rewarded=arm.rewarded + 1, gain=arm.gain + kept))

    def _with(self, model: str, arm: Arm) -> "Bandit":
        return Bandit({**self.arms, model: arm})

    def _bound(self, model: str) -> float:
        arm = self.arms[model]
        if not arm.asked:
            return math.inf
        total = sum(other.asked for other in self.arms.values())
        mean = arm.gain / arm.rewarded if arm.rewarded else 0.0
        return (mean + math.sqrt(2.0 * math.log(total) / arm.asked)) / self._relative_cost(arm)

    def _relative_cost(self, arm: Arm) -> float:
        """Mean cost of a question as a share of the dearest model's, not below `_CHEAPEST_SHARE`."""
        dearest = max(_mean_costs(self.arms.values()), default=0.0)
        return max(arm.cost / arm.asked / dearest, _CHEAPEST_SHARE) if dearest > 0.0 else 1.0


def _mean_costs(arms: Iterable[Arm]) -> list[float]:
    return [arm.cost / arm.asked for arm in arms if arm.asked]
