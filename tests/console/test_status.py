"""`pause`, `resume` and `stop` in a script."""

import asyncio
import sys
from pathlib import Path

from services.chassis.bus import Bus
from services.chassis.events import first
from services.chassis.settings import ServiceSettings
from tests.archive_server import KnownArchive, served
from tests.console.conftest import bare_environment


async def test_a_command_returns_when_the_archive_has_its_event(
    bus: Bus, settings: ServiceSettings, tmp_path: Path
) -> None:
    """The next command of a script reads the phase that this one has made."""
    archive = KnownArchive()
    for attempt in (1, 2):
        event = first("r1", "resumed", "console", attempt)
        event.run_resumed.SetInParent()
        await bus.publish(event)
    async with served(archive) as address:
        environment = bare_environment(tmp_path, ASI_NATS_URL=settings.nats_url, ASI_ARCHIVE_ADDRESS=address)
        command = [sys.executable, "-m", "services.console", "pause"]
        pausing = await asyncio.create_subprocess_exec(*command, env=environment)
        async with asyncio.timeout(60):
            async for logged in bus.follow(start=3):  # which is the pause
                if logged is not None:
                    break
            await asyncio.sleep(1)
            early = pausing.returncode
            archive.put()
            archive.put(phase="paused")  # as of the third event
            status = await pausing.wait()

    assert early is None
    assert status == 0
