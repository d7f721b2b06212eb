"""Writes, one transaction per batch, durable on a majority; and the reads that `apply` needs."""

import asyncio
import zlib
from collections.abc import Sequence

import numpy as np
from pymongo import DeleteMany, InsertOne, ReplaceOne, UpdateOne

from services.chassis.bus import Logged
from services.chassis.events import body_of
from services.store.backends.folding import Effects, Key, Loaded, Needs, fold, needs, unapplied
from services.store.backends.indices import Sketched
from services.store.backends.mongo import schema
from services.store.backends.mongo.connection import Database, Document, Session, transaction
from services.store.backends.rows import candidate_row, log_columns, pool_columns, record_bytes, run_columns, run_row
from services.store.port import Change, OtherWriter, Position, React

LEAP = 32
"""Ancestors stored with a candidate: the number of ancestors that one step of a path query covers."""

Operation = InsertOne[dict[str, object]] | ReplaceOne[dict[str, object]] | UpdateOne | DeleteMany


async def apply(database: Database, messages: Sequence[Logged], react: React | None = None) -> list[Change]:
    """Apply a batch. Also raises OtherWriter if another one applied it at the same time.

    Rows are read before the transaction, which keeps that short. This is safe since only `apply` changes them, and the
    transaction fails unless the sequence is still the one that was read.
    """
    before = await applied(database)
    incoming = unapplied(messages, before)
    if not incoming:
        return []
    effects = fold(incoming, await _load(database, needs(incoming)), react)
    ancestors = await _ancestors(database, effects)
    async with transaction(database.client) as session:
        advanced = await database.progress.update_one(
            {"_id": "applied", "sequence": before}, {"$set": {"sequence": effects.sequence}}, session=session
        )
        if advanced.matched_count != 1:
            raise OtherWriter("MongoDB: another writer applied these events at the same time")
        await _write(database, effects, ancestors, session)
    return effects.changes


async def applied(database: Database) -> int:
    row = await database.progress.find_one({"_id": "applied"})
    return int(row["sequence"]) if row else 0


async def position(database: Database) -> Position:
    sequence = await applied(database)
    row = await database.log.find_one({"_id": sequence}, {"sha256": 1})
    return Position(sequence, row["sha256"] if row else None)


async def sent(database: Database, numbers: Sequence[int]) -> None:
    await database.outbox.delete_many({"_id": {"$in": list(numbers)}})


async def reserve(database: Database, run: str, tokens: int, nanodollars: int | None) -> int:
    number = await _count_up(database, "reservations", 1)
    await database.reservations.insert_one({"_id": number, "run": run, "tokens": tokens, "nanodollars": nanodollars})
    return number


async def unreserve(database: Database, number: int) -> None:
    await database.reservations.delete_one({"_id": number})


async def save_fingerprints(database: Database, sketches: Sequence[tuple[int, Sketched]]) -> None:
    changes = []
    for sequence, sketched in sketches:
        stored = {"digest": sketched.digest, "sketch": sketched.sketch.astype("<u4").tobytes(), "runs": sketched.runs}
        changes.append(UpdateOne({"_id": sequence}, {"$set": stored}))
    await database.programs.bulk_write(changes, ordered=False)


async def _load(database: Database, required: Needs) -> Loaded:
    keys = {"_id": {"$in": [schema.key_of(*key) for key in required.candidates]}}
    accepted = {"event_id": {"$in": list(required.ids)}, "accepted": True}
    runs, slims, records, events = await asyncio.gather(
        database.runs.find({"_id": {"$in": list(required.runs)}}).to_list(None),
        database.candidates.find(keys).to_list(None),
        database.records.find(keys).to_list(None),
        database.log.find(accepted, {"event_id": 1}).to_list(None),
    )
    bodies = {row["_id"]: row["record"] for row in records}
    return Loaded(
        runs={row["_id"]: run_row(row["_id"], row) for row in runs},
        rows={(row["run"], row["id"]): candidate_row(bodies[row["_id"]], row) for row in slims},
        accepted={row["event_id"]: row["_id"] for row in events},
    )


async def _ancestors(database: Database, effects: Effects) -> list[Document]:
    """The nearest ancestors of each new proposal, and the farthest of those."""
    rows: list[Document] = []
    parents = {key: _parent(key, effects) for key in effects.proposed}
    cursor = database.ancestors.find({"_id": {"$in": [parent for parent in parents.values() if parent]}})
    above: dict[str, list[str]] = {row["_id"]: row["above"] for row in await cursor.to_list(None)} if parents else {}
    for key, parent in parents.items():
        name = schema.key_of(*key)
        above[name] = [parent, *above.get(parent, [])][:LEAP] if parent else []
        rows.append({"_id": name, "above": above[name], "leap": above[name][-1] if parent else None})
    return rows


def _parent(key: Key, effects: Effects) -> str | None:
    parent = effects.rows[key].record.proposal.parent
    return schema.key_of(key[0], parent) if parent else None


async def _write(database: Database, effects: Effects, ancestors: list[Document], session: Session) -> None:
    changes: dict[str, list[Operation]] = {
        "log": [InsertOne({"_id": row.sequence, **log_columns(row)}) for row in effects.logs],
        "bodies": [
            InsertOne({"_id": message.sequence, "subject": message.subject, "body": zlib.compress(message.body, 1)})
            for message in effects.messages
        ],
        "runs": [_replace({"_id": row.run, **run_columns(row)}) for row in effects.runs.values()],
        "candidates": [_replace(schema.slim_document(key, row)) for key, row in effects.rows.items()],
        "records": [
            _replace({"_id": schema.key_of(*key), "run": key[0], "record": record_bytes(row.record)})
            for key, row in effects.rows.items()
        ],
        "pools": [InsertOne({"_id": row.sequence, **pool_columns(row)}) for row in effects.pools],
        "outbox": await _outbox(database, effects, session),
        "ancestors": [_replace(ancestor) for ancestor in ancestors],
        "lineage": [
            _replace({"_id": schema.key_of(*key), "parent": _parent(key, effects)}) for key in effects.proposed
        ],
        **_proposals(effects),
    }
    for name, operations in changes.items():
        if operations:
            await database[name].bulk_write(operations, ordered=True, session=session)


async def _outbox(database: Database, effects: Effects, session: Session) -> list[Operation]:
    """Delete events that the log has stored, and insert new ones with the next numbers."""
    reactions = list(effects.reactions.values())
    last = await _count_up(database, "outbox", len(reactions), session) if reactions else 0
    return [
        DeleteMany({"event_id": {"$in": effects.stored}}),
        *(
            InsertOne({"_id": last - len(reactions) + number, "event_id": event.id, "body": body_of(event)})
            for number, event in enumerate(reactions, start=1)
        ),
    ]


def _proposals(effects: Effects) -> dict[str, list[Operation]]:
    """What nearest-neighbour searches read."""
    operations: dict[str, list[Operation]] = {"motivations": [], "programs": []}
    for key, sequence in effects.proposed.items():
        run, candidate = key
        proposal = effects.rows[key].record.proposal
        document: dict[str, object] = {"_id": sequence, "run": run, "id": candidate}
        if proposal.motivation_embedding:
            vector = np.array(proposal.motivation_embedding, dtype="<f4").tobytes()
            operations["motivations"].append(InsertOne({**document, "embedder": proposal.embedder, "vector": vector}))
        if proposal.program:
            operations["programs"].append(InsertOne({**document, "sketch": None}))
    return operations


def _replace(document: dict[str, object]) -> Operation:
    return ReplaceOne({"_id": document["_id"]}, document, upsert=True)


async def _count_up(database: Database, counter: str, by: int, session: Session | None = None) -> int:
    row = await database.progress.find_one_and_update(
        {"_id": counter}, {"$inc": {"last": by}}, return_document=True, session=session
    )
    return int(row["last"])
