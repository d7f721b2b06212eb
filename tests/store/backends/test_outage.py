"""The store's writer while its database is away: it says so, holds its events, and goes on where it was."""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from pymongo.errors import BulkWriteError, OperationFailure

from services.chassis.bus import Bus, Logged
from services.contracts import events_pb2
from services.store.applier import Applier
from services.store.backends import open_archive
from services.store.backends.mongo.connection import translate_errors
from services.store.port import Archive, OtherWriter
from tests.mongod import Mongod
from tests.store.simulation import Simulation


async def publish(bus: Bus, messages: Sequence[Logged]) -> None:
    """As the services do: an event that the store has said already is stored once."""
    for message in messages:
        await bus.publish_body(message.subject, events_pb2.Event.FromString(message.body).id, message.body)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait for it."""
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.1)


async def has_applied(archive: Archive, sequence: int) -> bool:
    """Whether it has come so far."""
    return await archive.applied() >= sequence


async def is_available(applier: Applier, expected: bool) -> bool:
    """What its health says."""
    return (not applier.state.outage) is expected


@pytest.mark.mongo
async def test_an_outage_of_the_database_neither_loses_nor_repeats_events(
    bus: Bus, mongod: Mongod, finished: Simulation, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
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
    waiting = sum(await bus.depth("store"))
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
async def test_a_damaged_file_is_an_outage_until_it_is_restored(
    bus: Bus, finished: Simulation, tmp_path: Path, how: str
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
        outage = applier.state.outage
        copy.replace(file)
    else:
        outage = "damaged or no SQLite file"  # an outage, if any, is over before anybody has seen it
        copy.replace(file) if how == "replaced by an older copy" else file.unlink()
    await publish(bus, finished.log[40 if how == "overwritten" else 30 :])
    await until(partial(is_available, applier, True))
    await until(partial(has_applied, archive, len(finished.log)))
    writing.cancel()

    steady = open_archive(f"sqlite:///{tmp_path}/steady.db")
    await steady.open()
    await steady.apply([message async for message in bus.read_log()])
    assert "damaged or no SQLite file" in outage
    assert await archive.digest("r1") == await steady.digest("r1")
    await steady.close()
    await archive.close()


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[Callable[[], None]]:
    """Nobody can write below the folder until what is yielded is called. Root can only be kept out by a mount."""
    root = os.geteuid() == 0

    def mount(*options: str) -> None:
        done = subprocess.run(["/bin/mount", *options, str(folder)], capture_output=True, timeout=20, check=False)
        if done.returncode:
            pytest.skip("root may mount nothing here, and a file's rights do not bind it")

    def close(mode: int) -> None:
        for path in (folder, *folder.iterdir()):
            path.chmod(mode | 0o111 if path.is_dir() else mode)

    if root:
        mount("--bind", str(folder))
    try:
        mount("-o", "remount,bind,ro") if root else close(0o444)
        yield (lambda: mount("-o", "remount,bind,rw")) if root else partial(close, 0o644)
    finally:
        if root:
            subprocess.run(["/bin/umount", "--lazy", str(folder)], capture_output=True, timeout=20, check=True)
        else:
            close(0o644)


async def test_a_read_only_file_is_an_outage_until_it_is_writable(
    bus: Bus, finished: Simulation, tmp_path: Path
) -> None:
    """A connection that was made meanwhile, by whoever only reads, must not keep the writer out for ever."""
    first, folder = tmp_path / "first", tmp_path / "second"
    folder.mkdir()
    archive = open_archive(f"sqlite:///{first}/archive.db")
    await archive.open()
    await publish(bus, finished.log)
    await archive.apply(finished.log[:20])
    for file in first.iterdir():  # with its WAL, as after a crash
        (folder / file.name).write_bytes(file.read_bytes())
    await archive.close()
    with read_only(folder) as mend:
        archive = open_archive(f"sqlite:///{folder}/archive.db")
        await archive.open()
        applier = Applier(bus, archive, await bus.consumer("store"), 16)
        assert (await archive.state_counts("r1")).keys()
        writing = asyncio.create_task(applier.run())
        await until(partial(is_available, applier, False))
        outage = applier.state.outage
        mend()
        await until(partial(is_available, applier, True))
        await until(partial(has_applied, archive, len(finished.log)))
        writing.cancel()
        await archive.close()

    assert "readonly" in outage


CONFLICT = "WriteConflict error: this operation conflicted with another operation"


@pytest.mark.parametrize(
    "error",
    [OperationFailure(CONFLICT, 112), BulkWriteError({"writeErrors": [{"index": 0, "code": 112, "errmsg": CONFLICT}]})],
)
async def test_a_conflict_of_two_writers_is_explained(error: OperationFailure) -> None:
    """MongoDB's own message advises to retry, which the store does, and not why that fails for a while."""
    with pytest.raises(OtherWriter, match="another store writes at the same time, or one that was killed"):
        async with translate_errors():
            raise error
