"""The collections of the MongoDB archive, their indices, and the steps from each version of them to the next.

progress      how far the log was applied; counters of numbers given out
runs          one document a run
candidates    slim columns: what lists, trees and statistics read
lineage       a candidate and its parent, nothing else: what subtrees are walked through
ancestors     a candidate's nearest ancestors and the farthest of those: what long paths are walked through
records       the serialised records, read one by one
pools, log, motivations, programs, outbox, reservations    as their names say

A candidate's key is `run/id`: names of runs hold no slash, so a run's keys lie together, ordered by id.
"""

from collections.abc import Awaitable, Callable

from pymongo import ASCENDING, DESCENDING

from services.chassis.errors import SettingsError
from services.store.backends.mongo.connection import Database
from services.store.backends.rows import SORT_COLUMNS

Step = Callable[[Database], Awaitable[None]]


async def migrate(database: Database, steps: tuple[Step, ...] | None = None) -> None:
    """Bring the collections up to date; every step may be run again after a crash in the middle of it.

    Raises:
        SettingsError: the database was written by a newer version of this program.
    """
    steps = MIGRATIONS if steps is None else steps
    found = await database.progress.find_one({"_id": "schema"})
    version: int = found["version"] if found else 0
    if version > len(steps):
        raise SettingsError(
            f"ASI_ARCHIVE_URL: the database has schema version {version}, but this version knows only {len(steps)}: "
            "upgrade, or replay the log into another database."
        )
    for number, step in enumerate(steps[version:], start=version + 1):
        await step(database)
        await database.progress.update_one({"_id": "schema"}, {"$set": {"version": number}}, upsert=True)


async def _first(database: Database) -> None:
    await database.progress.update_one({"_id": "applied"}, {"$setOnInsert": {"sequence": 0}}, upsert=True)
    for counter in ("outbox", "reservations"):
        await database.progress.update_one({"_id": counter}, {"$setOnInsert": {"last": 0}}, upsert=True)
    await database.runs.create_index([("started", DESCENDING)])
    await _index_candidates(database)
    await database.lineage.create_index([("parent", ASCENDING)])
    await database.records.create_index([("run", ASCENDING)])
    await database.pools.create_index([("run", ASCENDING), ("_id", DESCENDING)])
    await database.log.create_index(
        [("event_id", ASCENDING)], unique=True, partialFilterExpression={"accepted": True}, name="accepted_once"
    )
    await database.log.create_index([("run", ASCENDING), ("candidate", ASCENDING), ("_id", ASCENDING)])
    await database.log.create_index([("run", ASCENDING), ("_id", ASCENDING)])
    await database.motivations.create_index([("run", ASCENDING), ("embedder", ASCENDING), ("_id", ASCENDING)])
    await database.programs.create_index([("run", ASCENDING), ("_id", ASCENDING)])
    await database.programs.create_index([("run", ASCENDING), ("id", ASCENDING)])
    await database.outbox.create_index([("event_id", ASCENDING)])
    await database.reservations.create_index([("run", ASCENDING)])


async def _index_candidates(database: Database) -> None:
    """One index per sort, in the order in which the best come first; the flag keeps absent numbers last."""
    for column, highest_first in SORT_COLUMNS.values():
        direction = DESCENDING if highest_first else ASCENDING
        await database.candidates.create_index(
            [("run", ASCENDING), (f"no_{column}", ASCENDING), (column, direction), ("id", ASCENDING)]
        )
    for column in ("state", "kind"):
        await database.candidates.create_index([("run", ASCENDING), (column, ASCENDING), ("requested", DESCENDING)])
    await database.candidates.create_index([("run", ASCENDING), ("name", ASCENDING)])
    await database.candidates.create_index([("run", ASCENDING), ("requested", ASCENDING)])
    await database.candidates.create_index([("run", ASCENDING), ("parent", ASCENDING)])


MIGRATIONS: tuple[Step, ...] = (_first,)
"""Step N brings version N to N + 1. A released step never changes."""
