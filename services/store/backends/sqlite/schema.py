"""The tables of the embedded archive and their migrations.

Columns for queries and serialised records are in separate tables: lists, trees and statistics read no record that they
do not return.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from services.chassis.errors import SettingsError
from services.store.backends.sqlite.connection import transaction

_FIRST = """
CREATE TABLE progress (one INTEGER PRIMARY KEY CHECK (one = 1), applied INTEGER NOT NULL) STRICT;
INSERT INTO progress VALUES (1, 0);

CREATE TABLE runs (
    run TEXT PRIMARY KEY, started INTEGER NOT NULL, changed INTEGER NOT NULL, dead_letters INTEGER NOT NULL,
    origin TEXT NOT NULL, settings BLOB NOT NULL, state TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX runs_by_age ON runs (started);

CREATE TABLE candidates (
    run TEXT NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL, number INTEGER NOT NULL,
    kind INTEGER NOT NULL, state INTEGER NOT NULL, stage TEXT NOT NULL,
    fitness REAL, loss REAL, benchmark REAL, parameters INTEGER, seconds REAL,
    requested INTEGER NOT NULL, ended INTEGER, parent TEXT, structure TEXT NOT NULL, proposed INTEGER NOT NULL,
    moves TEXT NOT NULL,
    PRIMARY KEY (run, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX candidates_by_fitness ON candidates (run, fitness IS NULL, fitness DESC, id);
CREATE INDEX candidates_by_loss ON candidates (run, loss IS NULL, loss, id);
CREATE INDEX candidates_by_benchmark ON candidates (run, benchmark IS NULL, benchmark DESC, id);
CREATE INDEX candidates_by_parameters ON candidates (run, parameters IS NULL, parameters, id);
CREATE INDEX candidates_by_seconds ON candidates (run, seconds IS NULL, seconds, id);
CREATE INDEX candidates_by_name ON candidates (run, name);
CREATE INDEX candidates_by_parent ON candidates (run, parent, fitness IS NULL, fitness DESC, id);
CREATE INDEX candidates_by_state ON candidates (run, state, requested);
CREATE INDEX candidates_by_kind ON candidates (run, kind, requested);

CREATE TABLE records (run TEXT NOT NULL, id TEXT NOT NULL, record BLOB NOT NULL, PRIMARY KEY (run, id)) STRICT;

CREATE TABLE pools (
    run TEXT NOT NULL, sequence INTEGER NOT NULL, entries INTEGER NOT NULL, members BLOB NOT NULL,
    PRIMARY KEY (run, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE log (
    sequence INTEGER PRIMARY KEY, run TEXT NOT NULL, candidate TEXT NOT NULL, event_id TEXT NOT NULL,
    sha256 BLOB NOT NULL, accepted INTEGER NOT NULL, refused_because TEXT NOT NULL, event BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX log_accepted ON log (event_id) WHERE accepted = 1;
CREATE INDEX log_by_candidate ON log (run, candidate, sequence);
CREATE INDEX log_by_run ON log (run, sequence);

CREATE TABLE motivations (
    sequence INTEGER PRIMARY KEY, run TEXT NOT NULL, id TEXT NOT NULL, embedder TEXT NOT NULL, vector BLOB NOT NULL
) STRICT;
CREATE INDEX motivations_by_space ON motivations (run, embedder, sequence);

CREATE TABLE programs (
    sequence INTEGER PRIMARY KEY, run TEXT NOT NULL, id TEXT NOT NULL, digest TEXT, sketch BLOB, runs BLOB
) STRICT;
CREATE INDEX programs_by_run ON programs (run, sequence);
CREATE INDEX programs_by_id ON programs (run, id);

CREATE TABLE outbox (number INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT NOT NULL, body BLOB NOT NULL) STRICT;
CREATE INDEX outbox_by_event ON outbox (event_id);

CREATE TABLE reservations (
    number INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, tokens INTEGER NOT NULL, nanodollars INTEGER
) STRICT;
"""

# Covers path queries, so that a long path reads few pages.
_SECOND = "CREATE INDEX candidates_lineage ON candidates (run, id, parent)"

# Messages as published, compressed: a lost log is rebuilt from them.
_THIRD = "CREATE TABLE bodies (sequence INTEGER PRIMARY KEY, subject TEXT NOT NULL, body BLOB NOT NULL) STRICT"

MIGRATIONS: tuple[str, ...] = (_FIRST, _SECOND, _THIRD)
"""Step N migrates version N to N + 1. A released step never changes."""


_OWN = frozenset({"progress", "runs", "candidates", "log"})  # of every version


def require_own(connection: sqlite3.Connection, path: Path) -> None:
    """Raises SettingsError for a file with tables that are not those of an archive."""
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")}
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if names and not (version and names >= _OWN):
        shown = ", ".join(sorted(names)[:3]) + (", …" if len(names) > 3 else "")
        raise SettingsError(
            f"ASI_ARCHIVE_URL: {path} belongs to another application (it contains {shown}): name an archive of "
            "ASI-Arch or a file that does not exist yet."
        )


def migrate(connection: sqlite3.Connection, path: str, steps: tuple[str, ...] = MIGRATIONS) -> None:
    """Bring the schema up to date, in one transaction. Raises SettingsError for a file of a newer version."""
    if connection.execute("PRAGMA user_version").fetchone()[0] == len(steps):
        return  # without a write lock, which may be held by the store
    with transaction(connection, "BEGIN IMMEDIATE"):
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(steps):
            raise SettingsError(
                f"ASI_ARCHIVE_URL: {path} has schema version {version}, but this version knows only {len(steps)}: "
                "upgrade, or replay the log into another file."
            )
        for step in steps[version:]:
            for statement in step.split(";"):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(steps)}")


def drift(connection: sqlite3.Connection) -> list[str]:
    """Differences of tables and indexes from those that the migrations make, one sentence each."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as fresh:
        migrate(fresh, "memory")
        designed = _described(fresh)
    present = _described(connection)
    missing = [f"{name} does not exist" for name in designed.keys() - present.keys()]
    unknown = [f"{name} is unexpected" for name in present.keys() - designed.keys()]
    changed = [
        f"{name} is {present[name]!r}, must be {designed[name]!r}"
        for name in designed.keys() & present.keys()
        if designed[name] != present[name]
    ]
    return sorted(missing + unknown + changed)


def damage(connection: sqlite3.Connection) -> list[str]:
    """Problems found by SQLite's integrity check, or missing log rows, one sentence each."""
    lines = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)")]
    if lines != ["ok"]:
        return lines
    progress = connection.execute("SELECT applied FROM progress").fetchone()
    if progress is None:
        return ["how much of the log it has applied is missing"]
    applied = progress[0]
    rows, first, last = connection.execute("SELECT COUNT(*), MIN(sequence), MAX(sequence) FROM log").fetchone()
    if applied != (last or 0) or (rows and rows != last - first + 1):
        return [f"it has {rows} log rows, the last with sequence {last}, but has applied {applied}"]
    return []


def _described(connection: sqlite3.Connection) -> dict[str, str]:
    """The CREATE statement of each table and index by name, and the schema's version."""
    rows = connection.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE sql NOT NULL AND name NOT LIKE 'sqlite_%'"
    )
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    return {"its schema version": str(version)} | {f"{kind} {name}": " ".join(sql.split()) for kind, name, sql in rows}
