"""The log as the archive remembers it, the outbox, and what the searches in memory are fed from."""

from collections.abc import Sequence

from pymongo import ASCENDING

from services.contracts import candidate_pb2, events_pb2
from services.store.backends.digest import Digest
from services.store.backends.mongo import documents
from services.store.backends.mongo.connection import Database, moment
from services.store.backends.mongo.queries import known, known_candidate
from services.store.backends.neighbours import StoredProgram, StoredVector, sketch_from
from services.store.backends.sketches import Sketched
from services.store.port import LogRow, Outgoing


async def outbox(database: Database, limit: int) -> list[Outgoing]:
    """What waits to be published, oldest first."""
    found = database.outbox.find().sort("_id", ASCENDING).limit(limit)
    return [Outgoing(one["_id"], events_pb2.Event.FromString(one["body"])) async for one in found]


async def chain(database: Database, run: str, candidate: str) -> list[LogRow]:
    """Every event about a candidate, oldest first."""
    run = await known_candidate(database, run, candidate)
    found = database.log.find({"run": run, "candidate": candidate}).sort("_id", ASCENDING)
    return [documents.log_row(one) async for one in found]


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
