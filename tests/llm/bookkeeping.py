# ruff: noqa: N802, ARG002 - names and signatures are those of the generated servicer
"""What keeps a run's books, for the tests: an archive's ledger behind real gRPC, a bus that remembers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from services.chassis.bus import Bus
from services.chassis.events import Cause, first
from services.chassis.rpc import Server, channel
from services.chassis.settings import ServiceSettings
from services.chassis.worker import Job
from services.contracts import archive_pb2 as arc
from services.contracts import archive_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as pb


class Archive(archive_pb2_grpc.ArchiveServicer):
    """Answers reservations with these codes in turn, then grants them; knows one recorded candidate."""

    def __init__(self, *codes: grpc.StatusCode) -> None:
        self.codes = list(codes)
        self.settled: list[arc.SettleRequest] = []
        self.record = pb.Candidate(id="c000002", run="r1")

    async def Reserve(self, request: arc.ReserveRequest, context: Any) -> arc.ReserveReply:
        if self.codes:
            await context.abort(self.codes.pop(0), "the run's tokens")
        return arc.ReserveReply(reservation=7)

    async def Settle(self, request: arc.SettleRequest, context: Any) -> arc.SettleReply:
        self.settled.append(request)
        return arc.SettleReply()

    async def ListCandidates(self, request: arc.ListCandidatesRequest, context: Any) -> arc.ListCandidatesReply:
        return arc.ListCandidatesReply(candidates=[self.record], total=1)


@asynccontextmanager
async def asked(archive: Archive) -> AsyncIterator[Any]:
    """A stub of this archive."""
    server = Server(ServiceSettings())
    archive_pb2_grpc.add_ArchiveServicer_to_server(archive, server.grpc)
    await server.start()
    try:
        async with channel(f"127.0.0.1:{server.port}", ServiceSettings()) as connection:
            yield archive_pb2_grpc.ArchiveStub(connection)
    finally:
        await server.stop(0)


def job_of(bus: Bus, attempt: int = 1) -> Job:
    event = first("r1", "requested", "store")
    event.candidate = "c000002"
    event.candidate_requested.SetInParent()
    return Job(Cause.published(event), attempt, 1, bus, "researcher")


class Recorder:
    """A bus in front of the real one that remembers what went through."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.events: list[events_pb2.Event] = []

    async def publish(self, event: events_pb2.Event) -> object:
        self.events.append(event)
        return await self.bus.publish(event)
