"""Minds of services: budgets in the store, calls as facts, replays from a run's record."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from services.chassis.bus import Bus
from services.chassis.errors import SettingsError, Transient
from services.chassis.worker import Job
from services.llm.budget import Spend
from services.llm.minds import ArchiveLedger, Minds
from services.llm.port import BudgetExhausted, Message, Mind, NotRecorded, Request, Role
from services.llm.scripted import Script, ScriptedEndpoint, Step
from tests.archive_server import archive_client
from tests.llm.budget_archive import Archive, BrokenArchive, Recorder, job_of


class Reply(BaseModel):
    name: str


def question(text: str = "What next?") -> Request[Reply]:
    return Request(Role.PROPOSE, "r1", "c000002", (Message("user", text),), Reply, "propose-1")


@pytest.fixture
async def endpoint(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedEndpoint]:
    """What OPENAI_BASE_URL names."""
    async with ScriptedEndpoint(Script(otherwise=Step(answer={"name": "Answered"}))) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-not-a-secret")
        monkeypatch.setenv("ASI_MODEL", "scripted-model")
        monkeypatch.delenv("ASI_MIND_FILE", raising=False)
        yield server


async def mind_of(minds: Minds, name: str, job: Job) -> Mind:
    mind = await minds.mind(name, job)
    assert mind is not None
    return mind


async def test_offline_needs_no_mind(bus: Bus, tmp_path: Path) -> None:
    """Nor an archive, nor settings of an endpoint."""
    async with archive_client(Archive()) as stub:
        minds = Minds("researcher", bus, stub, tmp_path.as_uri())

        assert await minds.mind("offline", job_of(bus)) is None
        with pytest.raises(ValueError, match="choose offline, openai, "):
            await minds.mind("oracle", job_of(bus))


async def test_without_an_endpoint_the_setting_is_named(
    bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence with the fix."""
    for name in ("ASI_MODEL", "ASI_MIND_FILE", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    async with archive_client(Archive()) as stub:
        with pytest.raises(SettingsError, match="ASI_MODEL is not set"):
            await Minds("researcher", bus, stub, tmp_path.as_uri()).mind("openai", job_of(bus))


async def test_every_call_is_a_fact_of_the_candidate(bus: Bus, tmp_path: Path, endpoint: ScriptedEndpoint) -> None:
    """Booked with the store; a redelivery's calls have ids of their own, since they cost anew; one mind for all."""
    archive, through = Archive(), Recorder(bus)
    async with archive_client(archive) as stub:
        minds = Minds("researcher", through, stub, tmp_path.as_uri())  # type: ignore[arg-type]
        mind = await mind_of(minds, "openai", job_of(bus))
        await mind.ask(question())
        await mind.ask(question())
        again = await mind_of(minds, "openai", job_of(bus, attempt=2))
        await again.ask(question())
        await minds.close()

    ids = [event.id for event in through.events]
    assert again is mind
    assert len(set(ids)) == 3
    assert all(identifier.startswith("r1.c000002.answered.propose-") for identifier in ids)
    assert {event.cause for event in through.events} == {"r1.requested.1"}
    assert len({settlement.reservation for settlement in archive.settled}) == len(archive.settled) == 3
    assert all(event.mind_answered.call.answer.sha256 for event in through.events)
    assert "sk-test-not-a-secret" not in str(through.events)


async def test_a_recorded_run_answers_without_an_endpoint(bus: Bus, tmp_path: Path, endpoint: ScriptedEndpoint) -> None:
    """What is not on record is refused, not asked."""
    archive, through = Archive(), Recorder(bus)
    async with archive_client(archive) as stub:
        minds = Minds("researcher", through, stub, tmp_path.as_uri())  # type: ignore[arg-type]
        await (await mind_of(minds, "openai", job_of(bus))).ask(question())
        archive.book(through.events[0].mind_answered.call)
        replayed = await mind_of(minds, "recorded:r1", job_of(bus))
        answered = await replayed.ask(question())
        with pytest.raises(NotRecorded):
            await replayed.ask(question("And after that?"))
        await minds.close()

    assert answered.answer == Reply(name="Answered")
    assert len(endpoint.received) == 1


async def test_a_reservation_waits_while_only_calls_in_flight_stand_in_the_way() -> None:
    """The run has the tokens: as soon as a call in flight is settled, the next one may begin."""
    async with archive_client(Archive(tokens=150)) as stub:
        ledger = ArchiveLedger(stub)
        in_flight = await ledger.reserve("r1", Spend(100, None))
        waiting = asyncio.create_task(ledger.reserve("r1", Spend(100, None)))
        await asyncio.wait([waiting], timeout=0.1)
        early = waiting.done()
        await ledger.settle(in_flight, Spend(0, None))
        reservation = await waiting

    assert not early
    assert reservation.id != in_flight.id


async def test_a_spent_budget_ends_the_call() -> None:
    """Another try would not help."""
    async with archive_client(Archive(tokens=50)) as stub:
        with pytest.raises(BudgetExhausted, match="does not cover another call of up to 100 tokens"):
            await ArchiveLedger(stub).reserve("r1", Spend(100, None))


async def test_calls_wait_for_a_store_that_fails() -> None:
    """The delivery comes again later; nothing was spent."""
    async with archive_client(BrokenArchive()) as stub:
        with pytest.raises(Transient, match="the budget ledger in the store is unavailable"):
            await ArchiveLedger(stub).reserve("r1", Spend(100, None))
