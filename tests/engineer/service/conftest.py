"""One sandbox as the service opens it for the tests of a module: starting a fork server costs seconds."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.chassis.bus import Bus
from services.chassis.settings import ServiceSettings
from services.engineer.stages import Stages
from services.sandbox import Sandbox


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    """A sandbox with the jobs' modules preloaded."""
    async with Sandbox() as started:
        yield started


@pytest.fixture(scope="module")
def stages(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """What is worked out once per stage, worked out once per module."""
    return Stages(sandbox, tmp_path_factory.mktemp("data"))


@pytest_asyncio.fixture(loop_scope="module")
async def bus(settings: ServiceSettings) -> AsyncIterator[Bus]:
    """As everywhere, in the event loop that the sandbox lives in."""
    async with Bus(settings, "tests") as connected:
        await connected.set_up()
        yield connected
