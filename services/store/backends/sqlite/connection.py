"""SQLite connections: in a thread of their own, or within the event loop."""

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from google.protobuf.message import DecodeError
from pydantic import ValidationError

from services.store.port import ArchiveDamaged, ArchiveUnavailable

P = ParamSpec("P")
T = TypeVar("T")

BUSY_SECONDS = 5.0
CACHE_KIB = 8192
"""Page cache per connection; the operating system caches the file as well, and more gained no time."""
ROOM_BYTES = 1 << 20
"""Free space that SQLite needs beside a file to read it: 32 KiB, and some to write."""
_UNAVAILABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_PERM,
    }
)
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
_UNWRITABLE = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY})
_DAMAGED = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})
REPAIR = "restore a backup (`asi-arch restore`), or move it away and restart, which rebuilds it from the log."


class LazyConnection:
    """Runs functions of a connection in the calling thread.

    It connects at the first use, and again when the file was replaced. Within the event loop it is for reading a few
    rows by key, which takes some ten microseconds; a switch of threads takes ten times more.
    """

    def __init__(self, path: Path, writes: bool = False) -> None:
        self._path = path
        self._writes = writes
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # device and inode that are connected

    def run(self, task: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The task's result. Raises ArchiveUnavailable if the file cannot be read or written."""
        with translate_errors(self._path, self):
            try:
                status = self._path.stat()
                file = status.st_dev, status.st_ino
            except OSError:
                file = None
            if self._connection is None or file != self._file:
                self.close()
                self._connection, self._file = connect(self._path, self._writes), file
            return task(self._connection, *args, **kwargs)

    def close(self) -> None:
        """Close the connection; the next task opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class ConnectionThread:
    """Runs functions of a connection one after another in a thread.

    If the caller is cancelled, the function still runs to its end.
    """

    def __init__(self, path: Path, name: str, writes: bool) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"archive-{name}")
        self._connection = LazyConnection(path, writes)
        self._closed = False

    async def run(self, task: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The task's result. Raises ArchiveUnavailable if the file cannot be read or written."""
        work = partial(self._connection.run, task, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def disconnect(self) -> None:
        """Close the connection; the next task opens it again."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._connection.close)

    async def close(self) -> None:
        """Close the connection and end the thread; idempotent."""
        if self._closed:
            return
        self._closed = True
        await self.disconnect()
        self._executor.shutdown()


def connect(path: Path, writes: bool, create: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode: transactions are begun explicitly."""
    mode = "rwc" if create else "rw"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None
    )
    connection.row_factory = sqlite3.Row
    if writes:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    else:
        connection.execute("PRAGMA query_only = ON")
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute("PRAGMA temp_store = MEMORY")
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection, begin: str = "BEGIN") -> Iterator[None]:
    """Commit, or roll back on an exception. Reads within it see one snapshot."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def translate_errors(path: Path, connection: LazyConnection | None = None) -> Iterator[None]:
    """Translate errors of the file to those of the port; programming errors pass through, unless the file has other
    tables or values than it should have.

    After an error of the file the connection is closed, since the file may be repaired or replaced.
    """
    try:
        yield
    except (DecodeError, ValidationError) as error:
        reason = str(error).partition("\n")[0]
        raise ArchiveDamaged(
            f"{path} is damaged: a record or event in it cannot be read ({reason}): {REPAIR}"
        ) from error
    except (sqlite3.DatabaseError, IndexError, TypeError) as error:  # a missing column, a value of another type
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code not in _UNAVAILABLE | _DAMAGED:
            if connection is not None and (differences := _differences(path)):
                raise ArchiveDamaged(f"{path} is damaged: {differences[0]}: {REPAIR}") from error
            raise
        if connection is not None and code not in _BUSY:
            connection.close()
        if code in _DAMAGED:
            raise ArchiveDamaged(f"{path} is damaged or no SQLite file ({error}): {REPAIR}") from error
        if code in _UNWRITABLE and path.exists() and not os.access(path.parent, os.W_OK):
            raise ArchiveUnavailable(
                f"{path}: {error}, as its folder cannot be written, and SQLite needs a file beside the archive to read "
                "it: copy the archive into a folder of your own and name that with ASI_DATA_DIR"
            ) from error
        with suppress(OSError):
            if code in _FULL and shutil.disk_usage(path.parent).free < ROOM_BYTES:
                raise ArchiveUnavailable(f"{path}: {error}, as its disk is full: free space there") from error
        raise ArchiveUnavailable(f"{path}: {error}") from error


def _differences(path: Path) -> list[str]:
    """Differences of the file from an intact archive of this version."""
    from services.store.backends.sqlite.schema import damage, drift  # which imports this module

    with closing(connect(path, writes=False)) as connection:
        return drift(connection) or damage(connection)
