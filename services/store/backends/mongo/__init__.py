"""The archive in MongoDB: a replica set, a transaction per batch, majority and journal before anything counts."""

import gzip
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Concatenate, ParamSpec, TypeVar, cast

import bson

from services.chassis.bus import Logged
from services.contracts import archive_pb2, candidate_pb2
from services.store.backends.indices import Sketched
from services.store.backends.mongo import queries, writing
from services.store.backends.mongo.connection import (
    Client,
    Database,
    Document,
    close,
    connect,
    database,
    moment,
    require_replica_set,
    translated,
)
from services.store.backends.mongo.schema import damage, drift, migrate
from services.store.backends.neighbours import StoredProgram, StoredVector
from services.store.backends.rows import Searching
from services.store.port import (
    ArchiveUnavailable,
    CandidateRow,
    Change,
    LogRow,
    Outgoing,
    Page,
    PoolRow,
    Position,
    Query,
    React,
    Reservation,
    RunRow,
)

P = ParamSpec("P")
T = TypeVar("T")

LOG_PAGE = 1000
BODIES_PAGE = 100


class MongoArchive(Searching):
    """`services.store.port.Archive` in one database of a replica set."""

    def __init__(self, url: str) -> None:
        super().__init__(self)
        self._url = url
        self._client: Client | None = None

    async def open(self) -> None:
        """Connect and create what is missing.

        Raises:
            SettingsError: an impossible URL, a server without transactions, or a schema of a newer version.
        """
        if self._client is None:
            self._client = connect(self._url)
        async with translated():
            await require_replica_set(self._client)
            await migrate(database(self._client))

    async def drift(self) -> list[str]:
        """See the port."""
        if self._client is None:
            self._client = connect(self._url)
        return await self._do(drift)

    async def damage(self) -> list[str]:
        """See the port."""
        return await self._do(damage)

    async def close(self) -> None:
        """Let go of the connections."""
        if self._client is not None:
            await close(self._client)

    async def healthy(self) -> bool:
        """Whether the server answers."""
        try:
            await self.applied()
        except ArchiveUnavailable:
            return False
        return True

    async def apply(self, messages: Sequence[Logged], react: React | None = None) -> list[Change]:
        """See the port."""
        return await self._do(writing.apply, messages, react)

    async def applied(self) -> int:
        """See the port."""
        return await self._do(writing.applied)

    async def position(self) -> Position:
        """See the port."""
        return await self._do(writing.position)

    async def bodies(self) -> AsyncIterator[Logged]:
        """See the port."""
        after = 0
        while page := await self._do(queries.bodies_page, after, BODIES_PAGE):
            for message in page:
                yield message
            after = page[-1].sequence

    async def outbox(self, limit: int = 200) -> list[Outgoing]:
        """See the port."""
        return await self._do(queries.outbox, limit)

    async def sent(self, numbers: Sequence[int]) -> None:
        """See the port."""
        await self._do(writing.sent, numbers)

    async def reserve(self, run: str, tokens: int, nanodollars: int | None) -> int:
        """See the port."""
        return await self._do(writing.reserve, run, tokens, nanodollars)

    async def unreserve(self, number: int) -> None:
        """See the port."""
        await self._do(writing.unreserve, number)

    async def reservations(self) -> list[Reservation]:
        """See the port."""
        return await self._do(queries.reservations)

    async def known(self, run: str) -> str:
        """See `Searching`."""
        return await self._do(queries.known, run)

    async def run(self, run: str) -> RunRow:
        """See the port."""
        return await self._do(queries.run_named, run)

    async def runs(self) -> list[RunRow]:
        """See the port."""
        return await self._do(queries.runs)

    async def candidate(self, run: str, candidate: str) -> CandidateRow:
        """See the port."""
        return await self._do(queries.candidate, run, candidate)

    async def candidates(self, run: str, ids: Sequence[str]) -> list[candidate_pb2.Candidate]:
        """See the port."""
        return await self._do(queries.candidates, run, ids)

    async def list_candidates(self, query: Query) -> Page:
        """See the port."""
        return await self._do(queries.list_candidates, query)

    async def state_counts(self, run: str) -> dict[int, int]:
        """See the port."""
        return await self._do(queries.state_counts, run)

    async def event_count(self, run: str) -> int:
        """See the port."""
        return await self._do(queries.event_count, run)

    async def tree(self, run: str) -> list[archive_pb2.TreeNode]:
        """See the port."""
        return await self._do(queries.tree, run)

    async def subtree(self, run: str, candidate: str) -> list[archive_pb2.TreeNode]:
        """See the port."""
        return await self._do(queries.subtree, run, candidate)

    async def children(self, run: str, candidate: str) -> list[str]:
        """See the port."""
        return await self._do(queries.children, run, candidate)

    async def path(self, run: str, candidate: str) -> list[str]:
        """See the port."""
        return await self._do(queries.path, run, candidate)

    async def pool(self, run: str, at_sequence: int = 0) -> PoolRow | None:
        """See the port."""
        return await self._do(queries.pool, run, at_sequence)

    async def baselines(self, run: str) -> list[candidate_pb2.Candidate]:
        """See the port."""
        return await self._do(queries.baselines, run)

    async def moves(self, run: str, limit: int) -> list[archive_pb2.MoveOutcome]:
        """See the port."""
        return await self._do(queries.moves, run, limit)

    async def recent_rejections(self, run: str, limit: int) -> list[candidate_pb2.Candidate]:
        """See the port."""
        return await self._do(queries.recent_rejections, run, limit)

    async def chain(self, run: str, candidate: str) -> list[LogRow]:
        """See the port."""
        return await self._do(queries.chain, run, candidate)

    async def log(self, run: str) -> AsyncIterator[LogRow]:
        """See the port."""
        run, after = await self.known(run), 0
        while page := await self._do(queries.log_page, run, after, LOG_PAGE):
            for row in page:
                yield row
            after = page[-1].sequence

    async def digest(self, run: str) -> tuple[str, int]:
        """See the port."""
        return await self._do(queries.digest, run)

    async def backup(self, path: Path) -> None:
        """A copy of one moment in one compressed file, which `restore` reads."""
        await self._do(backup, path)

    async def restore(self, path: Path) -> None:
        """Fill this archive, which must be empty, from a copy that was made by `backup`. Raises FileExistsError."""
        await self.open()
        try:
            await self._do(restore, path)
        finally:
            await self.close()

    async def vectors(self, run: str, embedder: str, after: int, limit: int) -> list[StoredVector]:
        """See `neighbours.Source`."""
        return await self._do(queries.vectors, run, embedder, after, limit)

    async def programs(self, run: str, after: int, limit: int) -> list[StoredProgram]:
        """See `neighbours.Source`."""
        return await self._do(queries.programs, run, after, limit)

    async def program_texts(self, run: str, ids: Sequence[str]) -> dict[str, str]:
        """See `neighbours.Source`."""
        return await self._do(queries.program_texts, run, ids)

    async def program_runs(self, run: str, ids: Sequence[str]) -> dict[str, Sketched]:
        """See `neighbours.Source`."""
        return await self._do(queries.program_runs, run, ids)

    async def save_fingerprints(self, found: Sequence[tuple[int, Sketched]]) -> None:
        """See `neighbours.Source`."""
        await self._do(writing.save_fingerprints, found)

    async def _do(self, task: Callable[Concatenate[Database, P], Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """The task's answer. Raises ArchiveUnavailable when the server is out of reach."""
        if self._client is None:
            raise ArchiveUnavailable("MongoDB: the archive is not open")
        async with translated(running=True):
            return await task(database(self._client), *args, **kwargs)


COLLECTIONS = (
    "runs", "candidates", "lineage", "ancestors", "records", "pools", "log", "bodies", "motivations", "programs",
    "outbox", "reservations", "progress",
)  # fmt: skip
BATCH = 500


async def backup(database: Database, path: Path) -> None:
    """Write everything as it is at one moment. Raises FileExistsError."""
    with gzip.open(path, "xb") as file:
        async with moment(database.client) as session:
            for name in COLLECTIONS:
                async for document in database[name].find({}, session=session):
                    file.write(bson.encode({"collection": name, "document": document}))


async def restore(database: Database, path: Path) -> None:
    """Read a copy into an empty database. Raises FileExistsError when there is something in it."""
    if await database.progress.find_one({"_id": "applied", "sequence": {"$gt": 0}}):
        raise FileExistsError(f"the database {database.name} holds an archive already: restore into an empty one")
    with gzip.open(path, "rb") as file:
        documents = bson.decode_file_iter(cast("BinaryIO", file))
        while batch := list(islice(documents, BATCH)):
            for name, rows in _by_collection(batch):
                await database[name].delete_many({"_id": {"$in": [row["_id"] for row in rows]}})
                await database[name].insert_many(rows)


def _by_collection(batch: list[Document]) -> Iterator[tuple[str, list[Document]]]:
    for name in COLLECTIONS:
        if rows := [one["document"] for one in batch if one["collection"] == name]:
            yield name, rows
