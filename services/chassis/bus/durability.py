"""Whether the broker keeps what it acknowledges, even where the machine loses its power."""

import asyncio
import json
import urllib.request
from urllib.error import URLError

from services.chassis.errors import BusLost, SettingsError
from services.chassis.logs import get_logger
from services.chassis.settings import ServiceSettings

OLDEST = (2, 10, 23)
"""Older ones lost or reordered messages of a stream when they were killed or their disk was full."""
MONITOR_SECONDS = 5.0


async def require_durability(settings: ServiceSettings, version: tuple[int, int, int]) -> None:
    """Raises SettingsError for a broker of ours that may lose what it has acknowledged; warns of another's.

    Whether it writes to disk before it acknowledges is told by its monitoring alone. Of a cluster, each server that
    answers is asked, since one may be down. Raises BusLost where none answers: that may be an outage, and a new start
    helps.
    """
    problems = []
    if version < OLDEST:
        problems.append(f"it is nats-server {'.'.join(map(str, version))}, and {'.'.join(map(str, OLDEST))} is needed")
    urls = [url.strip() for url in (settings.nats_monitor_url or "").split(",") if url.strip()]
    answers = await asyncio.gather(*(asyncio.to_thread(_syncs_always, url) for url in urls))
    silent = f"the broker's monitoring does not answer at {', '.join(urls)}; see ASI_NATS_MONITOR_URL"
    if False in answers:
        problems.append("it does not sync each write to disk: set `sync_interval: always` in its jetstream block")
    elif not urls:
        problems.append("nobody can tell whether it syncs: set ASI_NATS_MONITOR_URL to its `http` address")
    elif True not in answers and not settings.require_durable_broker:
        problems.append(f"nobody can tell whether it syncs: {silent}")
    if problems and settings.require_durable_broker:
        raise SettingsError(f"the broker may lose acknowledged events: {'; '.join(problems)}.")
    if True not in answers and settings.require_durable_broker:
        raise BusLost(silent)
    for problem in problems:
        get_logger().warning("the broker may lose acknowledged events", reason=problem)


def _syncs_always(monitor_url: str) -> bool | None:
    """None where it does not answer."""
    try:
        with urllib.request.urlopen(f"{monitor_url}/jsz", timeout=MONITOR_SECONDS) as answer:  # noqa: S310 - our setting
            return bool(json.load(answer)["config"].get("sync_always", False))
    except (URLError, OSError, ValueError, KeyError):
        return None
