"""Search policies on equal footing: each sees the same search and says what to train next."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from services.domain.pool import Entry, PowerLaw, Uct
from services.table.table import Choice, Observation, Policy, Search

MOVES = (1, 1, 2, 2, 3)
"""Steps between a parent and its child, drawn from uniformly, as the bandit of the offline mind does."""
WALKS, FIRST_WALKS = (1, 1, 2, 2, 3, 4, 6, 8), (4, 6, 8)
"""The same for the children that the offline mind's model judges, and for those before there is a model."""


def random_search(search: Search) -> Choice:
    """Any architecture that was not tried."""
    return Choice(search.rng.choice(search.unseen()))


def local_search(search: Search) -> Choice:
    """One move from the best that has an untried neighbour."""
    for record in search.ranked():
        if near := search.unseen(search.neighbours(record.architecture)):
            return Choice(search.rng.choice(near), parent=record.architecture)
    return random_search(search)


def regularised_evolution(search: Search, population: int = 20, sample: int = 5) -> Choice:
    """The best of a sample of the newest, moved once (Real et al. 2019, arXiv:1802.01548)."""
    finished = [observation for observation in search.observations if observation.loss is not None]
    if len(finished) + len(search.pending) < population or not finished:
        return random_search(search)
    living = finished[-population:]
    drawn = search.rng.sample(living, min(sample, len(living)))
    return _child(search, min(drawn, key=_loss).architecture, 1)


def paper_pool(search: Search, parents: int = 10) -> Choice:
    """A parent drawn from the ten best, moved one to three times (arXiv:2507.18074)."""
    ranked = search.ranked()
    if not ranked:
        return random_search(search)
    return _child(search, search.rng.choice(ranked[:parents]).architecture, search.rng.choice(MOVES))


def power_law(search: Search) -> Choice:
    """A parent by the weight of its rank, moved one to three times."""
    entries = _entries(search)
    if len(entries) < 5:
        return random_search(search)
    return _child(search, PowerLaw().choose(entries, search.rng), search.rng.choice(MOVES))


def uct(search: Search) -> Choice:
    """Upper confidence bounds over the tree of parents, one move from the chosen node."""
    entries = _entries(search)
    if len(entries) < 5:
        return random_search(search)
    return _child(search, Uct().choose(entries, search.rng), 1)


def bandit(search: Search, parents: int = 10, spread: float = 0.05) -> Choice:
    """A parent of the paper's pool; the moves by Thompson sampling over what each brought so far."""
    ranked = search.ranked()
    if not ranked:
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
    draws: dict[str, float] = {}
    near = search.unseen(search.neighbours(parent))
    for child in near:
        draws[child] = sum(_belief(gains.get(move, ()), spread, search.rng) for move in _moves(search, parent, child))
    return Choice(max(near, key=draws.__getitem__), parent=parent) if near else _child(search, parent, 2)


def surrogate(search: Search, first: int = 8) -> Choice:
    """A Gaussian process over the dimensions of the lattice; the highest expected improvement."""
    if len(search.ranked()) < first:
        return random_search(search)
    return Choice(_most_promising(search, 1.0))


def local_surrogate(search: Search, first: int = 8, top: int = 5) -> Choice:
    """The same, but only among the neighbours of the best few: what a search by moves can reach."""
    ranked = search.ranked()
    if len(ranked) < first:
        return random_search(search)
    near = sorted({n for record in ranked[:top] for n in search.unseen(search.neighbours(record.architecture))})
    return Choice(_most_promising(search, 1.0, near or None))


def pool_surrogate(search: Search, first: int = 8, parents: int = 10, draws: int = 200) -> Choice:
    """Of many children of the ten best, near and far, the one of highest expected improvement; what the offline mind
    does. It begins with far children of what is known, drawn by chance."""
    ranked = search.ranked()
    if len(ranked) < first:
        known = [observation.architecture for observation in search.observations] or [search.rng.choice(search.space)]
        return _child(search, search.rng.choice(known), search.rng.choice(FIRST_WALKS))
    children: dict[str, str] = {}
    for _ in range(draws):
        here = parent = search.rng.choice(ranked[:parents]).architecture
        for _ in range(search.rng.choice(WALKS)):
            here = search.rng.choice(search.neighbours(here) or (here,))
        children.setdefault(here, parent)
    untried = search.unseen(sorted(children))
    if not untried:
        return paper_pool(search)
    chosen = _most_promising(search, 1.0, untried)
    return Choice(chosen, parent=children[chosen])


def halving(search: Search, factor: int = 3) -> Choice:
    """Asynchronous successive halving over fidelities (Li et al. 2018, arXiv:1810.05934); new ones at random."""
    return _promotion(search, factor) or Choice(search.rng.choice(search.unseen()), RUNGS[0])


def surrogate_halving(search: Search, factor: int = 3, first: int = 16) -> Choice:
    """The same rungs; new ones by expected improvement over what the lowest rung has shown."""
    if promoted := _promotion(search, factor):
        return promoted
    if len(search.ranked(RUNGS[0])) < first:
        return Choice(search.rng.choice(search.unseen()), RUNGS[0])
    return Choice(_most_promising(search, RUNGS[0]), RUNGS[0])


RUNGS = (0.25, 0.5, 1.0)

POLICIES: Mapping[str, Policy] = MappingProxyType(
    {
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
)


def policy(name: str) -> Policy:
    """A policy by its name. Raises ValueError listing the names there are."""
    if name not in POLICIES:
        raise ValueError(f"policy {name!r} is not known; choose one of {', '.join(POLICIES)}")
    return POLICIES[name]


def _loss(observation: Observation) -> float:
    return math.inf if observation.loss is None else observation.loss


def _entries(search: Search) -> list[Entry]:
    return [
        Entry(observation.architecture, -_loss(observation), place, observation.parent)
        for place, observation in enumerate(search.observations)
        if observation.loss is not None
    ]


def _child(search: Search, parent: str, moves: int) -> Choice:
    """An untried architecture so many random moves away; further where all of those were tried."""
    for attempt in range(32):
        here = parent
        for _ in range(moves + attempt // 8):
            here = search.rng.choice(search.neighbours(here) or (here,))
        if here not in search.seen:
            return Choice(here, parent=parent)
    return Choice(search.rng.choice(search.unseen()))


def _moves(search: Search, parent: str, child: str) -> list[tuple[str, str]]:
    """What was set to what between the two."""
    before, after = search.values(parent), search.values(child)
    return [(name, value) for name, value in after.items() if before[name] != value]


def _belief(gains: Sequence[float], spread: float, rng: random.Random) -> float:
    """A draw from the posterior of a normal prior and normal noise of the same spread."""
    precision = (1 + len(gains)) * spread**-2
    return rng.gauss(sum(gains) * spread**-2 / precision, precision**-0.5)


def _promotion(search: Search, factor: int) -> Choice | None:
    """Who is in the best part of its rung and not above it yet, the highest rung first."""
    for below, above in reversed(list(pairwise(RUNGS))):
        ranked = search.ranked(below)
        for record in ranked[: len(ranked) // factor]:
            if search.seen[record.architecture] <= below:
                return Choice(record.architecture, above)
    if not search.unseen():
        waiting = [name for name, share in search.seen.items() if share < 1]
        return Choice(search.rng.choice(waiting), 1.0)
    return None


def _most_promising(search: Search, fidelity: float, among: Iterable[str] | None = None) -> str:
    """The untried architecture with the highest expected improvement on the best loss at one fidelity."""
    model = search.memory.get(f"model {fidelity}")
    if not isinstance(model, _Process):
        model = search.memory[f"model {fidelity}"] = _Process(search)
    model.learn(
        [
            observation
            for observation in search.observations
            if observation.fidelity == fidelity and observation.loss is not None
        ]
    )
    untried = search.unseen(among)
    if not untried:
        return search.rng.choice(search.unseen())
    mean, deviation = model.predict(untried)
    best = min(model.targets)
    z = (best - mean) / deviation
    improvement = deviation * (z * ndtr(z) + np.exp(-z * z / 2) / math.sqrt(2 * math.pi))
    return untried[int(np.argmax(improvement))]


class _Process:
    """A Gaussian process over the space whose kernel falls with the number of dimensions in which two cells differ.

    Learning one more observation costs (observations × space): a search of 500 steps takes a second.
    """

    NOISE = 1e-3
    LENGTH = 2.5

    def __init__(self, search: Search) -> None:
        self._space = search.space
        self._place = {name: place for place, name in enumerate(self._space)}
        self._kernel = np.exp(-search.table.distances / self.LENGTH)
        size = len(self._space)
        self._rows: NDArray[np.float64] = np.empty((0, size))
        self._ones: list[float] = []
        self._solved: list[float] = []
        self._variance = np.ones(size)
        self.targets: list[float] = []

    def learn(self, observations: Sequence[Observation]) -> None:
        """Take in those beyond the ones already known."""
        for observation in observations[len(self.targets) :]:
            place = self._place[observation.architecture]
            known = self._rows[:, place]
            pivot = math.sqrt(max(1.0 + self.NOISE - float(known @ known), 1e-9))
            row = (self._kernel[place] - known @ self._rows) / pivot
            self._ones.append((1.0 - float(known @ np.array(self._ones))) / pivot)
            self._solved.append((_loss(observation) - float(known @ np.array(self._solved))) / pivot)
            self._rows = np.vstack([self._rows, row])
            self._variance = np.maximum(self._variance - row * row, 1e-9)
            self.targets.append(_loss(observation))

    def predict(self, names: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and deviation of the loss, with the constant mean and the scale that fit best."""
        ones, solved = np.array(self._ones), np.array(self._solved)
        centre = float(ones @ solved / (ones @ ones))
        residual = solved - centre * ones
        scale = math.sqrt(max(float(residual @ residual) / len(residual), 1e-12))
        places = [self._place[name] for name in names]
        return centre + residual @ self._rows[:, places], scale * np.sqrt(self._variance[places])
