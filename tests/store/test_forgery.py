"""A body under a subject that is not its own: the broker lets it through, the archive does not believe it."""

from dataclasses import replace
from pathlib import Path

from services.chassis.bus import Bus, Logged
from services.chassis.settings import ServiceSettings
from services.contracts.events_pb2 import Event
from services.store.backends import open_archive
from services.store.replay import replay
from tests.store.simulation import Simulation


async def test_a_verdict_published_as_an_engineer_is_refused_live_and_in_replays(
    bus: Bus, settings: ServiceSettings, finished: Simulation, tmp_path: Path
) -> None:
    """Else whoever may say `trained` could say anything: rights are checked on subjects."""
    index = next(
        n for n, message in enumerate(finished.log) if Event.FromString(message.body).HasField("candidate_judged")
    )
    judged = finished.log[index]
    forged = replace(judged, subject=judged.subject.replace("candidate.judged", "candidate.trained"))
    log = [*finished.log[:index], forged]
    live, into = (open_archive(f"sqlite:///{tmp_path}/{name}.db") for name in ("live", "into"))
    for archive in (live, into):
        await archive.open()
    await live.apply([Logged(number, message.subject, message.body) for number, message in enumerate(log, 1)])
    for message in log:
        await bus.publish_body(message.subject, str(message.sequence), message.body)
    rows = [row async for row in live.log("r1")]
    replays = [await replay(bus, "r1", target, live) for target in (None, into)]

    assert not rows[-1].accepted
    assert "not a readable event of its subject" in rows[-1].refused_because
    assert [result.differences for result in replays] == [(), ()]
    assert [result.agrees for result in replays] == [True, True]
    await live.close()
    await into.close()
