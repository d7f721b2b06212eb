"""The page's live sources, without a browser."""

import asyncio
from contextlib import aclosing

import pytest

from services.chassis.bus import Bus
from services.chassis.errors import Transient
from services.chassis.events import first
from services.chassis.settings import ServiceSettings
from services.local.settings import ClientSettings
from services.web import live


async def test_facts_are_followed_again_after_the_log_was_out_of_reach(
    bus: Bus, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a busy server does not answer in time: an open page must not stay without facts."""
    failures = [Transient("the server did not answer")]
    last_sequence = Bus.last_sequence

    async def unreliable(self: Bus) -> int:
        if failures:
            raise failures.pop()
        return await last_sequence(self)

    monkeypatch.setattr(Bus, "last_sequence", unreliable)
    monkeypatch.setattr(live, "RETRY_SECONDS", 0.1)
    monkeypatch.setenv("ASI_NATS_URL", settings.nats_url)
    event = first("r1", "started", "console")
    event.run_started.note = "a run"
    await bus.publish(event)
    log = live.RunLog(ClientSettings(**settings.model_dump(exclude_none=True)), "r1")
    async with aclosing(log.facts()) as facts:
        seen = await asyncio.wait_for(anext(facts), 30)
    await log.close()

    assert not failures
    assert len(seen) == 1
