"""A store in the tests' own process: the archive in memory, real gRPC, and, with a bus, the real applier behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from services.chassis.bus import Bus
from services.chassis.events import Cause, first, follow
from services.chassis.rpc import Server, channel
from services.chassis.settings import ServiceSettings
from services.contracts import archive_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as pb
from services.store.applier import Applier
from services.store.backends.memory import MemoryArchive
from services.store.ledger import RunLedger
from services.store.service import ArchiveService


@dataclass(frozen=True)
class Store:
    """Its archive, and a client of its service."""

    archive: MemoryArchive
    stub: archive_pb2_grpc.ArchiveAsyncStub
    address: str


@asynccontextmanager
async def store(bus: Bus) -> AsyncIterator[Store]:
    """A store that follows the log of `bus`, and answers it as every store does."""
    archive, server = MemoryArchive(), Server(ServiceSettings())
    applier = Applier(bus, archive, await bus.consumer("store"), 64)
    service = ArchiveService(archive, applier.changed, RunLedger(archive))
    archive_pb2_grpc.add_ArchiveServicer_to_server(service, server.grpc)
    await server.start()
    applying = asyncio.create_task(applier.run())
    address = f"127.0.0.1:{server.port}"
    try:
        async with channel(address, ServiceSettings()) as connection:
            yield Store(archive, archive_pb2_grpc.ArchiveStub(connection), address)
    finally:
        applying.cancel()
        with suppress(asyncio.CancelledError):
            await applying
        await server.stop(0)


async def start_run(bus: Bus, settings: events_pb2.RunSettings, run: str = "r1") -> Cause:
    """The run begins. One without seats asks for no candidate."""
    event = first(run, "started", "console")
    event.run_started.settings.CopyFrom(settings)
    await bus.publish(event)
    return Cause.published(event)


async def propose(bus: Bus, cause: Cause, record: pb.Candidate) -> tuple[Cause, int]:
    """A candidate with this record's request and proposal enters the run; its last event and where that lies."""
    requested = follow(cause, "requested", "store", 1, record.id)
    requested.candidate_requested.CopyFrom(
        events_pb2.CandidateRequested(request=record.request, kind=record.kind, stage=record.stage)
    )
    await bus.publish(requested)
    proposed = follow(Cause.published(requested), "proposed", "researcher", 1, record.id)
    proposed.candidate_proposed.CopyFrom(events_pb2.CandidateProposed(proposal=record.proposal, stage=record.stage))
    sequence = await bus.publish(proposed)
    return Cause.published(proposed), sequence


async def hold(bus: Bus, record: pb.Candidate) -> None:
    """A candidate that has ended, whole, as a published record enters a run that has begun."""
    event = follow(Cause.of(await bus.body_at(1)), "imported", "store", 1, record.id)
    event.candidate_imported.CopyFrom(events_pb2.CandidateImported(source="a test", record=record))
    await bus.publish(event)
