"""The embedded archive: one SQLite file in WAL mode, synchronous=FULL.

Four connections: what reads a few rows by their keys does so at once; one thread writes, one answers questions about
many rows, one takes the long ones (digests, logs, the feeding of searches, backups). Readers never wait for the writer.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from services.chassis.bus import Logged
from services.chassis.errors import SettingsError
from services.contracts import archive_pb2, candidate_pb2, events_pb2
from services.store.backends.rows import Searching
from services.store.backends.sqlite import queries, writing
from services.store.backends.sqlite.connection import Here, Thread, connect, translated
from services.store.backends.sqlite.schema import damage, drift, migrate
from services.store.port import (
    ArchiveDamaged,
    ArchiveUnavailable,
    CandidateRow,
    Change,
    LogRow,
    Outgoing,
    Page,
    PoolRow,
    Position,
    Query,
    React,
    Reservation,
    RunRow,
)

if TYPE_CHECKING:  # numpy, which only a search for neighbours needs
    from services.store.backends.indices import Sketched
    from services.store.backends.neighbours import StoredProgram, StoredVector


LOG_PAGE = 1000
BODIES_PAGE = 100


class SqliteArchive(Searching):
    """`services.store.port.Archive` in one file. Only one process may write to it."""

    def __init__(self, path: Path) -> None:
        super().__init__(self)
        self._file = path
        self._writer = Thread(path, "write", writes=True)
        self._here = Here(path)
        self._reader = Thread(path, "read", writes=False)
        self._scanner = Thread(path, "scan", writes=False)

    async def open(self) -> None:
        """Create the file or bring it up to date. Raises SettingsError where it is from a newer version or damaged.

        Connections are made anew, all of them: they share SQLite's index of the WAL, and as long as one that was made
        while the file was read-only is open, writes fail.
        """
        self._here.close()
        for thread in (self._reader, self._scanner, self._writer):
            await thread.disconnect()
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArchiveUnavailable(f"{self._file}: {error.strerror}") from error
        try:
            if not self._file.exists():
                with translated(self._file):
                    connect(self._file, writes=True, create=True).close()
            await self._writer.do(migrate, str(self._file))
        except ArchiveDamaged as error:
            raise SettingsError(f"ASI_ARCHIVE_URL: {error}") from error

    async def drift(self) -> list[str]:
        """See the port."""
        return await self._reader.do(drift)

    async def damage(self) -> list[str]:
        """See the port."""
        return await self._scanner.do(damage)

    async def close(self) -> None:
        """Wait for what is running and close the file."""
        self._here.close()
        for thread in (self._reader, self._scanner, self._writer):
            await thread.close()

    async def healthy(self) -> bool:
        """Whether the file can be read."""
        try:
            self._here.do(writing.applied)
        except (ArchiveUnavailable, sqlite3.Error):
            return False
        return True

    async def apply(self, messages: Sequence[Logged], react: React | None = None) -> list[Change]:
        """See the port."""
        return await self._writer.do(writing.apply, messages, react)

    async def applied(self) -> int:
        """See the port."""
        return self._here.do(writing.applied)

    async def position(self) -> Position:
        """See the port."""
        return self._here.do(writing.position)

    async def bodies(self) -> AsyncIterator[Logged]:
        """See the port."""
        after = 0
        while page := await self._scanner.do(queries.bodies_page, after, BODIES_PAGE):
            for message in page:
                yield message
            after = page[-1].sequence

    async def outbox(self, limit: int = 200) -> list[Outgoing]:
        """See the port."""
        found = self._here.do(writing.outbox, limit)
        return [Outgoing(number, events_pb2.Event.FromString(body)) for number, body in found]

    async def sent(self, numbers: Sequence[int]) -> None:
        """See the port."""
        await self._writer.do(writing.sent, numbers)

    async def reserve(self, run: str, tokens: int, nanodollars: int | None) -> int:
        """See the port."""
        return await self._writer.do(writing.reserve, run, tokens, nanodollars)

    async def unreserve(self, number: int) -> None:
        """See the port."""
        await self._writer.do(writing.unreserve, number)

    async def reservations(self) -> list[Reservation]:
        """See the port."""
        return self._here.do(queries.reservations)

    async def known(self, run: str) -> str:
        """See `Searching`."""
        return self._here.do(queries.known, run)

    async def run(self, run: str) -> RunRow:
        """See the port."""
        return self._here.do(queries.run_named, run)

    async def runs(self) -> list[RunRow]:
        """See the port."""
        return await self._reader.do(queries.runs)

    async def candidate(self, run: str, candidate: str) -> CandidateRow:
        """See the port."""
        return self._here.do(queries.candidate, run, candidate)

    async def candidates(self, run: str, ids: Sequence[str]) -> list[candidate_pb2.Candidate]:
        """See the port."""
        return self._here.do(queries.candidates, run, ids)

    async def list_candidates(self, query: Query) -> Page:
        """See the port."""
        return await self._reader.do(queries.list_candidates, query)

    async def state_counts(self, run: str) -> dict[int, int]:
        """See the port."""
        return await self._reader.do(queries.state_counts, run)

    async def event_count(self, run: str) -> int:
        """See the port."""
        return await self._reader.do(queries.event_count, run)

    async def tree(self, run: str) -> list[archive_pb2.TreeNode]:
        """See the port."""
        return await self._scanner.do(queries.tree, run)

    async def subtree(self, run: str, candidate: str) -> list[archive_pb2.TreeNode]:
        """See the port."""
        return await self._scanner.do(queries.subtree, run, candidate)

    async def children(self, run: str, candidate: str) -> list[str]:
        """See the port."""
        return self._here.do(queries.children, run, candidate)

    async def path(self, run: str, candidate: str) -> list[str]:
        """See the port."""
        return self._here.do(queries.path, run, candidate)

    async def pool(self, run: str, at_sequence: int = 0) -> PoolRow | None:
        """See the port."""
        return self._here.do(queries.pool, run, at_sequence)

    async def baselines(self, run: str) -> list[candidate_pb2.Candidate]:
        """See the port."""
        return self._here.do(queries.baselines, run)

    async def moves(self, run: str, limit: int) -> list[archive_pb2.MoveOutcome]:
        """See the port."""
        return await self._reader.do(queries.moves, run, limit)

    async def recent_rejections(self, run: str, limit: int) -> list[candidate_pb2.Candidate]:
        """See the port."""
        return self._here.do(queries.recent_rejections, run, limit)

    async def chain(self, run: str, candidate: str) -> list[LogRow]:
        """See the port."""
        return await self._reader.do(queries.chain, run, candidate)

    async def log(self, run: str) -> AsyncIterator[LogRow]:
        """See the port."""
        run, after = await self._scanner.do(queries.known, run), 0
        while page := await self._scanner.do(queries.log_page, run, after, LOG_PAGE):
            for row in page:
                yield row
            after = page[-1].sequence

    async def digest(self, run: str) -> tuple[str, int]:
        """See the port."""
        return await self._scanner.do(queries.digest, run)

    async def backup(self, path: Path) -> None:
        """A copy of one moment, made with SQLite's online backup; it is an archive by itself."""
        await self._scanner.do(_copy, path)

    async def restore(self, path: Path) -> None:
        """Become a copy that was made by `backup`, before this archive is opened. Raises FileExistsError."""
        source = Thread(path, "restore", writes=False)
        try:
            await source.do(_copy, self._file)
        finally:
            await source.close()

    async def vectors(self, run: str, embedder: str, after: int, limit: int) -> list[StoredVector]:
        """See `neighbours.Source`."""
        return await self._scanner.do(queries.vectors, run, embedder, after, limit)

    async def programs(self, run: str, after: int, limit: int) -> list[StoredProgram]:
        """See `neighbours.Source`."""
        return await self._scanner.do(queries.programs, run, after, limit)

    async def program_texts(self, run: str, ids: Sequence[str]) -> dict[str, str]:
        """See `neighbours.Source`."""
        return await self._scanner.do(queries.program_texts, run, ids)

    async def program_runs(self, run: str, ids: Sequence[str]) -> dict[str, Sketched]:
        """See `neighbours.Source`."""
        return await self._scanner.do(queries.program_runs, run, ids)

    async def save_fingerprints(self, found: Sequence[tuple[int, Sketched]]) -> None:
        """See `neighbours.Source`."""
        rows = [(one.digest, one.sketch.astype("<u4").tobytes(), one.runs, sequence) for sequence, one in found]
        await self._writer.do(writing.save_fingerprints, rows)


def _copy(connection: sqlite3.Connection, path: Path) -> None:
    if path.exists():
        raise FileExistsError(f"{path} exists already: a copy never overwrites")
    path.parent.mkdir(parents=True, exist_ok=True)
    target = connect(path, writes=True, create=True)
    try:
        connection.backup(target)
    finally:
        target.close()
