"""One sandbox for all tests: starting a fork server costs seconds."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from services.sandbox import Sandbox


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sandbox() -> AsyncIterator[Sandbox]:
    """As the service opens it, with the jobs' modules preloaded; jobs of tests are below `tests`."""
    async with Sandbox(readable=[Path(__file__).parents[1]]) as started:
        yield started
