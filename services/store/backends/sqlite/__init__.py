"""The embedded archive, the default."""

from services.store.backends.sqlite.archive import SqliteArchive

__all__ = ["SqliteArchive"]
