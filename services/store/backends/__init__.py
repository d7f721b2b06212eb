"""The archive's backends, chosen by a URL."""

from pathlib import Path

from services.chassis.errors import SettingsError
from services.store.backends.sqlite import SqliteArchive
from services.store.port import Archive

_SQLITE = "sqlite:///"


def open_archive(url: str) -> Archive:
    """The archive that a URL names, not yet opened: `await archive.open()`.

    Args:
        url: `sqlite:///relative/path.db`, `sqlite:////absolute/path.db` or `mongodb://host/database`.

    Raises:
        SettingsError: no backend of that name, or an impossible path.
    """
    if url.startswith(_SQLITE):
        return SqliteArchive(_path(url))
    if url.startswith(("mongodb://", "mongodb+srv://")):
        # Only those who keep their archive there need its driver.
        from services.store.backends.mongo import MongoArchive

        return MongoArchive(url)
    raise SettingsError(
        f"ASI_ARCHIVE_URL={url!r} is no archive: write sqlite:///PATH (four slashes for an absolute path) or mongodb://…"
    )


def _path(url: str) -> Path:
    text = url.removeprefix(_SQLITE)
    if text in ("", ":memory:"):
        raise SettingsError(
            f"ASI_ARCHIVE_URL={url!r} names no file: the archive is the run's memory and has to survive a restart."
        )
    return Path(text)
