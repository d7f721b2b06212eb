"""Policies against each other on one table: regret at several budgets, and which differences are more than chance."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from services.domain.statistics import bootstrap, holm, paired_test
from services.table.policies import POLICIES
from services.table.table import Policy, Table

BUDGETS = (20, 50, 100, 200, 500)
OPPONENTS = ("random", "local")


@dataclass(frozen=True)
class PolicyResult:
    """One policy at one budget and number of seats: mean regret in nats over the runs with its 95 % interval.

    `p` holds, per opponent, the Holm-adjusted chance that a policy no better than it looks this good. Runs are paired
    by their seed.
    """

    policy: str
    seats: int
    budget: int
    runs: int
    regret: float
    low: float
    high: float
    p: Mapping[str, float]


def curves(
    table: Table, policy: Policy, budget: int, runs: int, seats: int, first_seed: int = 0
) -> list[tuple[float, ...]]:
    """The anytime regret of each run; before its first result a run has the regret of the worst architecture."""
    worst = max(table.truth.values()) - table.best
    found = []
    for seed in range(first_seed, first_seed + runs):
        trace = table.simulate(policy, budget, seed, seats)
        found.append(tuple(worst if regret is None else regret for regret in trace.regrets))
    return found


def compare(
    table: Table,
    policies: Mapping[str, Policy] = POLICIES,
    budgets: Sequence[int] = BUDGETS,
    runs: int = 200,
    seats: Sequence[int] = (1,),
) -> list[PolicyResult]:
    """Every policy at every budget the table is large enough for. Raises ValueError where it is for none."""
    possible = [budget for budget in budgets if budget <= len(table.space) // 2]
    if not possible:
        raise ValueError(f"the table has {len(table.space)} architectures: budgets are at most half of them")
    everybody = {**{name: POLICIES[name] for name in OPPONENTS}, **policies}
    results = []
    for places in seats:
        measured = {name: curves(table, policy, max(possible), runs, places) for name, policy in everybody.items()}
        results += [_result(name, places, budget, measured) for budget in possible for name in policies]
    return _adjusted(results)


def _result(name: str, seats: int, budget: int, measured: Mapping[str, Sequence[tuple[float, ...]]]) -> PolicyResult:
    regrets = [curve[budget - 1] for curve in measured[name]]
    interval = bootstrap([[regret] for regret in regrets], random.Random(budget))
    gains = {
        opponent: [other[budget - 1] - own for other, own in zip(measured[opponent], regrets, strict=True)]
        for opponent in OPPONENTS
        if opponent != name
    }
    p = {opponent: paired_test(values).p for opponent, values in gains.items()}
    return PolicyResult(name, seats, budget, len(regrets), fmean(regrets), interval.low, interval.high, p)


def _adjusted(results: Sequence[PolicyResult]) -> list[PolicyResult]:
    """Holm's correction over all tests together."""
    keys = [(place, opponent) for place, one in enumerate(results) for opponent in one.p]
    adjusted = dict(zip(keys, holm([results[place].p[opponent] for place, opponent in keys]), strict=True))
    return [
        PolicyResult(**{**vars(one), "p": {opponent: adjusted[place, opponent] for opponent in one.p}})
        for place, one in enumerate(results)
    ]
