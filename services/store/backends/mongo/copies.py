"""A copy of the whole database in one compressed file of BSON documents, and back. mongodump does as well."""

import gzip
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

import bson

from services.store.backends.mongo.connection import Database, Document, moment

COLLECTIONS = (
    "runs", "candidates", "lineage", "ancestors", "records", "pools", "log", "motivations", "programs", "outbox",
    "reservations", "progress",
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
