"""The store's writer while its database is away: it says so, holds its events, and goes on where it was."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path

import pytest

from services.chassis.bus import Bus, Logged
from services.contracts import events_pb2
from services.store.applier import Applier
from services.store.backends import open_archive
from services.store.port import Archive
from tests.mongod import Mongod
from tests.store.archive_stories import Story


async def publish(bus: Bus, messages: Sequence[Logged]) -> None:
    """As the services do: an event that the store has said already is stored once."""
    for one in messages:
        await bus.publish_body(one.subject, events_pb2.Event.FromString(one.body).id, one.body)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for it."""
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.1)


async def has_applied(archive: Archive, sequence: int) -> bool:
    """Whether it has come so far."""
    return await archive.applied() >= sequence


async def is_available(applier: Applier, wanted: bool) -> bool:
    """What its health says."""
    return (not applier.state.outage) is wanted


@pytest.mark.mongo
async def test_a_database_that_goes_away_and_returns_loses_nothing_and_doubles_nothing(
    bus: Bus, mongod: Mongod, finished: Story, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Events wait unacknowledged; afterwards the archive is that of a database which was never away."""
    server = mongod.another(tmp_path_factory.mktemp("mongod"))
    server.start()
    archive = open_archive(f"{server.url}/asi?replicaSet=rs0")
    await archive.open()
    consumer = await bus.consumer("store")
    applier = Applier(bus, archive, consumer, 16)
    writing = asyncio.create_task(applier.run())
    await publish(bus, finished.log[:20])
    await until(partial(has_applied, archive, 20))
    server.stop()
    await publish(bus, finished.log[20:])
    await until(partial(is_available, applier, False))
    waiting = await consumer.backlog()
    server.start()
    await until(partial(is_available, applier, True))
    await until(partial(has_applied, archive, len(finished.log)))
    writing.cancel()

    steady = open_archive(f"sqlite:///{tmp_path}/steady.db")
    await steady.open()
    await steady.apply(finished.log)
    assert waiting > 0
    assert await bus.last_sequence() == len(finished.log)
    assert await archive.digest("r1") == await steady.digest("r1")
    await steady.close()
    await archive.close()
    server.stop()


@pytest.mark.parametrize("how", ["overwritten", "replaced by an older copy", "deleted"])
async def test_a_file_that_is_hurt_while_the_store_runs_is_an_outage_that_ends(
    bus: Bus, finished: Story, tmp_path: Path, how: str
) -> None:
    """It is said, events wait, and the store goes on by itself once the file is sound again, or made anew."""
    file, copy = tmp_path / "archive.db", tmp_path / "copy.db"
    archive = open_archive(f"sqlite:///{file}")
    await archive.open()
    applier = Applier(bus, archive, await bus.consumer("store"), 16)
    writing = asyncio.create_task(applier.run())
    await publish(bus, finished.log[:20])
    await until(partial(has_applied, archive, 20))
    await archive.backup(copy)
    await publish(bus, finished.log[20:30])
    await until(partial(has_applied, archive, 30))
    for leftover in (Path(f"{file}-wal"), Path(f"{file}-shm")):
        leftover.unlink()
    if how == "overwritten":
        (tmp_path / "garbage").write_bytes(b"no database any more" * 5000)
        (tmp_path / "garbage").replace(file)
        await publish(bus, finished.log[30:40])
        await until(partial(is_available, applier, False))
        said = applier.state.outage
        copy.replace(file)
    else:
        said = "no sound SQLite file"  # an outage, if any, is over before anybody has seen it
        copy.replace(file) if how == "replaced by an older copy" else file.unlink()
    await publish(bus, finished.log[40 if how == "overwritten" else 30 :])
    await until(partial(is_available, applier, True))
    await until(partial(has_applied, archive, len(finished.log)))
    writing.cancel()

    steady = open_archive(f"sqlite:///{tmp_path}/steady.db")
    await steady.open()
    await steady.apply([message async for message in bus.read_log()])
    assert "no sound SQLite file" in said
    assert await archive.digest("r1") == await steady.digest("r1")
    await steady.close()
    await archive.close()
