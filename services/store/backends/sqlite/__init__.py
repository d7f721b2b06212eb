"""The embedded archive: one SQLite file in WAL mode, synchronous=FULL.

Four connections: one reads limited numbers of rows within the event loop; one thread writes, one runs queries over many
rows, one runs long scans (digests, logs, backups). Readers never wait for the writer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from services.chassis.errors import SettingsError
from services.store.backends.rows import Backend
from services.store.backends.sqlite import queries, writing
from services.store.backends.sqlite.connection import (
    REPAIR,
    ConnectionThread,
    LazyConnection,
    connect,
    translate_errors,
)
from services.store.backends.sqlite.schema import damage, drift, migrate, require_own
from services.store.port import ArchiveDamaged, ArchiveUnavailable

if TYPE_CHECKING:  # numpy, which only a search for neighbours needs
    from services.store.backends.indices import Sketched

P = ParamSpec("P")
T = TypeVar("T")
Query = Callable[Concatenate[sqlite3.Connection, P], T]
Method = Callable[Concatenate["SqliteArchive", P], Coroutine[Any, Any, T]]


def _inline(query: Query[P, T]) -> Method[P, T]:
    """A method that runs the query within the event loop."""

    @wraps(query)
    async def method(self: SqliteArchive, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.inline.run(query, *args, **kwargs)

    return method


def _threaded(thread: str, query: Query[P, T]) -> Method[P, T]:
    """A method that runs the query in one of the archive's threads."""

    @wraps(query)
    async def method(self: SqliteArchive, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.threads[thread].run(query, *args, **kwargs)

    return method


class SqliteArchive(Backend):
    """`services.store.port.Archive` in one file. Only one process may write to it."""

    def __init__(self, path: Path) -> None:
        super().__init__(self)
        self._file = path
        self.inline = LazyConnection(path)
        self.threads = {
            name: ConnectionThread(path, name, writes=name == "write") for name in ("read", "scan", "write")
        }

    async def open(self) -> None:
        """Create the file or migrate it.

        Raises SettingsError if it is damaged, from a newer version or of another application.

        Replaces all connections: they share SQLite's index of the WAL, and while one that was opened when the file was
        read-only remains open, writes fail.
        """
        self.inline.close()
        for thread in self.threads.values():
            await thread.disconnect()
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArchiveUnavailable(f"{self._file}: {error.strerror}") from error
        try:
            with translate_errors(self._file):
                if not self._file.exists():
                    connect(self._file, writes=True, create=True).close()
                else:
                    uri = f"{self._file.absolute().as_uri()}?mode=ro"  # else closing it would write what is in the WAL
                    with closing(sqlite3.connect(uri, uri=True)) as connection:
                        require_own(connection, self._file)
            await self.threads["write"].run(migrate, str(self._file))
        except ArchiveDamaged as error:
            raise SettingsError(f"ASI_ARCHIVE_URL: {error}") from error

    async def close(self) -> None:
        self.inline.close()
        for thread in self.threads.values():
            await thread.close()

    async def healthy(self) -> bool:
        try:
            self.inline.run(writing.applied)
        except (ArchiveUnavailable, sqlite3.Error):
            return False
        return True

    apply = _threaded("write", writing.apply)
    sent = _threaded("write", writing.sent)
    reserve = _threaded("write", writing.reserve)
    unreserve = _threaded("write", writing.unreserve)
    applied = _inline(writing.applied)
    position = _inline(writing.position)
    outbox = _inline(writing.outbox)
    reservations = _inline(queries.reservations)
    resolve_run = _inline(queries.resolve_run)
    run = _inline(queries.run)
    runs = _threaded("read", queries.runs)
    candidate_of_id = _inline(writing.read_candidate)
    ids_of_name = _inline(queries.ids_of_name)
    candidates = _inline(queries.candidates)
    list_candidates = _threaded("read", queries.list_candidates)
    state_counts = _threaded("read", queries.state_counts)
    event_count = _threaded("read", queries.event_count)
    tree = _threaded("scan", queries.tree)
    subtree = _threaded("scan", queries.subtree)
    children = _inline(queries.children)
    path = _inline(queries.path)
    pool = _inline(queries.pool)
    baselines = _inline(queries.baselines)
    moves = _inline(queries.moves)
    recent_rejections = _inline(queries.recent_rejections)
    chain = _threaded("read", queries.chain)
    digest = _threaded("scan", queries.digest)
    drift = _threaded("read", drift)
    damage = _threaded("scan", damage)
    bodies_page = _threaded("scan", queries.bodies_page)
    log_page = _threaded("scan", queries.log_page)
    vectors = _inline(queries.vectors)
    programs = _inline(queries.programs)
    program_texts = _inline(queries.program_texts)
    program_runs = _inline(queries.program_runs)

    async def save_fingerprints(self, sketches: Sequence[tuple[int, Sketched]]) -> None:
        rows = [
            (sketch.digest, sketch.sketch.astype("<u4").tobytes(), sketch.runs, sequence)
            for sequence, sketch in sketches
        ]
        await self.threads["write"].run(writing.save_fingerprints, rows)

    async def backup(self, path: Path) -> None:
        """Copy one snapshot with SQLite's online backup; the copy is an archive by itself.

        Raises FileExistsError, and ArchiveDamaged for an archive whose copy nobody could restore.
        """
        if problems := await self.damage():
            raise ArchiveDamaged(f"{self._file} is damaged ({problems[0]}), so nothing was copied: {REPAIR}")
        await self.threads["scan"].run(_copy, path)

    async def restore(self, path: Path) -> None:
        """Copy a file that `backup` wrote to this archive's path.

        Raises FileExistsError, and SettingsError for a file that is not an intact copy.
        """
        source = ConnectionThread(path, "restore", writes=False)
        try:
            try:
                problems = await source.run(damage)
            except (ArchiveUnavailable, sqlite3.OperationalError) as error:  # the latter for a missing table
                problems = [str(error.__cause__ or error)]
            if problems:
                raise SettingsError(
                    f"{path} is not an intact copy of an archive ({problems[0]}): name a file of `asi-arch backup`."
                )
            await source.run(_copy, self._file)
        finally:
            await source.close()


def _copy(connection: sqlite3.Connection, path: Path) -> None:
    if path.exists():
        raise FileExistsError(f"{path} exists already: a copy never overwrites")
    path.parent.mkdir(parents=True, exist_ok=True)
    incomplete = path.with_name(f"{path.name}.incomplete")  # an interrupted copy must not look complete
    for suffix in ("", "-wal", "-shm"):
        incomplete.with_name(incomplete.name + suffix).unlink(missing_ok=True)
    try:
        with closing(connect(incomplete, writes=True, create=True)) as target:
            connection.backup(target)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN):
            raise
        raise ArchiveUnavailable(f"{path}: {error}") from error  # of the copy: its disk is full, or cannot be written
    incomplete.rename(path)
