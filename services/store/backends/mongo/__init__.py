"""The archive in MongoDB."""

from services.store.backends.mongo.archive import MongoArchive

__all__ = ["MongoArchive"]
