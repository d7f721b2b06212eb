"""The engineer as a service."""

import asyncio
import time

from services.chassis.service import wired
from services.chassis.settings import ServiceSettings
from services.engineer.app import build
from services.engineer.settings import EngineerSettings


async def test_an_engineer_without_work_ends_by_itself_where_that_is_wanted(settings: ServiceSettings) -> None:
    """A job on a GPU that nobody needs costs money."""
    shared = settings.model_copy(update={"listen": "127.0.0.1:0"}).model_dump(exclude_none=True)
    async with wired("engineer", EngineerSettings(**shared, idle_seconds=0.5), build) as service:
        begun = time.monotonic()
        await asyncio.wait_for(service.run(asyncio.Event()), 60)

        assert time.monotonic() - begun >= 0.5
