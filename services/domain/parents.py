"""Ways to choose the parent of the next candidate, one small class each behind one name.

A strategy sees all entries that may be drawn and a source of randomness, and returns one id. The paper's needs the
pool's members only; the tree and the islands live from seeing the whole archive, so the caller passes what it has.
"""

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from services.domain import lineage
from services.domain.pool import Entry, rank


class ParentStrategy(Protocol):
    """Chooses a parent. Equal entries and an equal state of ``rng`` give an equal choice.

    Raises ``ValueError`` where there are no entries.
    """

    def choose(self, entries: Sequence[Entry], rng: random.Random) -> str:
        """The id of the entry to modify next."""
        ...


@dataclass(frozen=True, slots=True)
class Paper:
    """Uniform over the best ``top`` ranks (arXiv:2507.18074)."""

    top: int = 10

    def choose(self, entries: Sequence[Entry], rng: random.Random) -> str:
        """One of the best."""
        return rng.choice(_ranked(entries)[: self.top]).id


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every entry alike: the ablation that shows what selection brings."""

    def choose(self, entries: Sequence[Entry], rng: random.Random) -> str:
        """Anyone."""
        return rng.choice(_ranked(entries)).id


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """Rank r with weight r^−exponent: mostly the best, now and then anyone."""

    exponent: float = 1.0

    def choose(self, entries: Sequence[Entry], rng: random.Random) -> str:
        """By the weight of its rank."""
        ranked = _ranked(entries)
        return rng.choices(ranked, [place**-self.exponent for place in range(1, len(ranked) + 1)])[0].id


@dataclass(frozen=True, slots=True)
class Uct:
    """Upper confidence bounds over the tree (Kocsis & Szepesvári 2006).

    From a virtual root above all roots one descends to the child with the highest mean fitness rank of its subtree
    plus ``exploration · √(ln visits of the node / visits of the child)``, and stops where the node itself, as an arm
    with its own rank and its number of children as visits, has the highest bound. Ranks are scaled to [0, 1], so the
    constant suits any fitness.
    """

    exploration: float = 0.7

    def choose(self, entries: Sequence[Entry], rng: random.Random) -> str:
        """The node where the descent stops; ties fall by chance."""
        ranked = _ranked(entries)
        worth = {entry.id: 1 - place / len(ranked) for place, entry in enumerate(ranked)}
        parents = {entry.id: entry.parent if entry.parent in worth else None for entry in ranked}
        index = lineage.children(parents)
        sums, visits = _subtree_sums(parents, worth)
        here: str | None = None
        arms = lineage.roots(parents)
        while True:
            total = sum(visits[arm] for arm in arms) + (here is not None)
            bounds = {arm: self._bound(sums[arm] / visits[arm], visits[arm], total) for arm in arms}
            if here is not None:
                bounds[here] = self._bound(worth[here], 1 + len(arms), total)
            best = max(bounds.values())
            chosen = rng.choice([arm for arm, bound in bounds.items() if bound == best])
            if chosen == here or not index[chosen]:
                return chosen
            here, arms = chosen, index[chosen]

    def _bound(self, mean: float, visits: int, total: int) -> float:
        return mean + self.exploration * math.sqrt(math.log(total + 1) / visits)


@dataclass(frozen=True, slots=True)
class Islands:
    """Families kept apart, so that one early success does not crowd out the others.

    Entries are dealt to ``count`` islands by the root they descend from; an island is chosen uniformly, then one of
    its ``top``. With fewer roots than islands the children of the roots found the islands.
    """

    count: int = 4
    top: int = 5

    def choose(self, entries: Sequence[Entry], rng: random.Random) -> str:
        """One of the best of one island."""
        islands = self._islands(_ranked(entries))
        return rng.choice(islands[rng.randrange(len(islands))][: self.top]).id

    def _islands(self, ranked: Sequence[Entry]) -> list[list[Entry]]:
        known = {entry.id for entry in ranked}
        parents = {entry.id: entry.parent if entry.parent in known else None for entry in ranked}
        founders = self._founders(parents, {entry.id: entry.sequence for entry in ranked})
        islands: list[list[Entry]] = [[] for _ in range(self.count)]
        depth = lineage.depths(parents)
        home: dict[str | None, int] = {None: 0}
        for entry in sorted(ranked, key=lambda entry: depth[entry.id]):
            home[entry.id] = founders.get(entry.id, home[parents[entry.id]])
        for entry in ranked:
            islands[home[entry.id] % self.count].append(entry)
        return [island for island in islands if island]

    def _founders(self, parents: lineage.Parents, born: Mapping[str, int]) -> dict[str, int]:
        """Every founder with its number, in order of birth."""
        founders = lineage.roots(parents)
        if len(founders) < self.count:
            index = lineage.children(parents)
            founders = [*founders, *itertools.chain.from_iterable(index[one] for one in founders)]
        return {one: place for place, one in enumerate(sorted(founders, key=lambda one: (born[one], one)))}


STRATEGIES: Mapping[str, Callable[[], ParentStrategy]] = MappingProxyType(
    {"paper": Paper, "uniform": Uniform, "power-law": PowerLaw, "uct": Uct, "islands": Islands}
)
"""Every strategy by the name that a run's settings use."""


def strategy(name: str) -> ParentStrategy:
    """The strategy of that name with its default numbers. Raises ``ValueError`` listing the names there are."""
    if name not in STRATEGIES:
        raise ValueError(f"parent strategy {name!r} is not known; choose one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name]()


def _ranked(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    ranked = rank(entries)
    if not ranked:
        raise ValueError("entries is empty: the baselines have to be scored before a parent can be chosen")
    return ranked


def _subtree_sums(parents: lineage.Parents, worth: Mapping[str, float]) -> tuple[dict[str, float], dict[str, int]]:
    """Sum of worth and number of nodes of every subtree, its top included."""
    sums, visits = dict(worth), dict.fromkeys(worth, 1)
    depth = lineage.depths(parents)
    for one in sorted(parents, key=lambda one: -depth[one]):
        parent = parents[one]
        if parent is not None:
            sums[parent] += sums[one]
            visits[parent] += visits[one]
    return sums, visits
