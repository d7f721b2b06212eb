"""Every backend of the archive on a place of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.chassis.settings import ServiceSettings
from services.contracts import events_pb2
from services.store.backends import open_archive
from services.store.ledger import RunLedger
from services.store.port import Archive, Queries
from services.store.service import ArchiveService
from tests.archive_server import served
from tests.store.backends.archive_client import ArchiveClient
from tests.store.backends.archive_urls import archive_url
from tests.store.simulation import Simulation

Filled = tuple[Archive, Queries]

BACKENDS = [
    "memory",
    "sqlite",
    pytest.param("mongo", marks=pytest.mark.mongo),
    pytest.param("pymongo", marks=[pytest.mark.mongo, pytest.mark.slow]),
]


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new archive of each backend goes."""
    return archive_url(request.param, request, tmp_path)


@pytest_asyncio.fixture
async def archive(url: str) -> AsyncIterator[Archive]:
    """A new archive of each backend, open."""
    opened = open_archive(url)
    await opened.open()
    yield opened
    await opened.close()


@pytest_asyncio.fixture(params=[*BACKENDS, "grpc"])
async def filled(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Filled]:
    """An archive to fill and whom to ask about it: itself, or a client of the service in front of it."""
    backend = "sqlite" if request.param == "grpc" else request.param
    opened = open_archive(archive_url(backend, request, tmp_path))
    await opened.open()
    if request.param != "grpc":
        yield opened, opened
    else:
        async with (
            served(ArchiveService(opened, RunLedger(opened))) as address,
            ArchiveClient(address, ServiceSettings()) as client,
        ):
            yield opened, client
    await opened.close()


async def fill(archive: Archive, candidates: int = 12) -> Simulation:
    """A finished run in the archive."""
    simulation = Simulation()
    simulation.start(budget=events_pb2.Budget(candidates=candidates))
    simulation.finish()
    await archive.apply(simulation.log)
    return simulation
