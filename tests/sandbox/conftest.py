"""One sandbox for all tests: starting a fork server costs seconds."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from services.sandbox import Sandbox

TESTS = Path(__file__).parents[1]
PRELOAD = ("torch", "services.sandbox.wire", "tests.sandbox.integrity")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def sandbox() -> AsyncIterator[Sandbox]:
    """All layers that this machine has."""
    async with Sandbox(preload=PRELOAD, readable=[TESTS]) as started:
        yield started
