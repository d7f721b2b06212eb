"""The candidate pool: who may be a parent or a reference, when that changes, and the ways to choose a parent.

Source: arXiv:2507.18074, the section on the Researcher. The pool holds the 50 best; a parent comes uniformly from
ranks 1–10 and 4 references from ranks 11–50; it is first filled after 200 entries and changes only after every 50
more.

Choices where the paper is silent: before the first update seeds are drawn from everything that has entered so far
(the search then explores from the baselines at once); a pool too small to have ranks below the parents' gives
references from the candidates that are not the parent; fewer than asked are given where fewer exist.

A parent strategy sees all entries that may be drawn and a source of randomness, and returns one id. The paper's needs
the pool's members only; the tree and the islands need the whole archive, so the caller passes what it has.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from services.domain import lineage
from services.domain.objectives import Costs, nsga_order


@dataclass(frozen=True, slots=True)
class Entry:
    """One scored candidate; ``sequence`` is its place in the log, ``parent`` the id it was made from.

    ``costs`` are those of a run with several objectives, where all of them were measured.
    """

    id: str
    fitness: float
    sequence: int
    parent: str | None = None
    costs: Costs | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.fitness):
            raise ValueError(f"fitness of {self.id} must be finite, not {self.fitness!r}; unscored candidates stay out")


@dataclass(frozen=True, slots=True)
class PoolPolicy:
    """The numbers of the pool; the defaults are the paper's, tiny runs scale them down.

    ``cold_start`` 0 means no cold start: the first update comes after one batch. A bad number raises ``ValueError``.
    """

    size: int = 50
    parents: int = 10
    references: int = 4
    cold_start: int = 200
    batch: int = 50

    def __post_init__(self) -> None:
        lowest = {"size": 1, "parents": 1, "references": 0, "cold_start": 0, "batch": 1}
        for field, least in lowest.items():
            if getattr(self, field) < least:
                raise ValueError(f"pool.{field} must be at least {least}, not {getattr(self, field)}")
        if self.parents > self.size:
            raise ValueError(f"pool.parents ({self.parents}) must not exceed pool.size ({self.size})")


@dataclass(frozen=True, slots=True)
class PoolState:
    """A pool in time: its ranked members, what has entered since the last update, and how much entered in all.

    It stays bounded: ``members`` by the size, ``pending`` by the cold start or the batch.
    """

    members: tuple[Entry, ...] = ()
    pending: tuple[Entry, ...] = ()
    count: int = 0
    updates: int = 0


@dataclass(frozen=True, slots=True)
class PoolUpdate:
    """The pool has changed: its new ranking, and who came and went (ids, in rank order)."""

    number: int
    count: int
    members: tuple[Entry, ...]
    came: tuple[str, ...]
    went: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Draw:
    """The seeds of one proposal: one parent to modify and references to look at, best first."""

    parent: Entry
    references: tuple[Entry, ...]


def rank(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Best first: by fitness, then the earlier one, then by id. Of several entries with one id the best is kept.

    Entries with costs are ordered by them, as NSGA-II does, and come before those without.
    """
    ordered = sorted(entries, key=lambda entry: (-entry.fitness, entry.sequence, entry.id))
    best: dict[str, Entry] = {}
    for entry in ordered:
        best.setdefault(entry.id, entry)
    costs = [(entry, entry.costs) for entry in best.values() if entry.costs is not None]
    first = [costs[place][0] for place in nsga_order([cost for _, cost in costs])]
    return (*first, *(entry for entry in best.values() if entry.costs is None))


def entered(state: PoolState, entry: Entry, policy: PoolPolicy) -> tuple[PoolState, PoolUpdate | None]:
    """The pool after one more scored candidate, and the update if that one completed a batch.

    An id that the pool or its waiting batch holds already changes nothing (a redelivery). One that fell out of the pool
    earlier is not remembered: the archive, which knows every id, keeps those away.
    """
    if entry.id in [known.id for known in (*state.members, *state.pending)]:
        return state, None
    state = replace(state, pending=(*state.pending, entry), count=state.count + 1)
    if len(state.pending) < _awaited(state, policy):
        return state, None
    update = _update(state, policy)
    return PoolState(update.members, (), state.count, update.number), update


def rescored(state: PoolState, candidate: str, fitness: float) -> PoolState:
    """The pool with another fitness of one of its entries; the members stay the same, their order follows."""

    def changed(entries: Sequence[Entry]) -> list[Entry]:
        return [replace(entry, fitness=fitness) if entry.id == candidate else entry for entry in entries]

    return replace(state, members=rank(changed(state.members)), pending=tuple(changed(state.pending)))


def seeds(state: PoolState) -> tuple[Entry, ...]:
    """Who may be drawn now, best first: the members, or all that entered while the pool has never been updated."""
    return state.members if state.updates else rank(state.pending)


def draw(members: Sequence[Entry], policy: PoolPolicy, rng: random.Random, parent: Entry | None = None) -> Draw:
    """One parent from the top ranks and the references from the ranks below, without repetition.

    ``parent`` is given where another strategy has chosen it. Raises ``ValueError`` if there is no candidate to draw.
    """
    ranked = rank(members)[: policy.size]
    if parent is None:
        if not ranked:
            raise ValueError("the pool is empty: the baselines have to be scored before a parent can be drawn")
        parent = rng.choice(ranked[: policy.parents])
    below = ranked[policy.parents :] if len(ranked) > policy.parents else ranked
    others = [entry for entry in below if entry.id != parent.id]
    return Draw(parent, rank(rng.sample(others, min(policy.references, len(others)))))


def _awaited(state: PoolState, policy: PoolPolicy) -> int:
    return policy.batch if state.updates else policy.cold_start or policy.batch


def _update(state: PoolState, policy: PoolPolicy) -> PoolUpdate:
    members = rank((*state.members, *state.pending))[: policy.size]
    before, after = {entry.id for entry in state.members}, {entry.id for entry in members}
    return PoolUpdate(
        number=state.updates + 1,
        count=state.count,
        members=members,
        came=tuple(entry.id for entry in members if entry.id not in before),
        went=tuple(entry.id for entry in state.members if entry.id not in after),
    )


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
            founders = [*founders, *itertools.chain.from_iterable(index[founder] for founder in founders)]
        return {one: place for place, one in enumerate(sorted(founders, key=lambda founder: (born[founder], founder)))}


BEYOND_THE_POOL = frozenset({"uniform", "uct", "islands"})
"""Strategies that see every scored candidate of the run instead of the pool's members."""
BY_FITNESS = frozenset({"uct", "islands"})
"""Those of them that rank all of these: they know of no other objective."""

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
    for one in sorted(parents, key=lambda parent: -depth[parent]):
        parent = parents[one]
        if parent is not None:
            sums[parent] += sums[one]
            visits[parent] += visits[one]
    return sums, visits
