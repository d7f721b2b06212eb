"""From candidate.judged to candidate.analysed, with an archive behind real gRPC and a real broker."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest

from services.analyst.handlers import Analysing, AnalystHandler
from services.analyst.library import Library
from services.analyst.offline_analyst import OfflineAnalyst
from services.chassis.bus import Bus
from services.chassis.errors import Busy
from services.chassis.events import first
from services.chassis.worker import Job
from services.contracts import archive_pb2 as arc
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.llm.embedder import Vector
from services.llm.minds import Minds
from services.llm.openai_embedder import OpenAIEmbedder, RunEmbedder, endpoint_embedder
from services.llm.scripted import Script, ScriptedEndpoint
from services.store.service import Context
from tests.analyst.analyst_records import CHILD, Archive, ended
from tests.archive_server import archive_client


@asynccontextmanager
async def handler(
    archive: Archive, folder: Path, bus: Bus | None = None, endpoint: OpenAIEmbedder | None = None
) -> AsyncIterator[AnalystHandler]:
    """The handler as the service wires it, for runs that think offline; with an endpoint its calls need a bus."""
    async with archive_client(archive) as stub:
        embed: Callable[[str, str, Job], Awaitable[Vector | None]] = _nothing
        if bus is not None:
            embed = RunEmbedder(endpoint, Minds("analyst", bus, stub, folder.as_uri())).vector
        yield AnalystHandler(stub, Library(folder / "cognition", 0.1, endpoint), embed, _offline)


async def _nothing(_query: str, _mind: str, _job: Job) -> Vector | None:
    """No endpoint embeds."""
    return None


async def _offline(_mind: str, _job: Job) -> Analysing:
    return OfflineAnalyst()


def judged(bus: Bus, archive: Archive, record: pb.Candidate = CHILD) -> Job:
    """The delivery of a judged candidate."""
    event = first("r1", "judged", "judge")
    event.candidate = record.id
    event.candidate_judged.verdict.CopyFrom(record.verdict)
    return archive.deliver(bus, event, record, "analyst")


def settings_of(**ablations: bool) -> events_pb2.RunSettings:
    return events_pb2.RunSettings(mind="offline", baselines=["delta_net"], ablations=events_pb2.Ablations(**ablations))


async def test_a_judged_candidate_is_analysed(bus: Bus, tmp_path: Path) -> None:
    """The event follows from its cause and carries all five parts and what was retrieved."""
    archive = Archive(settings_of())
    job = judged(bus, archive)
    async with handler(archive, tmp_path) as analysing:
        (event,) = await analysing.handle(job)
        (again,) = await analysing.handle(job)

    analysis = event.candidate_analysed.analysis
    assert event.WhichOneof("fact") == "candidate_analysed"
    assert event.previous == job.cause.sha256
    assert (again.id, again.candidate_analysed) == (event.id, event.candidate_analysed)
    assert "Parent" in analysis.design_evaluation
    assert "the root delta_net" in analysis.results
    assert all((analysis.expectation, analysis.explanation, analysis.synthesis, analysis.analyst))
    assert len(analysis.cognition) == 3
    assert all(hit.entry and hit.title and hit.similarity >= 0.1 for hit in analysis.cognition)


async def test_embeddings_for_literature_searches_are_booked_to_the_run(bus: Bus, tmp_path: Path) -> None:
    """One call of the candidate; the entries themselves belong to no run."""
    archive = Archive(settings_of())
    async with ScriptedEndpoint(Script()) as server:
        endpoint = endpoint_embedder({"ASI_EMBEDDING_MODEL": "small", "OPENAI_BASE_URL": server.base_url})
        assert endpoint is not None
        async with handler(archive, tmp_path, bus, endpoint) as analysing:
            (event,) = await analysing.handle(judged(bus, archive))
        await endpoint.close()
        events = [events_pb2.Event.FromString(message.body) async for message in bus.read_log()]

    (call,) = [answered.mind_answered.call for answered in events]
    assert (call.role, call.model) == ("embed", "small")
    assert [settlement.tokens for settlement in archive.settled] == [call.prompt_tokens]
    assert len(event.candidate_analysed.analysis.cognition) == 3


async def test_a_run_that_cannot_pay_loses_no_measured_candidate(bus: Bus, tmp_path: Path) -> None:
    """The literature is searched by the text, which costs nothing."""
    settings = settings_of()
    settings.budget.tokens = 0
    archive = Archive(settings)
    async with ScriptedEndpoint(Script()) as server:
        endpoint = endpoint_embedder({"ASI_EMBEDDING_MODEL": "small", "OPENAI_BASE_URL": server.base_url})
        assert endpoint is not None
        async with handler(archive, tmp_path, bus, endpoint) as analysing:
            (event,) = await analysing.handle(judged(bus, archive))
        await endpoint.close()

    assert event.WhichOneof("fact") == "candidate_analysed"
    assert len(event.candidate_analysed.analysis.cognition) == 3
    assert not server.received


async def test_a_candidate_without_a_verdict_is_compared_with_the_root(bus: Bus, tmp_path: Path) -> None:
    """A judge that failed takes nothing from the measurements."""
    record = pb.Candidate()
    record.CopyFrom(CHILD)
    record.verdict.Clear()
    archive = Archive(settings_of())
    async with handler(archive, tmp_path) as analysing:
        (event,) = await analysing.handle(judged(bus, archive, record))

    assert "the root delta_net" in event.candidate_analysed.analysis.results


async def test_without_analysis_no_text_is_written(bus: Bus, tmp_path: Path) -> None:
    """The switch is used to measure the value of analyses."""
    archive = Archive(settings_of(without_analysis=True))
    async with handler(archive, tmp_path) as analysing:
        (event,) = await analysing.handle(judged(bus, archive))

    analysis = event.candidate_analysed.analysis
    assert list(analysis.components) == ["delta-rule", "short-convolution"]
    assert not any((analysis.design_evaluation, analysis.results, analysis.explanation, analysis.synthesis))


async def test_without_cognition_nothing_is_retrieved(bus: Bus, tmp_path: Path) -> None:
    """Nor is the literature cited from elsewhere."""
    record = pb.Candidate()
    record.CopyFrom(CHILD)
    record.proposal.ideas.add(text="a convolution", origin="cognition", source="2406.06484#layer-recipe")
    archive = Archive(settings_of(without_cognition=True))
    async with handler(archive, tmp_path) as analysing:
        (event,) = await analysing.handle(judged(bus, archive, record))

    assert not event.candidate_analysed.analysis.cognition
    assert "No entry" in event.candidate_analysed.analysis.explanation


async def test_the_entry_that_suggested_an_idea_is_cited(bus: Bus, tmp_path: Path) -> None:
    """The analysis names the source of the expectation."""
    record = pb.Candidate()
    record.CopyFrom(CHILD)
    record.proposal.ideas.add(text="a convolution", origin="cognition", source="2406.06484#layer-recipe")
    archive = Archive(settings_of())
    async with handler(archive, tmp_path) as analysing:
        (event,) = await analysing.handle(judged(bus, archive, record))

    assert "(2406.06484), which suggested it, says:" in event.candidate_analysed.analysis.expectation


async def test_work_that_is_done_already_is_not_done_again(bus: Bus, tmp_path: Path) -> None:
    """A delivery may come again after its acknowledgement was lost."""
    archive = Archive(settings_of())
    again = replace(judged(bus, archive), attempt=2)
    archive.put(ended(CHILD))
    async with handler(archive, tmp_path) as analysing:
        assert await analysing.handle(again) == []


class BusyArchive(Archive):
    """The archive does not return the relatives."""

    async def GetRelatives(self, request: arc.GetRelativesRequest, context: Context) -> arc.RelativesReply:  # noqa: N802, ARG002
        raise Busy("ask again in a moment")


async def test_without_relatives_there_is_no_analysis(bus: Bus, tmp_path: Path) -> None:
    """An archive that is busy: the worker lets the delivery come again."""
    archive = BusyArchive(settings_of())
    async with handler(archive, tmp_path) as analysing:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await analysing.handle(judged(bus, archive))

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
