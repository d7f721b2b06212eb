"""The collections of the MongoDB archive, their indices, and the steps from each version of them to the next.

progress      how far the log was applied; counters of numbers given out
runs          one document a run
candidates    slim columns: what lists, trees and statistics read
lineage       a candidate and its parent, nothing else: what subtrees are walked through
ancestors     a candidate's nearest ancestors and the farthest of those: what long paths are walked through
records       the serialised records, read one by one
bodies        each message as it was published, compressed: what a lost log is made of again
pools, log, motivations, programs, outbox, reservations    as their names say

A candidate's key is `run/id`: names of runs hold no slash, so a run's keys lie together, ordered by id.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from bson.binary import Binary
from pymongo import ASCENDING, DESCENDING, IndexModel

from services.chassis.errors import SettingsError
from services.contracts import archive_pb2, events_pb2
from services.domain.run_state import state_from_json, state_to_json
from services.store.backends.folding import Key
from services.store.backends.mongo.connection import Database, Document
from services.store.backends.rows import SORT_COLUMNS, candidate_row, columns, tree_node
from services.store.port import CandidateRow, LogRow, PoolRow, RunRow

Step = Callable[[Database], Awaitable[None]]
Keys = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Index:
    """One index of a collection. `once` makes it unique among the documents that were accepted."""

    keys: Keys
    once: bool = False

    @property
    def name(self) -> str:
        """As the server would call it, but for the one that means something."""
        return "accepted_once" if self.once else "_".join(f"{key}_{direction}" for key, direction in self.keys)

    def options(self) -> dict[str, object]:
        """What the server is asked for beside the keys."""
        return {"unique": True, "partialFilterExpression": {"accepted": True}} if self.once else {}


def _by(*columns: str, last: int = ASCENDING) -> Index:
    """Ascending in all columns but perhaps the last."""
    return Index((*((column, ASCENDING) for column in columns[:-1]), (columns[-1], last)))


def _candidate_indexes() -> tuple[Index, ...]:
    """One index per sort, in the order in which the best come first; the flag keeps absent numbers last."""
    sorts = [
        Index((("run", ASCENDING), (f"no_{column}", ASCENDING), (column, DESCENDING if best else ASCENDING),
               ("id", ASCENDING)))
        for column, best in SORT_COLUMNS.values()
    ]  # fmt: skip
    kinds = [_by("run", column, "requested", last=DESCENDING) for column in ("state", "kind")]
    return (*sorts, *kinds, _by("run", "name"), _by("run", "requested"), _by("run", "parent"))


INDEXES: Mapping[str, tuple[Index, ...]] = {
    "runs": (_by("started", last=DESCENDING),),
    "candidates": _candidate_indexes(),
    "lineage": (_by("parent"),),
    "records": (_by("run"),),
    "pools": (_by("run", "_id", last=DESCENDING),),
    "log": (
        Index((("event_id", ASCENDING),), once=True),
        _by("run", "candidate", "_id"),
        _by("run", "_id"),
    ),
    "motivations": (_by("run", "embedder", "_id"),),
    "programs": (_by("run", "_id"), _by("run", "id")),
    "outbox": (_by("event_id"),),
    "reservations": (_by("run"),),
}
"""What the first version has; the server keeps an index on `_id` beside them."""


async def migrate(database: Database, steps: tuple[Step, ...] | None = None) -> None:
    """Bring the collections up to date; every step may be run again after a crash in the middle of it.

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
        models = [IndexModel(list(index.keys), name=index.name, **index.options()) for index in indexes]
        await database[collection].create_indexes(models)


async def _second(database: Database) -> None:
    if "bodies" not in await database.list_collection_names():
        await database.create_collection("bodies")


MIGRATIONS: tuple[Step, ...] = (_first, _second)
"""Step N brings version N to N + 1. A released step never changes."""


async def drift(database: Database) -> list[str]:
    """Where indexes differ from the design, a sentence each."""
    differences: list[str] = []
    for collection, indexes in INDEXES.items():
        held = await database[collection].index_information()
        for index in indexes:
            if index.name not in held:
                differences.append(f"index {index.name} of {collection} does not exist")
            elif different := _difference(index, held.pop(index.name)):
                differences.append(f"index {index.name} of {collection} is {different}, must be {_described(index)}")
            else:
                continue
        differences += [
            f"index {name} of {collection} is not of this design" for name in _unexpected_indexes(indexes, held)
        ]
    return differences


async def damage(database: Database) -> list[str]:
    """Whether every message up to the last is remembered. (The server checks its own pages whenever it reads them.)"""
    progress = await database.progress.find_one({"_id": "applied"})
    applied = int(progress["sequence"]) if progress else 0
    ends = [await database.log.find_one({}, {"_id": 1}, sort=[("_id", order)]) for order in (ASCENDING, DESCENDING)]
    first, last = (int(end["_id"]) if end else 0 for end in ends)
    held = await database.log.count_documents({})
    if applied != last or (held and held != last - first + 1):
        return [f"it remembers {held} messages, the last with sequence {last}, and has applied {applied}"]
    return []


def _described(index: Index) -> dict[str, object]:
    return {"key": list(index.keys), **index.options()}


def _difference(index: Index, held: Mapping[str, object]) -> dict[str, object] | None:
    described = {name: held[name] for name in ("key", "unique", "partialFilterExpression") if name in held}
    return None if described == _described(index) else described


def _unexpected_indexes(indexes: tuple[Index, ...], held: Mapping[str, object]) -> list[str]:
    return sorted(held.keys() - {"_id_"} - {index.name for index in indexes})


def key_of(run: str, candidate: str) -> str:
    """The key of a candidate; a run's keys are in the order of its ids."""
    return f"{run}/{candidate}"


def keys_of_run(run: str) -> Document:
    """The condition on `_id` that a run's candidates fulfil: "0" is what comes after "/"."""
    return {"$gte": f"{run}/", "$lt": f"{run}0"}


def run_document(row: RunRow) -> Document:
    """A run."""
    return {
        "_id": row.run,
        "started": row.started,
        "changed": row.changed,
        "dead_letters": row.dead_letters,
        "origin": row.origin,
        "settings": Binary(row.settings.SerializeToString(deterministic=True)),
        "state": json.dumps(state_to_json(row.state)),
    }


def run_row(found: Document) -> RunRow:
    """A run."""
    settings = events_pb2.RunSettings.FromString(found["settings"])
    state = state_from_json(json.loads(found["state"]))
    return RunRow(
        found["_id"], settings, state, found["started"], found["changed"], found["dead_letters"], found["origin"]
    )


def slim_document(key: Key, row: CandidateRow) -> Document:
    """A candidate's slim columns, and for each sort whether its number is absent."""
    slim: Document = columns(row) | {"run": key[0], "id": key[1]}
    absent = {f"no_{column}": slim[column] is None for column, _ in SORT_COLUMNS.values()}
    return {"_id": key_of(*key), **slim, **absent, "moves": list(row.record.proposal.moves)}


def row_of(slim: Document, record: bytes) -> CandidateRow:
    """A candidate from its columns and its record."""
    return candidate_row(bytes(record), slim)


def node(slim: Document) -> archive_pb2.TreeNode:
    """A node of the tree."""
    return tree_node(slim)


def log_document(row: LogRow) -> Document:
    """An event as it is remembered."""
    return {
        "_id": row.sequence,
        "run": row.run,
        "candidate": row.candidate,
        "event_id": row.event.id,
        "sha256": Binary(row.sha256),
        "accepted": row.accepted,
        "refused_because": row.refused_because,
        "event": Binary(row.event.SerializeToString(deterministic=True)),
    }


def log_row(found: Document) -> LogRow:
    """An event as it is remembered."""
    return LogRow(
        found["_id"],
        found["run"],
        found["candidate"],
        bytes(found["sha256"]),
        events_pb2.Event.FromString(found["event"]),
        found["accepted"],
        found["refused_because"],
    )


def pool_document(row: PoolRow) -> Document:
    """A snapshot."""
    members = events_pb2.PoolUpdated(members=row.members).SerializeToString(deterministic=True)
    return {"_id": row.sequence, "run": row.run, "entries": row.entries, "members": Binary(members)}


def pool_row(found: Document) -> PoolRow:
    """A snapshot."""
    members = tuple(events_pb2.PoolUpdated.FromString(found["members"]).members)
    return PoolRow(found["run"], found["_id"], members, found["entries"])
