"""The writer of the archive."""

import asyncio
from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from services.chassis.bus import Bus, Logged
from services.chassis.events import first
from services.contracts import events_pb2
from services.store.app import record_dead_letters
from services.store.applier import Applier
from services.store.backends import open_archive
from services.store.backends.memory import MemoryArchive
from services.store.port import Archive, Change, OtherWriter, React


def started(attempt: int = 1) -> events_pb2.Event:
    """The first event of a run."""
    event = first("r1", "started", "console", attempt)
    event.run_started.settings.seats = 1
    return event


async def apply_log(bus: Bus, archive: Archive, count: int, retry: float = 1.0) -> None:
    """Run an applier until it has applied so many events."""
    applying = asyncio.create_task(Applier(bus, archive, await bus.consumer("store"), 16, retry).run())
    async with asyncio.timeout(20):
        while await archive.applied() < count:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
    applying.cancel()


async def test_a_clock_that_is_ahead_is_reported_once(bus: Bus) -> None:
    """A budget of time would be used up by it; nobody would know why."""
    archive = open_archive("memory://clocks")
    await archive.open()
    for attempt in (1, 2):
        event = started(attempt)
        event.time.seconds += 3600
        await bus.publish(event)
    with capture_logs() as logs:
        await apply_log(bus, archive, 2)
    (warning,) = [entry for entry in logs if entry["event"].startswith("an event is from the future")]

    assert (warning["from_service"], warning["event_id"]) == ("console", "r1.started.1")
    assert 3500 < warning["seconds"] <= 3600


@pytest.mark.slow
async def test_an_event_that_another_store_received_is_applied_when_idle(bus: Bus) -> None:
    """Such as one that is frozen now, or has another archive: whoever asks this store would wait for the event."""
    archive = open_archive("memory://another")
    await archive.open()
    other = await bus.consumer("store")
    received = asyncio.create_task(other.fetch(1, wait=20))  # the server serves the oldest request first
    await asyncio.sleep(0.2)
    applier = Applier(bus, archive, await bus.consumer("store"), 16)
    applying = asyncio.create_task(applier.run())
    async with asyncio.timeout(20):
        while applier.state.behind:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        await bus.publish(started())
        assert len(await received) == 1
        while await archive.applied() < 1:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
    applying.cancel()


class Contended(MemoryArchive):
    """Another store has the lock so many times."""

    conflicts = 1

    async def apply(self, messages: Sequence[Logged], react: React | None = None) -> list[Change]:
        self.conflicts -= 1
        if self.conflicts >= 0:
            raise OtherWriter("another writer applies events")
        return await super().apply(messages, react)


@pytest.mark.parametrize("conflicts", [1, 2])
async def test_a_conflict_with_a_standby_is_no_outage_unless_it_lasts(bus: Bus, conflicts: int) -> None:
    """Each would make a store unhealthy for a second, and refuse queries."""
    archive = Contended()
    archive.conflicts = conflicts
    await bus.publish(started())
    with capture_logs() as logs:
        await apply_log(bus, archive, 1, retry=0.01)

    assert [entry["error"] for entry in logs if entry["log_level"] == "error"] == [
        "another writer applies events" for _ in range(conflicts - 1)
    ]


async def test_an_advisory_of_another_form_does_not_stop_the_store(bus: Bus) -> None:
    """A broker without users takes them from anybody; redelivered, it would stop the store again and again."""
    for body in (b"[]", b'"text"', b'{"stream_seq": [], "consumer": 1}', b"\xff"):
        await bus.publish_body("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.EVENTS.hand", "", body)
    keeping = asyncio.create_task(record_dead_letters(bus, await bus.consumer("dead-letters")))
    async with asyncio.timeout(20):
        while not keeping.done() and any(await bus.depth("dead-letters")):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)

    assert not keeping.done()
    keeping.cancel()
