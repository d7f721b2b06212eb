"""Whether the broker keeps what it acknowledges, even where the machine loses its power."""

import asyncio
import json
import urllib.request
from urllib.error import URLError

from services.chassis.errors import SettingsError
from services.chassis.logs import get_logger
from services.chassis.settings import ServiceSettings

OLDEST = (2, 10, 23)
"""Older ones lost or reordered messages of a stream when they were killed or their disk was full."""
MONITOR_SECONDS = 5.0


async def require_durability(settings: ServiceSettings, version: tuple[int, int, int]) -> None:
    """Raises SettingsError for a broker of ours that may lose what it has acknowledged; warns of another's.

    Whether it writes to disk before it acknowledges is told by its monitoring alone.
    """
    problems = []
    if version < OLDEST:
        problems.append(f"it is nats-server {'.'.join(map(str, version))}, and {'.'.join(map(str, OLDEST))} is needed")
    synced = await asyncio.to_thread(_syncs_always, settings.nats_monitor_url)
    if synced is False:
        problems.append("it does not sync each write to disk: set `sync_interval: always` in its jetstream block")
    elif synced is None and settings.require_durable_broker:
        problems.append("its monitoring does not answer: set ASI_NATS_MONITOR_URL to its `http` address")
    if problems and settings.require_durable_broker:
        raise SettingsError(f"the broker may lose acknowledged events: {'; '.join(problems)}.")
    for problem in problems:
        get_logger().warning("the broker may lose acknowledged events", reason=problem)


def _syncs_always(monitor_url: str | None) -> bool | None:
    """None where nobody can tell."""
    if monitor_url is None:
        return None
    try:
        with urllib.request.urlopen(f"{monitor_url}/jsz", timeout=MONITOR_SECONDS) as answer:  # noqa: S310 - our setting
            return bool(json.load(answer)["config"].get("sync_always", False))
    except (URLError, OSError, ValueError, KeyError):
        return None
