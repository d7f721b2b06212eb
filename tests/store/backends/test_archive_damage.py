"""Archive files that somebody has written to by hand."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from services.chassis.errors import SettingsError
from services.store.backends import open_archive
from services.store.port import Archive, ArchiveDamaged
from tests.store.simulation import Simulation


@asynccontextmanager
async def archive_changed_by(statement: str, path: Path) -> AsyncIterator[Archive]:
    """An open archive into whose file somebody has written by hand."""
    simulation = Simulation()
    simulation.start()
    archive = open_archive(f"sqlite:///{path}")
    await archive.open()
    await archive.apply(simulation.log)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()
    yield archive
    await archive.close()


async def test_a_record_that_cannot_be_read_is_damage(tmp_path: Path) -> None:
    """The file is sound to SQLite."""
    async with archive_changed_by("UPDATE records SET record = X'ff00ff'", tmp_path / "archive.db") as archive:
        with pytest.raises(ArchiveDamaged, match="restore a backup"):
            await archive.candidates("r1", ["c000001"])


SWAPPED = "UPDATE sqlite_master SET sql = replace(sql, 'record {}', 'record {}') WHERE name = 'records'"


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (["PRAGMA user_version = 1"], "its schema version is '1', must be '3'"),
        (["DROP TABLE records"], "table records does not exist"),
        (["ALTER TABLE runs DROP COLUMN state"], "table runs is 'CREATE"),
        ([SWAPPED.format("BLOB", "ANY"), "UPDATE records SET record = 'text'"], "table records is 'CREATE"),
        (["UPDATE runs SET state = 'text'"], "a record or event in it cannot be read"),
        (["DELETE FROM progress"], "how much of the log it has applied is missing"),
    ],
    ids=["version", "table", "column", "type", "state", "progress"],
)
async def test_a_file_that_was_changed_by_hand_is_damaged(tmp_path: Path, statements: list[str], reason: str) -> None:
    """The error of a query or of a record's reader, which names neither the file nor the fix, would end a command."""
    path, simulation = tmp_path / "archive.db", Simulation()
    simulation.start()
    archive = open_archive(f"sqlite:///{path}")
    await archive.open()
    await archive.apply(simulation.log)
    await archive.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        for statement in statements:
            connection.execute(statement)
            connection.commit()
            connection.execute("PRAGMA writable_schema = RESET")
    archive = open_archive(f"sqlite:///{path}")

    async def read() -> None:
        await archive.open()
        await archive.runs()
        await archive.candidates("r1", ["c000001"])
        await archive.applied()

    with pytest.raises((ArchiveDamaged, SettingsError)) as raised:
        await read()
    assert f"{path} is damaged: {reason}" in str(raised.value)
    assert "restore a backup" in str(raised.value)
    await archive.close()


async def test_a_damaged_archive_is_not_copied(tmp_path: Path) -> None:
    """A backup that nobody can restore would be noticed on the day it is needed."""
    async with archive_changed_by("DELETE FROM log WHERE sequence = 2", tmp_path / "archive.db") as archive:
        with pytest.raises(ArchiveDamaged, match=r"is damaged \(it has .* log rows.*\), so nothing was copied"):
            await archive.backup(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
