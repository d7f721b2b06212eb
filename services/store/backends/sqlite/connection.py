"""One SQLite connection and the one thread that may touch it."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from services.store.port import ArchiveDamaged, ArchiveUnavailable

P = ParamSpec("P")
T = TypeVar("T")

BUSY_SECONDS = 5.0
CACHE_KIB = 8192
"""Pages that each connection keeps: the operating system caches the file as a whole, so more bought no time."""
_AWAY = frozenset(
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
_DAMAGED = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})


class _Lazy:
    """A connection that is made when it is first wanted, in the thread that wants it, and again for another file."""

    def __init__(self, path: Path, writes: bool) -> None:
        self._path = path
        self._writes = writes
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # which one the connection reads: another may be put in its place

    def connected(self) -> sqlite3.Connection:
        try:
            found = self._path.stat()
            file = found.st_dev, found.st_ino
        except OSError:
            file = None
        if self._connection is None or file != self._file:
            self.disconnect()
            self._connection, self._file = connect(self._path, self._writes), file
        return self._connection

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Thread:
    """Runs functions that get the connection, one after the other, away from the event loop.

    A caller that is cancelled no longer waits, but the function still runs to its end.
    """

    def __init__(self, path: Path, name: str, writes: bool) -> None:
        self._path = path
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"archive-{name}")
        self._lazy = _Lazy(path, writes)
        self._closed = False

    async def do(self, task: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The task's answer. Raises ArchiveUnavailable when the file cannot be read or written just now."""

        def work() -> T:
            with translated(self._path, self._lazy):
                return task(self._lazy.connected(), *args, **kwargs)

        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def disconnect(self) -> None:
        """Close the connection; the next task opens it again."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._lazy.disconnect)

    async def close(self) -> None:
        """Close the connection and end the thread; a second time does nothing."""
        if self._closed:
            return
        self._closed = True
        await self.disconnect()
        self._executor.shutdown()


class Here:
    """Runs functions that get the connection at once, in the event loop's own thread.

    For reading a few rows by their keys: that takes some ten microseconds, and a turn of another thread ten times more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lazy = _Lazy(path, writes=False)

    def do(self, task: Callable[Concatenate[sqlite3.Connection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The task's answer. Raises ArchiveUnavailable when the file cannot be read just now."""
        with translated(self._path, self._lazy):
            return task(self._lazy.connected(), *args, **kwargs)

    def close(self) -> None:
        """Close the connection; the next question would open it again."""
        self._lazy.disconnect()


def connect(path: Path, writes: bool, create: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode: transactions are begun by hand."""
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
    """All or nothing; a reading one sees a single moment."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def translated(path: Path, connection: _Lazy | None = None) -> Iterator[None]:
    """What SQLite says about its file, in the port's words; our own mistakes in SQL stay as they are.

    After an error of the file the connection is made anew, since the file may have been mended or replaced.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code not in _AWAY | _DAMAGED:
            raise
        if connection is not None and code not in _BUSY:
            connection.disconnect()
        if code in _DAMAGED:
            raise ArchiveDamaged(
                f"{path} is no sound SQLite file ({error}): restore a backup (`asi-arch restore`), or move the file "
                "away and start again, which makes it anew from the log."
            ) from error
        raise ArchiveUnavailable(f"{path}: {error}") from error
