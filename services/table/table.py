"""Queries of measured architectures, and searches simulated on them.

from services.table import Table

def coin(search):                       # a policy: what to train next
    return search.rng.choice(search.unseen())

table = Table.load()
print(table.query("gated_delta_net").loss)
print(table.simulate(coin, budget=100, seed=1).regret)
"""

from __future__ import annotations

import bisect
import heapq
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from services.domain.statistics import Noise, pooled_noise
from services.mixers.description import Mixer
from services.mixers.surrogate import Prior, prior_from
from services.table.lattice import DIMENSIONS, cells, find, neighbours
from services.table.records import Record, read_all

FIDELITIES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the steps at which all trainings were evaluated."""
FINALISTS = 5
"""The number of architectures that a simulated search verifies at its end."""


class NotMeasured(ValueError):  # noqa: N818 - an answer to a query
    """The architecture is in the lattice, but was not measured with this seed or fidelity."""


@dataclass(frozen=True, slots=True)
class Choice:
    """An architecture to train to a share of the steps, and its parent; one trained to less costs the difference."""

    architecture: str
    fidelity: float = 1.0
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """One finished training of a search; `loss` is None if it failed."""

    architecture: str
    fidelity: float
    loss: float | None
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """One simulated search.

    `regrets[n]` is the regret after the compute of n + 1 full trainings: the lowest true loss of the finalists minus
    the lowest of the table, in nats. None before the first result.
    """

    regrets: tuple[float | None, ...]
    best: str | None
    observations: tuple[Observation, ...]

    @property
    def regret(self) -> float | None:
        return self.regrets[-1]


@dataclass
class Search:
    """The state of a search for policies: the space, observations, and pending trainings."""

    table: Table
    rng: random.Random
    budget: float
    observations: list[Observation] = field(default_factory=list)
    pending: list[Choice] = field(default_factory=list)
    spent: float = 0.0
    memory: dict[str, object] = field(default_factory=dict)  # for use by the policy
    seen: dict[str, float] = field(default_factory=dict)  # architecture → highest fidelity chosen
    _finished: list[tuple[float, float, str]] = field(default_factory=list)  # negative fidelity, loss, name: sorted

    @property
    def space(self) -> Sequence[str]:
        """All architectures that may be chosen."""
        return self.table.space

    def unseen(self, among: Iterable[str] | None = None) -> list[str]:
        """Architectures that were not chosen yet."""
        return [name for name in (self.space if among is None else among) if name not in self.seen]

    def neighbours(self, architecture: str) -> Sequence[str]:
        """Architectures of the space that are one move away."""
        return self.table.neighbours[architecture]

    def values(self, architecture: str) -> Mapping[str, str]:
        """The architecture's value in each dimension of the lattice."""
        return self.table.values[architecture]

    @property
    def has_choices(self) -> bool:
        """Whether an architecture was not chosen yet, or can be trained further."""
        return len(self.seen) < len(self.space) or any(share < 1 for share in self.seen.values())

    def started(self, choice: Choice, cost: float) -> None:
        self.seen[choice.architecture] = choice.fidelity
        self.pending.append(choice)
        self.spent += cost

    def ended(self, choice: Choice, loss: float | None) -> None:
        self.pending.remove(choice)
        self.observations.append(Observation(choice.architecture, choice.fidelity, loss, choice.parent))
        if loss is not None:
            bisect.insort(self._finished, (-choice.fidelity, loss, choice.architecture))

    def finalists(self, count: int) -> list[str]:
        """The architectures with the lowest losses at the highest fidelities."""
        return list(dict.fromkeys(name for _, _, name in self._finished[: len(FIDELITIES) * count]))[:count]

    def ranked(self, fidelity: float = 1.0) -> list[Observation]:
        """Successful observations at one fidelity, the lowest loss first."""
        observations = [observation for observation in self.observations if observation.fidelity == fidelity]
        successful = [observation for observation in observations if observation.loss is not None]
        return sorted(successful, key=lambda observation: observation.loss or 0.0)


Policy = Callable[[Search], Choice | str]


class Table:
    """Measured trainings at one scale."""

    def __init__(self, records: Iterable[Record], scale: str = "mini-half") -> None:
        self.scale = scale
        self._records: dict[str, dict[int, Record]] = defaultdict(dict)
        for record in records:
            if record.scale == scale:
                self._records[record.cell][record.seed] = record

    @classmethod
    def load(cls, folder: Path | None = None, scale: str = "mini-half") -> Table:
        """The shipped table, or the one in a folder."""
        return cls(read_all(folder), scale)

    @cached_property
    def space(self) -> tuple[str, ...]:
        """Names of all trained architectures, including failed ones."""
        return tuple(cell.name for cell in cells() if cell.name in self._records)

    @cached_property
    def values(self) -> Mapping[str, Mapping[str, str]]:
        """Each architecture's values by dimension."""
        return {name: dict(zip(DIMENSIONS, find(name).values, strict=True)) for name in self.space}

    @cached_property
    def neighbours(self) -> Mapping[str, tuple[str, ...]]:
        """Each architecture's measured neighbours."""
        space = set(self.space)
        return {
            name: tuple(cell.name for cell in neighbours(find(name).structure) if cell.name in space)
            for name in self.space
        }

    @cached_property
    def losses(self) -> Mapping[str, Sequence[float]]:
        """Each architecture's losses by seed, without failed trainings, where there are any."""
        losses = defaultdict[str, list[float]](list)
        for record in self.records():
            if record.loss is not None:
                losses[record.cell].append(record.loss)
        return dict(losses)

    @cached_property
    def truth(self) -> Mapping[str, float]:
        """Each architecture's mean loss over the seeds that did not fail, where there are any."""
        return {name: fmean(values) for name, values in self.losses.items()}

    @cached_property
    def errors(self) -> Mapping[str, Mapping[str, float]]:
        """Mean error rates over seeds by trained task and architecture, where they were measured."""
        seeds = defaultdict[str, dict[str, list[float]]](dict)
        for record in self.records():
            for task, accuracy in record.scores.items():
                seeds[task].setdefault(record.cell, []).append(1 - accuracy)
        return {task: {cell: fmean(values) for cell, values in group.items()} for task, group in seeds.items()}

    @property
    def seed_noise(self) -> Noise | None:
        """The deviation of the loss over seeds; None if no architecture has two."""
        several = [losses for losses in self.losses.values() if len(losses) > 1]
        return pooled_noise(several) if several else None

    def records(self, architecture: Mixer | str | None = None) -> list[Record]:
        """All records, or those of one architecture, by seed."""
        names = self.space if architecture is None else (find(architecture).name,)
        return [record for name in names for _, record in sorted(self._records.get(name, {}).items())]

    def query(self, architecture: Mixer | str, fidelity: float = 1.0, seed: int | None = None) -> Record:
        """The training of an architecture with a seed (default: the first), with `loss` after a share of the steps.

        Raises NotMeasured, and ValueError for an architecture outside the lattice.
        """
        name = find(architecture).name
        seeds = self._records.get(name, {})
        record = seeds.get(min(seeds, default=0) if seed is None else seed)
        if record is None:
            raise NotMeasured(f"{name} has no training at {self.scale} with seed {seed}; there are {sorted(seeds)}")
        if fidelity >= 1 or record.failure is not None:
            return record
        loss = record.at(fidelity)
        if loss is None:
            raise NotMeasured(f"{name} was not measured at {fidelity:.0%} of the steps; use one of {FIDELITIES}")
        return replace(record, loss=loss, loss_stderr=None)

    def simulate(self, policy: Policy, budget: int, seed: int, seats: int = 1, finalists: int = FINALISTS) -> Trace:
        """Simulate a search with a budget in full trainings, `seats` of which run concurrently.

        Each architecture is trained with one seed, drawn at random, and takes its recorded CPU seconds. The policy sees
        all results of trainings that ended earlier. The `finalists`, the architectures with the lowest observed losses,
        are then compared by their true losses, as a run verifies its finalists with fresh seeds; with one, seed noise
        decides between the best.
        """
        search = Search(self, random.Random(seed), budget)
        draws: dict[str, Record] = {}
        running: list[tuple[float, int, float, Choice]] = []  # end time, tie-break, cost, choice
        curve: list[float | None] = [None] * budget
        clock, finished, best = 0.0, 0.0, None
        while True:
            while len(running) < seats and search.spent < budget and search.has_choices:
                choice = self._next(policy, search)
                seeds = self._records[choice.architecture]
                record = draws.setdefault(choice.architecture, seeds[search.rng.choice(sorted(seeds))])
                cost = choice.fidelity - search.seen.get(choice.architecture, 0.0)
                search.started(choice, cost)
                end = clock + cost * (record.cpu_seconds or 1.0)
                heapq.heappush(running, (end, len(search.observations) + len(running), cost, choice))
            if not running:
                for index in range(1, budget):
                    curve[index] = curve[index - 1] if curve[index] is None else curve[index]
                return Trace(tuple(curve), best, tuple(search.observations))
            clock, _, cost, choice = heapq.heappop(running)
            finished += cost
            search.ended(choice, draws[choice.architecture].at(choice.fidelity))
            if best := min(search.finalists(finalists), key=self.truth.__getitem__, default=None):
                curve[min(budget, max(1, int(finished + 1e-9))) - 1] = self.truth[best] - self.best

    @cached_property
    def prior(self) -> Prior:
        """What all architectures together let a search expect of any mixer."""
        return prior_from([find(name).mixer for name in self.truth], [-loss for loss in self.truth.values()])

    @cached_property
    def best(self) -> float:
        return min(self.truth.values())

    @cached_property
    def distances(self) -> NDArray[np.int64]:
        """The number of dimensions in which each pair of architectures of the space differs."""
        columns = zip(*(self.values[name].values() for name in self.space), strict=True)
        codes = [np.unique(column, return_inverse=True)[1] for column in columns]
        total: NDArray[np.int64] = np.sum([column[:, None] != column[None, :] for column in codes], axis=0)
        return total

    def _next(self, policy: Policy, search: Search) -> Choice:
        choice = policy(search)
        choice = Choice(choice) if isinstance(choice, str) else choice
        if choice.architecture not in self._records:
            raise ValueError(f"the policy chose {choice.architecture!r}, which is not in the space")
        if search.seen.get(choice.architecture, 0.0) >= choice.fidelity:
            raise ValueError(f"the policy chose {choice.architecture} a second time; see `search.unseen()`")
        return choice
