"""A store in the test's process: an in-memory archive behind real gRPC and, with a bus, the real applier."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from services.chassis import tasks
from services.chassis.bus import Bus
from services.chassis.events import Cause, first, follow
from services.chassis.rpc import channel
from services.chassis.settings import ServiceSettings
from services.chassis.worker import Job
from services.contracts import archive_pb2 as arc
from services.contracts import archive_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as pb
from services.domain.pool import Entry, PoolState, entered
from services.domain.run_state import Phase, RunState
from services.store.applier import Applier
from services.store.backends.memory import MemoryArchive
from services.store.ledger import RunLedger
from services.store.port import RunRow
from services.store.service import ArchiveService, Context
from services.store.steering import policy_of
from tests.serving import serving

ENDED = (pb.STATE_ARCHIVED, pb.STATE_REJECTED)


class KnownArchive(ArchiveService):
    """The store's own service over an archive in memory, which holds these records from the start."""

    def __init__(self, *records: pb.Candidate, settings: events_pb2.RunSettings | None = None, run: str = "r1") -> None:
        self.memory = MemoryArchive()
        self.settings = settings or events_pb2.RunSettings(mind="offline", baselines=["delta_net"])
        self.settled: list[arc.SettleRequest] = []
        self._name_of_run = run
        self.records: dict[str, pb.Candidate] = {}  # by id
        self._changes = 0
        super().__init__(self.memory, RunLedger(self.memory))
        self.put(*records)

    def put(self, *records: pb.Candidate, phase: Phase = "searching") -> None:
        """These records are new, or have changed. What has a fitness enters the pool."""
        self.records |= {record.id: record for record in records}
        pool, policy = PoolState(), policy_of(self.settings).pool
        for record in self.records.values():
            if record.verdict.HasField("fitness"):
                entry = Entry(record.id, record.verdict.fitness.value, record.request.number)
                pool, _ = entered(pool, entry, policy)
        baselines = [record for record in self.records.values() if record.kind == pb.KIND_BASELINE]
        state = RunState(
            phase=phase,
            pool=pool,
            baselines_open=frozenset(baseline.id for baseline in baselines if baseline.state not in ENDED),
            proposals_ended=sum(
                candidate.kind == pb.KIND_PROPOSAL and candidate.state in ENDED for candidate in self.records.values()
            ),
        )
        self._changes += 1
        self.memory.put(RunRow(self._name_of_run, self.settings, state, 1, self._changes), records)

    async def tell(self, *records: pb.Candidate, phase: Phase = "searching") -> None:
        """As `put`, and whoever watches the run hears of it."""
        self.put(*records, phase=phase)
        self._writer.changed()

    def deliver(self, bus: Bus, event: events_pb2.Event, record: pb.Candidate, service: str) -> Job:
        """The delivery of an event that left the candidate as this record."""
        left = pb.Candidate()
        left.CopyFrom(record)
        left.head = event.id
        self.put(left)
        return Job(Cause.published(event), 1, 1, bus, service)

    async def Settle(self, request: arc.SettleRequest, context: Context) -> arc.SettleReply:  # noqa: N802
        """See `ArchiveService`; remembers what was settled."""
        self.settled.append(request)
        return await super().Settle(request, context)


def served(archive: ArchiveService, port: int = 0) -> AbstractAsyncContextManager[str]:
    """The address of a server of this archive."""
    return serving((archive_pb2_grpc.add_ArchiveServicer_to_server, archive), port=port)


@asynccontextmanager
async def archive_client(archive: ArchiveService) -> AsyncIterator[archive_pb2_grpc.ArchiveAsyncStub]:
    """A client of this archive."""
    async with served(archive) as address, channel(address, ServiceSettings()) as connection:
        yield archive_pb2_grpc.ArchiveStub(connection)


@dataclass(frozen=True)
class Store:
    """Its archive, and a client of its service."""

    archive: MemoryArchive
    stub: archive_pb2_grpc.ArchiveAsyncStub
    address: str


@asynccontextmanager
async def store(bus: Bus, kind: type[ArchiveService] = ArchiveService) -> AsyncIterator[Store]:
    """A store that follows the log of `bus`, and answers it as every store does."""
    archive = MemoryArchive()
    applier = Applier(bus, archive, await bus.consumer("store"), 64)
    service = kind(archive, RunLedger(archive), applier.state)
    async with served(service) as address, channel(address, ServiceSettings()) as connection:
        applying = asyncio.create_task(applier.run())
        try:
            yield Store(archive, archive_pb2_grpc.ArchiveStub(connection), address)
        finally:
            await tasks.end(applying)


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
    event = follow(Cause.of((await bus.message_at(1)).body), "imported", "store", 1, record.id)
    event.candidate_imported.CopyFrom(events_pb2.CandidateImported(source="a test", record=record))
    await bus.publish(event)
