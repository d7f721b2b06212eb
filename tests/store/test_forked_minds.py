"""What a fork of a recorded run thinks: from the log up to its event, from the endpoint from there on."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from pydantic import BaseModel

from services.chassis.bus import Bus
from services.chassis.events import Cause
from services.chassis.worker import Job
from services.contracts import events_pb2
from services.llm.minds import Minds
from services.llm.port import Message, Mind, Request, Role
from services.llm.scripted import Script, ScriptedEndpoint, Step
from services.store.backends import open_archive
from services.store.forking import fork, history
from services.store.ledger import RunLedger
from services.store.port import Archive
from services.store.service import ArchiveService
from tests.archive_server import archive_client
from tests.store.simulation import Simulation, catch_up


class Reply(BaseModel):
    name: str


def question(run: str, candidate: str, text: str, role: Role = Role.PROPOSE) -> Request[Reply]:
    return Request(role, run, candidate, (Message("user", text),), Reply, "propose-1")


@pytest_asyncio.fixture
async def endpoint(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ScriptedEndpoint]:
    """Answers in turn, so that no answer can be mistaken for another."""
    steps = [Step(answer={"name": f"Answer{number}"}) for number in range(1, 9)]
    async with ScriptedEndpoint(Script(steps=steps)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test-not-a-secret")
        monkeypatch.setenv("ASI_MODEL", "scripted-model")
        monkeypatch.delenv("ASI_MIND_FILE", raising=False)
        yield server


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[tuple[Archive, object]]:
    """An archive and a stub of its service."""
    archive = open_archive(f"sqlite:///{tmp_path}/live.db")
    await archive.open()
    async with archive_client(ArchiveService(archive, RunLedger(archive))) as stub:
        yield archive, stub
    await archive.close()


async def answers(minds: Minds, mind: str, cause: events_pb2.Event, bus: Bus, *texts: str) -> list[str]:
    """The answers to questions on behalf of a requested candidate."""
    source: Mind | None = await minds.mind(mind, Job(Cause.published(cause), 1, 1, bus, "researcher"))
    assert source is not None
    return [(await source.ask(question(cause.run, cause.candidate, text))).answer.name for text in texts]


async def test_a_fork_asks_the_endpoint_only_from_its_event_on(
    bus: Bus, tmp_path: Path, store: tuple[Archive, object], endpoint: ScriptedEndpoint
) -> None:
    """Two questions were answered before the event and one after it: the fork asks the third again, and the fourth."""
    archive, stub = store
    simulation = Simulation()
    simulation.start(mind="openai")
    for message in simulation.log:
        await bus.publish_body(message.subject, f"{message.sequence}", message.body)
    await catch_up(archive, bus)
    minds = Minds("researcher", bus, stub, tmp_path.as_uri())  # type: ignore[arg-type]
    request = simulation.open[0].event
    first = await answers(minds, "openai", request, bus, "one", "two")
    cut = await bus.last_sequence()
    later = await answers(minds, "openai", request, bus, "three")
    await catch_up(archive, bus)

    past = await history(archive, "r1", str(cut))
    settings = (await archive.run("r1")).settings
    await fork(bus, past, "r2", settings)
    again = next(
        event for event in await catch_up(archive, bus) if (event.run, event.candidate) == ("r2", request.candidate)
    )
    mind = (await archive.run("r2")).settings.mind
    paid = len(endpoint.received)
    same = await answers(minds, mind, again, bus, "one", "two")
    before_the_event = len(endpoint.received) - paid
    new = await answers(minds, mind, again, bus, "three", "four")
    await minds.close()

    assert (first, later) == (["Answer1", "Answer2"], ["Answer3"])
    assert mind == f"recorded:r1@{cut}"
    assert (same, before_the_event) == (first, 0)
    assert (new, len(endpoint.received) - paid) == (["Answer4", "Answer5"], 2)


async def test_a_candidate_unknown_to_the_source_is_answered_by_the_endpoint(
    bus: Bus, tmp_path: Path, store: tuple[Archive, object], endpoint: ScriptedEndpoint
) -> None:
    """Nothing is on record about it."""
    archive, stub = store
    simulation = Simulation()
    simulation.start()
    for message in simulation.log:
        await bus.publish_body(message.subject, f"{message.sequence}", message.body)
    await catch_up(archive, bus)
    stranger = events_pb2.Event(id="r2.c000099.requested.1", run="r2", candidate="c000099")
    minds = Minds("researcher", bus, stub, tmp_path.as_uri())  # type: ignore[arg-type]
    past = await history(archive, "r1", "")
    await fork(bus, past, "r2", simulation.loaded.runs["r1"].settings)
    await catch_up(archive, bus)

    assert await answers(minds, f"recorded:r1@{past.until}", stranger, bus, "one") == ["Answer1"]
    await minds.close()
