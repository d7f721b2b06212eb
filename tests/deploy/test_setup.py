"""`asi-arch setup`: idempotent, tells every drift, and what drifted keeps services from starting."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import nats
import pymongo
import pytest
from nats.js import api

from services.chassis.bus import Bus, Logged
from services.chassis.bus.topology import EVENTS
from services.chassis.service import SETTINGS_EXIT
from services.store.app import StoreSettings
from services.store.backends import open_archive, opened
from services.store.tools import set_up


@pytest.fixture
def at_home(bus: Bus, nats_url: str, tmp_path: Path) -> StoreSettings:
    """A store whose broker and archive are as they must be."""
    return StoreSettings(nats_url=nats_url, data_dir=tmp_path)


def run_module(settings: StoreSettings, module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module with the environment of a deployment until it ends by itself."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ASI_")}
    own = {"ASI_NATS_URL": settings.nats_url, "ASI_DATA_DIR": str(settings.data_dir)}
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**inherited, **own}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


async def test_a_second_set_up_creates_nothing_and_finds_no_difference(nats_url: str, tmp_path: Path) -> None:
    """It runs at every deployment."""
    at_home = StoreSettings(nats_url=nats_url, data_dir=tmp_path)
    first, second = await set_up(at_home, create=True), await set_up(at_home, create=True)

    assert "stream EVENTS" in first.created
    assert "consumer engineer-tiny" in first.created
    assert first.differences == ()
    assert second == type(second)((), ())


async def test_a_check_creates_nothing(at_home: StoreSettings, bus: Bus) -> None:
    """It may be asked anywhere, at any time."""
    await bus.remove_stream("ADVISORIES")
    report = await set_up(at_home, create=False)

    assert report.created == ()
    assert "stream ADVISORIES does not exist" in report.differences
    assert any(line.startswith("archive: it cannot be read") for line in report.differences)
    assert not list(at_home.data_dir.glob("archive.db*"))


@pytest.mark.slow
async def test_the_command_lists_what_it_created_and_fails_on_drift(at_home: StoreSettings, bus: Bus) -> None:
    """What a deployment's first step runs, and whoever looks after it."""
    await bus.remove_stream("ADVISORIES")
    done = run_module(at_home, "services.console", "setup")
    with sqlite3.connect(at_home.data_dir / "archive.db") as database:
        database.execute("DROP INDEX candidates_by_loss")
    drifted = run_module(at_home, "services.console", "setup", "--check")

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "created stream ADVISORIES",
        "created consumer dead-letters",
        "streams, consumers and the archive are as they must be",
    ]
    assert drifted.returncode == 1
    assert "drift: archive: index candidates_by_loss does not exist" in drifted.stderr


async def test_a_lost_log_is_reported_by_the_set_up_that_creates_its_stream(at_home: StoreSettings, bus: Bus) -> None:
    """Services whose stream is lost ask for the set-up, which alone would leave an empty log beside an archive."""
    async with opened(at_home.archive) as archive:
        await archive.apply([Logged(1, "asi.v1.r1.run.started", b"the only message")])
    await bus.remove_stream(EVENTS)
    report = await set_up(at_home, create=True)

    assert "stream EVENTS" in report.created
    assert report.differences == (
        "log: it ends at message 0, but the archive has applied 1: run `asi-arch recover` while no service runs",
    )


async def test_changed_streams_and_consumers_are_named_with_both_values(at_home: StoreSettings, bus: Bus) -> None:
    """Somebody changed a setting of the broker; it is reported and not changed back."""
    await set_up(at_home, create=True)
    client = await nats.connect(at_home.nats_url)
    context = client.jetstream()
    stream = (await context.stream_info(EVENTS)).config
    stream.max_msgs = 5
    stream.discard = api.DiscardPolicy.OLD
    await context.update_stream(stream)
    consumer = (await context.consumer_info(EVENTS, "judge")).config
    consumer.ack_wait = 5
    await context.add_consumer(EVENTS, consumer)
    await client.close()
    report = await set_up(at_home, create=True)

    assert any(line.startswith("stream EVENTS: discard is") for line in report.differences)
    assert "stream EVENTS: max_msgs is 5, must be -1" in report.differences
    assert any(line.startswith("consumer judge: ack_wait is 5") for line in report.differences)
    refused = run_module(at_home, "services.judge")
    assert refused.returncode == SETTINGS_EXIT
    assert "run `asi-arch setup`" in refused.stderr.splitlines()[-1]


async def test_a_dropped_or_foreign_index_of_sqlite_keeps_the_store_from_starting(
    at_home: StoreSettings, bus: Bus
) -> None:
    """A missing index makes every query slow."""
    await set_up(at_home, create=True)
    with sqlite3.connect(at_home.data_dir / "archive.db") as database:
        database.execute("DROP INDEX candidates_by_fitness")
        database.execute("CREATE INDEX mine ON candidates (name)")
    report = await set_up(at_home, create=True)

    assert "archive: index candidates_by_fitness does not exist" in report.differences
    assert "archive: index mine is unexpected" in report.differences
    refused = run_module(at_home, "services.store")
    assert refused.returncode == SETTINGS_EXIT
    assert "index candidates_by_fitness does not exist" in refused.stderr


@pytest.mark.mongo
async def test_a_dropped_or_changed_index_of_mongodb_is_reported(mongo_url: str) -> None:
    """The unique index is what counts an event once."""
    archive = open_archive(mongo_url)
    await archive.open()
    before = await archive.drift()
    with pymongo.MongoClient[dict[str, object]](mongo_url) as client:
        log = client.get_default_database()["log"]
        log.drop_index("accepted_once")
        log.create_index([("event_id", 1)], name="accepted_once")
        log.drop_index("run_1__id_1")
    differences = await archive.drift()
    await archive.close()

    assert before == []
    assert any(line.startswith("index accepted_once of log is") for line in differences)
    assert "index run_1__id_1 of log does not exist" in differences


def test_a_health_check_without_an_address_says_so() -> None:
    """On a machine without containers it is called by hand."""
    environment = {name: value for name, value in os.environ.items() if name != "ASI_LISTEN"}
    script = Path(__file__).parents[2] / "deploy/healthcheck.py"
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (1, "ASI_LISTEN is not set: give it the value that the service has\n")
