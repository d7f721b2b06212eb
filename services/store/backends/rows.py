"""Shared by all backends: a run's state as JSON, columns beside a candidate's record, queries that combine others."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import TypeAdapter

from services.chassis.bus import Logged
from services.chassis.errors import NotFound
from services.contracts import archive_pb2, candidate_pb2, events_pb2
from services.domain.run_state import RunState
from services.store.port import SORTS, CandidateRow, LogRow, Near, PoolRow, Query, RunRow

if TYPE_CHECKING:  # numpy, which only a search for neighbours needs
    from services.store.backends.indices import Scored
    from services.store.backends.neighbours import Neighbours, Source

Value = str | int | float | bytes | None


class Columns(Protocol):
    """A row or document of a database."""

    def __getitem__(self, name: str, /) -> Any: ...


MAX_INTEGER = 2**63 - 1
"""The largest integer that both databases can store."""

SORT_COLUMNS: Mapping[str, tuple[str, bool]] = {
    "fitness": ("fitness", True),
    "loss": ("loss", False),
    "benchmark": ("benchmark", True),
    "parameters": ("parameters", False),
    "time": ("seconds", False),
    "stage": ("stage", False),
    "state": ("state", False),
    "number": ("number", True),  # newest first
}
"""The column of each sort, and whether the highest value is the best."""


@dataclass(frozen=True)
class Order:
    """The sort of a query; ties by id."""

    column: str
    descending: bool

    @classmethod
    def of(cls, query: Query) -> Order:
        """Raises ValueError naming the invalid field of a query."""
        if query.sort not in SORT_COLUMNS:
            raise ValueError(f"sort must be one of {', '.join(SORTS)}, not {query.sort!r}")
        if query.offset < 0 or query.limit < 0:
            raise ValueError(f"offset and limit must not be negative, but are {query.offset} and {query.limit}")
        column, highest_first = SORT_COLUMNS[query.sort]
        return cls(column, highest_first != query.reverse)


def record_bytes(record: candidate_pb2.Candidate) -> bytes:
    """The record as stored and digested: equal records give equal bytes."""
    return record.SerializeToString(deterministic=True)


def columns(row: CandidateRow) -> dict[str, Value]:
    """The columns of a candidate. Absent and non-finite numbers are None."""
    record = row.record
    proposal, training = record.proposal, record.training
    return {
        "run": record.run,
        "id": record.id,
        "name": proposal.name,
        "number": record.request.number,
        "kind": int(record.kind),
        "state": int(record.state),
        "stage": record.stage,
        "fitness": _finite(row.fitness),
        "loss": _finite(training.loss if training.HasField("loss") else None),
        "benchmark": _finite(training.benchmark if training.HasField("benchmark") else None),
        "parameters": _parameters(record),
        "seconds": _finite(sum(seed.measurements.seconds for seed in training.seeds) if training.seeds else None),
        "requested": row.requested,
        "ended": row.ended,
        "parent": proposal.parent or None,
        "structure": proposal.structure,
        "proposed": int(record.HasField("proposal")),
    }


def candidate_row(record: bytes, values: Columns) -> CandidateRow:
    """The inverse of `record_bytes` and `columns`."""
    return CandidateRow(candidate_pb2.Candidate.FromString(record), values["requested"], values["ended"])


_RUN = ("started", "changed", "dead_letters", "origin")


def run_columns(row: RunRow) -> dict[str, Value]:
    """The columns of a run besides its name."""
    settings = row.settings.SerializeToString(deterministic=True)
    return {name: getattr(row, name) for name in _RUN} | {"settings": settings, "state": _STATES.write(row.state)}


def run_row(run: str, values: Columns) -> RunRow:
    """The inverse of `run_columns`."""
    settings, state = events_pb2.RunSettings.FromString(values["settings"]), _STATES.read(values["state"])
    sequences = values["started"], values["changed"]
    return RunRow(run, settings, state, *sequences, values["dead_letters"], values["origin"])


def log_columns(row: LogRow) -> dict[str, Value]:
    """The columns of an event besides its sequence, in the order of `log_row`."""
    return {
        "run": row.run, "candidate": row.candidate, "event_id": row.event.id, "sha256": row.sha256,
        "accepted": row.accepted, "refused_because": row.refused_because,
        "event": row.event.SerializeToString(deterministic=True),
    }  # fmt: skip


def log_row(
    sequence: int, run: str, candidate: str, event_id: str, sha256: bytes, accepted: bool, refused_because: str,
    event: bytes,
) -> LogRow:  # fmt: skip
    """The inverse of `log_columns`."""
    del event_id
    stored = events_pb2.Event.FromString(event)
    return LogRow(sequence, run, candidate, sha256, stored, bool(accepted), refused_because)


def pool_columns(row: PoolRow) -> dict[str, Value]:
    """The columns of a snapshot besides its sequence."""
    members = events_pb2.PoolUpdated(members=row.members).SerializeToString(deterministic=True)
    return {"run": row.run, "entries": row.entries, "members": members}


def pool_row(sequence: int, values: Columns) -> PoolRow:
    """The inverse of `pool_columns`."""
    members = tuple(events_pb2.PoolUpdated.FromString(values["members"]).members)
    return PoolRow(values["run"], sequence, members, values["entries"])


NODE = ("id", "parent", "name", "fitness", "loss", "state", "stage", "kind", "number", "benchmark", "parameters")
"""The columns of a tree node, named as in `TreeNode`."""


def tree_node(values: Columns) -> archive_pb2.TreeNode:
    """A node from its columns; absent values stay absent."""
    return archive_pb2.TreeNode(**{name: values[name] for name in NODE})


@lru_cache(maxsize=1024)
def move_outcome(
    moves: tuple[str, ...], fitness: float | None, parent_fitness: float | None, state: int, structure: str
) -> archive_pb2.MoveOutcome:
    """A proposal's moves and its gain: fitness minus its parent's, absent unless both are known.

    Cached, since every seat queries the same few hundred: the message must not be modified.
    """
    gain = None if fitness is None or parent_fitness is None else fitness - parent_fitness
    rejected = state == candidate_pb2.STATE_REJECTED
    return archive_pb2.MoveOutcome(moves=moves, gain=gain, rejected=rejected, structure=structure)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _parameters(record: candidate_pb2.Candidate) -> int | None:
    """As measured in training, else as counted by the check."""
    for seed in record.training.seeds:
        if seed.measurements.parameters:
            return min(seed.measurements.parameters, MAX_INTEGER)
    check = record.proposal.check
    return min(check.parameters, MAX_INTEGER) if check.HasField("parameters") else None


LOG_PAGE = 1000
BODIES_PAGE = 100


class Backend(ABC):
    """The queries of `services.store.port.Archive` that combine other queries of it."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @cached_property
    def _neighbours(self) -> Neighbours:
        from services.store.backends.neighbours import Neighbours

        return Neighbours(self._source)

    @abstractmethod
    async def candidates(self, run: str, ids: Sequence[str]) -> list[candidate_pb2.Candidate]: ...

    @abstractmethod
    async def resolve_run(self, run: str) -> str:
        """The name of a run, the newest for an empty name. Raises NotFound."""

    @abstractmethod
    async def candidate_of_id(self, run: str, candidate: str) -> CandidateRow | None:
        """None if the run or the candidate does not exist."""

    @abstractmethod
    async def ids_of_name(self, run: str, name: str) -> list[str]:
        """The first five ids of the candidates of a name."""

    @abstractmethod
    async def bodies_page(self, after: int, limit: int) -> list[Logged]:
        """Messages after a sequence, as published, in order."""

    @abstractmethod
    async def log_page(self, run: str, after: int, limit: int) -> list[LogRow]:
        """Events of a run after a sequence, in order."""

    async def bodies(self) -> AsyncIterator[Logged]:
        after = 0
        while page := await self.bodies_page(after, BODIES_PAGE):
            for message in page:
                yield message
            after = page[-1].sequence

    async def log(self, run: str) -> AsyncIterator[LogRow]:
        run, after = await self.resolve_run(run), 0
        while page := await self.log_page(run, after, LOG_PAGE):
            for row in page:
                yield row
            after = page[-1].sequence

    async def candidate(self, run: str, candidate: str) -> CandidateRow:
        run = run or await self.resolve_run(run)
        if row := await self.candidate_of_id(run, candidate):
            return row
        await self.resolve_run(run)
        ids = await self.ids_of_name(run, candidate) if candidate else []
        if len(ids) > 1:
            raise ValueError(f"candidate {candidate!r} is ambiguous in run {run}: ask for one of {', '.join(ids)}")
        if not ids or not (row := await self.candidate_of_id(run, ids[0])):
            raise NotFound(f"run {run} has no candidate {candidate!r}")
        return row

    async def record(self, run: str, candidate: str) -> candidate_pb2.Candidate:
        return (await self.candidate(run, candidate)).record

    async def nearest_motivations(
        self, run: str, embedding: Sequence[float], embedder: str, count: int, except_id: str
    ) -> list[Near]:
        run = await self.resolve_run(run)
        scored = await self._neighbours.motivations(run, embedding, embedder, count, except_id)
        return await self._near(run, scored, same=0)

    async def nearest_programs(self, run: str, program: str, count: int, except_id: str) -> list[Near]:
        run = await self.resolve_run(run)
        scored, same = await self._neighbours.programs(run, program, count, except_id)
        return await self._near(run, scored, same)

    async def _near(self, run: str, scored: Sequence[Scored], same: int) -> list[Near]:
        records = {candidate.id: candidate for candidate in await self.candidates(run, [name for name, _ in scored])}
        return [
            Near(records[name], max(0.0, min(1.0, similarity)), index < same)
            for index, (name, similarity) in enumerate(scored)
            if name in records
        ]


def state_to_json(state: RunState) -> str:
    """A state as JSON."""
    return _adapter().dump_json(state).decode()


def state_from_json(text: str) -> RunState:
    """The state that :func:`state_to_json` wrote. Unknown fields are ignored, missing ones have their defaults.

    Raises ``ValueError`` naming a field that is missing or of another type.
    """
    return _adapter().validate_json(text, strict=True)


@cache
def _adapter() -> TypeAdapter[RunState]:
    return TypeAdapter(RunState)


class StateTexts:
    """`state_to_json` and `state_from_json` with a cache of the newest states: a run's state is read by every query and
    for every event, most of which leave it as it is.
    """

    def __init__(self, most: int = 16) -> None:
        self._most = most
        self._states: dict[str, RunState] = {}
        self._lock = threading.Lock()  # readers and the writer are threads

    def read(self, text: str) -> RunState:
        """Raises ValueError as `state_from_json`."""
        return self._states.get(text) or self._remember(text, state_from_json(text))

    def write(self, state: RunState) -> str:
        """The text of the state."""
        with self._lock:
            known = next((text for text, other in self._states.items() if other is state), None)
        if known is None:
            known = state_to_json(state)
            self._remember(known, state)
        return known

    def _remember(self, text: str, state: RunState) -> RunState:
        with self._lock:
            self._states[text] = state
            if len(self._states) > self._most:
                del self._states[next(iter(self._states))]
        return state


_STATES = StateTexts()
