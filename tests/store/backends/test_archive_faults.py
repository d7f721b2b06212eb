"""What the archive does when something breaks: kills, lost databases, damaged files, other versions."""

import asyncio
import base64
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pymongo
import pytest

from services.chassis.errors import SettingsError
from services.store.backends import open_archive, restore_archive
from services.store.backends.folding import Loaded, fold, unapplied
from services.store.backends.sqlite.connection import connect
from services.store.backends.sqlite.schema import MIGRATIONS, migrate
from services.store.port import Archive, ArchiveUnavailable
from services.store.reactions import react
from tests.mongod import Mongod
from tests.store.backends.archive_urls import archive_url
from tests.store.simulation import Simulation

CHILD = Path(__file__).with_name("crash_child.py")


def unsaid(simulation: Simulation, applied: int) -> list[str]:
    """What the store owes the log after so many messages."""
    effects = fold(unapplied(simulation.log[:applied], 0), Loaded(), react)
    return list(effects.reactions)


@pytest.mark.parametrize("url", ["sqlite", pytest.param("mongo", marks=pytest.mark.mongo)], indirect=True)
async def test_a_kill_leaves_sequence_effect_and_answers_together(
    url: str, finished: Simulation, tmp_path: Path
) -> None:
    """A process applies one event after the other and dies at any moment; the next goes on exactly there."""
    log = tmp_path / "log.json"
    log.write_text(
        json.dumps(
            [(message.sequence, message.subject, base64.b64encode(message.body).decode()) for message in finished.log]
        )
    )
    chance = random.Random(11)
    for _ in range(3):
        reported = kill_after(chance.randrange(3, 15), url, log)
        archive = open_archive(url)
        await archive.open()
        applied, waiting = await archive.applied(), [outgoing.event.id for outgoing in await archive.outbox()]
        await archive.close()

        assert applied >= reported
        assert waiting == unsaid(finished, applied)
    await asyncio.to_thread(
        lambda: subprocess.run([sys.executable, CHILD, url, log], check=True, stdout=subprocess.DEVNULL, timeout=90)
    )
    await same_as_undisturbed(url, finished, tmp_path)


def kill_after(lines: int, url: str, log: Path) -> int:
    """Kill a child some lines into its work; the last sequence it reported."""
    child = subprocess.Popen([sys.executable, CHILD, url, log], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    last = 0
    try:
        for _ in range(lines):
            last = int(child.stdout.readline() or last)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait(20)
        child.stdout.close()
    return last


async def same_as_undisturbed(url: str, simulation: Simulation, folder: Path) -> None:
    """The digest of an archive whose process was never killed."""
    digests = []
    for where in (url, f"sqlite:///{folder}/undisturbed.db"):
        archive = open_archive(where)
        await archive.open()
        await archive.apply(simulation.log, react)
        digests.append(await archive.digest("r1"))
        await archive.close()

    assert digests[0] == digests[1]


@pytest.mark.slow
@pytest.mark.mongo
async def test_an_archive_without_its_server_raises_an_error_and_recovers(
    tmp_path_factory: pytest.TempPathFactory, mongod: Mongod, finished: Simulation
) -> None:
    """Nothing is lost, nothing is applied twice. `mongod` is asked for only to skip where there is none."""
    server = mongod.another(tmp_path_factory.mktemp("mongod"))
    server.start()
    archive = open_archive(f"{server.url}/asi?replicaSet=rs0")
    await archive.open()
    await archive.apply(finished.log[:20])
    server.stop()

    assert not await archive.healthy()
    with pytest.raises(ArchiveUnavailable):
        await archive.apply(finished.log[20:])
    with pytest.raises(ArchiveUnavailable):
        await archive.run("r1")
    server.start()
    assert await archive.applied() == 20
    await archive.apply(finished.log)
    assert (await archive.digest("r1"))[1] == len(finished.log)
    await archive.close()
    server.stop()


@pytest.mark.mongo
async def test_a_server_without_transactions_is_refused(mongod: Mongod, tmp_path: Path) -> None:
    """A single mongod would lose the promise of all or nothing."""
    server = mongod.another(tmp_path, replica_set=False)
    server.start()

    with pytest.raises(SettingsError, match="replica set"):
        await open_archive(f"{server.url}/asi").open()
    server.stop()


@pytest.mark.mongo
async def test_a_database_of_another_application_is_refused_and_stays_as_it_is(mongod: Mongod) -> None:
    """A misspelt name must not add collections to somebody's data."""
    archive = open_archive(f"{mongod.url}/shop?replicaSet=rs0")
    with pymongo.MongoClient[dict[str, object]](f"{mongod.url}/?replicaSet=rs0") as client:
        client.shop.orders.insert_one({"_id": 1})
        client.shop.log.insert_one({"_id": "a name that an archive uses as well"})
        with pytest.raises(
            SettingsError, match=r"shop belongs to another application \(it contains log, orders\): name"
        ):
            await archive.open()

        assert sorted(client.shop.list_collection_names()) == ["log", "orders"]
    await archive.close()


@pytest.mark.mongo
async def test_a_database_of_a_newer_version_is_refused(mongod: Mongod) -> None:
    """An old program must not write into what it does not know."""
    url = f"{mongod.url}/asi_newer?replicaSet=rs0"
    archive = open_archive(url)
    await archive.open()
    await archive.close()
    with pymongo.MongoClient[dict[str, object]](url) as client:
        client.asi_newer.progress.update_one({"_id": "schema"}, {"$set": {"version": 99}})

    with pytest.raises(SettingsError, match="schema version 99"):
        await open_archive(url).open()


async def test_a_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """As above, with SQLite."""
    path = tmp_path / "archive.db"
    connection = connect(path, writes=True, create=True)
    connection.execute("PRAGMA user_version = 99")
    connection.close()

    with pytest.raises(SettingsError, match="schema version 99"):
        await open_archive(f"sqlite:///{path}").open()


async def test_a_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    """Told apart from one that is out of reach: waiting does not help."""
    path = tmp_path / "archive.db"
    path.write_text("this is a letter, not a database; " * 100)

    with pytest.raises(SettingsError, match=r"archive\.db is damaged or no SQLite file"):
        await open_archive(f"sqlite:///{path}").open()


@pytest.mark.parametrize("version", [0, len(MIGRATIONS), 99])
@pytest.mark.parametrize("mode", ["delete", "wal"])
async def test_a_file_of_another_application_is_refused_and_stays_as_it_is(
    tmp_path: Path, version: int, mode: str
) -> None:
    """Whatever number it gives its own schema, and with pages in its WAL that its last writer left."""
    path = tmp_path / "notes.db"
    writer = (
        f"import os, sqlite3; c = sqlite3.connect({str(path)!r}); c.execute('PRAGMA journal_mode = {mode}');"
        f"c.execute('CREATE TABLE notes (a)'); c.execute('PRAGMA user_version = {version}'); c.commit(); os._exit(0)"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", writer], check=True)
    before = content_of(tmp_path)

    with pytest.raises(SettingsError, match=r"notes\.db belongs to another application \(it contains notes\): name"):
        await open_archive(f"sqlite:///{path}").open()
    assert content_of(tmp_path) == before


def content_of(folder: Path) -> dict[str, bytes]:
    """Each file's bytes, without SQLite's index of a WAL, which readers write as well."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith("-shm")}


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_a_file_of_an_older_version_is_migrated(tmp_path: Path, version: int) -> None:
    """It has the tables of its version."""
    with closing(connect(tmp_path / "archive.db", writes=True, create=True)) as connection:
        migrate(connection, "archive.db", MIGRATIONS[:version])
    archive = open_archive(f"sqlite:///{tmp_path}/archive.db")
    await archive.open()

    assert await archive.drift() == []
    await archive.close()


async def test_a_file_that_cannot_be_created_is_unavailable(tmp_path: Path) -> None:
    """The folder may come back: a disk that is mounted late."""
    (tmp_path / "file").write_text("")
    archive = open_archive(f"sqlite:///{tmp_path}/file/archive.db")

    with pytest.raises(ArchiveUnavailable):
        await archive.open()
    assert not await archive.healthy()
    await archive.close()


@pytest.mark.slow
async def test_a_file_locked_by_another_writer_is_unavailable(tmp_path: Path, finished: Simulation) -> None:
    """The lock is waited for, then the caller is told to try again; nothing was applied."""
    path = tmp_path / "archive.db"
    archive = open_archive(f"sqlite:///{path}")
    await archive.open()
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")

    applying = asyncio.create_task(archive.apply(finished.log))
    await asyncio.sleep(0.1)
    assert await archive.applied() == 0  # readers do not wait for the writer
    with pytest.raises(ArchiveUnavailable, match="locked"):
        await applying
    writer.execute("ROLLBACK")
    assert len(await archive.apply(finished.log)) == len(finished.log)
    writer.close()
    await archive.close()


def test_a_migration_that_fails_leaves_the_version_before_it(tmp_path: Path) -> None:
    """The steps and the version number are one transaction."""
    connection = connect(tmp_path / "archive.db", writes=True, create=True)
    migrate(connection, "archive.db")

    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, "archive.db", (*MIGRATIONS, "CREATE TABLE more (a INTEGER); CREATE TABLE runs (b TEXT)"))
    assert connection.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    migrate(connection, "archive.db", (*MIGRATIONS, "CREATE TABLE more (a INTEGER)"))
    assert connection.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS) + 1
    connection.close()


async def test_a_backup_becomes_the_same_archive(
    archive: Archive, url: str, finished: Simulation, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """It goes on with the log where the copy was made; nothing is ever overwritten."""
    await archive.apply(finished.log[:30], react)
    before = await archive.digest("r1")
    await archive.backup(tmp_path / "copy")
    await archive.apply(finished.log[30:])
    elsewhere = archive_url(url.split(":")[0].removesuffix("db"), request, tmp_path)

    await restore_archive(tmp_path / "copy", elsewhere)
    restored = open_archive(elsewhere)
    await restored.open()

    assert await restored.digest("r1") == before
    assert [outgoing.event.id for outgoing in await restored.outbox()] == unsaid(finished, 30)
    await restored.apply(finished.log)
    assert await restored.digest("r1") == await archive.digest("r1")
    await restored.close()
    with pytest.raises(FileExistsError):
        await archive.backup(tmp_path / "copy")
    with pytest.raises(FileExistsError):
        await restore_archive(tmp_path / "copy", elsewhere)
    with pytest.raises(FileNotFoundError):
        await restore_archive(tmp_path / "nothing", archive_url("sqlite", request, tmp_path))


async def test_a_copy_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """The archive itself is sound."""
    archive = open_archive(f"sqlite:///{tmp_path}/archive.db")
    await archive.open()
    with pytest.raises(ArchiveUnavailable, match="/proc/copy: unable to open"):
        await archive.backup(Path("/proc/copy"))
    await archive.close()


@pytest.mark.parametrize("content", ["nothing", "text", "another database", "the first half"])
async def test_only_an_intact_copy_is_restored(tmp_path: Path, finished: Simulation, content: str) -> None:
    """Anything else would take the place of the archive that is to be restored."""
    copy, target = tmp_path / "copy", tmp_path / "archive.db"
    archive = open_archive(f"sqlite:///{tmp_path}/source.db")
    await archive.open()
    await archive.apply(finished.log)
    await archive.backup(copy)
    await archive.close()
    if content == "another database":
        copy.unlink()
        with closing(sqlite3.connect(copy)) as connection:
            connection.execute("CREATE TABLE other (a INTEGER)")
    else:
        half = copy.read_bytes()[: copy.stat().st_size // 2]
        copy.write_bytes({"nothing": b"", "text": b"no database\n" * 200}.get(content, half))

    with pytest.raises(SettingsError, match="copy is not an intact copy of an archive"):
        await restore_archive(copy, f"sqlite:///{target}")
    assert not target.exists()


@pytest.mark.parametrize("url", ["sqlite:///", "sqlite:///:memory:", "postgres://x/y", "archive.db", "mongodb://"])
async def test_an_impossible_url_is_refused_with_the_setting_s_name(url: str) -> None:
    """One sentence that says what to write instead."""
    with pytest.raises(SettingsError, match="ASI_ARCHIVE_URL"):
        await open_archive(url).open()
