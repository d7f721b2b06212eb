"""Services that only answer: what a question needs and no running system offers is started for as long as it lasts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from services.chassis.errors import NotFound, SettingsError
from services.console.local.system import running_system
from services.console.settings import ConsoleSettings

SERVES = {"archive": "store", "cognition": "analyst", "judge": "judge"}


def must_exist(settings: ConsoleSettings) -> None:
    """Raises NotFound where no archive is. Where ASI_ARCHIVE_URL names a database, the store's tool says what is."""
    if "ASI_ARCHIVE_URL" not in os.environ and not (settings.data_dir / "archive.db").exists():
        raise NotFound(f"there is no archive in {settings.data_dir} yet: start a run with `asi-arch run`")


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
            address = os.environ.get(variable) or _of_the_system(settings, name)
            if address is None:
                address = await stack.enter_async_context(_reader(settings, name, variables))
            variables[variable] = address
        yield variables


def _of_the_system(settings: ConsoleSettings, name: str) -> str | None:
    content = running_system(settings)
    addresses = content.get("addresses") if content else None
    return str(addresses[name]) if isinstance(addresses, dict) else None


@asynccontextmanager
async def _reader(settings: ConsoleSettings, name: str, variables: Mapping[str, str]) -> AsyncIterator[str]:
    if name == "archive":
        must_exist(settings)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"services.{SERVES[name]}.reader", env={**os.environ, **variables},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield f"127.0.0.1:{await _port(process, name)}"
    finally:
        await _ended(process)


async def _port(process: asyncio.subprocess.Process, name: str) -> str:
    assert process.stdout is not None  # noqa: S101 - asked for above
    assert process.stderr is not None  # noqa: S101
    if port := (await process.stdout.readline()).decode().strip():
        return port
    words = (await process.stderr.read()).decode().strip().splitlines()
    raise SettingsError(f"the {SERVES[name]} cannot answer: {words[-1] if words else 'no reason was given'}")


async def _ended(process: asyncio.subprocess.Process) -> None:
    """Its standard input closes, which is how it is told; what stays is killed."""
    assert process.stdin is not None  # noqa: S101 - asked for above
    process.stdin.close()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), 5)
    if process.returncode is None:
        process.kill()
