"""The archive's backends, selected by URL. Each is imported on first use, since it has its own dependencies."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from services.chassis.errors import SettingsError
from services.store.backends.sqlite import SqliteArchive
from services.store.port import Archive

if TYPE_CHECKING:
    from services.store.backends.memory import MemoryArchive

_SQLITE = "sqlite:///"
_MEMORY = "memory://"
_MONGO = ("mongodb://", "mongodb+srv://")


def open_archive(url: str) -> Archive:
    """The archive that a URL names, not yet opened: `await archive.open()`.

    Args:
        url: `sqlite:///relative/path.db`, `sqlite:////absolute/path.db` or `mongodb://host/database`; `memory://NAME`
            is one that lasts as long as this process.

    Raises:
        SettingsError: no backend of that name, or an impossible path.
    """
    if url.startswith(_SQLITE):
        return SqliteArchive(_path(url))
    if url.startswith(_MONGO):
        from services.store.backends.mongo import MongoArchive

        return MongoArchive(url)
    if url.startswith(_MEMORY):
        return _in_memory(url)
    raise _unknown(url)


@cache
def _in_memory(url: str) -> MemoryArchive:  # noqa: ARG001 - one for each
    from services.store.backends.memory import MemoryArchive

    return MemoryArchive()


async def restore_archive(path: Path, url: str) -> None:
    """Make the archive at a URL from a copy that `Archive.backup` wrote for the same kind of database.

    Raises:
        FileNotFoundError: there is no copy at `path`.
        FileExistsError: the URL holds an archive already.
        SettingsError: no backend of that name, or an impossible path.
        ArchiveUnavailable: the database is out of reach.
    """
    _require_exists(path)
    if url.startswith(_SQLITE):
        await SqliteArchive(_path(url)).restore(path)
    elif url.startswith(_MONGO):
        from services.store.backends.mongo import MongoArchive

        await MongoArchive(url).restore(path)
    elif url.startswith(_MEMORY):
        await _in_memory(url).restore(path)
    else:
        raise _unknown(url)


def _path(url: str) -> Path:
    text = url.removeprefix(_SQLITE)
    if text in ("", ":memory:"):
        raise SettingsError(
            f"ASI_ARCHIVE_URL={url!r} names no file: the archive is the run's memory and has to survive a restart."
        )
    return Path(text)


def _require_exists(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"there is no copy of an archive at {path}")


def _unknown(url: str) -> SettingsError:
    return SettingsError(
        f"ASI_ARCHIVE_URL={url!r} is no archive: write sqlite:///PATH (four slashes for an absolute path) or mongodb://…"
    )
