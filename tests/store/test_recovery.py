"""A log that is cut, changed, made anew or full of holes is named, and made again from the archive byte by byte."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest
import pytest_asyncio

from services.chassis.bus import Bus, Logged
from services.chassis.bus.topology import EVENTS
from services.chassis.errors import LogDamaged, SettingsError, Transient
from services.chassis.settings import ServiceSettings
from services.local.processes import Broker
from services.store.applier import Applier
from services.store.backends import open_archive
from services.store.port import Archive
from services.store.reactions import react
from services.store.recovery import damage_of_log, recover, require_same_log
from services.store.replay import replay
from tests.store.backends.archive_urls import archive_url
from tests.store.simulation import Simulation

BACKENDS = ["memory", "sqlite", pytest.param("mongo", marks=pytest.mark.mongo)]
JUNK = Logged(0, "asi.v1.r1.candidate.trained", b"\xff\xff no event")


async def _publish(bus: Bus, messages: list[Logged]) -> None:
    for message in messages:
        await bus.publish_body(message.subject, "", message.body)


async def _publish_with_holes(settings: ServiceSettings, bus: Bus, messages: list[Logged], *holes: int) -> list[Logged]:
    """A log as it was, after which some messages are lost: in a stream that, unlike ours, lets them be deleted."""
    await bus.remove_stream(EVENTS)
    async with await nats.connect(settings.nats_url) as client:
        await client.jetstream().add_stream(name=EVENTS, subjects=["asi.v1.>"])
        await _publish(bus, messages)
        before = await _log(bus)
        for hole in holes:
            await client.jetstream().delete_msg(EVENTS, hole)
    return before


async def _log(bus: Bus) -> list[Logged]:
    return [message async for message in bus.read_log()]


@pytest_asyncio.fixture(params=BACKENDS)
async def archive(
    request: pytest.FixtureRequest, tmp_path: Path, bus: Bus, finished: Simulation
) -> AsyncIterator[Archive]:
    """An archive that has applied a log of facts, repetitions and junk."""
    opened = open_archive(archive_url(request.param, request, tmp_path))
    await opened.open()
    await _publish(bus, [*finished.log, JUNK, finished.log[5], finished.log[-1]])
    await opened.apply(await _log(bus), react)
    yield opened
    await opened.close()


async def test_a_log_that_matches_the_archive_is_left_alone(bus: Bus, archive: Archive) -> None:
    """Also where it is longer: the store is only late."""
    await require_same_log(bus, archive)
    await _publish(bus, [JUNK])

    assert (await recover(bus, archive)).damage is None


async def test_a_recreated_stream_is_reported_and_recovered_byte_for_byte(bus: Bus, archive: Archive) -> None:
    """What was published to the new one meanwhile is not lost either."""
    before = await _log(bus)
    await bus.remove_stream(EVENTS)
    await bus.set_up()
    stray = Logged(0, "asi.v1.r1.candidate.judged", b"published to the new stream")
    await _publish(bus, [stray])

    with pytest.raises(LogDamaged, match=r"ends at message 1, but the archive has applied .*asi-arch recover"):
        await require_same_log(bus, archive)
    recovery = await recover(bus, archive)
    after = await _log(bus)

    assert after[:-1] == before
    assert (after[-1].subject, after[-1].body) == (stray.subject, stray.body)
    assert recovery.rescued == 1
    assert await bus.compare() == []
    assert (await replay(bus, "r1", None, archive)).agrees


async def test_a_longer_but_different_log_is_named(bus: Bus, archive: Archive) -> None:
    """The number of messages alone says nothing."""
    before = await _log(bus)
    await bus.remove_stream(EVENTS)
    await bus.set_up()
    await _publish(bus, [*before[:-1], JUNK, JUNK])

    assert "is another (" in (await damage_of_log(bus, archive) or "")
    await recover(bus, archive)
    assert (await _log(bus))[: len(before)] == before


async def test_a_missing_stream_is_recreated(bus: Bus, archive: Archive) -> None:
    """As after the loss of the broker's disk, where nobody has run `asi-arch setup`."""
    before = await _log(bus)
    await bus.remove_stream(EVENTS)

    recovery = await recover(bus, archive)
    assert (recovery.rescued, await _log(bus)) == (0, before)


async def test_more_copies_than_brokers_are_refused_before_anything_is_deleted(bus: Bus, archive: Archive) -> None:
    """The damaged log is still there for another attempt."""
    await bus.remove_stream(EVENTS)
    await bus.set_up()
    stray = Logged(0, JUNK.subject, b"only in this log")
    await _publish(bus, [stray])
    with pytest.raises(Transient, match="NATS did not create EVENTS-TRIAL: replicas > 1 not supported"):
        await recover(bus, archive, replicas=3)

    assert [message.body for message in await _log(bus)] == [stray.body]
    assert await archive.applied() > 1
    assert (await recover(bus, archive)).rescued == 1


async def test_an_empty_archive_replaces_no_damaged_log(
    bus: Bus, settings: ServiceSettings, finished: Simulation, tmp_path: Path
) -> None:
    """A forgotten ASI_ARCHIVE_URL names an archive without any message; the holes of the log would be closed."""
    before = await _publish_with_holes(settings, bus, finished.log, 3)
    empty = open_archive(f"sqlite:///{tmp_path}/another.db")
    await empty.open()
    with pytest.raises(SettingsError, match="has applied no message of this log"):
        await recover(bus, empty)
    await empty.close()

    assert await _log(bus) == [*before[:2], *before[3:]]


async def test_messages_that_only_the_damaged_log_had_are_counted(
    bus: Bus, settings: ServiceSettings, finished: Simulation
) -> None:
    """Those that can be read are kept, the others are reported as lost."""
    before = await _publish_with_holes(settings, bus, finished.log, 5, 12)
    archive = open_archive("memory://counted")
    await archive.open()
    await archive.apply(before[:10], react)
    recovery = await recover(bus, archive)

    assert (recovery.rescued, recovery.lost) == (len(before) - 11, 1)
    assert [message.body for message in await _log(bus)] == [
        message.body for message in before if message.sequence != 12
    ]


@pytest.mark.parametrize("how", ["cut", "bit"])
async def test_a_damaged_block_file_stops_the_store_once_the_broker_is_back(
    tmp_path: Path, finished: Simulation, how: str
) -> None:
    """The running store sees the reconnection, compares and stops, before it applies anything else."""
    broker = Broker(tmp_path / "nats")
    broker.start()
    settings = ServiceSettings(nats_url=broker.url, data_dir=tmp_path, create_streams=True)
    archive = open_archive(f"sqlite:///{tmp_path}/archive.db")
    await archive.open()
    async with Bus(settings, "tests") as bus:
        await bus.set_up()
        await _publish(bus, finished.log)
        applying = asyncio.create_task(Applier(bus, archive, await bus.consumer("store"), 64).run())
        async with asyncio.timeout(60):
            while await archive.applied() < len(finished.log):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        assert broker.pid is not None
        os.kill(broker.pid, signal.SIGKILL)
        await asyncio.to_thread(broker.kill)
        _hurt(tmp_path / "nats", how)
        await asyncio.to_thread(broker.start)
        with pytest.raises(LogDamaged, match="the event log is damaged"):
            await asyncio.wait_for(applying, 60)
        await recover(bus, archive)
        again = await _log(bus)
    await archive.close()
    broker.stop()

    assert [(message.subject, message.body) for message in again] == [
        (message.subject, message.body) for message in finished.log
    ]


def _hurt(folder: Path, how: str) -> None:
    block = max(folder.glob("**/streams/EVENTS/msgs/*.blk"), key=lambda path: path.stat().st_size)
    content = bytearray(block.read_bytes())
    if how == "cut":
        block.write_bytes(content[: 2 * len(content) // 3])
    else:
        content[len(content) // 2] ^= 1
        block.write_bytes(content)
    for index in folder.glob("**/streams/EVENTS/msgs/index.db"):
        index.unlink()
