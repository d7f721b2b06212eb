"""Search policies: functions from a search to the next architecture to train."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from services.domain import pool
from services.domain.pool import Entry
from services.mixers.surrogate import LENGTH, NOISE
from services.table.table import Choice, Observation, Policy, Search

BASELINES = 5
"""Number of random architectures that the parent strategies begin with, as a run does with its baselines."""
MOVES = (1, 1, 2, 2, 3)
"""Numbers of steps between parent and child, drawn uniformly, as in the offline mind's bandit."""
WALKS = (1, 1, 2, 2, 3, 4, 6, 8)
"""Those for children ranked by a surrogate model as in the offline mind."""


def random_search(search: Search) -> Choice:
    return Choice(search.rng.choice(search.unseen()))


def local_search(search: Search) -> Choice:
    """An untried neighbour of the best architecture that has one."""
    for record in search.ranked():
        if near := search.unseen(search.neighbours(record.architecture)):
            return Choice(search.rng.choice(near), parent=record.architecture)
    return random_search(search)


def regularised_evolution(search: Search, population: int = 20, sample: int = 5) -> Choice:
    """One move from the best of a sample of the newest (Real et al. 2019, arXiv:1802.01548)."""
    finished = [observation for observation in search.observations if observation.loss is not None]
    if len(finished) + len(search.pending) < population or not finished:
        return random_search(search)
    newest = finished[-population:]
    tournament = search.rng.sample(newest, min(sample, len(newest)))
    return _child(search, min(tournament, key=_loss).architecture, 1)


def paper_pool(search: Search, parents: int = 10) -> Choice:
    """One to three moves from one of the ten best (arXiv:2507.18074)."""
    ranked = search.ranked()
    if len(ranked) < BASELINES:
        return random_search(search)
    return _child(search, search.rng.choice(ranked[:parents]).architecture, search.rng.choice(MOVES))


def power_law(search: Search) -> Choice:
    """One to three moves from a parent drawn by a power law of its rank."""
    entries = _entries(search)
    if len(entries) < BASELINES:
        return random_search(search)
    return _child(search, pool.power_law(entries, search.rng), search.rng.choice(MOVES))


def uct(search: Search) -> Choice:
    """One move from a node chosen by upper confidence bounds over the tree of parents."""
    entries = _entries(search)
    if len(entries) < BASELINES:
        return random_search(search)
    return _child(search, pool.uct(entries, search.rng), 1)


def bandit(search: Search, parents: int = 10, spread: float = 0.05) -> Choice:
    """A parent from the paper's pool, and a move by Thompson sampling over the moves' gains."""
    ranked = search.ranked()
    if len(ranked) < BASELINES:
        return random_search(search)
    parent = search.rng.choice(ranked[:parents]).architecture
    losses = {observation.architecture: observation.loss for observation in search.observations}
    gains: dict[tuple[str, str], list[float]] = {}
    for observation in search.observations:
        before = losses.get(observation.parent) if observation.parent else None
        if before is None:
            continue
        gain = -spread if observation.loss is None else before - observation.loss
        moves = _moves(search, observation.parent or "", observation.architecture)
        for move in moves:
            gains.setdefault(move, []).append(gain / len(moves))
    near = search.unseen(search.neighbours(parent))
    draws = dict.fromkeys(near, 0.0)  # from posteriors for a normal prior and normal noise with the same deviation
    for child in near:
        for move in _moves(search, parent, child):
            known = gains.get(move, ())
            precision = (1 + len(known)) * spread**-2
            draws[child] += search.rng.gauss(sum(known) * spread**-2 / precision, precision**-0.5)
    return Choice(max(near, key=draws.__getitem__), parent=parent) if near else _child(search, parent, 2)


def surrogate(search: Search, first: int = 8) -> Choice:
    """The highest expected improvement of a Gaussian process over the lattice's dimensions."""
    if len(search.ranked()) < first:
        return random_search(search)
    return Choice(_highest_improvement(search, 1.0))


def local_surrogate(search: Search, first: int = 8, top: int = 5) -> Choice:
    """The highest expected improvement among the neighbours of the best few."""
    ranked = search.ranked()
    if len(ranked) < first:
        return random_search(search)
    near = sorted({n for record in ranked[:top] for n in search.unseen(search.neighbours(record.architecture))})
    return Choice(_highest_improvement(search, 1.0, near or None))


def pool_surrogate(search: Search, first: int = 8, top: int = 5, parents: int = 10, draws: int = 200) -> Choice:
    """The highest expected improvement among neighbours of the best five and far children of the best ten.

    This is the offline mind's model, without its prior. The first choices are random: a run begins with baselines of
    all families.
    """
    ranked = search.ranked()
    if len(ranked) < first:
        return random_search(search)
    children: dict[str, str] = {}
    for _ in range(draws):
        parent = search.rng.choice(ranked[:parents]).architecture
        children.setdefault(_walk(search, parent, search.rng.choice(WALKS)), parent)
    for record in ranked[:top]:
        for neighbour in search.neighbours(record.architecture):
            children.setdefault(neighbour, record.architecture)
    untried = search.unseen(sorted(children))
    if not untried:
        return paper_pool(search)
    child = _highest_improvement(search, 1.0, untried)
    return Choice(child, parent=children[child])


def halving(search: Search, factor: int = 3) -> Choice:
    """Asynchronous successive halving over fidelities (Li et al. 2018, arXiv:1810.05934) of random architectures."""
    return _promotion(search, factor) or Choice(search.rng.choice(search.unseen()), RUNGS[0])


def surrogate_halving(search: Search, factor: int = 3, first: int = 16) -> Choice:
    """Successive halving of architectures with the highest expected improvement at the lowest fidelity."""
    if promoted := _promotion(search, factor):
        return promoted
    if len(search.ranked(RUNGS[0])) < first:
        return Choice(search.rng.choice(search.unseen()), RUNGS[0])
    return Choice(_highest_improvement(search, RUNGS[0]), RUNGS[0])


RUNGS = (0.25, 0.5, 1.0)

POLICIES: Mapping[str, Policy] = {
    "random": random_search,
    "local": local_search,
    "evolution": regularised_evolution,
    "paper": paper_pool,
    "power-law": power_law,
    "uct": uct,
    "bandit": bandit,
    "surrogate": surrogate,
    "local-surrogate": local_surrogate,
    "pool-surrogate": pool_surrogate,
    "halving": halving,
    "surrogate-halving": surrogate_halving,
}


def _loss(observation: Observation) -> float:
    return math.inf if observation.loss is None else observation.loss


def _entries(search: Search) -> list[Entry]:
    return [
        Entry(observation.architecture, -_loss(observation), index, observation.parent)
        for index, observation in enumerate(search.observations)
        if observation.loss is not None
    ]


def _walk(search: Search, start: str, moves: int) -> str:
    """The architecture after a number of random moves."""
    for _ in range(moves):
        start = search.rng.choice(search.neighbours(start) or (start,))
    return start


def _child(search: Search, parent: str, moves: int) -> Choice:
    """An untried architecture after random moves, whose number increases if the results were tried."""
    for attempt in range(32):
        child = _walk(search, parent, moves + attempt // 8)
        if child not in search.seen:
            return Choice(child, parent=parent)
    return Choice(search.rng.choice(search.unseen()))


def _moves(search: Search, parent: str, child: str) -> list[tuple[str, str]]:
    """The dimensions in which two architectures differ, with the child's values."""
    before, after = search.values(parent), search.values(child)
    return [(name, value) for name, value in after.items() if before[name] != value]


def _promotion(search: Search, factor: int) -> Choice | None:
    """An architecture in the best part of its rung that is not promoted yet, from the highest rung first."""
    for below, above in reversed(list(pairwise(RUNGS))):
        ranked = search.ranked(below)
        for record in ranked[: len(ranked) // factor]:
            if search.seen[record.architecture] <= below:
                return Choice(record.architecture, above)
    if not search.unseen():
        partial = [name for name, fidelity in search.seen.items() if fidelity < 1]
        return Choice(search.rng.choice(partial), 1.0)
    return None


def _highest_improvement(search: Search, fidelity: float, among: Iterable[str] | None = None) -> str:
    """The untried architecture with the highest expected improvement on the best loss at one fidelity."""
    model = search.memory.get(f"model {fidelity}")
    if not isinstance(model, _GaussianProcess):
        model = search.memory[f"model {fidelity}"] = _GaussianProcess(search)
    observations = [observation for observation in search.observations if observation.fidelity == fidelity]
    model.learn([observation for observation in observations if observation.loss is not None])
    untried = search.unseen(among)
    if not untried:
        return search.rng.choice(search.unseen())
    mean, deviation, best = model.predict(untried)
    z = (best - mean) / deviation
    improvement = deviation * (z * ndtr(z) + np.exp(-z * z / 2) / math.sqrt(2 * math.pi))
    return untried[int(np.argmax(improvement))]


class _GaussianProcess:
    """A Gaussian process whose kernel decreases with the number of dimensions in which two cells differ.

    It has the constants of the offline mind's model. Adding an observation takes O(observations × space); a search of
    500 steps takes a second.
    """

    def __init__(self, search: Search) -> None:
        self._space = search.space
        self._index = {name: index for index, name in enumerate(self._space)}
        self._kernel = np.exp(-search.table.distances / LENGTH)
        size = len(self._space)
        self._factor = np.empty((size, size))  # one row per observation
        self._ones, self._solved = np.empty(size), np.empty(size)
        self._variance = np.ones(size)
        self._observed: list[int] = []

    def learn(self, observations: Sequence[Observation]) -> None:
        for observation in observations[len(self._observed) :]:
            index, count = self._index[observation.architecture], len(self._observed)
            rows, loss = self._factor[:count], _loss(observation)
            column = rows[:, index]
            pivot = math.sqrt(max(1.0 + NOISE - float(column @ column), 1e-9))
            row = (self._kernel[index] - column @ rows) / pivot
            self._factor[count] = row
            self._ones[count] = (1.0 - column @ self._ones[:count]) / pivot
            self._solved[count] = (loss - column @ self._solved[:count]) / pivot
            self._variance = np.maximum(self._variance - row * row, 1e-9)
            self._observed.append(index)

    def predict(self, names: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Mean and deviation of the loss, and the lowest mean of an observed architecture.

        The constant mean and the scale are fitted. With noise, the lowest observed loss would be one of the luckiest.
        """
        count = len(self._observed)
        ones, solved = self._ones[:count], self._solved[:count]
        centre = float(ones @ solved / (ones @ ones))
        residual = solved - centre * ones
        scale = math.sqrt(max(float(residual @ residual) / len(residual), 1e-12))
        indices = [self._index[name] for name in names]
        means = centre + residual @ self._factor[:count]
        return means[indices], scale * np.sqrt(self._variance[indices]), float(means[self._observed].min())
