"""The candidate pool (arXiv:2507.18074, section on the Researcher), and strategies that choose a parent.

The pool holds the 50 best. A parent is drawn uniformly from ranks 1–10 and 4 references from ranks 11–50. It is first
filled after 200 entries and updated after every further 50. The paper leaves open, and this module decides: before the
first update seeds are drawn from all entries so far; a pool without ranks below the parents' gives references from the
candidates other than the parent.
"""

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from services.domain import lineage
from services.domain.objectives import Costs, nsga_order


@dataclass(frozen=True, slots=True)
class Entry:
    """One scored candidate; ``sequence`` is that of its event. ``costs`` belong to runs with several objectives."""

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
    """The sizes of the pool, by default the paper's; without a ``cold_start`` the first update is after one batch."""

    size: int = 50
    parents: int = 10
    references: int = 4
    cold_start: int = 200
    batch: int = 50

    def __post_init__(self) -> None:
        lowest = {"size": 1, "parents": 1, "references": 0, "cold_start": 0, "batch": 1}
        for field, minimum in lowest.items():
            if getattr(self, field) < minimum:
                raise ValueError(f"pool.{field} must be at least {minimum}, not {getattr(self, field)}")
        if self.parents > self.size:
            raise ValueError(f"pool.parents ({self.parents}) must not exceed pool.size ({self.size})")


@dataclass(frozen=True, slots=True)
class PoolState:
    """The ranked members, the entries since the last update, and the number of entries in all; bounded in size."""

    members: tuple[Entry, ...] = ()
    pending: tuple[Entry, ...] = ()
    count: int = 0
    updates: int = 0


@dataclass(frozen=True, slots=True)
class PoolUpdate:
    """An update of the pool: its number, that of the entries so far, and the new ranking."""

    number: int
    count: int
    members: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Draw:
    """The seeds of one proposal: a parent to modify, and references, best first."""

    parent: Entry
    references: tuple[Entry, ...]


def rank(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Best first: by costs as NSGA-II does, then those without costs by fitness, sequence and id.

    Of several entries with one id the best remains.
    """
    ordered = sorted(entries, key=lambda entry: (-entry.fitness, entry.sequence, entry.id))
    best: dict[str, Entry] = {}
    for entry in ordered:
        best.setdefault(entry.id, entry)
    costs = [(entry, entry.costs) for entry in best.values() if entry.costs is not None]
    first = [costs[index][0] for index in nsga_order([cost for _, cost in costs])]
    return (*first, *(entry for entry in best.values() if entry.costs is None))


def entered(state: PoolState, entry: Entry, policy: PoolPolicy) -> tuple[PoolState, PoolUpdate | None]:
    """The pool after one more scored candidate, and the update if that one completed a batch.

    A redelivered member changes nothing. The caller excludes ids that have left the pool.
    """
    if entry.id in [member.id for member in (*state.members, *state.pending)]:
        return state, None
    state = replace(state, pending=(*state.pending, entry), count=state.count + 1)
    if len(state.pending) < (policy.batch if state.updates else policy.cold_start or policy.batch):
        return state, None
    members = rank((*state.members, *state.pending))[: policy.size]
    update = PoolUpdate(state.updates + 1, state.count, members)
    return PoolState(members, (), state.count, update.number), update


def rescored(state: PoolState, candidate: str, fitness: float) -> PoolState:
    """The pool with another fitness of one entry; the same members in their new order."""

    def changed(entries: Sequence[Entry]) -> list[Entry]:
        return [replace(entry, fitness=fitness) if entry.id == candidate else entry for entry in entries]

    return replace(state, members=rank(changed(state.members)), pending=tuple(changed(state.pending)))


def seeds(state: PoolState) -> tuple[Entry, ...]:
    """The entries that may be drawn, best first: the members, or all entries before the first update."""
    return state.members if state.updates else rank(state.pending)


def draw(members: Sequence[Entry], policy: PoolPolicy, rng: random.Random, parent: Entry | None = None) -> Draw:
    """One parent from the top ranks, unless given, and references from below. Raises ``ValueError`` without entries."""
    ranked = rank(members)[: policy.size]
    if parent is None:
        if not ranked:
            raise ValueError("the pool is empty: the baselines have to be scored before a parent can be drawn")
        parent = rng.choice(ranked[: policy.parents])
    below = ranked[policy.parents :] if len(ranked) > policy.parents else ranked
    others = [entry for entry in below if entry.id != parent.id]
    return Draw(parent, rank(rng.sample(others, min(policy.references, len(others)))))


ParentStrategy = Callable[[Sequence[Entry], random.Random], str]
"""Chooses the id of the entry to modify next. Equal entries and an equal state of the generator give an equal choice.

Raises ``ValueError`` where there are no entries.
"""


def paper(entries: Sequence[Entry], rng: random.Random, top: int = 10) -> str:
    """Uniform over the best ``top`` ranks."""
    return rng.choice(_ranked(entries)[:top]).id


def uniform(entries: Sequence[Entry], rng: random.Random) -> str:
    """Uniform over all entries: the ablation of selection."""
    return rng.choice(_ranked(entries)).id


def power_law(entries: Sequence[Entry], rng: random.Random, exponent: float = 1.5) -> str:
    """Rank r with weight r^−exponent. The default is ahead of 0.7 and 1 on the table of mixers (README.md)."""
    ranked = _ranked(entries)
    return rng.choices(ranked, [position**-exponent for position in range(1, len(ranked) + 1)])[0].id


def uct(entries: Sequence[Entry], rng: random.Random, exploration: float = 0.7) -> str:
    """Upper confidence bounds over the tree (Kocsis & Szepesvári 2006).

    The descent from a virtual root takes the child with the highest mean fitness rank of its subtree plus
    ``exploration · √(ln visits of the node / visits of the child)``. It stops at a node that, as an arm of its own with
    its rank and number of children, has the highest bound. Ranks are scaled to [0, 1]; ties are broken at random.
    """

    def bound(mean: float, visits: int, total: int) -> float:
        return mean + exploration * math.sqrt(math.log(total + 1) / visits)

    ranked = _ranked(entries)
    scores = {entry.id: 1 - position / len(ranked) for position, entry in enumerate(ranked)}
    parents = _parents(ranked)
    index = lineage.children(parents)
    sums, visits = _subtree_sums(parents, scores)
    here: str | None = None
    arms = lineage.roots(parents)
    while True:
        total = sum(visits[arm] for arm in arms) + (here is not None)
        bounds = {arm: bound(sums[arm] / visits[arm], visits[arm], total) for arm in arms}
        if here is not None:
            bounds[here] = bound(scores[here], 1 + len(arms), total)
        best = max(bounds.values())
        chosen = rng.choice([arm for arm, value in bounds.items() if value == best])
        if chosen == here or not index[chosen]:
            return chosen
        here, arms = chosen, index[chosen]


def islands(entries: Sequence[Entry], rng: random.Random, count: int = 4, top: int = 5) -> str:
    """Families in ``count`` islands, by the root that they descend from, so that one success does not crowd out others.

    An island is chosen uniformly, then one of its ``top``. If there are fewer roots than islands, the roots' children
    found islands too.
    """
    ranked = _ranked(entries)
    parents, depth = _parents(ranked), lineage.depths(_parents(ranked))
    founders = lineage.roots(parents)
    if len(founders) < count:
        index = lineage.children(parents)
        founders += [child for founder in founders for child in index[founder]]
    born = {entry.id: (entry.sequence, entry.id) for entry in ranked}
    numbers = {founder: number for number, founder in enumerate(sorted(founders, key=born.__getitem__))}
    home: dict[str | None, int] = {None: 0}
    for entry in sorted(ranked, key=lambda entry: depth[entry.id]):
        home[entry.id] = numbers.get(entry.id, home[parents[entry.id]])
    families: list[list[Entry]] = [[] for _ in range(count)]
    for entry in ranked:
        families[home[entry.id] % count].append(entry)
    return rng.choice(rng.choice([family for family in families if family])[:top]).id


BEYOND_THE_POOL = frozenset({"uniform", "uct", "islands"})
"""Strategies that see every scored candidate of the run instead of the pool's members."""
BY_FITNESS = frozenset({"uct", "islands"})
"""Those of them that rank by fitness alone."""

STRATEGIES: Mapping[str, ParentStrategy] = {
    "paper": paper,
    "uniform": uniform,
    "power-law": power_law,
    "uct": uct,
    "islands": islands,
}
"""Every strategy by the name that a run's settings use."""


def strategy(name: str) -> ParentStrategy:
    """The strategy of that name. Raises ``ValueError`` listing the names there are."""
    if name not in STRATEGIES:
        raise ValueError(f"parent strategy {name!r} is not known; choose one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name]


def _ranked(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    ranked = rank(entries)
    if not ranked:
        raise ValueError("entries is empty: the baselines have to be scored before a parent can be chosen")
    return ranked


def _parents(entries: Sequence[Entry]) -> dict[str, str | None]:
    """Parents among the entries; the others are roots."""
    ids = {entry.id for entry in entries}
    return {entry.id: entry.parent if entry.parent in ids else None for entry in entries}


def _subtree_sums(parents: lineage.Parents, scores: Mapping[str, float]) -> tuple[dict[str, float], dict[str, int]]:
    """Sum of the scores and number of nodes of every subtree, its top included."""
    sums, visits = dict(scores), dict.fromkeys(scores, 1)
    depth = lineage.depths(parents)
    for node in sorted(parents, key=lambda node: -depth[node]):
        parent = parents[node]
        if parent is not None:
            sums[parent] += sums[node]
            visits[parent] += visits[node]
    return sums, visits
