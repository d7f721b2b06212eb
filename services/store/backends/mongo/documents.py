"""Rows of the archive as documents, and back."""

import json

from bson.binary import Binary

from services.contracts import archive_pb2, events_pb2
from services.domain.run_state import state_from_json, state_to_json
from services.store.backends.folding import Key
from services.store.backends.mongo.connection import Document
from services.store.backends.rows import SORT_COLUMNS, candidate_row, columns, tree_node
from services.store.port import CandidateRow, LogRow, PoolRow, RunRow


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
