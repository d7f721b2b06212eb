"""Analyses of the table: main effects, rank correlation of early losses, savings of early stopping, and policies
compared by regret at several budgets with tests corrected for their number."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from services.domain.curves import Curve, StoppingReplay, replay_quantiles, replay_stopping
from services.domain.statistics import bootstrap, holm, paired_test, spearman
from services.table.lattice import DIMENSIONS, cell_with, cells, find, moves_between
from services.table.policies import POLICIES
from services.table.table import FIDELITIES, Policy, Record, Table

BASE: Mapping[str, str] = dict(zip(DIMENSIONS, find("delta_net").values, strict=True))
"""Effects are gains over DeltaNet's value of the dimension."""
TRIED_PAIRS = 5
"""Pairs that a move is looked for between."""
RESAMPLES = 200
RUN_SIZES = (40, 100, 200)


@dataclass(frozen=True)
class Effect:
    """By how much a value of a dimension lowers the loss against DeltaNet's, in nats per byte, with the interval over
    pairs of architectures that differ in nothing else. `move` makes this change; None where no single move does."""

    dimension: str
    value: str
    move: str | None
    pairs: int
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """How a share of the steps agrees with the whole: rank correlation, and who of the ten best is among the best
    half by then."""

    fidelity: float
    architectures: int
    spearman: float
    low: float
    high: float
    best_kept: int


@dataclass(frozen=True)
class Stopping:
    """What a rule would have saved of all compute of runs of so many trainings, how many of the ten best it lost, and
    in which share of the runs the very best; ``fidelity`` None: the rule has several."""

    rule: str
    fidelity: float | None
    trainings: int
    saved: float
    lost: float
    best_lost: float | None


def effects(table: Table) -> list[Effect]:
    """The largest gain first. An architecture is in one pair of an effect at most: its pairs are independent."""
    pairs = defaultdict[tuple[str, str], list[tuple[str, str]]](list)
    for name in table.truth:
        for dimension, value in table.values[name].items():
            other = {**table.values[name], dimension: BASE[dimension]}
            if value != BASE[dimension] and (plain := cell_with(other)) and plain.name in table.truth:
                pairs[dimension, value].append((plain.name, name))
    found = []
    for (dimension, value), same in pairs.items():
        if len(same) > 1:
            test = paired_test([table.truth[before] - table.truth[after] for before, after in same])
            interval = test.interval()
            moves = (move for before, after in same[:TRIED_PAIRS] for move in moves_between(before, after))
            found.append(
                Effect(dimension, value, next(moves, None), len(same), test.effect, interval.low, interval.high)
            )
    return sorted(found, key=lambda effect: -effect.gain)


def agreements(table: Table) -> list[Agreement]:
    """Early against final losses, at every share that was measured."""
    found = []
    for fidelity in FIDELITIES[:-1]:
        pairs = _early(table, fidelity)
        if len(pairs) < 4:
            continue
        early, final = zip(*pairs, strict=True)
        low, high = _spearman_interval(early, final)
        best = sorted(range(len(final)), key=final.__getitem__)[:10]
        half = set(sorted(range(len(early)), key=early.__getitem__)[: math.ceil(len(early) / 2)])
        kept = sum(place in half for place in best)
        found.append(Agreement(fidelity, len(pairs), spearman(early, final).rho, low, high, kept))
    return found


def between_scales(first: Table, second: Table) -> tuple[int, float, float, float] | None:
    """How many architectures both have, and the rank correlation of their losses with its interval."""
    shared = sorted(first.truth.keys() & second.truth.keys())
    if len(shared) < 4:
        return None
    ours, theirs = [first.truth[name] for name in shared], [second.truth[name] for name in shared]
    return len(shared), spearman(ours, theirs).rho, *_spearman_interval(ours, theirs)


def reliability(table: Table) -> tuple[int, float] | None:
    """Of how many architectures several seeds are known, and the share of the variance that is between them: the
    highest correlation with one seed's losses that anything can reach is its root."""
    groups = defaultdict[str, list[float]](list)
    for record in table.records():
        if record.loss is not None:
            groups[record.cell].append(record.loss)
    several = [group for group in groups.values() if len(group) > 1]
    if len(several) < 3 or table.seed_noise is None:
        return None
    within = table.seed_noise.deviation**2
    total = float(np.var([group[0] for group in groups.values()], ddof=1))
    return len(several), max(0.0, 1 - within / total)


def stoppings(table: Table, orders: int = 20) -> list[Stopping]:
    """The rules of early stopping over runs drawn from the table, in random order.

    Quantiles stop the worst quarter at a quarter of the steps and the worse half of the others at half of them;
    extrapolation stops whose predicted end misses the median of all so far by a deviation of the fit; halving is no
    rule of a run: it trains all to the share and goes on with the better half.
    """
    records = [record for record in _first_seeds(table) if record.loss is not None and record.curve]
    found: list[Stopping] = []
    if len(records) < 20:
        return found
    curves = [_curve(record) for record in records]
    for size in [size for size in RUN_SIZES if size <= len(curves)]:
        runs = [random.Random(seed).sample(curves, size) for seed in range(orders)]
        rules: list[tuple[str, float | None, list[StoppingReplay]]] = [
            ("quantiles", None, [replay_quantiles(run) for run in runs])
        ]
        rules += [("extrapolation", share, [replay_stopping(run, share) for run in runs]) for share in FIDELITIES[:-1]]
        found += [
            Stopping(
                rule,
                share,
                size,
                fmean(replay.saved for replay in replays),
                fmean(len(replay.lost) for replay in replays),
                fmean(replay.finalists[0] in replay.lost for replay in replays),
            )
            for rule, share, replays in rules
        ]
    return found + [
        Stopping(
            "halving",
            agreement.fidelity,
            agreement.architectures,
            (1 - agreement.fidelity) / 2,
            10 - agreement.best_kept,
            None,
        )
        for agreement in agreements(table)
    ]


def filled(table: Table, seed: int = 0) -> tuple[Table, float]:
    """A table of the whole lattice whose missing architectures are estimates, and the estimates' share of explained
    variance under ten-fold cross-validation.

    A ridge regression on values and pairs of values, whose strength is chosen by the same cross-validation, plus a draw
    of its own error, so that the landscape is as rough as the real one. Results on such a table are provisional: they
    say how a policy does on this model of the lattice.
    """
    names = list(table.truth)
    everything = [cell.name for cell in cells()]
    targets = np.array([[table.query(name, share).loss for share in FIDELITIES] for name in names], dtype=float)
    encoded = {cell.name: _pairs(dict(zip(DIMENSIONS, cell.values, strict=True))) for cell in cells()}
    columns = sorted({key for name in names for key in encoded[name]})
    found: list[tuple[float, float, NDArray[np.float64], NDArray[np.float64]]] = []
    for pairs in (0.0, 0.2, 0.5):
        weights = np.array([1.0 if len(column) == 1 else pairs for column in columns])
        design = np.array([[float(column in encoded[name]) for column in columns] for name in names]) * weights
        for penalty in (0.1, 0.3, 1.0, 3.0):
            errors = _out_of_fold(design, targets, penalty, seed)
            found.append((float(np.mean(errors[:, -1] ** 2)), penalty, weights, errors))
    lost, penalty, weights, errors = min(found, key=lambda one: one[0])
    explained = 1 - lost / float(np.var(targets[:, -1]))
    features = {name: np.array([float(column in encoded[name]) for column in columns]) * weights for name in everything}
    model = _ridge(np.array([features[name] for name in names]), targets, penalty)
    random_ = np.random.default_rng(seed)
    records = table.records()
    cpu = fmean(record.cpu_seconds or 1.0 for record in records)
    for name in everything:
        if name not in table.truth and name not in table.space:
            losses = model(features[name][None])[0] + errors[random_.integers(len(errors))]
            curve = tuple(
                (round(400 * share), 0.0, float(loss)) for share, loss in zip(FIDELITIES, losses, strict=True)
            )
            records.append(
                Record(
                    name, table.scale, 1, loss=float(losses[-1]), curve=curve, cpu_seconds=cpu, conditions="estimate"
                )
            )
    return Table(records, table.scale), explained


def _out_of_fold(
    design: NDArray[np.float64], targets: NDArray[np.float64], penalty: float, seed: int
) -> NDArray[np.float64]:
    """The errors of ten-fold cross-validation."""
    folds = np.random.default_rng(seed).permutation(len(targets)) % 10
    errors = np.empty_like(targets)
    for fold in range(10):
        model = _ridge(design[folds != fold], targets[folds != fold], penalty)
        errors[folds == fold] = targets[folds == fold] - model(design[folds == fold])
    return errors


def _first_seeds(table: Table) -> list[Record]:
    return [table.records(name)[0] for name in table.space]


def _early(table: Table, fidelity: float) -> list[tuple[float, float]]:
    pairs = [(record.at(fidelity), record.loss) for record in _first_seeds(table)]
    return [(early, final) for early, final in pairs if early is not None and final is not None]


def _curve(record: Record) -> Curve:
    steps, losses, _ = zip(*record.curve, strict=True)
    return Curve(steps, losses, steps[-1], record.loss)


def _spearman_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The percentile bootstrap over pairs."""
    rng, rhos = random.Random(0), list[float]()
    while len(rhos) < RESAMPLES:
        drawn = rng.choices(range(len(first)), k=len(first))
        if len(set(drawn)) > 2:
            rhos.append(spearman([first[place] for place in drawn], [second[place] for place in drawn]).rho)
    low, high = np.percentile(rhos, [2.5, 97.5])
    return float(low), float(high)


def _pairs(values: Mapping[str, str]) -> frozenset[tuple[tuple[str, str], ...]]:
    items = sorted(values.items())
    single = {(item,) for item in items}
    return frozenset(single | {(first, second) for first in items for second in items if first < second})


class _ridge:  # noqa: N801 - used as a function that is fitted once
    """Ridge regression with an intercept, in its dual form: few rows, many columns."""

    def __init__(self, design: NDArray[np.float64], targets: NDArray[np.float64], penalty: float) -> None:
        self._mean, self._centre = targets.mean(axis=0), design.mean(axis=0)
        rows = design - self._centre
        weights = np.linalg.solve(rows @ rows.T + penalty * np.eye(len(rows)), targets - self._mean)
        self._weights: NDArray[np.float64] = rows.T @ weights

    def __call__(self, design: NDArray[np.float64]) -> NDArray[np.float64]:
        predicted: NDArray[np.float64] = (design - self._centre) @ self._weights + self._mean
        return predicted


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
    keys = [(place, opponent) for place, result in enumerate(results) for opponent in result.p]
    adjusted = dict(zip(keys, holm([results[place].p[opponent] for place, opponent in keys]), strict=True))
    return [
        PolicyResult(**{**vars(result), "p": {opponent: adjusted[place, opponent] for opponent in result.p}})
        for place, result in enumerate(results)
    ]
