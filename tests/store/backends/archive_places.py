"""Where archives of tests lie: a file of their own, or a database of a mongod of the session's own."""

import uuid
from pathlib import Path

import pytest


def place(backend: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """The URL of an archive that does not exist yet."""
    if backend == "sqlite":
        return f"sqlite:///{folder / uuid.uuid4().hex}.db"
    if backend == "memory":
        return f"memory://{uuid.uuid4().hex}"
    return f"{request.getfixturevalue('mongod').url}/asi_{uuid.uuid4().hex}?replicaSet=rs0"
