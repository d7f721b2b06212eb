"""The stages of an evaluation and the bus, in the event loop that the sandbox lives in."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.chassis.bus import Bus
from services.chassis.settings import ServiceSettings
from services.engineer.stages import Stages
from services.sandbox import Sandbox


@pytest.fixture(scope="module")
def stages(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """What is worked out once per stage, worked out once per module."""
    return Stages(sandbox, tmp_path_factory.mktemp("data"))


@pytest_asyncio.fixture(loop_scope="session")
async def bus(settings: ServiceSettings) -> AsyncIterator[Bus]:
    """As everywhere, but in the event loop of the session."""
    async with Bus(settings, "tests") as connected:
        await connected.set_up()
        yield connected
