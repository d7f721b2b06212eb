"""The queries of the port, as functions of a database."""

import zlib
from collections.abc import Sequence
from typing import Any, TypeVar

from pymongo import ASCENDING, DESCENDING

from services.chassis.bus import Logged
from services.chassis.errors import NotFound
from services.contracts import archive_pb2, candidate_pb2, events_pb2
from services.store.backends.folding import Digest
from services.store.backends.indices import Sketched
from services.store.backends.mongo import schema
from services.store.backends.mongo.connection import Collection, Database, Document, aggregated, snapshot
from services.store.backends.neighbours import StoredProgram, StoredVector, sketch_from
from services.store.backends.rows import Order, candidate_row, log_row, move_outcome, pool_row, run_row, tree_node
from services.store.port import CandidateRow, LogRow, Outgoing, Page, PoolRow, Query, Reservation, RunRow

T = TypeVar("T")
ID = {"_id": 0, "id": 1}


async def _find_run(database: Database, run: str, fields: Document | None = None) -> Document:
    """A run, the newest for an empty name. Raises NotFound."""
    row: Document | None = await database.runs.find_one(
        {"_id": run} if run else {}, fields, sort=[("started", DESCENDING)]
    )
    if row is None:
        raise NotFound(f"no run is called {run}" if run else "there is no run yet")
    return row


async def run(database: Database, run: str) -> RunRow:
    row = await _find_run(database, run)
    return run_row(row["_id"], row)


async def resolve_run(database: Database, run: str) -> str:
    return str((await _find_run(database, run, {"_id": 1}))["_id"])


async def runs(database: Database) -> list[RunRow]:
    return [run_row(row["_id"], row) async for row in database.runs.find().sort("started", DESCENDING)]


async def candidate_of_id(database: Database, run: str, candidate: str) -> CandidateRow | None:
    key = {"_id": schema.key_of(run, candidate)}
    slim, record = await database.candidates.find_one(key), await database.records.find_one(key)
    return candidate_row(record["record"], slim) if slim and record else None


async def ids_of_name(database: Database, run: str, name: str) -> list[str]:
    return await _ids(database.candidates.find({"run": run, "name": name}, ID).sort("id", ASCENDING).limit(5))


async def candidates(database: Database, run: str, ids: Sequence[str]) -> list[candidate_pb2.Candidate]:
    run = run or await resolve_run(database, run)
    keys = [schema.key_of(run, name) for name in ids]
    records = await database.records.find({"_id": {"$in": keys}}).to_list(None)
    if not records:
        await resolve_run(database, run)
    by_key = {row["_id"]: row["record"] for row in records}
    return [candidate_pb2.Candidate.FromString(by_key[key]) for key in keys if key in by_key]


async def list_candidates(database: Database, query: Query) -> Page:
    """One page; the ids come from an index, only the page's records are read."""
    order = Order.of(query)
    run = await resolve_run(database, query.run)
    criteria = _selection(query, run)
    total = await database.candidates.count_documents(criteria)
    if query.limit == 0 or query.offset >= total:
        return Page((), total)
    direction = DESCENDING if order.descending else ASCENDING
    sort = [(f"no_{order.column}", ASCENDING), (order.column, direction), ("id", ASCENDING)]
    ids = await _ids(database.candidates.find(criteria, ID).sort(sort).skip(query.offset).limit(query.limit))
    return Page(tuple(await candidates(database, run, ids)), total)


async def state_counts(database: Database, run: str) -> dict[int, int]:
    criteria = {"$match": {"run": await resolve_run(database, run)}}
    counted = await aggregated(database.candidates, [criteria, {"$group": {"_id": "$state", "count": {"$sum": 1}}}])
    return {row["_id"]: row["count"] for row in counted}


async def event_count(database: Database, run: str) -> int:
    return int(await database.log.count_documents({"run": await resolve_run(database, run)}))


async def tree(database: Database, run: str) -> list[archive_pb2.TreeNode]:
    cursor = database.candidates.find({"run": await resolve_run(database, run)}).sort("requested", ASCENDING)
    return [tree_node(slim) async for slim in cursor]


async def subtree(database: Database, run: str, candidate: str) -> list[archive_pb2.TreeNode]:
    run = await require_candidate(database, run, candidate)
    key = schema.key_of(run, candidate)
    below = [key, *(row["_id"] for row in await _walk(database.lineage, key, "_id", "parent"))]
    cursor = database.candidates.find({"_id": {"$in": below}}).sort("requested", ASCENDING)
    return [tree_node(slim) async for slim in cursor]


async def children(database: Database, run: str, candidate: str) -> list[str]:
    run = await require_candidate(database, run, candidate)
    order = [("no_fitness", ASCENDING), ("fitness", DESCENDING), ("id", ASCENDING)]
    return await _ids(database.candidates.find({"run": run, "parent": candidate}, ID).sort(order))


async def path(database: Database, run: str, candidate: str) -> list[str]:
    run = run or await resolve_run(database, run)
    key = schema.key_of(run, candidate)
    above = {row["_id"]: row["above"] for row in await _walk(database.ancestors, key, "leap", "_id")}
    if key not in above:  # it has no proposal yet, or does not exist
        await require_candidate(database, run, candidate)
        return [candidate]
    return [ancestor.removeprefix(f"{run}/") for ancestor in reversed(_climb(key, above))]


async def pool(database: Database, run: str, at_sequence: int = 0) -> PoolRow | None:
    criteria: Document = {"run": await resolve_run(database, run)}
    if at_sequence:
        criteria["_id"] = {"$lte": at_sequence}
    pool = await database.pools.find_one(criteria, sort=[("_id", DESCENDING)])
    return pool_row(pool["_id"], pool) if pool else None


async def baselines(database: Database, run: str) -> list[candidate_pb2.Candidate]:
    run = run or await resolve_run(database, run)
    criteria = {"run": run, "kind": int(candidate_pb2.KIND_BASELINE)}
    cursor = database.candidates.find(criteria, ID).sort([("number", ASCENDING), ("id", ASCENDING)])
    return await candidates(database, run, await _ids(cursor))


async def moves(database: Database, run: str, limit: int) -> list[archive_pb2.MoveOutcome]:
    run = run or await resolve_run(database, run)
    criteria = {"run": run, "kind": int(candidate_pb2.KIND_PROPOSAL), "proposed": 1}
    read = {"_id": 0, "moves": 1, "fitness": 1, "state": 1, "structure": 1, "parent": 1}
    cursor = database.candidates.find(criteria, read, batch_size=limit).sort("requested", DESCENDING).limit(limit)
    newest = await cursor.to_list(None) if limit > 0 else []
    if not newest:
        await resolve_run(database, run)
    keys = list({schema.key_of(run, row["parent"]) for row in newest if row["parent"]})
    read = {"_id": 0, "id": 1, "fitness": 1}
    parents = await database.candidates.find({"_id": {"$in": keys}}, read, batch_size=limit).to_list(None)
    fitness = {row["id"]: row["fitness"] for row in parents}
    return [
        move_outcome(tuple(row["moves"]), row["fitness"], fitness.get(row["parent"]), row["state"], row["structure"])
        for row in reversed(newest)
    ]


async def recent_rejections(database: Database, run: str, limit: int) -> list[candidate_pb2.Candidate]:
    run = run or await resolve_run(database, run)
    criteria = {"run": run, "state": int(candidate_pb2.STATE_REJECTED)}
    cursor = database.candidates.find(criteria, ID).sort("requested", DESCENDING).limit(limit)
    return await candidates(database, run, await _ids(cursor) if limit > 0 else [])


async def reservations(database: Database) -> list[Reservation]:
    return [
        Reservation(row["_id"], row["run"], row["tokens"], row["nanodollars"])
        async for row in database.reservations.find().sort("_id", ASCENDING)
    ]


async def require_candidate(database: Database, run: str, candidate: str) -> str:
    """The name of the run. Raises NotFound if the run or the candidate does not exist."""
    run = await resolve_run(database, run)
    if not await database.candidates.find_one({"_id": schema.key_of(run, candidate)}, {"_id": 1}):
        raise NotFound(f"run {run} has no candidate {candidate!r}")
    return run


async def _ids(cursor: Any) -> list[str]:
    return [row["id"] for row in await cursor.to_list(None)]


async def _walk(edges: Collection, key: str, onwards: str, to: str) -> list[Document]:
    """All documents that the edges reach from a candidate, unwound so that no document exceeds the size limit."""
    walk = {"from": edges.name, "startWith": "$_id", "connectFromField": onwards, "connectToField": to}
    found: list[Document] = [{"$unwind": "$reached"}, {"$replaceRoot": {"newRoot": "$reached"}}]
    return await aggregated(edges, [{"$match": {"_id": key}}, {"$graphLookup": walk | {"as": "reached"}}, *found])


def _climb(key: str, above: dict[str, list[str]]) -> list[str]:
    """From a candidate to its root, by the stored stretches of ancestors. Raises ValueError for a cycle."""
    path, visited = [key], {key}
    while stretch := above.get(path[-1]):
        if not visited.isdisjoint(stretch):
            raise ValueError(f"the lineage of {key} has a cycle through {stretch[-1]}")
        path += stretch
        visited.update(stretch)
    return path if path[-1] in above else path[:-1]


def _selection(query: Query, run: str) -> Document:
    criteria: Document = {"run": run}
    if query.states:
        criteria["state"] = {"$in": [int(value) for value in query.states]}
    if query.kinds:
        criteria["kind"] = {"$in": [int(value) for value in query.kinds]}
    if query.stage:
        criteria["stage"] = query.stage
    return criteria


async def outbox(database: Database, limit: int = 200) -> list[Outgoing]:
    cursor = database.outbox.find().sort("_id", ASCENDING).limit(limit)
    return [Outgoing(row["_id"], events_pb2.Event.FromString(row["body"])) async for row in cursor]


async def chain(database: Database, run: str, candidate: str) -> list[LogRow]:
    run = await require_candidate(database, run, candidate)
    cursor = database.log.find({"run": run, "candidate": candidate}).sort("_id", ASCENDING)
    return [log_row(row.pop("_id"), **row) async for row in cursor]


async def bodies_page(database: Database, after: int, limit: int) -> list[Logged]:
    rows = database.bodies.find({"_id": {"$gt": after}}).sort("_id", ASCENDING).limit(limit)
    return [Logged(row["_id"], row["subject"], zlib.decompress(row["body"])) async for row in rows]


async def log_page(database: Database, run: str, after: int, limit: int) -> list[LogRow]:
    cursor = database.log.find({"run": run, "_id": {"$gt": after}}).sort("_id", ASCENDING).limit(limit)
    return [log_row(row.pop("_id"), **row) async for row in cursor]


async def digest(database: Database, run: str) -> tuple[str, int]:
    run, digest = await resolve_run(database, run), Digest()
    async with snapshot(database.client) as session:
        records = database.records.find({"_id": schema.keys_of_run(run)}, session=session)
        async for row in records.sort("_id", ASCENDING):
            digest.candidate(row["record"])
        async for row in database.pools.find({"run": run}, session=session).sort("_id", ASCENDING):
            digest.pool(pool_row(row["_id"], row))
        accepted = database.log.find({"run": run, "accepted": True}, {"sha256": 1, "event_id": 1}, session=session)
        async for row in accepted.sort("event_id", ASCENDING).allow_disk_use(True):
            digest.event(row["sha256"])
    return digest.result()


async def vectors(database: Database, run: str, embedder: str, after: int, limit: int) -> list[StoredVector]:
    criteria = {"run": run, "embedder": embedder, "_id": {"$gt": after}}
    cursor = database.motivations.find(criteria).sort("_id", ASCENDING).limit(limit)
    return [StoredVector(row["_id"], row["id"], row["vector"]) for row in await cursor.to_list(None)]


async def programs(database: Database, run: str, after: int, limit: int) -> list[StoredProgram]:
    criteria = {"run": run, "_id": {"$gt": after}}
    cursor = database.programs.find(criteria, {"runs": 0}).sort("_id", ASCENDING).limit(limit)
    return [
        StoredProgram(row["_id"], row["id"], sketch_from(row["digest"], row["sketch"]) if row["sketch"] else None)
        for row in await cursor.to_list(None)
    ]


async def program_texts(database: Database, run: str, ids: Sequence[str]) -> dict[str, str]:
    keys = {schema.key_of(run, name): name for name in ids}
    cursor = database.records.find({"_id": {"$in": list(keys)}})
    return {
        keys[row["_id"]]: candidate_pb2.Candidate.FromString(row["record"]).proposal.program async for row in cursor
    }


async def program_runs(database: Database, run: str, ids: Sequence[str]) -> dict[str, Sketched]:
    cursor = database.programs.find({"run": run, "id": {"$in": list(ids)}, "sketch": {"$ne": None}})
    return {row["id"]: sketch_from(row["digest"], row["sketch"], row["runs"]) async for row in cursor}
