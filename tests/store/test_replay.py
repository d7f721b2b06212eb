"""An archive rebuilt from a real server's log, and what is found out about a log that was tampered with."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from services.chassis.bus import Bus, Logged
from services.chassis.errors import NotFound, SettingsError
from services.chassis.settings import ServiceSettings
from services.contracts import events_pb2
from services.store.backends import open_archive
from services.store.port import Archive
from services.store.replay import Replay, replay
from tests.store.simulation import Simulation


async def publish(bus: Bus, messages: Sequence[Logged]) -> None:
    """A log as it is, each message once: the broker would drop a repeated id."""
    for message in messages:
        await bus.publish_body(message.subject, f"{message.sequence}", message.body)


async def lived(folder: Path, messages: Sequence[Logged]) -> Archive:
    """An archive that saw these messages."""
    archive = open_archive(f"sqlite:///{folder}/live.db")
    await archive.open()
    await archive.apply([Logged(number, message.subject, message.body) for number, message in enumerate(messages, 1)])
    return archive


async def replayed(bus: Bus, live: Archive | None, into: Archive | None = None) -> Replay:
    """The simulation's run, from the log."""
    return await replay(bus, "r1", into, live)


async def test_a_replay_gives_the_live_archives_digest_every_time(
    bus: Bus, settings: ServiceSettings, finished: Simulation, tmp_path: Path
) -> None:
    """In memory, in memory again, and in a database; other runs in the same log change nothing."""
    finished.repeat(5)
    finished.garbage()
    other = Simulation("r2")
    other.start()
    await publish(
        bus, [*finished.log[:20], *(Logged(900 + message.sequence, *_rest(message)) for message in other.log)]
    )
    await publish(bus, finished.log[20:])
    live = await lived(tmp_path, finished.log)
    into = open_archive(f"sqlite:///{tmp_path}/into.db")
    await into.open()

    first, second, third = [await replayed(bus, live, target) for target in (None, None, into)]

    assert [result.agrees for result in (first, second, third)] == [True] * 3
    assert first.digest == second.digest == third.digest == first.live_digest
    assert first.events == third.events == sum(change.accepted for change in [row async for row in live.log("r1")])
    await into.close()
    await live.close()


async def test_a_missing_event_is_named(
    bus: Bus, settings: ServiceSettings, finished: Simulation, tmp_path: Path
) -> None:
    """One analysis is gone from the log: whatever followed from it is refused as well."""
    missing = next(message for message in finished.log if message.subject.endswith("candidate.analysed"))
    await publish(bus, [message for message in finished.log if message is not missing])
    live = await lived(tmp_path, finished.log)

    result = await replayed(bus, live)

    assert not result.agrees
    assert (
        f"event {_id(missing)} (sequence {missing.sequence}) is in the archive, but missing in the log"
        in result.differences
    )
    await live.close()


async def test_a_changed_event_is_named(
    bus: Bus, settings: ServiceSettings, finished: Simulation, tmp_path: Path
) -> None:
    """A better loss, written into the log afterwards."""
    index = next(n for n, message in enumerate(finished.log) if message.subject.split(".")[4] == "trained")
    event = events_pb2.Event.FromString(finished.log[index].body)
    event.candidate_trained.training.loss = 0.1
    changed = Logged(index + 1, finished.log[index].subject, event.SerializeToString(deterministic=True))
    await publish(bus, [*finished.log[:index], changed, *finished.log[index + 1 :]])
    live = await lived(tmp_path, finished.log)

    result = await replayed(bus, live)

    assert result.digest != result.live_digest
    assert any(line.startswith(f"event {event.id} was changed") for line in result.differences)
    await live.close()


async def test_reordered_events_are_named(
    bus: Bus, settings: ServiceSettings, finished: Simulation, tmp_path: Path
) -> None:
    """A result before the claim that allows it."""
    index = next(n for n, message in enumerate(finished.log) if message.subject.endswith("candidate.claimed"))
    log = list(finished.log)
    log[index], log[index + 1] = log[index + 1], log[index]
    await publish(bus, log)
    live = await lived(tmp_path, finished.log)

    result = await replayed(bus, live)

    assert not result.agrees
    assert any(_id(log[index]) in line and "the order was changed" in line for line in result.differences)
    await live.close()


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE candidates SET fitness = 99 WHERE id = 'c000002'", "candidate c000002: its fitness is listed as 99.0"),
        ("UPDATE candidates SET name = 'Best' WHERE id = 'c000003'", "candidate c000003: its name is listed as 'Best'"),
        ("DELETE FROM candidates WHERE id = 'c000003'", "candidate c000003 is missing in the archive's list"),
        ("UPDATE runs SET settings = X'0801'", "the settings or the origin of run r1 differ from those"),
        ("UPDATE runs SET origin = 'imported'", "the settings or the origin of run r1 differ from those in its log"),
        ("UPDATE runs SET state = replace(state, 'proposals_asked', 'x')", "the state of run r1 (phase, pool,"),
        (
            "UPDATE records SET record = (SELECT record FROM records WHERE id = 'c000002') WHERE id = 'c000003'",
            "the record of candidate c000003 is another than the one that its events give",
        ),
        ("UPDATE log SET event = later(event)", "is stored in the archive with other content than the log's"),
    ],
)
async def test_what_was_changed_in_the_archive_is_named(
    bus: Bus, settings: ServiceSettings, finished: Simulation, tmp_path: Path, statement: str, named: str
) -> None:
    """What lists, trees and a resumed run read, beside the records."""
    await publish(bus, finished.log)
    live = await lived(tmp_path, finished.log)
    before = await replayed(bus, live)
    await live.close()
    with closing(sqlite3.connect(tmp_path / "live.db")) as connection:
        connection.create_function("later", 1, _later)
        assert connection.execute(statement).rowcount > 0
        connection.commit()
    live = open_archive(f"sqlite:///{tmp_path}/live.db")
    await live.open()

    after = await replayed(bus, live)

    assert before.agrees
    assert not after.agrees
    assert any(named in line for line in after.differences)
    await live.close()


async def test_replaying_an_empty_run_or_into_an_existing_file_is_refused(
    bus: Bus, settings: ServiceSettings, finished: Simulation, tmp_path: Path
) -> None:
    """Nothing to rebuild, and nothing that may be overwritten."""
    live = await lived(tmp_path, finished.log)

    with pytest.raises(NotFound, match="no event of a run called r1"):
        await replayed(bus, live)
    await publish(bus, finished.log)
    with pytest.raises(SettingsError, match="is not empty"):
        await replayed(bus, None, live)
    await live.close()


def _later(body: bytes) -> bytes:
    event = events_pb2.Event.FromString(body)
    event.time.seconds += 1
    return event.SerializeToString(deterministic=True)


def _id(message: Logged) -> str:
    return events_pb2.Event.FromString(message.body).id


def _rest(message: Logged) -> tuple[str, bytes]:
    return message.subject, message.body
