"""The log as the archive remembers it, and what the searches in memory are fed from."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import TYPE_CHECKING

from services.contracts import candidate_pb2, events_pb2
from services.store.backends.digest import Digest
from services.store.backends.sqlite.connection import transaction
from services.store.backends.sqlite.queries import known, known_candidate, read_pool
from services.store.port import LogRow

if TYPE_CHECKING:  # numpy, which only a search for neighbours needs
    from services.store.backends.neighbours import StoredProgram, StoredVector
    from services.store.backends.sketches import Sketched

Connection = sqlite3.Connection


def chain(connection: Connection, run: str, candidate: str) -> list[LogRow]:
    """Every event about a candidate, oldest first."""
    run = known_candidate(connection, run, candidate)
    query = "SELECT * FROM log WHERE run = ? AND candidate = ? ORDER BY sequence"
    return [_log_row(row) for row in connection.execute(query, (run, candidate))]


def log_page(connection: Connection, run: str, after: int, limit: int) -> list[LogRow]:
    """Events of a run that came after a sequence, in order."""
    query = "SELECT * FROM log WHERE run = ? AND sequence > ? ORDER BY sequence LIMIT ?"
    return [_log_row(row) for row in connection.execute(query, (run, after, limit))]


def digest(connection: Connection, run: str) -> tuple[str, int]:
    """The digest of one moment and the number of accepted events."""
    found = Digest()
    with transaction(connection):
        run = known(connection, run)
        for row in connection.execute("SELECT record FROM records WHERE run = ? ORDER BY id", (run,)):
            found.candidate(row["record"])
        for row in connection.execute("SELECT * FROM pools WHERE run = ? ORDER BY sequence", (run,)):
            found.pool(read_pool(row))
        query = "SELECT sha256 FROM log WHERE run = ? AND accepted = 1 ORDER BY event_id"
        for row in connection.execute(query, (run,)):
            found.event(row["sha256"])
    return found.result()


def vectors(connection: Connection, run: str, embedder: str, after: int, limit: int) -> list[StoredVector]:
    """Embeddings that came after a sequence."""
    rows = connection.execute(
        "SELECT sequence, id, vector FROM motivations WHERE run = ? AND embedder = ? AND sequence > ? "
        "ORDER BY sequence LIMIT ?",
        (run, embedder, after, limit),
    )
    from services.store.backends.neighbours import StoredVector

    return [StoredVector(*row) for row in rows]


def programs(connection: Connection, run: str, after: int, limit: int) -> list[StoredProgram]:
    """Programs that came after a sequence, without their token runs."""
    rows = connection.execute(
        "SELECT sequence, id, digest, sketch FROM programs WHERE run = ? AND sequence > ? ORDER BY sequence LIMIT ?",
        (run, after, limit),
    )
    from services.store.backends.neighbours import StoredProgram, sketch_from

    return [
        StoredProgram(sequence, name, None if sketch is None else sketch_from(text, sketch))
        for sequence, name, text, sketch in rows
    ]


def program_texts(connection: Connection, run: str, ids: Sequence[str]) -> dict[str, str]:
    """The programs of candidates."""
    query = "SELECT record FROM records WHERE run = ? AND id = ?"
    found = {one: connection.execute(query, (run, one)).fetchone() for one in ids}
    return {
        one: candidate_pb2.Candidate.FromString(row["record"]).proposal.program for one, row in found.items() if row
    }


def program_runs(connection: Connection, run: str, ids: Sequence[str]) -> dict[str, Sketched]:
    """Fingerprints with their token runs."""
    query = "SELECT digest, sketch, runs FROM programs WHERE run = ? AND id = ? AND sketch IS NOT NULL"
    found = {one: connection.execute(query, (run, one)).fetchone() for one in ids}
    from services.store.backends.neighbours import sketch_from

    return {one: sketch_from(*row) for one, row in found.items() if row}


def _log_row(row: sqlite3.Row) -> LogRow:
    return LogRow(
        row["sequence"],
        row["run"],
        row["candidate"],
        row["sha256"],
        events_pb2.Event.FromString(row["event"]),
        bool(row["accepted"]),
        row["refused_because"],
    )
