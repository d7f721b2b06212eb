"""The queries of the port, as functions of a reading connection."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from services.chassis.bus import Logged
from services.chassis.errors import NotFound
from services.contracts import archive_pb2, candidate_pb2
from services.domain.lineage import path_to_root
from services.store.backends.folding import Digest
from services.store.backends.rows import NODE, Order, log_row, move_outcome, pool_row, run_row, tree_node
from services.store.backends.sqlite.connection import transaction
from services.store.port import LogRow, Page, PoolRow, Query, Reservation, RunRow

if TYPE_CHECKING:  # numpy, which only a search for neighbours needs
    from services.store.backends.indices import Sketched
    from services.store.backends.neighbours import StoredProgram, StoredVector

Connection = sqlite3.Connection
_NODE = ", ".join(f"c.{name}" for name in NODE)


def _select_run(connection: Connection, columns: str, run: str) -> sqlite3.Row:
    """A run, the newest for an empty name. Raises NotFound."""
    clause, values = ("WHERE run = ?", (run,)) if run else ("ORDER BY started DESC LIMIT 1", ())
    row: sqlite3.Row | None = connection.execute(f"SELECT {columns} FROM runs {clause}", values).fetchone()  # noqa: S608
    if row is None:
        raise NotFound(f"no run is called {run}" if run else "there is no run yet")
    return row


def run(connection: Connection, run: str) -> RunRow:
    row = _select_run(connection, "*", run)
    return run_row(row["run"], row)


def resolve_run(connection: Connection, run: str) -> str:
    return str(_select_run(connection, "run", run)["run"])


def runs(connection: Connection) -> list[RunRow]:
    return [run_row(row["run"], row) for row in connection.execute("SELECT * FROM runs ORDER BY started DESC")]


def ids_of_name(connection: Connection, run: str, name: str) -> list[str]:
    return _ids(connection, "SELECT id FROM candidates WHERE run = ? AND name = ? ORDER BY id LIMIT 5", run, name)


def candidates(connection: Connection, run: str, ids: Sequence[str]) -> list[candidate_pb2.Candidate]:
    run = run or resolve_run(connection, run)
    query = "SELECT id, record FROM records WHERE run = ? AND id IN (SELECT value FROM json_each(?))"
    records: dict[str, bytes] = dict(connection.execute(query, (run, json.dumps(list(ids)))).fetchall())
    if not records:
        resolve_run(connection, run)
    return [candidate_pb2.Candidate.FromString(records[id_]) for id_ in ids if id_ in records]


def list_candidates(connection: Connection, query: Query) -> Page:
    """One page; the ids come from an index, only the page's records are read."""
    order = Order.of(query)
    where, values = _selection(query, resolve_run(connection, query.run))
    total: int = connection.execute(f"SELECT count(*) FROM candidates WHERE {where}", values).fetchone()[0]  # noqa: S608
    direction = "DESC" if order.descending else "ASC"
    sql = (
        f"SELECT id FROM candidates WHERE {where} "  # noqa: S608 - constant columns, bound values
        f"ORDER BY {order.column} IS NULL, {order.column} {direction}, id LIMIT ? OFFSET ?"
    )
    ids = _ids(connection, sql, *values, query.limit, query.offset)
    return Page(tuple(candidates(connection, str(values[0]), ids)), total)


def state_counts(connection: Connection, run: str) -> dict[int, int]:
    rows = connection.execute(
        "SELECT state, count(*) AS number FROM candidates WHERE run = ? GROUP BY state", (resolve_run(connection, run),)
    )
    return {row["state"]: row["number"] for row in rows}


def event_count(connection: Connection, run: str) -> int:
    """Answered from an index alone."""
    (count,) = connection.execute("SELECT count(*) FROM log WHERE run = ?", (resolve_run(connection, run),)).fetchone()
    return int(count)


def tree(connection: Connection, run: str) -> list[archive_pb2.TreeNode]:
    rows = connection.execute(
        f"SELECT {_NODE} FROM candidates c WHERE c.run = ? ORDER BY c.requested",  # noqa: S608
        (resolve_run(connection, run),),
    )
    return [tree_node(row) for row in rows]


def subtree(connection: Connection, run: str, candidate: str) -> list[archive_pb2.TreeNode]:
    run = require_candidate(connection, run, candidate)
    rows = connection.execute(
        f"""WITH RECURSIVE below (id) AS (
            SELECT ? UNION SELECT c.id FROM candidates c JOIN below ON c.parent = below.id WHERE c.run = ?
        ) SELECT {_NODE} FROM below JOIN candidates c ON c.run = ? AND c.id = below.id ORDER BY c.requested""",  # noqa: S608
        (candidate, run, run),
    )
    return [tree_node(row) for row in rows]


def children(connection: Connection, run: str, candidate: str) -> list[str]:
    run = require_candidate(connection, run, candidate)
    query = "SELECT id FROM candidates WHERE run = ? AND parent = ? ORDER BY fitness IS NULL, fitness DESC, id"
    return _ids(connection, query, run, candidate)


def path(connection: Connection, run: str, candidate: str) -> list[str]:
    run = require_candidate(connection, run, candidate)
    rows = connection.execute(
        """WITH RECURSIVE above (id, parent) AS (
            SELECT id, parent FROM candidates INDEXED BY candidates_lineage WHERE run = ? AND id = ?
            UNION SELECT c.id, c.parent FROM above
            JOIN candidates c INDEXED BY candidates_lineage ON c.run = ? AND c.id = above.parent
        ) SELECT id, parent FROM above""",
        (run, candidate, run),
    ).fetchall()
    ids = {row["id"] for row in rows}
    parents = {row["id"]: row["parent"] if row["parent"] in ids else None for row in rows}
    return path_to_root(parents, candidate)[::-1]


def pool(connection: Connection, run: str, at_sequence: int = 0) -> PoolRow | None:
    row = connection.execute(
        "SELECT * FROM pools WHERE run = ? AND sequence <= ? ORDER BY sequence DESC LIMIT 1",
        (resolve_run(connection, run), at_sequence or 2**63 - 1),
    ).fetchone()
    return pool_row(row["sequence"], row) if row else None


def baselines(connection: Connection, run: str) -> list[candidate_pb2.Candidate]:
    # Without the hint SQLite scans all candidates of the run, since it does not know that baselines are rare.
    query = "SELECT id FROM candidates INDEXED BY candidates_by_kind WHERE run = ? AND kind = ? ORDER BY number, id"
    run = resolve_run(connection, run)
    return candidates(connection, run, _ids(connection, query, run, candidate_pb2.KIND_BASELINE))


def moves(connection: Connection, run: str, limit: int) -> list[archive_pb2.MoveOutcome]:
    rows = connection.execute(
        "SELECT c.moves, c.state, c.structure, c.fitness, p.fitness AS parents FROM candidates c "
        "LEFT JOIN candidates p ON p.run = c.run AND p.id = c.parent "
        "WHERE c.run = ? AND c.kind = ? AND c.proposed = 1 ORDER BY c.requested DESC LIMIT ?",
        (resolve_run(connection, run), candidate_pb2.KIND_PROPOSAL, limit),
    ).fetchall()
    return [
        move_outcome(_names(row["moves"]), row["fitness"], row["parents"], row["state"], row["structure"])
        for row in reversed(rows)
    ]


@lru_cache(maxsize=1024)
def _names(stored: str) -> tuple[str, ...]:
    return tuple(json.loads(stored))


def recent_rejections(connection: Connection, run: str, limit: int) -> list[candidate_pb2.Candidate]:
    query = "SELECT id FROM candidates WHERE run = ? AND state = ? ORDER BY requested DESC LIMIT ?"
    run = resolve_run(connection, run)
    return candidates(connection, run, _ids(connection, query, run, candidate_pb2.STATE_REJECTED, limit))


def reservations(connection: Connection) -> list[Reservation]:
    rows = connection.execute("SELECT number, run, tokens, nanodollars FROM reservations ORDER BY number")
    return [Reservation(*row) for row in rows]


def require_candidate(connection: Connection, run: str, candidate: str) -> str:
    """The name of the run. Raises NotFound if the run or the candidate does not exist."""
    run = resolve_run(connection, run)
    if not connection.execute("SELECT 1 FROM candidates WHERE run = ? AND id = ?", (run, candidate)).fetchone():
        raise NotFound(f"run {run} has no candidate {candidate!r}")
    return run


def _selection(query: Query, run: str) -> tuple[str, list[str | int]]:
    """The WHERE clause of a listing, and its parameters."""
    clauses: list[str] = ["run = ?"]
    values: list[str | int] = [run]
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
    run = require_candidate(connection, run, candidate)
    query = "SELECT * FROM log WHERE run = ? AND candidate = ? ORDER BY sequence"
    return [log_row(*row) for row in connection.execute(query, (run, candidate))]


def bodies_page(connection: Connection, after: int, limit: int) -> list[Logged]:
    query = "SELECT sequence, subject, body FROM bodies WHERE sequence > ? ORDER BY sequence LIMIT ?"
    rows = connection.execute(query, (after, limit))
    return [Logged(row["sequence"], row["subject"], zlib.decompress(row["body"])) for row in rows]


def log_page(connection: Connection, run: str, after: int, limit: int) -> list[LogRow]:
    query = "SELECT * FROM log WHERE run = ? AND sequence > ? ORDER BY sequence LIMIT ?"
    return [log_row(*row) for row in connection.execute(query, (run, after, limit))]


def digest(connection: Connection, run: str) -> tuple[str, int]:
    digest = Digest()
    with transaction(connection):
        run = resolve_run(connection, run)
        for row in connection.execute("SELECT record FROM records WHERE run = ? ORDER BY id", (run,)):
            digest.candidate(row["record"])
        for row in connection.execute("SELECT * FROM pools WHERE run = ? ORDER BY sequence", (run,)):
            digest.pool(pool_row(row["sequence"], row))
        query = "SELECT sha256 FROM log WHERE run = ? AND accepted = 1 ORDER BY event_id"
        for row in connection.execute(query, (run,)):
            digest.event(row["sha256"])
    return digest.result()


def vectors(connection: Connection, run: str, embedder: str, after: int, limit: int) -> list[StoredVector]:
    rows = connection.execute(
        "SELECT sequence, id, vector FROM motivations WHERE run = ? AND embedder = ? AND sequence > ? "
        "ORDER BY sequence LIMIT ?",
        (run, embedder, after, limit),
    )
    from services.store.backends.neighbours import StoredVector

    return [StoredVector(*row) for row in rows]


def programs(connection: Connection, run: str, after: int, limit: int) -> list[StoredProgram]:
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
    query = "SELECT record FROM records WHERE run = ? AND id = ?"
    rows = {name: connection.execute(query, (run, name)).fetchone() for name in ids}
    return {
        name: candidate_pb2.Candidate.FromString(row["record"]).proposal.program for name, row in rows.items() if row
    }


def program_runs(connection: Connection, run: str, ids: Sequence[str]) -> dict[str, Sketched]:
    query = (
        "SELECT id, digest, sketch, runs FROM programs "
        "WHERE run = ? AND id IN (SELECT value FROM json_each(?)) AND sketch IS NOT NULL"
    )
    from services.store.backends.neighbours import sketch_from

    rows = connection.execute(query, (run, json.dumps(list(ids))))
    return {name: sketch_from(*stored) for name, *stored in rows}
