"""Every backend of the archive on a place of its own, and a mongod where there is one."""

import asyncio
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pymongo
import pytest
import pytest_asyncio
from pymongo.errors import PyMongoError

from services.chassis.rpc import Server
from services.chassis.settings import ServiceSettings
from services.contracts import archive_pb2_grpc
from services.store.backends import open_archive
from services.store.client import ArchiveClient
from services.store.port import Archive, Questions
from services.store.purse import RunPurse
from services.store.service import ArchiveService

NO_MONGOD = (
    "no mongod: install one (https://www.mongodb.com/docs/manual/installation/) or set ASI_TEST_MONGOD to its path"
)
BACKENDS = ["sqlite", pytest.param("mongo", marks=pytest.mark.mongo)]


class Mongod:
    """A mongod of this session's own, a replica set of one: transactions need that."""

    def __init__(self, binary: str, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._command = [
            binary, "--dbpath", str(folder), "--port", str(self.port), "--bind_ip", "127.0.0.1", "--replSet", "rs0",
            "--wiredTigerCacheSizeGB", "0.25", "--quiet", "--logpath", str(folder / "mongod.log"),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Without a database's name."""
        return f"mongodb://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Run it until it takes writes."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        with pymongo.MongoClient[dict[str, object]](self.url, directConnection=True) as client:
            try:
                client.admin.command(
                    "replSetInitiate", {"_id": "rs0", "members": [{"_id": 0, "host": f"127.0.0.1:{self.port}"}]}
                )
            except PyMongoError as error:
                if "already initialized" not in str(error):
                    raise
        with pymongo.MongoClient[dict[str, object]](self.url, replicaSet="rs0") as client:
            client.admin.command("ping")

    def stop(self) -> None:
        """End it at once: what it has acknowledged is on disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    """A real server, or a sentence on how to get one."""
    binary = os.environ.get("ASI_TEST_MONGOD") or shutil.which("mongod")
    if not binary:
        pytest.skip(NO_MONGOD)
    server = Mongod(binary, tmp_path_factory.mktemp("mongod"))
    server.start()
    yield server
    server.stop()


def place(backend: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """The URL of an archive that does not exist yet."""
    if backend == "sqlite":
        return f"sqlite:///{folder / uuid.uuid4().hex}.db"
    return f"{request.getfixturevalue('mongod').url}/asi_{uuid.uuid4().hex}?replicaSet=rs0"


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new archive of each backend goes."""
    return place(request.param, request, tmp_path)


@pytest_asyncio.fixture
async def archive(url: str) -> AsyncIterator[Archive]:
    """A new archive of each backend, open."""
    opened = open_archive(url)
    await opened.open()
    yield opened
    await opened.close()


@pytest_asyncio.fixture(params=[*BACKENDS, "grpc"])
async def filled(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Archive, Questions]]:
    """An archive to fill and whom to ask about it: itself, or a client of the service in front of it."""
    backend = "sqlite" if request.param == "grpc" else request.param
    opened = open_archive(place(backend, request, tmp_path))
    await opened.open()
    if request.param != "grpc":
        yield opened, opened
    else:
        settings = ServiceSettings()
        server = Server(settings)
        service = ArchiveService(opened, asyncio.Condition(), RunPurse(opened))
        archive_pb2_grpc.add_ArchiveServicer_to_server(service, server.grpc)
        await server.start()
        async with ArchiveClient(f"127.0.0.1:{server.port}", settings) as client:
            yield opened, client
        await server.stop(0)
    await opened.close()
