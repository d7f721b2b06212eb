"""The archive in MongoDB: a replica set, one transaction per batch, acknowledged by the majority's journals."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable, Coroutine
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Concatenate, ParamSpec, TypeVar, cast

import bson

from services.store.backends.mongo import queries, schema, writing
from services.store.backends.mongo.connection import (
    Client,
    Database,
    close,
    connect,
    database,
    require_replica_set,
    snapshot,
    translate_errors,
)
from services.store.backends.rows import Backend
from services.store.port import ArchiveUnavailable

P = ParamSpec("P")
T = TypeVar("T")
Method = Callable[Concatenate["MongoArchive", P], Coroutine[Any, Any, T]]

COLLECTIONS = (
    "runs", "candidates", "lineage", "ancestors", "records", "pools", "log", "bodies", "motivations", "programs",
    "outbox", "reservations", "progress",
)  # fmt: skip
BATCH = 500


def _query(query: Callable[Concatenate[Database, P], Awaitable[T]]) -> Method[P, T]:
    """A method that runs the query on the archive's database. It raises ArchiveUnavailable if that is unreachable."""

    async def method(self: MongoArchive, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if self.client is None:
            raise ArchiveUnavailable("MongoDB: the archive is not open")
        async with translate_errors(running=True):
            return await query(database(self.client), *args, **kwargs)

    return method


async def _backup(database: Database, path: Path) -> None:
    with gzip.open(path, "xb") as file:
        async with snapshot(database.client) as session:
            for name in COLLECTIONS:
                async for document in database[name].find({}, session=session):
                    file.write(bson.encode({"collection": name, "document": document}))


async def _restore(database: Database, path: Path) -> None:
    if await database.progress.find_one({"_id": "applied", "sequence": {"$gt": 0}}):
        raise FileExistsError(f"the database {database.name} holds an archive already: restore into an empty one")
    with gzip.open(path, "rb") as file:
        documents = bson.decode_file_iter(cast("BinaryIO", file))
        while batch := list(islice(documents, BATCH)):
            for name in COLLECTIONS:
                if rows := [entry["document"] for entry in batch if entry["collection"] == name]:
                    await database[name].delete_many({"_id": {"$in": [row["_id"] for row in rows]}})
                    await database[name].insert_many(rows)


class MongoArchive(Backend):
    """`services.store.port.Archive` in one database of a replica set."""

    def __init__(self, url: str) -> None:
        super().__init__(self)
        self._url = url
        self.client: Client | None = None

    async def open(self) -> None:
        """Connect and migrate.

        Raises:
            SettingsError: an invalid URL, a server without transactions, a database of another application, or a schema
                of a newer version.
        """
        self.client = self.client or connect(self._url)
        async with translate_errors():
            await require_replica_set(self.client)
            await schema.require_own(database(self.client))
            await schema.migrate(database(self.client))

    async def close(self) -> None:
        if self.client is not None:
            await close(self.client)

    async def healthy(self) -> bool:
        try:
            await self.applied()
        except ArchiveUnavailable:
            return False
        return True

    async def drift(self) -> list[str]:
        self.client = self.client or connect(self._url)
        return await self._drift()

    _drift = _query(schema.drift)
    damage = _query(schema.damage)
    apply = _query(writing.apply)
    applied = _query(writing.applied)
    position = _query(writing.position)
    outbox = _query(queries.outbox)
    sent = _query(writing.sent)
    reserve = _query(writing.reserve)
    unreserve = _query(writing.unreserve)
    reservations = _query(queries.reservations)
    resolve_run = _query(queries.resolve_run)
    run = _query(queries.run)
    runs = _query(queries.runs)
    candidate_of_id = _query(queries.candidate_of_id)
    ids_of_name = _query(queries.ids_of_name)
    candidates = _query(queries.candidates)
    list_candidates = _query(queries.list_candidates)
    state_counts = _query(queries.state_counts)
    event_count = _query(queries.event_count)
    tree = _query(queries.tree)
    subtree = _query(queries.subtree)
    children = _query(queries.children)
    path = _query(queries.path)
    pool = _query(queries.pool)
    baselines = _query(queries.baselines)
    moves = _query(queries.moves)
    recent_rejections = _query(queries.recent_rejections)
    chain = _query(queries.chain)
    digest = _query(queries.digest)
    vectors = _query(queries.vectors)
    programs = _query(queries.programs)
    program_texts = _query(queries.program_texts)
    program_runs = _query(queries.program_runs)
    save_fingerprints = _query(writing.save_fingerprints)
    backup = _query(_backup)
    bodies_page = _query(queries.bodies_page)
    log_page = _query(queries.log_page)
    _restore = _query(_restore)

    async def restore(self, path: Path) -> None:
        """Fill this archive, which must be empty, from a file that `backup` wrote. Raises FileExistsError."""
        await self.open()
        try:
            await self._restore(path)
        finally:
            await self.close()
