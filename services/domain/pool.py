"""The candidate pool: who may be a parent or a reference, and when that changes.

Source: arXiv:2507.18074, the section on the Researcher. The pool holds the 50 best; a parent comes uniformly from
ranks 1–10 and 4 references from ranks 11–50; it is first filled after 200 entries and changes only after every 50
more.

Choices where the paper is silent: before the first update seeds are drawn from everything that has entered so far
(the search then explores from the baselines at once); a pool too small to have ranks below the parents' gives
references from the candidates that are not the parent; fewer than asked are given where fewer exist.
"""

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Entry:
    """One scored candidate; ``sequence`` is its place in the log, ``parent`` the id it was made from."""

    id: str
    fitness: float
    sequence: int
    parent: str | None = None

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
    """Best first: by fitness, then the earlier one, then by id. Of several entries with one id the best is kept."""
    ordered = sorted(entries, key=lambda entry: (-entry.fitness, entry.sequence, entry.id))
    best: dict[str, Entry] = {}
    for entry in ordered:
        best.setdefault(entry.id, entry)
    return tuple(best.values())


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


def seeds(state: PoolState) -> tuple[Entry, ...]:
    """Who may be drawn now, best first: the members, or all that entered while the pool has never been updated."""
    return state.members if state.updates else rank(state.pending)


def draw(members: Sequence[Entry], policy: PoolPolicy, rng: random.Random, parent: Entry | None = None) -> Draw:
    """One parent from the top ranks and the references from the ranks below, without repetition.

    ``parent`` is given where another strategy has chosen it. Raises ``ValueError`` when there is nobody to draw.
    """
    ranked = rank(members)[: policy.size]
    if parent is None:
        if not ranked:
            raise ValueError("the pool is empty: the baselines have to be scored before a parent can be drawn")
        parent = rng.choice(ranked[: policy.parents])
    below = ranked[policy.parents :] if len(ranked) > policy.parents else ranked
    others = [entry for entry in below if entry.id != parent.id]
    return Draw(parent, rank(rng.sample(others, min(policy.references, len(others)))))


def to_json(state: PoolState) -> dict[str, object]:
    """The state as plain JSON values; :func:`from_json` reads it back exactly."""
    return {
        "members": [_entry_to_json(entry) for entry in state.members],
        "pending": [_entry_to_json(entry) for entry in state.pending],
        "count": state.count,
        "updates": state.updates,
    }


def from_json(value: Mapping[str, object]) -> PoolState:
    """The state that :func:`to_json` wrote. Raises ``ValueError`` naming a field that is missing or of another type."""
    return PoolState(
        members=tuple(_entries(value, "members")),
        pending=tuple(_entries(value, "pending")),
        count=_integer(value, "count"),
        updates=_integer(value, "updates"),
    )


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


def _entry_to_json(entry: Entry) -> dict[str, object]:
    return {"id": entry.id, "fitness": entry.fitness, "sequence": entry.sequence, "parent": entry.parent}


def _entries(value: Mapping[str, object], field: str) -> list[Entry]:
    entries = value.get(field)
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ValueError(f"pool state: {field} must be a list of entries, not {entries!r}")
    return [_entry(entry) for entry in entries]


def _entry(value: Mapping[str, object]) -> Entry:
    name, score, parent = value.get("id"), value.get("fitness"), value.get("parent")
    if not isinstance(name, str) or not (parent is None or isinstance(parent, str)):
        raise ValueError(f"pool state: id and parent of an entry must be strings, not {name!r} and {parent!r}")
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise ValueError(f"pool state: fitness of {name} must be a number, not {score!r}")
    return Entry(name, float(score), _integer(value, "sequence"), parent)


def _integer(value: Mapping[str, object], field: str) -> int:
    number = value.get(field)
    if isinstance(number, bool) or not isinstance(number, int):
        raise ValueError(f"pool state: {field} must be a whole number, not {number!r}")
    return number
