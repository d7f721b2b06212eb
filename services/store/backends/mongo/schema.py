"""The collections of the MongoDB archive, their indexes and their migrations.

progress      the last applied sequence; counters
runs          one document per run
candidates    columns of lists, trees and statistics
lineage       a candidate and its parent only, for subtrees
ancestors     a candidate's nearest ancestors and the farthest of those, for long paths
records       serialised records
bodies        messages as published, compressed: a lost log is rebuilt from them

A candidate's key is `run/id`: names of runs contain no slash, so a run's keys are contiguous and ordered by id.
"""

from collections.abc import Awaitable, Callable, Mapping

from pymongo import ASCENDING, DESCENDING, IndexModel

from services.chassis.errors import SettingsError
from services.store.backends.folding import Key
from services.store.backends.mongo.connection import Database, Document
from services.store.backends.rows import SORT_COLUMNS, columns
from services.store.port import CandidateRow

Step = Callable[[Database], Awaitable[None]]


def _by(*columns: str, last: int = ASCENDING) -> IndexModel:
    """Ascending in all columns; `last` is the direction of the last."""
    return IndexModel([*((column, ASCENDING) for column in columns[:-1]), (columns[-1], last)])


def _candidate_indexes() -> tuple[IndexModel, ...]:
    """One index per sort, best first; the flag `no_…` keeps absent numbers last."""
    sorts = []
    for column, best in SORT_COLUMNS.values():
        value = (column, DESCENDING if best else ASCENDING)
        sorts.append(IndexModel([("run", ASCENDING), (f"no_{column}", ASCENDING), value, ("id", ASCENDING)]))
    kinds = [_by("run", column, "requested", last=DESCENDING) for column in ("state", "kind")]
    return (*sorts, *kinds, _by("run", "name"), _by("run", "requested"), _by("run", "parent"))


INDEXES: Mapping[str, tuple[IndexModel, ...]] = {
    "runs": (_by("started", last=DESCENDING),),
    "candidates": _candidate_indexes(),
    "lineage": (_by("parent"),),
    "records": (_by("run"),),
    "pools": (_by("run", "_id", last=DESCENDING),),
    "log": (
        IndexModel("event_id", name="accepted_once", unique=True, partialFilterExpression={"accepted": True}),
        _by("run", "candidate", "_id"),
        _by("run", "_id"),
    ),
    "motivations": (_by("run", "embedder", "_id"),),
    "programs": (_by("run", "_id"), _by("run", "id")),
    "outbox": (_by("event_id"),),
    "reservations": (_by("run"),),
}
"""Those of the first version; the server adds an index on `_id`."""


async def require_own(database: Database) -> None:
    """Raises SettingsError for a database with collections that are not those of an archive.

    An archive's creation begins with its progress, so that an interrupted one is told apart.
    """
    names = sorted(name for name in await database.list_collection_names() if not name.startswith("system."))
    if names and not await database.progress.find_one({"_id": {"$in": ["applied", "schema"]}}):
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise SettingsError(
            f"ASI_ARCHIVE_URL: the database {database.name} belongs to another application (it contains {shown}): name "
            "that of an archive of ASI-Arch or one that does not exist yet."
        )


async def migrate(database: Database, steps: tuple[Step, ...] | None = None) -> None:
    """Bring the collections up to date; every step is idempotent, so that it can be repeated after a crash.

    Raises:
        SettingsError: the database was written by a newer version of this program.
    """
    steps = MIGRATIONS if steps is None else steps
    row = await database.progress.find_one({"_id": "schema"})
    version: int = row["version"] if row else 0
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
    for collection, indexes in INDEXES.items():
        await database[collection].create_indexes(list(indexes))


async def _second(database: Database) -> None:
    if "bodies" not in await database.list_collection_names():
        await database.create_collection("bodies")


MIGRATIONS: tuple[Step, ...] = (_first, _second)
"""Step N migrates version N to N + 1. A released step never changes."""


async def drift(database: Database) -> list[str]:
    """Differences of indexes from the expected ones, one sentence each."""
    differences: list[str] = []
    for collection, indexes in INDEXES.items():
        present = await database[collection].index_information()
        expected = {str(index.document["name"]): index.document for index in indexes}
        for name, document in expected.items():
            if name not in present:
                differences.append(f"index {name} of {collection} does not exist")
                continue
            options = ("key", "unique", "partialFilterExpression")
            wanted = {**document, "key": list(document["key"].items())}
            required, actual = ({key: side[key] for key in options if key in side} for side in (wanted, present[name]))
            if actual != required:
                differences.append(f"index {name} of {collection} is {actual}, must be {required}")
        unexpected = sorted(present.keys() - {"_id_"} - expected.keys())
        differences += [f"index {name} of {collection} is unexpected" for name in unexpected]
    return differences


async def damage(database: Database) -> list[str]:
    """Missing log rows, one sentence each. (The server verifies its pages whenever it reads them.)"""
    progress = await database.progress.find_one({"_id": "applied"})
    applied = int(progress["sequence"]) if progress else 0
    ends = [await database.log.find_one({}, {"_id": 1}, sort=[("_id", order)]) for order in (ASCENDING, DESCENDING)]
    first, last = (int(end["_id"]) if end else 0 for end in ends)
    rows = await database.log.count_documents({})
    if applied != last or (rows and rows != last - first + 1):
        return [f"it has {rows} log rows, the last with sequence {last}, but has applied {applied}"]
    return []


def key_of(run: str, candidate: str) -> str:
    """The key of a candidate; a run's keys are ordered by id."""
    return f"{run}/{candidate}"


def keys_of_run(run: str) -> Document:
    """The range of `_id` of a run's candidates: "0" is the character after "/"."""
    return {"$gte": f"{run}/", "$lt": f"{run}0"}


def slim_document(key: Key, row: CandidateRow) -> Document:
    """A candidate's columns, and for each sort whether its number is absent."""
    slim: Document = columns(row) | {"run": key[0], "id": key[1]}
    absent = {f"no_{column}": slim[column] is None for column, _ in SORT_COLUMNS.values()}
    return {"_id": key_of(*key), **slim, **absent, "moves": list(row.record.proposal.moves)}
