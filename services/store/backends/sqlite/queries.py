"""Questions about runs and their candidates: plain functions of a reading connection."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from services.chassis.bus import Logged
from services.chassis.errors import NotFound
from services.contracts import archive_pb2, candidate_pb2, events_pb2
from services.domain.lineage import path_to_root
from services.store.backends.folding import Digest
from services.store.backends.rows import NODE, Order, move_outcome, tree_node
from services.store.backends.sqlite.connection import transaction
from services.store.backends.sqlite.writing import read_candidate, read_run
from services.store.port import CandidateRow, LogRow, Page, PoolRow, Query, Reservation, RunRow

if TYPE_CHECKING:  # numpy, which only a search for neighbours needs
    from services.store.backends.indices import Sketched
    from services.store.backends.neighbours import StoredProgram, StoredVector

Connection = sqlite3.Connection
_NODE = ", ".join(f"c.{name}" for name in NODE)


def run_named(connection: Connection, run: str) -> RunRow:
    """A run, the newest for an empty name. Raises NotFound."""
    if run:
        row = connection.execute("SELECT * FROM runs WHERE run = ?", (run,)).fetchone()
    else:
        row = connection.execute("SELECT * FROM runs ORDER BY started DESC LIMIT 1").fetchone()
    if row is None:
        raise NotFound(f"no run is called {run}" if run else "there is no run yet")
    return read_run(row)


def known(connection: Connection, run: str) -> str:
    """The name of a run that exists. Raises NotFound."""
    query = "SELECT run FROM runs WHERE run = ?" if run else "SELECT run FROM runs ORDER BY started DESC LIMIT 1"
    row = connection.execute(query, (run,) if run else ()).fetchone()
    if row is None:
        raise NotFound(f"no run is called {run}" if run else "there is no run yet")
    name: str = row["run"]
    return name


def runs(connection: Connection) -> list[RunRow]:
    """Newest first."""
    return [read_run(row) for row in connection.execute("SELECT * FROM runs ORDER BY started DESC")]


def candidate(connection: Connection, run: str, name: str) -> CandidateRow:
    """By id, else by a name that just one candidate has. Raises NotFound and ValueError."""
    run = run or known(connection, run)
    if candidate := read_candidate(connection, run, name):
        return candidate
    known(connection, run)
    ids = _ids(connection, "SELECT id FROM candidates WHERE run = ? AND name = ? ORDER BY id LIMIT 5", run, name)
    if not name or not ids:
        raise NotFound(f"run {run} has no candidate {name!r}")
    if len(ids) > 1:
        raise ValueError(f"candidate {name!r} is ambiguous in run {run}: ask for one of {', '.join(ids)}")
    candidate = read_candidate(connection, run, ids[0])
    assert candidate is not None  # noqa: S101 - read in the same transaction
    return candidate


def candidates(connection: Connection, run: str, ids: Sequence[str]) -> list[candidate_pb2.Candidate]:
    """In the order asked for; unknown ids are left out."""
    run = run or known(connection, run)
    query = "SELECT record FROM records WHERE run = ? AND id = ?"
    rows = [row for id_ in ids if (row := connection.execute(query, (run, id_)).fetchone())]
    if not rows:
        known(connection, run)
    return [candidate_pb2.Candidate.FromString(row["record"]) for row in rows]


def list_candidates(connection: Connection, query: Query) -> Page:
    """One page; the ids come from an index, only the page's records are read."""
    order = Order.of(query)
    where, values = _selection(query, known(connection, query.run))
    total: int = connection.execute(f"SELECT count(*) FROM candidates WHERE {where}", values).fetchone()[0]  # noqa: S608
    direction = "DESC" if order.descending else "ASC"
    sql = (
        f"SELECT id FROM candidates WHERE {where} "  # noqa: S608 - columns of ours, values bound
        f"ORDER BY {order.column} IS NULL, {order.column} {direction}, id LIMIT ? OFFSET ?"
    )
    ids = _ids(connection, sql, *values, query.limit, query.offset)
    return Page(tuple(candidates(connection, str(values[0]), ids)), total)


def state_counts(connection: Connection, run: str) -> dict[int, int]:
    """How many candidates are in each state."""
    rows = connection.execute(
        "SELECT state, count(*) AS number FROM candidates WHERE run = ? GROUP BY state", (known(connection, run),)
    )
    return {row["state"]: row["number"] for row in rows}


def event_count(connection: Connection, run: str) -> int:
    """How many events of the run were applied; an index alone answers."""
    (count,) = connection.execute("SELECT count(*) FROM log WHERE run = ?", (known(connection, run),)).fetchone()
    return int(count)


def tree(connection: Connection, run: str) -> list[archive_pb2.TreeNode]:
    """All nodes, oldest first."""
    rows = connection.execute(
        f"SELECT {_NODE} FROM candidates c WHERE c.run = ? ORDER BY c.requested",  # noqa: S608
        (known(connection, run),),
    )
    return [tree_node(dict(row)) for row in rows]


def subtree(connection: Connection, run: str, candidate: str) -> list[archive_pb2.TreeNode]:
    """A candidate and its descendants, oldest first."""
    run = known_candidate(connection, run, candidate)
    rows = connection.execute(
        f"""WITH RECURSIVE below (id) AS (
            SELECT ? UNION SELECT c.id FROM candidates c JOIN below ON c.parent = below.id WHERE c.run = ?
        ) SELECT {_NODE} FROM below JOIN candidates c ON c.run = ? AND c.id = below.id ORDER BY c.requested""",  # noqa: S608
        (candidate, run, run),
    )
    return [tree_node(dict(row)) for row in rows]


def children(connection: Connection, run: str, candidate: str) -> list[str]:
    """Best first, those without fitness last."""
    run = known_candidate(connection, run, candidate)
    query = "SELECT id FROM candidates WHERE run = ? AND parent = ? ORDER BY fitness IS NULL, fitness DESC, id"
    return _ids(connection, query, run, candidate)


def path(connection: Connection, run: str, candidate: str) -> list[str]:
    """From the root down. A parent that the run does not hold ends the path; ValueError for a circle."""
    run = known_candidate(connection, run, candidate)
    rows = connection.execute(
        """WITH RECURSIVE above (id, parent) AS (
            SELECT id, parent FROM candidates INDEXED BY candidates_lineage WHERE run = ? AND id = ?
            UNION SELECT c.id, c.parent FROM above
            JOIN candidates c INDEXED BY candidates_lineage ON c.run = ? AND c.id = above.parent
        ) SELECT id, parent FROM above""",
        (run, candidate, run),
    ).fetchall()
    held = {row["id"] for row in rows}
    parents = {row["id"]: row["parent"] if row["parent"] in held else None for row in rows}
    return path_to_root(parents, candidate)[::-1]


def pool(connection: Connection, run: str, at_sequence: int) -> PoolRow | None:
    """The snapshot in force at a sequence, 0 for now."""
    row = connection.execute(
        "SELECT * FROM pools WHERE run = ? AND sequence <= ? ORDER BY sequence DESC LIMIT 1",
        (known(connection, run), at_sequence or 2**63 - 1),
    ).fetchone()
    return read_pool(row) if row else None


def read_pool(row: sqlite3.Row) -> PoolRow:
    """A snapshot from its columns."""
    members = tuple(events_pb2.PoolUpdated.FromString(row["members"]).members)
    return PoolRow(row["run"], row["sequence"], members, row["entries"])


def baselines(connection: Connection, run: str) -> list[candidate_pb2.Candidate]:
    """By number."""
    # Without the hint SQLite reads every candidate of the run: it knows nothing of how rare baselines are.
    query = "SELECT id FROM candidates INDEXED BY candidates_by_kind WHERE run = ? AND kind = ? ORDER BY number, id"
    run = known(connection, run)
    return candidates(connection, run, _ids(connection, query, run, candidate_pb2.KIND_BASELINE))


def moves(connection: Connection, run: str, limit: int) -> list[archive_pb2.MoveOutcome]:
    """Of the newest proposals, oldest first."""
    rows = connection.execute(
        "SELECT c.moves, c.state, c.structure, c.fitness, p.fitness AS parents FROM candidates c "
        "LEFT JOIN candidates p ON p.run = c.run AND p.id = c.parent "
        "WHERE c.run = ? AND c.kind = ? AND c.proposed = 1 ORDER BY c.requested DESC LIMIT ?",
        (known(connection, run), candidate_pb2.KIND_PROPOSAL, limit),
    ).fetchall()
    return [
        move_outcome(_names(row["moves"]), row["fitness"], row["parents"], row["state"], row["structure"])
        for row in reversed(rows)
    ]


@lru_cache(maxsize=1024)
def _names(stored: str) -> tuple[str, ...]:
    return tuple(json.loads(stored))


def recent_rejections(connection: Connection, run: str, limit: int) -> list[candidate_pb2.Candidate]:
    """Newest first."""
    query = "SELECT id FROM candidates WHERE run = ? AND state = ? ORDER BY requested DESC LIMIT ?"
    run = known(connection, run)
    return candidates(connection, run, _ids(connection, query, run, candidate_pb2.STATE_REJECTED, limit))


def reservations(connection: Connection) -> list[Reservation]:
    """Oldest first."""
    rows = connection.execute("SELECT number, run, tokens, nanodollars FROM reservations ORDER BY number")
    return [Reservation(*row) for row in rows]


def known_candidate(connection: Connection, run: str, candidate: str) -> str:
    """The name of its run. Raises NotFound where the run does not exist or does not hold it."""
    run = known(connection, run)
    if not connection.execute("SELECT 1 FROM candidates WHERE run = ? AND id = ?", (run, candidate)).fetchone():
        raise NotFound(f"run {run} has no candidate {candidate!r}")
    return run


def _selection(query: Query, run: str) -> tuple[str, list[str | int]]:
    """The WHERE clause of a listing and its values."""
    clauses, values = ["run = ?"], [run]  # type: list[str], list[str | int]
    for column, allowed in (("state", query.states), ("kind", query.kinds)):
        if allowed:
            clauses.append(f"{column} IN ({', '.join('?' * len(allowed))})")
            values.extend(int(value) for value in allowed)
    if query.stage:
        clauses.append("stage = ?")
        values.append(query.stage)
    return " AND ".join(clauses), values


def _ids(connection: Connection, query: str, *values: str | int) -> list[str]:
    return [row["id"] for row in connection.execute(query, values)]


def chain(connection: Connection, run: str, candidate: str) -> list[LogRow]:
    """Every event about a candidate, oldest first."""
    run = known_candidate(connection, run, candidate)
    query = "SELECT * FROM log WHERE run = ? AND candidate = ? ORDER BY sequence"
    return [_log_row(row) for row in connection.execute(query, (run, candidate))]


def bodies_page(connection: Connection, after: int, limit: int) -> list[Logged]:
    """Messages that came after a sequence, as they were published, in order."""
    query = "SELECT sequence, subject, body FROM bodies WHERE sequence > ? ORDER BY sequence LIMIT ?"
    rows = connection.execute(query, (after, limit))
    return [Logged(row["sequence"], row["subject"], zlib.decompress(row["body"])) for row in rows]


def log_page(connection: Connection, run: str, after: int, limit: int) -> list[LogRow]:
    """Events of a run that came after a sequence, in order."""
    query = "SELECT * FROM log WHERE run = ? AND sequence > ? ORDER BY sequence LIMIT ?"
    return [_log_row(row) for row in connection.execute(query, (run, after, limit))]


def digest(connection: Connection, run: str) -> tuple[str, int]:
    """The digest of one moment and the number of accepted events."""
    digest = Digest()
    with transaction(connection):
        run = known(connection, run)
        for row in connection.execute("SELECT record FROM records WHERE run = ? ORDER BY id", (run,)):
            digest.candidate(row["record"])
        for row in connection.execute("SELECT * FROM pools WHERE run = ? ORDER BY sequence", (run,)):
            digest.pool(read_pool(row))
        query = "SELECT sha256 FROM log WHERE run = ? AND accepted = 1 ORDER BY event_id"
        for row in connection.execute(query, (run,)):
            digest.event(row["sha256"])
    return digest.result()


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
    rows = {name: connection.execute(query, (run, name)).fetchone() for name in ids}
    return {
        name: candidate_pb2.Candidate.FromString(row["record"]).proposal.program for name, row in rows.items() if row
    }


def program_runs(connection: Connection, run: str, ids: Sequence[str]) -> dict[str, Sketched]:
    """Fingerprints with their token runs."""
    query = "SELECT digest, sketch, runs FROM programs WHERE run = ? AND id = ? AND sketch IS NOT NULL"
    rows = {name: connection.execute(query, (run, name)).fetchone() for name in ids}
    from services.store.backends.neighbours import sketch_from

    return {name: sketch_from(*row) for name, row in rows.items() if row}


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
