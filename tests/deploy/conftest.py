"""A MongoDB for tests of what a deployment needs of it."""

import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator

import pymongo
import pytest


@pytest.fixture(scope="session")
def mongod_binary() -> str:
    """Where the server is, or a sentence on how to get one."""
    binary = os.environ.get("ASI_TEST_MONGOD") or shutil.which("mongod")
    if not binary:
        pytest.skip("no mongod: install one or set ASI_TEST_MONGOD to its path")
    return binary


@pytest.fixture(scope="session")
def mongo_url(mongod_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database that does not exist yet, in a replica set of one."""
    folder = tmp_path_factory.mktemp("mongod")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [mongod_binary, "--dbpath", folder, "--port", str(port), "--bind_ip", "127.0.0.1", "--replSet", "rs0",
               "--wiredTigerCacheSizeGB", "0.25", "--logpath", folder / "log"]  # fmt: skip
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    address = f"mongodb://127.0.0.1:{port}"
    with pymongo.MongoClient[dict[str, object]](address, directConnection=True) as client:
        members = [{"_id": 0, "host": f"127.0.0.1:{port}"}]
        client.admin.command("replSetInitiate", {"_id": "rs0", "members": members})
    yield f"{address}/asi_{uuid.uuid4().hex}?replicaSet=rs0"
    server.kill()
    server.wait()
