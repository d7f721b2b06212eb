"""The event log as commands reach it: of the running system, of ASI_NATS_URL, or of the files when nothing runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from services.chassis.bus import Bus
from services.chassis.errors import BusLost
from services.console.local.system import log_server
from services.console.settings import ConsoleSettings

REACH_SECONDS = 5.0
NATS_PORT = 4222


@asynccontextmanager
async def open_log(settings: ConsoleSettings) -> AsyncIterator[Bus]:
    """A connection to the log, for as long as the context lasts. Raises BusLost when no server answers."""
    with log_server(settings) as log:
        client = settings.model_copy(update={"nats_url": log.get("ASI_NATS_URL", settings.nats_url)})
        await must_answer(client.nats_url)
        async with Bus(client, "asi-console") as bus:
            yield bus


async def must_answer(nats_url: str) -> None:
    """Raises BusLost when nothing listens there: a service waits for its broker, a person does not want to."""
    parts = urlsplit(nats_url)
    try:
        async with asyncio.timeout(REACH_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or NATS_PORT)
    except (OSError, TimeoutError, ValueError):
        shown = nats_url.replace(f"{parts.netloc.rpartition('@')[0]}@", "")
        raise BusLost(f"no NATS server answers at {shown}: start one, or correct ASI_NATS_URL") from None
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
