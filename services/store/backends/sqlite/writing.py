"""Writes, all in the writing thread, one transaction per batch; and the reads that `apply` needs."""

import json
import sqlite3
import struct
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

from services.chassis.bus import Logged
from services.chassis.events import body_of
from services.contracts import events_pb2
from services.store.backends.folding import Effects, Key, Loaded, Needs, fold, needs, unapplied
from services.store.backends.rows import (
    candidate_row,
    columns,
    log_columns,
    pool_columns,
    record_bytes,
    run_columns,
    run_row,
)
from services.store.backends.sqlite.connection import transaction
from services.store.port import CandidateRow, Change, Outgoing, Position, React


def apply(connection: sqlite3.Connection, messages: Sequence[Logged], react: React | None = None) -> list[Change]:
    with transaction(connection, "BEGIN IMMEDIATE"):
        incoming = unapplied(messages, applied(connection))
        if not incoming:
            return []
        effects = fold(incoming, _load(connection, needs(incoming)), react)
        _write(connection, effects)
    return effects.changes


def applied(connection: sqlite3.Connection) -> int:
    sequence: int = connection.execute("SELECT applied FROM progress").fetchone()[0]
    return sequence


def position(connection: sqlite3.Connection) -> Position:
    query = "SELECT applied, sha256 FROM progress LEFT JOIN log ON log.sequence = progress.applied"
    return Position(*connection.execute(query).fetchone())


def outbox(connection: sqlite3.Connection, limit: int = 200) -> list[Outgoing]:
    rows = connection.execute("SELECT number, body FROM outbox ORDER BY number LIMIT ?", (limit,))
    return [Outgoing(row["number"], events_pb2.Event.FromString(row["body"])) for row in rows]


def sent(connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
    with transaction(connection, "BEGIN IMMEDIATE"):
        connection.executemany("DELETE FROM outbox WHERE number = ?", [(number,) for number in numbers])


def reserve(connection: sqlite3.Connection, run: str, tokens: int, nanodollars: int | None) -> int:
    cursor = connection.execute(
        "INSERT INTO reservations (run, tokens, nanodollars) VALUES (?, ?, ?)", (run, tokens, nanodollars)
    )
    assert cursor.lastrowid is not None  # noqa: S101 - an INSERT has one
    return cursor.lastrowid


def unreserve(connection: sqlite3.Connection, number: int) -> None:
    connection.execute("DELETE FROM reservations WHERE number = ?", (number,))


def save_fingerprints(connection: sqlite3.Connection, rows: Iterable[tuple[str, bytes, bytes, int]]) -> None:
    """Store digest, sketch and token runs of programs by sequence."""
    with transaction(connection, "BEGIN IMMEDIATE"):
        connection.executemany("UPDATE programs SET digest = ?, sketch = ?, runs = ? WHERE sequence = ?", rows)


def read_candidate(connection: sqlite3.Connection, run: str, candidate: str) -> CandidateRow | None:
    """A candidate by id."""
    row = connection.execute(
        "SELECT c.requested, c.ended, r.record FROM candidates c "
        "JOIN records r ON r.run = c.run AND r.id = c.id WHERE c.run = ? AND c.id = ?",
        (run, candidate),
    ).fetchone()
    return candidate_row(row["record"], row) if row else None


def _load(connection: sqlite3.Connection, required: Needs) -> Loaded:
    loaded = Loaded()
    for run in required.runs:
        if row := connection.execute("SELECT * FROM runs WHERE run = ?", (run,)).fetchone():
            loaded.runs[run] = run_row(run, row)
    for run, candidate in required.candidates:
        if candidate_row := read_candidate(connection, run, candidate):
            loaded.rows[run, candidate] = candidate_row
    for event_id in required.ids:
        query = "SELECT sequence FROM log WHERE event_id = ? AND accepted = 1"
        if row := connection.execute(query, (event_id,)).fetchone():
            loaded.accepted[event_id] = row["sequence"]
    return loaded


def _write(connection: sqlite3.Connection, effects: Effects) -> None:
    connection.executemany(
        "INSERT INTO log VALUES (:sequence, :run, :candidate, :event_id, :sha256, :accepted, :refused_because, :event)",
        [{"sequence": row.sequence, **log_columns(row)} for row in effects.logs],
    )
    bodies = [(message.sequence, message.subject, zlib.compress(message.body, 1)) for message in effects.messages]
    connection.executemany("INSERT INTO bodies VALUES (?, ?, ?)", bodies)
    connection.executemany(
        "INSERT OR REPLACE INTO runs VALUES (:run, :started, :changed, :dead_letters, :origin, :settings, :state)",
        [{"run": row.run, **run_columns(row)} for row in effects.runs.values()],
    )
    for key, row in effects.rows.items():
        slim = columns(row) | {"run": key[0], "id": key[1], "moves": json.dumps(list(row.record.proposal.moves))}
        connection.execute(_upsert(tuple(slim)), tuple(slim.values()))
        connection.execute("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", (*key, record_bytes(row.record)))
    for key, sequence in effects.proposed.items():
        _put_proposal(connection, key, sequence, effects.rows[key])
    connection.executemany(
        "INSERT INTO pools VALUES (:run, :sequence, :entries, :members)",
        [{"sequence": row.sequence, **pool_columns(row)} for row in effects.pools],
    )
    connection.executemany("DELETE FROM outbox WHERE event_id = ?", [(event_id,) for event_id in effects.stored])
    outgoing = [(event.id, body_of(event)) for event in effects.reactions.values()]
    connection.executemany("INSERT INTO outbox (event_id, body) VALUES (?, ?)", outgoing)
    connection.execute("UPDATE progress SET applied = ?", (effects.sequence,))


@lru_cache
def _upsert(names: tuple[str, ...]) -> str:
    """Insert or update a candidate; only the indexes of changed columns are written."""
    placeholders, changes = ", ".join("?" * len(names)), ", ".join(f"{name} = excluded.{name}" for name in names)
    listed = ", ".join(names)
    return f"INSERT INTO candidates ({listed}) VALUES ({placeholders}) ON CONFLICT (run, id) DO UPDATE SET {changes}"  # noqa: S608 - constant names


def _put_proposal(connection: sqlite3.Connection, key: Key, sequence: int, row: CandidateRow) -> None:
    """Store what nearest-neighbour searches read."""
    proposal = row.record.proposal
    if proposal.motivation_embedding:
        values = proposal.motivation_embedding
        vector = struct.pack(f"<{len(values)}f", *values)
        connection.execute(
            "INSERT INTO motivations VALUES (?, ?, ?, ?, ?)", (sequence, *key, proposal.embedder, vector)
        )
    if proposal.program:
        connection.execute("INSERT INTO programs (sequence, run, id) VALUES (?, ?, ?)", (sequence, *key))
