"""The archive's backends, selected by URL. Each is imported on first use, since it has its own dependencies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from services.chassis.errors import SettingsError
from services.store.backends.sqlite import SqliteArchive
from services.store.port import Archive

if TYPE_CHECKING:
    from services.store.backends.memory import MemoryArchive

SQLITE = "sqlite:///"
_MEMORY = "memory://"
_MONGO = ("mongodb://", "mongodb+srv://")


def open_archive(url: str, setting: str = "ASI_ARCHIVE_URL") -> Archive:
    """The archive that a URL names; `open` it before use. Raises SettingsError for an unknown scheme or invalid path.

    URLs are `sqlite:///relative/path.db`, `sqlite:////absolute/path.db` or `mongodb://host/database`; `memory://NAME`
    lasts as long as this process. `setting` is the URL's source, for errors.
    """
    if url.startswith(SQLITE):
        path = url.removeprefix(SQLITE)
        if path in ("", ":memory:"):
            raise SettingsError(f"{setting}={url!r} names no file, but the archive has to survive a restart.")
        return SqliteArchive(Path(path))
    if url.startswith(_MONGO):
        from services.store.backends.mongo import MongoArchive

        return MongoArchive(url)
    if url.startswith(_MEMORY):
        return _in_memory(url)
    raise SettingsError(
        f"{setting}={url!r} is no archive: write sqlite:///PATH (four slashes for an absolute path) or mongodb://…"
    )


def require_archive(url: str) -> None:
    """Raises SettingsError for a URL that cannot name an archive, without connecting to it."""
    open_archive(url)
    if url.startswith(_MONGO[0]):
        from services.store.backends.mongo.connection import parse

        parse(url)
    elif url.startswith(SQLITE):
        path = Path(url.removeprefix(SQLITE))
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if path.is_dir() or not folder.is_dir():
            wrong, kind = (path, "a folder") if path.is_dir() else (folder, "a file")
            raise SettingsError(f"ASI_ARCHIVE_URL={url!r} is no file: {wrong} is {kind}.")


@asynccontextmanager
async def opened(url: str, setting: str = "ASI_ARCHIVE_URL") -> AsyncIterator[Archive]:
    """As `open_archive`, open within the context."""
    archive = open_archive(url, setting)
    try:
        await archive.open()
        yield archive
    finally:
        await archive.close()


@cache
def _in_memory(url: str) -> MemoryArchive:  # noqa: ARG001 - the cache's key
    from services.store.backends.memory import MemoryArchive

    return MemoryArchive()


async def restore_archive(path: Path, url: str) -> None:
    """Restore an archive from a copy that `Archive.backup` wrote with the same backend.

    Raises FileNotFoundError without a copy at `path`, FileExistsError if the URL holds an archive already, and the
    errors of `open_archive` and `Archive.open`.
    """
    if not await asyncio.to_thread(path.is_file):
        raise FileNotFoundError(f"there is no copy of an archive at {path}")
    await open_archive(url).restore(path)
