"""The archive port: what every backend promises, and the plain rows it keeps.

Two backends stand behind it, SQLite and MongoDB; one contract suite runs over both and over the archive behind gRPC.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from services.chassis.bus import Logged
from services.chassis.errors import Transient
from services.contracts import archive_pb2, candidate_pb2, events_pb2
from services.domain.run_state import Decision, RunState

SORTS = ("fitness", "loss", "benchmark", "parameters", "time", "stage", "state", "number")
Sort = Literal["fitness", "loss", "benchmark", "parameters", "time", "stage", "state", "number"]


class ArchiveUnavailable(Transient):
    """The database is out of reach: nothing was applied, try again."""


class ArchiveDamaged(ArchiveUnavailable):
    """The database answers, but its content is damaged and needs repair."""


class OutOfOrder(Exception):  # noqa: N818
    """An event came before the one that precedes it in the log: nothing was applied, try again in a moment."""


@dataclass(frozen=True)
class CandidateRow:
    """One candidate as the archive keeps it."""

    record: candidate_pb2.Candidate
    requested: int  # sequence of its request
    ended: int | None = None  # sequence of its archiving

    @property
    def fitness(self) -> float | None:
        """The verdict's fitness; None where it is absent."""
        verdict = self.record.verdict
        return verdict.fitness.value if verdict.HasField("fitness") else None


@dataclass(frozen=True)
class RunRow:
    """One run: its settings and where it stands."""

    run: str
    settings: events_pb2.RunSettings
    state: RunState
    started: int  # sequence of run.started
    changed: int  # sequence of the last event applied to it
    dead_letters: int = 0
    origin: str = ""  # "forked from RUN at N" or "imported from …"


@dataclass(frozen=True)
class LogRow:
    """One event as the archive remembers it; its body lies in the log."""

    sequence: int
    run: str
    candidate: str
    sha256: bytes
    event: events_pb2.Event  # without what the candidate's record holds
    accepted: bool
    refused_because: str = ""


class Position(NamedTuple):
    """How far the log was applied: the last sequence, and the hash of that message; None before the first."""

    sequence: int
    sha256: bytes | None


@dataclass(frozen=True)
class PoolRow:
    """A pool snapshot and the sequence from which it held."""

    run: str
    sequence: int
    members: tuple[events_pb2.PoolMember, ...]
    entries: int


@dataclass(frozen=True)
class Change:
    """Everything that applying one event writes, in one transaction with its sequence."""

    log: LogRow
    candidate: CandidateRow | None = None
    run: RunRow | None = None
    pool: PoolRow | None = None
    decisions: tuple[Decision, ...] = ()
    end: Literal["archive", "reject"] | None = None  # what the store must say about the candidate next


React = Callable[[Change, events_pb2.Event, bytes], Sequence[events_pb2.Event]]
"""What the store says in answer to a change; called inside the transaction, so it must be quick and not fail."""


@dataclass(frozen=True)
class Query:
    """What `list_candidates` selects."""

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
    """A page of candidates and how many there are in all."""

    candidates: tuple[candidate_pb2.Candidate, ...]
    total: int


@dataclass(frozen=True)
class Outgoing:
    """An event that was decided and may not have been published yet."""

    number: int
    event: events_pb2.Event = field(compare=False)


@dataclass(frozen=True)
class Reservation:
    """What one question to a model may take at most, set aside until it is settled."""

    number: int
    run: str
    tokens: int
    nanodollars: int | None


@dataclass
class WriterState:
    """How the archive's one writer fares, for those who answer from the archive."""

    outage: str = ""  # why nothing can be applied just now
    behind: bool = False  # what the archive held is being made anew: it must not be asked yet
    reached: int = 0  # the highest sequence that this process has seen applied
    change: asyncio.Event = field(default_factory=asyncio.Event)  # set at the next change, of which it is the only one

    def changed(self) -> None:
        """Wake everybody who waits for the next change. No condition: its lock can be lost when waiters are cancelled,
        and nobody would ever apply anything again."""
        change, self.change = self.change, asyncio.Event()
        change.set()


class Questions(Protocol):
    """What an archive can be asked, in the store's process or over gRPC.

    Every method raises ArchiveUnavailable when the database or the store is out of reach. Questions about a run or
    candidate that does not exist raise NotFound; an empty run name means the newest run. Returned messages belong to
    the caller.
    """

    async def record(self, run: str, candidate: str) -> candidate_pb2.Candidate:
        """By id, else by name if just one has it; ValueError when several do."""
        ...

    async def candidates(self, run: str, ids: Sequence[str]) -> list[candidate_pb2.Candidate]:
        """In the order asked for; unknown ids are left out."""
        ...

    async def list_candidates(self, query: Query) -> Page:
        """Best first: the highest fitness and benchmark, the lowest loss, parameters and training time, the way's
        order of states, stages by name; those without the number last in either direction, ties by id. ValueError
        names a field of the query that is impossible."""
        ...

    async def state_counts(self, run: str) -> dict[int, int]:
        """How many candidates are in each state."""
        ...

    async def event_count(self, run: str) -> int:
        """How many events of the run were applied, refused ones included."""
        ...

    async def tree(self, run: str) -> list[archive_pb2.TreeNode]:
        """Slim nodes, oldest first."""
        ...

    async def subtree(self, run: str, candidate: str) -> list[archive_pb2.TreeNode]:
        """The candidate and all its descendants, oldest first."""
        ...

    async def children(self, run: str, candidate: str) -> list[str]:
        """Ids, best first, those without fitness last."""
        ...

    async def path(self, run: str, candidate: str) -> list[str]:
        """Ids from the root to the candidate."""
        ...

    async def pool(self, run: str, at_sequence: int = 0) -> PoolRow | None:
        """The snapshot in force at a sequence (0: now); None before the first update."""
        ...

    async def baselines(self, run: str) -> list[candidate_pb2.Candidate]:
        """By number: the root first."""
        ...

    async def nearest_motivations(
        self, run: str, embedding: Sequence[float], embedder: str, count: int, except_id: str
    ) -> list[Near]:
        """By cosine, within one embedder's space."""
        ...

    async def nearest_programs(self, run: str, program: str, count: int, except_id: str) -> list[Near]:
        """By structure; those of the same structure first."""
        ...

    async def chain(self, run: str, candidate: str) -> list[LogRow]:
        """The events of one candidate, oldest first."""
        ...

    async def digest(self, run: str) -> tuple[str, int]:
        """SHA-256 over every candidate, pool update and accepted event of a run, and how many events were accepted.

        Where the events lie in the log does not matter, nor how events of different candidates interleave.
        """
        ...


class Archive(Questions, Protocol):
    """The projection of the event log, and the only memory of a run.

    Ordering: `apply` takes messages in the order of the log without a gap; a sequence already applied is skipped, one
    that is too early raises OutOfOrder. Atomicity: an event's whole effect, the sequence and the store's answers (the
    outbox) are written together or not at all. Idempotence: an event id counts once, whatever sequence it comes with.
    All that `Questions` says of errors holds for every method.
    """

    async def open(self) -> None:
        """Connect and bring the schema up to date."""
        ...

    async def damage(self) -> list[str]:
        """What the database finds wrong with its own content, a sentence each. Reads all of it."""
        ...

    async def drift(self) -> list[str]:
        """Where tables or indexes differ from the design, a sentence each. Before `open` it changes nothing."""
        ...

    async def close(self) -> None:
        """Wait for what is running and let go of the database; a second time does nothing."""
        ...

    async def healthy(self) -> bool:
        """Whether the database answers."""
        ...

    async def apply(self, messages: Sequence[Logged], react: React | None = None) -> list[Change]:
        """Apply messages in order. `react` is None in a replay: the answers are in the log already.

        An event that the outbox holds leaves it when it comes by in the log: regardless of its publisher.
        """
        ...

    async def applied(self) -> int:
        """The sequence of the last applied message; 0 for an empty archive."""
        ...

    async def position(self) -> Position:
        """As `applied`, with the hash by which the message at that place in the log is known again."""
        ...

    def bodies(self) -> AsyncIterator[Logged]:
        """Every message that was applied, byte by byte as it was published, in order: the log can be made of them."""
        ...

    async def outbox(self, limit: int = 200) -> list[Outgoing]:
        """Events decided but not known to be published, oldest first."""
        ...

    async def sent(self, numbers: Sequence[int]) -> None:
        """Forget outbox entries that the log has stored. Applying an event forgets the entry with its id as well."""
        ...

    async def reserve(self, run: str, tokens: int, nanodollars: int | None) -> int:
        """Set aside what a question may take; the number to settle it with. Survives a restart."""
        ...

    async def unreserve(self, number: int) -> None:
        """Free a reservation; one that is gone already is no error."""
        ...

    async def reservations(self) -> list[Reservation]:
        """All that is set aside, oldest first."""
        ...

    async def run(self, run: str) -> RunRow:
        """The newest run for an empty name."""
        ...

    async def runs(self) -> list[RunRow]:
        """Newest first."""
        ...

    async def candidate(self, run: str, candidate: str) -> CandidateRow:
        """As `record`, with what the archive keeps beside it."""
        ...

    async def moves(self, run: str, limit: int) -> list[archive_pb2.MoveOutcome]:
        """What the newest proposals' moves brought, oldest first."""
        ...

    async def recent_rejections(self, run: str, limit: int) -> list[candidate_pb2.Candidate]:
        """Newest first."""
        ...

    def log(self, run: str) -> AsyncIterator[LogRow]:
        """Every event of a run that was applied, in order."""
        ...

    async def backup(self, path: Path) -> None:
        """Write a consistent copy beside the running archive. FileExistsError when there is something already."""
        ...
