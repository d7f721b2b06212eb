"""The live page, served from an archive that changes."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from playwright.async_api import Page, expect

from services.chassis.settings import ServiceSettings
from services.local.settings import ClientSettings
from services.web.app import application
from tests.archive_server import served
from tests.web.changing_archive import NODES, ChangingArchive, stub_of


@dataclass
class Site:
    """A served page, what it reads from, and its archive server, which can be stopped and restarted."""

    address: str
    archive: ChangingArchive
    archive_port: int
    data_dir: Path
    archive_server: AsyncExitStack

    async def start_archive(self) -> None:
        """Answer again, where it answered before."""
        await self.archive_server.enter_async_context(served(self.archive, self.archive_port))


@pytest_asyncio.fixture
async def site(settings: ServiceSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setenv("ASI_NATS_URL", settings.nats_url)
    console = ClientSettings(**settings.model_dump(exclude_none=True) | {"data_dir": tmp_path})
    archive = ChangingArchive()
    async with AsyncExitStack() as archive_server:
        address = await archive_server.enter_async_context(served(archive))
        runner = web.AppRunner(application(lambda: stub_of(address), console), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        page, archive_port = f"http://127.0.0.1:{runner.addresses[0][1]}/", int(address.rpartition(":")[2])
        yield Site(page, archive, archive_port, tmp_path, archive_server)
        await runner.cleanup()


async def drawn(page: Page, nodes: int = NODES) -> None:
    """Wait until the tree shows so many nodes."""
    await expect(page.locator(".stage canvas").first).to_have_attribute("data-drawn", str(nodes))
