"""The archive port: the contract of every backend, and its row types.

One contract suite tests memory, SQLite, MongoDB and the archive behind gRPC.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, get_args

from services.chassis.bus import Logged
from services.chassis.errors import Transient
from services.contracts import archive_pb2, candidate_pb2, events_pb2
from services.domain.run_state import Decision, RunState

Sort = Literal["fitness", "loss", "benchmark", "parameters", "time", "stage", "state", "number"]
SORTS: tuple[Sort, ...] = get_args(Sort)


class ArchiveUnavailable(Transient):
    """The database is unreachable: nothing was applied; retry."""


class ArchiveDamaged(ArchiveUnavailable):
    """The database is reachable, but its content is damaged."""


class OtherWriter(ArchiveUnavailable):
    """Another store applies events to the same database at this moment: nothing was applied; retry."""


class OutOfOrder(Exception):  # noqa: N818
    """A message arrived before its predecessor in the log: nothing was applied; retry."""


@dataclass(frozen=True)
class CandidateRow:
    """A stored candidate."""

    record: candidate_pb2.Candidate
    requested: int  # sequence of its request
    ended: int | None = None  # sequence of its archiving

    @property
    def fitness(self) -> float | None:
        """The fitness of the verdict, if any."""
        verdict = self.record.verdict
        return verdict.fitness.value if verdict.HasField("fitness") else None


@dataclass(frozen=True)
class RunRow:
    """A run: its settings and state."""

    run: str
    settings: events_pb2.RunSettings
    state: RunState
    started: int  # sequence of run.started
    changed: int  # sequence of the last event applied to it
    dead_letters: int = 0
    origin: str = ""  # "forked from RUN at N" or "imported from …"


@dataclass(frozen=True)
class LogRow:
    """The archive's entry for one event, whose body is in the log."""

    sequence: int
    run: str
    candidate: str
    sha256: bytes
    event: events_pb2.Event  # without the parts that are stored in the candidate's record
    accepted: bool
    refused_because: str = ""


class Position(NamedTuple):
    """The last applied sequence and the hash of that message; None before the first."""

    sequence: int
    sha256: bytes | None


@dataclass(frozen=True)
class PoolRow:
    """A pool snapshot, valid from `sequence`."""

    run: str
    sequence: int
    members: tuple[events_pb2.PoolMember, ...]
    entries: int


@dataclass(frozen=True)
class Change:
    """The effects of one event, written in one transaction with its sequence."""

    log: LogRow
    candidate: CandidateRow | None = None
    run: RunRow | None = None
    pool: PoolRow | None = None
    decisions: tuple[Decision, ...] = ()
    end: Literal["archive", "reject"] | None = None  # the fact that the store must publish about the candidate


React = Callable[[Change, events_pb2.Event, bytes], Sequence[events_pb2.Event]]
"""Returns the events that follow from a change. Called inside the transaction: it must be fast and not fail."""


@dataclass(frozen=True)
class Query:
    """The selection and order of `list_candidates`."""

    run: str
    sort: Sort = "fitness"
    reverse: bool = False
    states: tuple[int, ...] = ()
    kinds: tuple[int, ...] = ()
    stage: str = ""
    offset: int = 0
    limit: int = 100


@dataclass(frozen=True)
class Near:
    """A nearest neighbour and its similarity, 0 to 1."""

    candidate: candidate_pb2.Candidate
    similarity: float
    same_structure: bool = False


@dataclass(frozen=True)
class Page:
    """A page of candidates, and the total number."""

    candidates: tuple[candidate_pb2.Candidate, ...]
    total: int


@dataclass(frozen=True)
class Outgoing:
    """An event that may not have been published yet."""

    number: int
    event: events_pb2.Event = field(compare=False)


@dataclass(frozen=True)
class Reservation:
    """The most that one model call may cost, reserved until it is settled."""

    number: int
    run: str
    tokens: int
    nanodollars: int | None


@dataclass
class WriterState:
    """The state of the archive's writer, for the services that read the archive."""

    outage: str = ""  # why nothing can be applied now
    behind: bool = False  # the archive is being rebuilt: it must not be queried yet
    reached: int = 0  # the highest sequence that this process applied
    change: asyncio.Event = field(default_factory=asyncio.Event)  # set at the next change, then replaced

    @property
    def obstacle(self) -> str:
        """The outage, to complete a sentence; empty without one."""
        return f" once this is over: {self.outage}" if self.outage else ""

    def changed(self) -> None:
        """Wake all waiters. Not a Condition: its lock can be lost when waiters are cancelled."""
        change, self.change = self.change, asyncio.Event()
        change.set()


class Queries(Protocol):
    """Queries of an archive, in the store's process or over gRPC.

    Every method raises ArchiveUnavailable if the database or the store is unreachable, and NotFound for an unknown run
    or candidate. An empty run name means the newest run. The caller may modify returned messages.
    """

    async def record(self, run: str, candidate: str) -> candidate_pb2.Candidate:
        """By id, else by name. Raises ValueError for an ambiguous name."""

    async def candidates(self, run: str, ids: Sequence[str]) -> list[candidate_pb2.Candidate]:
        """In the order of `ids`; unknown ids are skipped."""

    async def list_candidates(self, query: Query) -> Page:
        """Best first: highest fitness and benchmark; lowest loss, parameters and training time; states in their order,
        stages by name. Absent values last in either direction, ties by id. Raises ValueError for an invalid query."""

    async def state_counts(self, run: str) -> dict[int, int]:
        """The number of candidates in each state."""

    async def event_count(self, run: str) -> int:
        """The number of applied events of the run, including refused ones."""

    async def tree(self, run: str) -> list[archive_pb2.TreeNode]:
        """All candidates of the run as nodes, oldest first."""

    async def subtree(self, run: str, candidate: str) -> list[archive_pb2.TreeNode]:
        """The candidate and all its descendants, oldest first."""

    async def children(self, run: str, candidate: str) -> list[str]:
        """Ids, best first, those without fitness last."""

    async def path(self, run: str, candidate: str) -> list[str]:
        """Ids from the root to the candidate."""

    async def pool(self, run: str, at_sequence: int = 0) -> PoolRow | None:
        """The snapshot in force at a sequence (0: now); None before the first update."""

    async def baselines(self, run: str) -> list[candidate_pb2.Candidate]:
        """By number: the root first."""

    async def nearest_motivations(
        self, run: str, embedding: Sequence[float], embedder: str, count: int, except_id: str
    ) -> list[Near]:
        """By cosine, within one embedder's space."""

    async def nearest_programs(self, run: str, program: str, count: int, except_id: str) -> list[Near]:
        """By structure; those of the same structure first."""

    async def chain(self, run: str, candidate: str) -> list[LogRow]:
        """The events of one candidate, oldest first."""

    async def digest(self, run: str) -> tuple[str, int]:
        """SHA-256 over every candidate, pool update and accepted event of a run, and the number of accepted events.

        It does not depend on the sequences of the events, nor on how events of different candidates interleave.
        """


class Archive(Queries, Protocol):
    """The projection of the event log.

    Ordering: `apply` takes messages in the order of the log without a gap; a sequence already applied is skipped, one
    after a gap raises OutOfOrder. Atomicity: all effects of an event, its sequence and the events that follow from it
    (the outbox) are written in one transaction. Idempotence: an event id is accepted once, whatever its sequence.
    Errors are those of `Queries`.
    """

    async def open(self) -> None:
        """Connect and migrate the schema."""

    async def damage(self) -> list[str]:
        """Problems of the database's content, one sentence each. Reads all of it."""

    async def drift(self) -> list[str]:
        """Differences from the expected schema, one sentence each. May be called before `open`."""

    async def close(self) -> None:
        """Wait for running operations and disconnect; idempotent."""

    async def healthy(self) -> bool:
        """Whether the database is reachable."""

    async def apply(self, messages: Sequence[Logged], react: React | None = None) -> list[Change]:
        """Apply messages in order. `react` is None in a replay, since the events that follow are in the log already.

        Removes applied events from the outbox, whoever published them.
        """

    async def applied(self) -> int:
        """The sequence of the last applied message; 0 for an empty archive."""

    async def position(self) -> Position:
        """As `applied`, with the hash of that message."""

    def bodies(self) -> AsyncIterator[Logged]:
        """Every applied message exactly as published, in order: the log can be rebuilt from them."""

    async def outbox(self, limit: int = 200) -> list[Outgoing]:
        """Events not known to be published, oldest first."""

    async def sent(self, numbers: Sequence[int]) -> None:
        """Delete outbox entries that were published."""

    async def reserve(self, run: str, tokens: int, nanodollars: int | None) -> int:
        """Store a reservation; returns its number. It survives a restart."""

    async def unreserve(self, number: int) -> None:
        """Delete a reservation; idempotent."""

    async def reservations(self) -> list[Reservation]:
        """Oldest first."""

    async def run(self, run: str) -> RunRow:
        """The newest run for an empty name."""

    async def runs(self) -> list[RunRow]:
        """Newest first."""

    async def candidate(self, run: str, candidate: str) -> CandidateRow:
        """As `record`, with its sequences."""

    async def moves(self, run: str, limit: int) -> list[archive_pb2.MoveOutcome]:
        """The moves of the newest proposals and their gains, oldest first."""

    async def recent_rejections(self, run: str, limit: int) -> list[candidate_pb2.Candidate]:
        """Newest first."""

    def log(self, run: str) -> AsyncIterator[LogRow]:
        """Every applied event of a run, in order."""

    async def backup(self, path: Path) -> None:
        """Write a consistent copy while the archive is in use. Raises FileExistsError."""

    async def restore(self, path: Path) -> None:
        """Become a copy that `backup` wrote. Raises FileExistsError if the archive is not empty."""
