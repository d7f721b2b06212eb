"""A run forked from another at an event: the same history by the same rules, then a life of its own."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.chassis.bus import Bus, Logged
from services.chassis.errors import NotFound, NotPossible, SettingsError
from services.chassis.settings import ServiceSettings
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.store.backends import open_archive
from services.store.forking import fork, history, inherited
from services.store.port import Archive
from services.store.reactions import react
from services.store.replay import replay
from tests.store.simulation import Simulation, catch_up, settings


@pytest_asyncio.fixture
async def live(bus: Bus, finished: Simulation, tmp_path: Path) -> AsyncIterator[Archive]:
    """An archive that has lived through the simulation, whose log lies in the broker."""
    for message in finished.log:
        await bus.publish_body(message.subject, f"{message.sequence}", message.body)
    archive = open_archive(f"sqlite:///{tmp_path}/live.db")
    await archive.open()
    await archive.apply(finished.log, react)
    yield archive
    await archive.close()


def middle(simulation: Simulation) -> Logged:
    """The third end of a candidate: one proposal has ended, others are under way."""
    return [message for message in simulation.log if message.subject.endswith("candidate.archived")][2]


async def test_a_fork_has_the_history_of_its_source_and_requests_open_candidates_again(
    live: Archive, bus: Bus, finished: Simulation
) -> None:
    """Records, pool and numbers are those of that moment; nobody answers the history a second time."""
    cut = middle(finished)
    past = await history(live, "r1", str(cut.sequence))
    before = Simulation()
    for message in finished.log[: cut.sequence]:
        before.hear(message)
    await fork(bus, past, "r2", settings(budget=events_pb2.Budget(candidates=9), parent_policy="uct"))
    requests = await catch_up(live, bus)

    ended = {name: row.record for (_, name), row in before.loaded.rows.items() if row.ended}
    records = {candidate.id: candidate for candidate in await live.candidates("r2", sorted(ended))}
    assert len(ended) == 3
    for name, record in ended.items():
        record.run, record.head = "r2", record.head.replace("r1.", "r2.", 1)
        assert records[name] == record
    row = await live.run("r2")
    was = before.loaded.runs["r1"].state
    assert (row.origin, row.settings.parent_policy) == (f"forked from r1 at {cut.sequence}", "uct")
    assert (row.state.numbers, row.state.in_flight) == (was.numbers, was.in_flight)
    assert [member.id for member in row.state.pool.members] == [member.id for member in was.pool.members]
    assert {event.candidate for event in requests} == set(was.in_flight)
    assert {event.WhichOneof("fact") for event in requests} == {"candidate_requested"}


async def test_a_fork_replays_to_its_own_digest_and_its_chains_hold(
    live: Archive, bus: Bus, finished: Simulation, settings: ServiceSettings, tmp_path: Path
) -> None:
    """From its own log alone; the hashes in it are those of the source."""
    await _forked(live, bus, middle(finished))
    result = await replay(bus, "r2", None, live)

    assert result.agrees
    chain, source = await live.chain("r2", "c000001"), await live.chain("r1", "c000001")
    assert [link.sha256 for link in chain] == [link.sha256 for link in source if link.accepted]
    assert [link.event.id for link in chain] == [
        link.event.id.replace("r1.", "r2.", 1) for link in source if link.accepted
    ]
    assert all(link.accepted for link in chain)


async def test_a_fork_goes_on_to_its_own_end(live: Archive, bus: Bus, finished: Simulation) -> None:
    """The requests that follow the fork are answered as any run's; the source stays as it was."""
    untouched = await live.digest("r1")
    requests = await _forked(live, bus, middle(finished))
    request = next(event for event in requests if event.candidate == requests[0].candidate)
    await bus.publish(request)
    await catch_up(live, bus)

    assert (await live.record("r2", request.candidate)).state == pb.STATE_REQUESTED
    assert await live.digest("r1") == untouched


async def test_a_fork_of_a_fork_holds_the_first_history(
    live: Archive, bus: Bus, finished: Simulation, settings: ServiceSettings
) -> None:
    """Copies are copied as what they were."""
    await _forked(live, bus, middle(finished))
    again = await history(live, "r2", "")
    await fork(bus, again, "r3", _settings())
    await catch_up(live, bus)
    result = await replay(bus, "r3", None, live)

    assert result.agrees
    assert (await live.record("r3", "c000001")).run == "r3"
    assert (await live.run("r3")).origin == f"forked from r2 at {again.until}"


async def test_an_event_is_named_by_its_id_and_an_unknown_one_is_refused(live: Archive, finished: Simulation) -> None:
    """Either way of naming gives the same history."""
    cut = middle(finished)
    name = events_pb2.Event.FromString(cut.body).id

    assert await history(live, "r1", name) == await history(live, "r1", str(cut.sequence))
    with pytest.raises(NotFound, match=r"no accepted event 'r1\.nothing'"):
        await history(live, "r1", "r1.nothing")


async def test_a_log_that_was_changed_is_not_forked(live: Archive, bus: Bus, finished: Simulation) -> None:
    """The history is compared with what the archive saw."""
    past = await history(live, "r1", "")
    past.events[finished.log[3].sequence] = b"another hash"

    with pytest.raises(NotPossible, match="event 4 of run r1 was changed"):
        await fork(bus, past, "r2", _settings())


async def test_an_interrupted_fork_can_be_completed_under_its_own_name_only(
    live: Archive, bus: Bus, finished: Simulation
) -> None:
    """Whoever is killed in the middle of a history asks for the same fork again; nothing lies there twice."""
    past = await history(live, "r1", str(middle(finished).sequence))
    copies = [inherited(message, "r2", past.until) for message in finished.log if message.sequence in past.events]
    for copy in copies[:7]:
        await bus.publish(copy)

    for other in ("1", ""):  # a shorter and a longer history
        with pytest.raises(SettingsError, match="a run called r2 exists already"):
            await fork(bus, await history(live, "r1", other), "r2", settings())
    await fork(bus, past, "r2", settings())
    bodies = [events_pb2.Event.FromString(message.body) async for message in bus.read_log("asi.v1.r2.>")]
    assert [event.id for event in bodies] == [*(copy.id for copy in copies), f"r2.forked.{past.until}"]

    with pytest.raises(SettingsError, match="a run called r2 exists already"):
        await fork(bus, past, "r2", settings())


async def test_a_fork_of_an_endpoint_run_uses_recorded_answers_first(
    live: Archive, bus: Bus, finished: Simulation
) -> None:
    """From there on the endpoint is asked."""
    cut = middle(finished)
    await fork(bus, await history(live, "r1", str(cut.sequence)), "r2", settings(mind="openai"))
    await catch_up(live, bus)

    assert (await live.run("r2")).settings.mind == f"recorded:r1@{cut.sequence}"


def test_forking_twice_gives_the_same_history(finished: Simulation) -> None:
    """Byte by byte, so that a fork that was broken off can be published again."""
    assert inherited(finished.log[5], "r2", 9) == inherited(finished.log[5], "r2", 9)
    assert inherited(finished.log[5], "r2", 9).id.startswith("r2.")


async def _forked(archive: Archive, bus: Bus, cut: Logged) -> list[events_pb2.Event]:
    await fork(bus, await history(archive, "r1", str(cut.sequence)), "r2", _settings())
    return await catch_up(archive, bus)


def _settings() -> events_pb2.RunSettings:
    return settings(budget=events_pb2.Budget(candidates=9))


async def test_of_two_forks_at_once_one_gets_the_name(live: Archive, bus: Bus, finished: Simulation) -> None:
    """Of different histories, which must not mix, and of the same one with different settings."""
    for name, others in (("r2", "1"), ("r3", str(middle(finished).sequence))):
        pasts = await history(live, "r1", str(middle(finished).sequence)), await history(live, "r1", others)
        forks = (fork(bus, past, name, settings(seed=seed)) for seed, past in enumerate(pasts, 1))
        answers = await asyncio.gather(*forks, return_exceptions=True)
        await catch_up(live, bus)

        winner = next(index for index, answer in enumerate(answers) if isinstance(answer, int))
        assert "exists already" in str(answers[1 - winner])
        row = await live.run(name)
        assert (row.settings.seed, row.origin) == (winner + 1, f"forked from r1 at {pasts[winner].until}")
        assert (await replay(bus, name, None, live)).agrees
