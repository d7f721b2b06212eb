"""Analyses of the table: effects of single values, rank correlation of early losses, savings of early stopping, and the
regret of policies at several budgets with corrected tests."""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from services.domain.curves import Curve, StoppingReplay, replay_quantiles, replay_stopping
from services.domain.statistics import bootstrap, holm, paired_test, spearman
from services.table.lattice import DIMENSIONS, cell_with, cells, find, moves_between
from services.table.policies import POLICIES
from services.table.records import Record
from services.table.table import FIDELITIES, FINALISTS, Policy, Table

BASE: Mapping[str, str] = dict(zip(DIMENSIONS, find("delta_net").values, strict=True))
"""DeltaNet's values, to which effects refer."""
PAIRS_FOR_MOVES = 5
"""Number of pairs that are searched for a move."""
RESAMPLES = 200
RUN_SIZES = (40, 100, 200)


@dataclass(frozen=True)
class Effect:
    """The mean reduction of the loss by a value of a dimension instead of DeltaNet's, in nats per byte.

    The interval is over pairs of architectures that differ in nothing else. `move` makes this change, if one does.
    """

    dimension: str
    value: str
    move: str | None
    pairs: int
    gain: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """The rank correlation of losses after a share of the steps with final losses, and the number of the ten best that
    are in the better half then."""

    fidelity: float
    architectures: int
    spearman: float
    low: float
    high: float
    best_kept: int


@dataclass(frozen=True)
class Stopping:
    """The share of compute that a rule saves in runs of `trainings`, the number of the ten best that it loses, and the
    share of runs in which it loses the best. ``fidelity`` is None for rules with several."""

    rule: str
    fidelity: float | None
    trainings: int
    saved: float
    lost: float
    best_lost: float | None


def effects(table: Table) -> list[Effect]:
    """Effects, the largest gain first. Each architecture is in at most one pair of an effect."""
    pairs = defaultdict[tuple[str, str], list[tuple[str, str]]](list)
    for name in table.truth:
        for dimension, value in table.values[name].items():
            other = {**table.values[name], dimension: BASE[dimension]}
            if value != BASE[dimension] and (cell := cell_with(other)) and cell.name in table.truth:
                pairs[dimension, value].append((cell.name, name))
    results = []
    for (dimension, value), names in pairs.items():
        if len(names) > 1:
            test = paired_test([table.truth[before] - table.truth[after] for before, after in names])
            low, high = test.interval().low, test.interval().high
            moves = (move for before, after in names[:PAIRS_FOR_MOVES] for move in moves_between(before, after))
            results.append(Effect(dimension, value, next(moves, None), len(names), test.effect, low, high))
    return sorted(results, key=lambda effect: -effect.gain)


def agreements(table: Table) -> list[Agreement]:
    """The agreement of early with final losses at each measured share of the steps."""
    results = []
    for fidelity in FIDELITIES[:-1]:
        losses = [(record.at(fidelity), record.loss) for record in _first_seeds(table)]
        pairs = [(early, final) for early, final in losses if early is not None and final is not None]
        if len(pairs) < 4:
            continue
        early, final = zip(*pairs, strict=True)
        low, high = _spearman_interval(early, final)
        best = sorted(range(len(final)), key=final.__getitem__)[:10]
        half = set(sorted(range(len(early)), key=early.__getitem__)[: math.ceil(len(early) / 2)])
        in_half = sum(index in half for index in best)
        results.append(Agreement(fidelity, len(pairs), spearman(early, final).rho, low, high, in_half))
    return results


def correlation(first: Mapping[str, float], second: Mapping[str, float]) -> tuple[int, float, float, float] | None:
    """The number of architectures in both, and the rank correlation of their values with its interval."""
    shared = sorted(first.keys() & second.keys())
    if len(shared) < 4:
        return None
    xs, ys = [first[name] for name in shared], [second[name] for name in shared]
    return len(shared), spearman(xs, ys).rho, *_spearman_interval(xs, ys)


def reliability(table: Table) -> tuple[int, float] | None:
    """The number of architectures with several seeds, and the share of variance between architectures, whose root
    limits the correlation with losses of a single seed."""
    several = [losses for losses in table.losses.values() if len(losses) > 1]
    if len(several) < 3 or table.seed_noise is None:
        return None
    within = table.seed_noise.deviation**2
    total = float(np.var([losses[0] for losses in table.losses.values()], ddof=1))
    return len(several), max(0.0, 1 - within / total)


def stoppings(table: Table) -> list[Stopping]:
    """Rules of early stopping, replayed on runs drawn from the table in 20 random orders.

    Quantiles stop the worst quarter at a quarter of the steps and the worse half of the others at half of them.
    Extrapolation stops trainings whose predicted final loss exceeds the median by a deviation of the fit. Halving,
    which is not a rule of runs, trains all to the share of the steps and continues with the better half.
    """
    results, curves = list[Stopping](), list[Curve]()
    for record in _first_seeds(table):
        if record.loss is not None and record.curve:
            steps, losses, _ = zip(*record.curve, strict=True)
            curves.append(Curve(steps, losses, steps[-1], record.loss))
    if len(curves) < 20:
        return results
    for size in [size for size in RUN_SIZES if size <= len(curves)]:
        runs = [random.Random(seed).sample(curves, size) for seed in range(20)]
        rules: list[tuple[str, float | None, list[StoppingReplay]]] = [
            ("quantiles", None, [replay_quantiles(run) for run in runs])
        ]
        rules += [("extrapolation", share, [replay_stopping(run, share) for run in runs]) for share in FIDELITIES[:-1]]
        for rule, share, replays in rules:
            saved, lost = fmean(replay.saved for replay in replays), fmean(len(replay.lost) for replay in replays)
            best_lost = fmean(replay.finalists[0] in replay.lost for replay in replays)
            results.append(Stopping(rule, share, size, saved, lost, best_lost))
    for agreement in agreements(table):
        share, lost = agreement.fidelity, 10 - agreement.best_kept
        results.append(Stopping("halving", share, agreement.architectures, (1 - share) / 2, lost, None))
    return results


def filled(table: Table) -> tuple[Table, float]:
    """A table of the whole lattice with estimates for missing architectures, and their explained variance.

    Estimates are those of a ridge regression on values and pairs of values, plus a draw from its errors, so that the
    landscape is as rough as the real one. The strength of the penalty is chosen by ten-fold cross-validation, which
    also gives the share of explained variance. Results on such a table are provisional.
    """
    names = list(table.truth)
    lattice = [cell.name for cell in cells()]
    targets = np.array([[table.query(name, share).loss for share in FIDELITIES] for name in names], dtype=float)
    encoded = {cell.name: _pairs(dict(zip(DIMENSIONS, cell.values, strict=True))) for cell in cells()}
    columns = sorted({key for name in names for key in encoded[name]})
    fits: list[tuple[float, float, NDArray[np.float64], NDArray[np.float64]]] = []
    for pairs in (0.0, 0.2, 0.5):
        weights = np.array([1.0 if len(column) == 1 else pairs for column in columns])
        design = np.array([[float(column in encoded[name]) for column in columns] for name in names]) * weights
        for penalty in (0.1, 0.3, 1.0, 3.0):
            errors = _out_of_fold(design, targets, penalty)
            fits.append((float(np.mean(errors[:, -1] ** 2)), penalty, weights, errors))
    variance, penalty, weights, errors = min(fits, key=lambda fit: fit[0])
    explained = 1 - variance / float(np.var(targets[:, -1]))
    features = {name: np.array([float(column in encoded[name]) for column in columns]) * weights for name in lattice}
    model = _ridge(np.array([features[name] for name in names]), targets, penalty)
    generator = np.random.default_rng(0)
    records = table.records()
    cpu = fmean(record.cpu_seconds or 1.0 for record in records)
    for name in lattice:
        if name not in table.truth and name not in table.space:
            losses = model(features[name][None])[0] + errors[generator.integers(len(errors))]
            points = zip(FIDELITIES, losses, strict=True)
            curve = tuple((round(400 * share), 0.0, float(loss)) for share, loss in points)
            loss = float(losses[-1])
            estimate = Record(name, table.scale, 1, loss, curve=curve, cpu_seconds=cpu, conditions="estimate")
            records.append(estimate)
    return Table(records, table.scale), explained


def _out_of_fold(design: NDArray[np.float64], targets: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
    """The errors of ten-fold cross-validation."""
    folds = np.random.default_rng(0).permutation(len(targets)) % 10
    errors = np.empty_like(targets)
    for fold in range(10):
        model = _ridge(design[folds != fold], targets[folds != fold], penalty)
        errors[folds == fold] = targets[folds == fold] - model(design[folds == fold])
    return errors


def _first_seeds(table: Table) -> list[Record]:
    return [table.records(name)[0] for name in table.space]


def _spearman_interval(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval over pairs."""
    rng, rhos = random.Random(0), list[float]()
    while len(rhos) < RESAMPLES:
        sample = rng.choices(range(len(first)), k=len(first))
        if len(set(sample)) > 2:
            rhos.append(spearman([first[index] for index in sample], [second[index] for index in sample]).rho)
    low, high = np.percentile(rhos, [2.5, 97.5])
    return float(low), float(high)


def _pairs(values: Mapping[str, str]) -> frozenset[tuple[tuple[str, str], ...]]:
    items = sorted(values.items())
    single = {(item,) for item in items}
    return frozenset(single | {(first, second) for first in items for second in items if first < second})


def _ridge(
    design: NDArray[np.float64], targets: NDArray[np.float64], penalty: float
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Ridge regression with an intercept, in the dual form as there are few rows and many columns."""
    mean, centre = targets.mean(axis=0), design.mean(axis=0)
    rows = design - centre
    weights = rows.T @ np.linalg.solve(rows @ rows.T + penalty * np.eye(len(rows)), targets - mean)
    return lambda design: (design - centre) @ weights + mean


BUDGETS = (20, 50, 100, 200, 500)
OPPONENTS = ("random", "local")


@dataclass(frozen=True)
class PolicyResult:
    """The mean regret in nats of one policy at one budget and number of seats, with its 95 % interval over runs.

    `p` holds the Holm-adjusted p-value for each opponent, of a test paired by seeds.
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
    table: Table, policy: Policy, budget: int, runs: int, seats: int, finalists: int = FINALISTS
) -> list[tuple[float, ...]]:
    """The anytime regret of each run, which is that of the worst architecture before the first result."""
    worst = max(table.truth.values()) - table.best
    traces = [table.simulate(policy, budget, seed, seats, finalists) for seed in range(runs)]
    return [tuple(worst if regret is None else regret for regret in trace.regrets) for trace in traces]


def compare(
    table: Table,
    policies: Mapping[str, Policy] = POLICIES,
    budgets: Sequence[int] = BUDGETS,
    runs: int = 200,
    seats: Sequence[int] = (1,),
    finalists: int = FINALISTS,
) -> list[PolicyResult]:
    """All policies at all budgets up to half of the table. Raises ValueError if there are none."""
    possible = [budget for budget in budgets if budget <= len(table.space) // 2]
    if not possible:
        raise ValueError(f"the table has {len(table.space)} architectures: budgets are at most half of them")
    opponents = {name: POLICIES[name] for name in OPPONENTS}
    results = []
    for count in seats:
        by_policy = {
            name: curves(table, policy, max(possible), runs, count, finalists)
            for name, policy in {**opponents, **policies}.items()
        }
        results += [_result(name, count, budget, by_policy) for budget in possible for name in policies]
    adjusted = iter(holm([p for result in results for p in result.p.values()]))  # over all tests
    return [replace(result, p={opponent: next(adjusted) for opponent in result.p}) for result in results]


def _result(name: str, seats: int, budget: int, by_policy: Mapping[str, Sequence[tuple[float, ...]]]) -> PolicyResult:
    regrets = [curve[budget - 1] for curve in by_policy[name]]
    interval = bootstrap([[regret] for regret in regrets], random.Random(budget))
    gains = {
        opponent: [other[budget - 1] - own for other, own in zip(by_policy[opponent], regrets, strict=True)]
        for opponent in OPPONENTS
        if opponent != name
    }
    p = {opponent: paired_test(values).p for opponent, values in gains.items()}
    return PolicyResult(name, seats, budget, len(regrets), fmean(regrets), interval.low, interval.high, p)
