"""Reads of handlers, from an archive behind real gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from services.archive import all_candidates
from services.archive.records import record_for, record_with_relatives, record_with_seeds, record_with_sources
from services.chassis.bus import Bus
from services.chassis.errors import Transient
from services.chassis.events import first
from services.chassis.rpc import Server, channel
from services.chassis.settings import ServiceSettings
from services.chassis.worker import Job
from services.contracts import archive_pb2 as arc
from services.contracts import archive_pb2_grpc
from services.contracts import candidate_pb2 as pb
from services.store.service import Context
from tests.archive_server import KnownArchive

PARENT = pb.Candidate(id="c000001", run="r1", state=pb.STATE_ARCHIVED)
REFERENCE = pb.Candidate(id="c000002", run="r1", state=pb.STATE_ARCHIVED)
CHILD = pb.Candidate(
    id="c000003", run="r1", proposal=pb.Proposal(parent="c000001", references=["c000002", "c000001", "c000009"])
)


class OlderArchive(KnownArchive):
    """Ignores the fields that a newer contract added."""

    async def GetCandidates(self, request: arc.GetCandidatesRequest, context: Context) -> arc.GetCandidatesReply:  # noqa: N802
        plain = arc.GetCandidatesRequest(run=request.run, candidates=request.candidates)
        return await super().GetCandidates(plain, context)

    async def DrawSeeds(self, request: arc.DrawSeedsRequest, context: Context) -> arc.DrawSeedsReply:  # noqa: N802
        plain = arc.DrawSeedsRequest(run=request.run, candidate=request.candidate)
        return await super().DrawSeeds(plain, context)

    async def GetRelatives(self, request: arc.GetRelativesRequest, context: Context) -> arc.RelativesReply:  # noqa: N802
        reply = await super().GetRelatives(request, context)
        reply.ClearField("record")
        return reply


@asynccontextmanager
async def served(archive: KnownArchive) -> AsyncIterator[archive_pb2_grpc.ArchiveAsyncStub]:
    server = Server(ServiceSettings())
    archive_pb2_grpc.add_ArchiveServicer_to_server(archive, server.grpc)
    await server.start()
    try:
        async with channel(f"127.0.0.1:{server.port}", ServiceSettings()) as connection:
            yield archive_pb2_grpc.ArchiveStub(connection)
    finally:
        await server.stop(0)


def delivery(bus: Bus, archive: KnownArchive) -> Job:
    event = first("r1", "trained", "engineer")
    event.candidate = CHILD.id
    event.candidate_trained.stage = "tiny"
    return archive.deliver(bus, event, CHILD, "judge")


async def test_a_candidate_comes_with_its_sources(bus: Bus) -> None:
    """Parent and references once each; unknown ones are left out."""
    archive = KnownArchive(PARENT, REFERENCE)
    async with served(archive) as stub:
        known = await record_with_sources(stub, delivery(bus, archive))

    assert known is not None
    record, sources = known
    assert record.id == CHILD.id
    assert [source.id for source in sources] == ["c000001", "c000002"]


async def test_a_candidate_comes_with_its_seeds(bus: Bus) -> None:
    """While nothing is scored, the parent is the first measured baseline."""
    baseline = pb.Candidate(
        id="c000001", run="r1", kind=pb.KIND_BASELINE, state=pb.STATE_ARCHIVED, training=pb.Training(loss=1.5)
    )
    archive = KnownArchive(baseline)
    async with served(archive) as stub:
        seeds = await record_with_seeds(stub, delivery(bus, archive))

    assert seeds is not None
    assert (seeds.record.id, seeds.parent.id) == (CHILD.id, baseline.id)


async def test_a_candidate_comes_with_its_relatives(bus: Bus) -> None:
    archive = KnownArchive(PARENT, REFERENCE)
    async with served(archive) as stub:
        relatives = await record_with_relatives(stub, delivery(bus, archive), 3)

    assert relatives is not None
    assert (relatives.record.id, relatives.parent.id) == (CHILD.id, PARENT.id)


READS: tuple[Callable[[archive_pb2_grpc.ArchiveAsyncStub, Job], Awaitable[object]], ...] = (
    record_for,
    record_with_seeds,
    record_with_sources,
    partial(record_with_relatives, siblings=3),
)


@pytest.mark.parametrize("read", READS)
async def test_a_candidate_that_went_on_needs_no_work(
    read: Callable[[archive_pb2_grpc.ArchiveAsyncStub, Job], Awaitable[object]], bus: Bus
) -> None:
    """Its head is a later event; or the archive does not know it at all."""
    archive = KnownArchive(PARENT, REFERENCE)
    async with served(archive) as stub:
        job = delivery(bus, archive)
        archive.put(pb.Candidate(id=CHILD.id, run="r1", head="later", proposal=CHILD.proposal))
        assert await read(stub, job) is None
        job.event.candidate = "c000077"
        assert await read(stub, job) is None


@pytest.mark.parametrize("read", READS[1:])
async def test_an_older_store_loses_no_candidate(
    read: Callable[[archive_pb2_grpc.ArchiveAsyncStub, Job], Awaitable[object]], bus: Bus
) -> None:
    """It may reply before it has applied the event, as if there were nothing to do; the delivery comes again."""
    archive = OlderArchive(PARENT, REFERENCE)
    async with served(archive) as stub:
        with pytest.raises(Transient, match="update the store first"):
            await read(stub, delivery(bus, archive))


class PagedArchive(KnownArchive):
    """Pages of at most two candidates, numbered as the store does: by where the next one begins."""

    async def ListCandidates(self, request: arc.ListCandidatesRequest, context: Context) -> arc.ListCandidatesReply:  # noqa: N802
        del context
        start = int(request.page_token or 0)
        end = start + min(2, request.page_size)
        page = [pb.Candidate(id=f"c{number}") for number in range(start, min(end, 5))]
        return arc.ListCandidatesReply(candidates=page, next_page_token=str(end) if end < 5 else "")


@pytest.mark.parametrize(
    ("first_page", "limit", "expected"), [("", None, "01234"), ("2", None, "234"), ("", 3, "012"), ("", 1, "0")]
)
async def test_a_list_is_read_from_the_requested_page_to_the_last_or_the_limit(
    first_page: str, limit: int | None, expected: str
) -> None:
    """Page by page."""
    async with served(PagedArchive()) as stub:
        records = await all_candidates(stub, arc.ListCandidatesRequest(page_token=first_page), limit)

    assert [record.id for record in records] == [f"c{number}" for number in expected]
