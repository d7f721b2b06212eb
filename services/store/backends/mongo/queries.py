"""Questions about runs and their candidates: plain functions of a database."""

import zlib
from collections.abc import Sequence
from typing import TypeVar

from pymongo import ASCENDING, DESCENDING

from services.chassis.bus import Logged
from services.chassis.errors import NotFound
from services.contracts import archive_pb2, candidate_pb2, events_pb2
from services.store.backends.folding import Digest
from services.store.backends.indices import Sketched
from services.store.backends.mongo import documents
from services.store.backends.mongo.connection import Collection, Database, Document, aggregated, moment
from services.store.backends.neighbours import StoredProgram, StoredVector, sketch_from
from services.store.backends.rows import Order, move_outcome
from services.store.port import CandidateRow, LogRow, Outgoing, Page, PoolRow, Query, Reservation, RunRow

T = TypeVar("T")


async def run_named(database: Database, run: str) -> RunRow:
    """A run, the newest for an empty name. Raises NotFound."""
    found = await database.runs.find_one({"_id": run} if run else {}, sort=[("started", DESCENDING)])
    if found is None:
        raise NotFound(f"no run is called {run}" if run else "there is no run yet")
    return documents.run_row(found)


async def known(database: Database, run: str) -> str:
    """The name of a run that exists. Raises NotFound."""
    found = await database.runs.find_one({"_id": run} if run else {}, {"_id": 1}, sort=[("started", DESCENDING)])
    if found is None:
        raise NotFound(f"no run is called {run}" if run else "there is no run yet")
    return str(found["_id"])


async def runs(database: Database) -> list[RunRow]:
    """Newest first."""
    return [documents.run_row(found) async for found in database.runs.find().sort("started", DESCENDING)]


async def candidate(database: Database, run: str, name: str) -> CandidateRow:
    """By id, else by a name that just one candidate has. Raises NotFound and ValueError."""
    run = await known(database, run)
    if found := await _row(database, run, name):
        return found
    same_name = database.candidates.find({"run": run, "name": name}, {"_id": 0, "id": 1}).sort("id", ASCENDING).limit(5)
    ids = [one["id"] async for one in same_name] if name else []
    if len(ids) > 1:
        raise ValueError(f"candidate {name!r} is ambiguous in run {run}: ask for one of {', '.join(ids)}")
    if not ids or not (found := await _row(database, run, ids[0])):
        raise NotFound(f"run {run} has no candidate {name!r}")
    return found


async def candidates(database: Database, run: str, ids: Sequence[str]) -> list[candidate_pb2.Candidate]:
    """In the order asked for; unknown ids are left out."""
    run = run or await known(database, run)
    keys = [documents.key_of(run, one) for one in ids]
    records = await database.records.find({"_id": {"$in": keys}}).to_list(None)
    found = {one["_id"]: one["record"] for one in records}
    return await _sure(database, run, [candidate_pb2.Candidate.FromString(found[key]) for key in keys if key in found])


async def list_candidates(database: Database, query: Query) -> Page:
    """One page; the ids come from an index, only the page's records are read."""
    order = Order.of(query)
    run = await known(database, query.run)
    wanted = _selection(query, run)
    total = await database.candidates.count_documents(wanted)
    if query.limit == 0 or query.offset >= total:
        return Page((), total)
    direction = DESCENDING if order.descending else ASCENDING
    sort = [(f"no_{order.column}", ASCENDING), (order.column, direction), ("id", ASCENDING)]
    page = database.candidates.find(wanted, {"_id": 0, "id": 1}).sort(sort).skip(query.offset).limit(query.limit)
    ids = [one["id"] for one in await page.to_list(None)]
    return Page(tuple(await candidates(database, run, ids)), total)


async def state_counts(database: Database, run: str) -> dict[int, int]:
    """How many candidates are in each state."""
    wanted = {"$match": {"run": await known(database, run)}}
    counted = await aggregated(database.candidates, [wanted, {"$group": {"_id": "$state", "count": {"$sum": 1}}}])
    return {one["_id"]: one["count"] for one in counted}


async def event_count(database: Database, run: str) -> int:
    """How many events of the run were applied."""
    return int(await database.log.count_documents({"run": await known(database, run)}))


async def tree(database: Database, run: str) -> list[archive_pb2.TreeNode]:
    """All nodes, oldest first."""
    found = database.candidates.find({"run": await known(database, run)}).sort("requested", ASCENDING)
    return [documents.node(slim) async for slim in found]


async def subtree(database: Database, run: str, candidate: str) -> list[archive_pb2.TreeNode]:
    """A candidate and its descendants, oldest first."""
    run = await known_candidate(database, run, candidate)
    key = documents.key_of(run, candidate)
    below = [key, *(one["_id"] for one in await _walk(database.lineage, key, "_id", "parent"))]
    found = database.candidates.find({"_id": {"$in": below}}).sort("requested", ASCENDING)
    return [documents.node(slim) async for slim in found]


async def children(database: Database, run: str, candidate: str) -> list[str]:
    """Best first, those without fitness last."""
    run = await known_candidate(database, run, candidate)
    order = [("no_fitness", ASCENDING), ("fitness", DESCENDING), ("id", ASCENDING)]
    found = database.candidates.find({"run": run, "parent": candidate}, {"_id": 0, "id": 1}).sort(order)
    return [one["id"] async for one in found]


async def path(database: Database, run: str, candidate: str) -> list[str]:
    """From the root down. A parent that the run does not hold ends the path; ValueError for a circle."""
    run = run or await known(database, run)
    key = documents.key_of(run, candidate)
    above = {one["_id"]: one["above"] for one in await _walk(database.ancestors, key, "leap", "_id")}
    if key not in above:  # it has no proposal yet, or does not exist
        await known_candidate(database, run, candidate)
        return [candidate]
    return [one.removeprefix(f"{run}/") for one in reversed(_climb(key, above))]


async def pool(database: Database, run: str, at_sequence: int) -> PoolRow | None:
    """The snapshot in force at a sequence, 0 for now."""
    wanted: Document = {"run": await known(database, run)}
    if at_sequence:
        wanted["_id"] = {"$lte": at_sequence}
    found = await database.pools.find_one(wanted, sort=[("_id", DESCENDING)])
    return documents.pool_row(found) if found else None


async def baselines(database: Database, run: str) -> list[candidate_pb2.Candidate]:
    """By number."""
    run = run or await known(database, run)
    wanted = {"run": run, "kind": int(candidate_pb2.KIND_BASELINE)}
    found = database.candidates.find(wanted, {"_id": 0, "id": 1}).sort([("number", ASCENDING), ("id", ASCENDING)])
    return await candidates(database, run, [one["id"] for one in await found.to_list(None)])


async def moves(database: Database, run: str, limit: int) -> list[archive_pb2.MoveOutcome]:
    """Of the newest proposals, oldest first."""
    run = run or await known(database, run)
    wanted = {"run": run, "kind": int(candidate_pb2.KIND_PROPOSAL), "proposed": 1}
    read = {"_id": 0, "moves": 1, "fitness": 1, "state": 1, "structure": 1, "parent": 1}
    found = database.candidates.find(wanted, read, batch_size=limit).sort("requested", DESCENDING).limit(limit)
    newest = await _sure(database, run, await found.to_list(None) if limit > 0 else [])
    keys = list({documents.key_of(run, one["parent"]) for one in newest if one["parent"]})
    read = {"_id": 0, "id": 1, "fitness": 1}
    parents = await database.candidates.find({"_id": {"$in": keys}}, read, batch_size=limit).to_list(None)
    fitness = {one["id"]: one["fitness"] for one in parents}
    return [
        move_outcome(tuple(one["moves"]), one["fitness"], fitness.get(one["parent"]), one["state"], one["structure"])
        for one in reversed(newest)
    ]


async def recent_rejections(database: Database, run: str, limit: int) -> list[candidate_pb2.Candidate]:
    """Newest first."""
    run = run or await known(database, run)
    wanted = {"run": run, "state": int(candidate_pb2.STATE_REJECTED)}
    found = database.candidates.find(wanted, {"_id": 0, "id": 1}).sort("requested", DESCENDING).limit(limit)
    newest = await found.to_list(None) if limit > 0 else []
    return await candidates(database, run, [one["id"] for one in newest])


async def reservations(database: Database) -> list[Reservation]:
    """Oldest first."""
    return [
        Reservation(one["_id"], one["run"], one["tokens"], one["nanodollars"])
        async for one in database.reservations.find().sort("_id", ASCENDING)
    ]


async def known_candidate(database: Database, run: str, candidate: str) -> str:
    """The name of a run that has such a candidate. Raises NotFound."""
    run = await known(database, run)
    if not await database.candidates.find_one({"_id": documents.key_of(run, candidate)}, {"_id": 1}):
        raise NotFound(f"run {run} has no candidate {candidate!r}")
    return run


async def _row(database: Database, run: str, candidate: str) -> CandidateRow | None:
    key = {"_id": documents.key_of(run, candidate)}
    slim, record = await database.candidates.find_one(key), await database.records.find_one(key)
    return documents.row_of(slim, record["record"]) if slim and record else None


async def _walk(edges: Collection, key: str, onwards: str, to: str) -> list[Document]:
    """Everything that these edges reach from a candidate; unwound at once, so that no document grows with it."""
    steps: list[Document] = [
        {"$match": {"_id": key}},
        {
            "$graphLookup": {
                "from": edges.name,
                "startWith": "$_id",
                "connectFromField": onwards,
                "connectToField": to,
                "as": "met",
            }
        },
        {"$unwind": "$met"},
        {"$replaceRoot": {"newRoot": "$met"}},
    ]
    return await aggregated(edges, steps)


def _climb(key: str, above: dict[str, list[str]]) -> list[str]:
    """From a candidate to its root, by the stretches that are kept. ValueError for a circle."""
    path, seen = [key], {key}
    while stretch := above.get(path[-1]):
        if not seen.isdisjoint(stretch):
            raise ValueError(f"lineage of {key} runs in a circle through {stretch[-1]}")
        path += stretch
        seen.update(stretch)
    return path if path[-1] in above else path[:-1]


async def _sure(database: Database, run: str, found: list[T]) -> list[T]:
    """What was found; where that is nothing, NotFound for a run that does not exist."""
    if not found:
        await known(database, run)
    return found


def _selection(query: Query, run: str) -> Document:
    wanted: Document = {"run": run}
    if query.states:
        wanted["state"] = {"$in": [int(one) for one in query.states]}
    if query.kinds:
        wanted["kind"] = {"$in": [int(one) for one in query.kinds]}
    if query.stage:
        wanted["stage"] = query.stage
    return wanted


async def outbox(database: Database, limit: int) -> list[Outgoing]:
    """What waits to be published, oldest first."""
    found = database.outbox.find().sort("_id", ASCENDING).limit(limit)
    return [Outgoing(one["_id"], events_pb2.Event.FromString(one["body"])) async for one in found]


async def chain(database: Database, run: str, candidate: str) -> list[LogRow]:
    """Every event about a candidate, oldest first."""
    run = await known_candidate(database, run, candidate)
    found = database.log.find({"run": run, "candidate": candidate}).sort("_id", ASCENDING)
    return [documents.log_row(one) async for one in found]


async def bodies_page(database: Database, after: int, limit: int) -> list[Logged]:
    """Messages that came after a sequence, as they were published, in order."""
    rows = database.bodies.find({"_id": {"$gt": after}}).sort("_id", ASCENDING).limit(limit)
    return [Logged(row["_id"], row["subject"], zlib.decompress(row["body"])) async for row in rows]


async def log_page(database: Database, run: str, after: int, limit: int) -> list[LogRow]:
    """Events of a run that came after a sequence, in order."""
    found = database.log.find({"run": run, "_id": {"$gt": after}}).sort("_id", ASCENDING).limit(limit)
    return [documents.log_row(one) async for one in found]


async def digest(database: Database, run: str) -> tuple[str, int]:
    """The digest of one moment and the number of accepted events."""
    run, found = await known(database, run), Digest()
    async with moment(database.client) as session:
        records = database.records.find({"_id": documents.keys_of_run(run)}, session=session)
        async for one in records.sort("_id", ASCENDING):
            found.candidate(one["record"])
        async for one in database.pools.find({"run": run}, session=session).sort("_id", ASCENDING):
            found.pool(documents.pool_row(one))
        accepted = database.log.find({"run": run, "accepted": True}, {"sha256": 1, "event_id": 1}, session=session)
        async for one in accepted.sort("event_id", ASCENDING).allow_disk_use(True):
            found.event(one["sha256"])
    return found.result()


async def vectors(database: Database, run: str, embedder: str, after: int, limit: int) -> list[StoredVector]:
    """Embeddings that came after a sequence."""
    wanted = {"run": run, "embedder": embedder, "_id": {"$gt": after}}
    found = database.motivations.find(wanted).sort("_id", ASCENDING).limit(limit)
    return [StoredVector(one["_id"], one["id"], one["vector"]) for one in await found.to_list(None)]


async def programs(database: Database, run: str, after: int, limit: int) -> list[StoredProgram]:
    """Programs that came after a sequence, without their token runs."""
    wanted = {"run": run, "_id": {"$gt": after}}
    found = database.programs.find(wanted, {"runs": 0}).sort("_id", ASCENDING).limit(limit)
    return [
        StoredProgram(one["_id"], one["id"], sketch_from(one["digest"], one["sketch"]) if one["sketch"] else None)
        for one in await found.to_list(None)
    ]


async def program_texts(database: Database, run: str, ids: Sequence[str]) -> dict[str, str]:
    """The programs of candidates."""
    keys = {documents.key_of(run, one): one for one in ids}
    found = database.records.find({"_id": {"$in": list(keys)}})
    return {keys[one["_id"]]: candidate_pb2.Candidate.FromString(one["record"]).proposal.program async for one in found}


async def program_runs(database: Database, run: str, ids: Sequence[str]) -> dict[str, Sketched]:
    """Fingerprints with their token runs."""
    found = database.programs.find({"run": run, "id": {"$in": list(ids)}, "sketch": {"$ne": None}})
    return {one["id"]: sketch_from(one["digest"], one["sketch"], one["runs"]) async for one in found}
