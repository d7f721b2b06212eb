"""One sandbox for the tests of a module: starting a fork server costs seconds."""

from collections.abc import AsyncIterator

import pytest_asyncio

from services.sandbox import Sandbox


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    """As the service opens it, with the jobs' modules preloaded."""
    async with Sandbox() as started:
        yield started
