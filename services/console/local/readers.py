"""Services that only answer: what a question needs and no running system offers is started for as long as it lasts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from services.chassis.errors import SettingsError
from services.console.settings import ConsoleSettings, running_system

SERVES = {"archive": "store", "cognition": "analyst", "judge": "judge"}


@asynccontextmanager
async def answering(settings: ConsoleSettings, *names: str) -> AsyncIterator[dict[str, str]]:
    """Variables with the address of each of `names` (archive first): ASI_ARCHIVE_ADDRESS and so on.

    An address is the one that the environment sets, else the running system's, else a reader's. Raises NotFound where
    there is no archive yet, and SettingsError when a reader does not start.
    """
    variables: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        for name in names:
            variable = f"ASI_{name.upper()}_ADDRESS"
            system = running_system(settings)
            address = os.environ.get(variable) or (system.addresses[name] if system else None)
            if address is None:
                address = await stack.enter_async_context(_reader(settings, name, variables))
            variables[variable] = address
        yield variables


@asynccontextmanager
async def _reader(settings: ConsoleSettings, name: str, variables: Mapping[str, str]) -> AsyncIterator[str]:
    if name == "archive":
        settings.require_archive()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"services.{SERVES[name]}.reader", env={**os.environ, **variables},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield f"127.0.0.1:{await _port(process, name)}"
    finally:
        await _stop(process)


async def _port(process: asyncio.subprocess.Process, name: str) -> str:
    assert process.stdout is not None  # noqa: S101 - asked for above
    assert process.stderr is not None  # noqa: S101
    if port := (await process.stdout.readline()).decode().strip():
        return port
    words = (await process.stderr.read()).decode().strip().splitlines()
    raise SettingsError(f"the {SERVES[name]} cannot answer: {words[-1] if words else 'no reason was given'}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Its standard input closes, which is how it is told; what stays is killed."""
    assert process.stdin is not None  # noqa: S101 - asked for above
    process.stdin.close()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), 5)
    if process.returncode is None:
        process.kill()
