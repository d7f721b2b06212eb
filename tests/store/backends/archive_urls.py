"""Where archives of tests lie: a file of their own, or a database of the session's own mongod, by either driver."""

import uuid
from pathlib import Path

import pymongo
import pytest

from services.store.backends.mongo import connection


def archive_url(backend: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """The URL of an archive that does not exist yet."""
    if backend == "sqlite":
        return f"sqlite:///{folder / uuid.uuid4().hex}.db"
    if backend == "memory":
        return f"memory://{uuid.uuid4().hex}"
    if backend == "pymongo":
        request.getfixturevalue("monkeypatch").setattr(connection, "DRIVER", pymongo.AsyncMongoClient)
    return f"{request.getfixturevalue('mongod').url}/asi_{uuid.uuid4().hex}?replicaSet=rs0"
