# ruff: noqa: N802, ARG002 - names and signatures are those of the generated servicer
"""What the engineer's tests share: an archive behind real gRPC, deliveries, and a scale that takes a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from services.chassis.bus import Bus
from services.chassis.events import Cause, first
from services.chassis.rpc import Server, channel
from services.chassis.settings import ServiceSettings
from services.chassis.worker import Job
from services.contracts import archive_pb2 as arc
from services.contracts import archive_pb2_grpc, events_pb2
from services.contracts import candidate_pb2 as pb
from services.engineer.handlers import Engineer
from services.engineer.revision import OfflineReviser
from services.engineer.stages import Stages
from services.sandbox import Sandbox
from tests.engineer.training.programs import CONVOLUTION, SMALL

DELIVERED: dict[str, pb.Candidate] = {}
"""What the archive knows of candidates that were delivered, by id."""


class Archive(archive_pb2_grpc.ArchiveServicer):
    """Knows one run, and the state of its candidates where a test gives one."""

    def __init__(self, state: pb.State.ValueType | None = None, baselines: Sequence[pb.Candidate] = ()) -> None:
        self.settings = events_pb2.RunSettings(
            scale="tiny", scale_overrides=SMALL, mind="offline", baselines=["delta_net"]
        )
        self.state = state
        self.baselines = baselines

    async def GetRun(self, request: arc.RunRequest, context: Any) -> arc.RunStatus:
        return arc.RunStatus(run=request.run, settings=self.settings)

    async def GetCandidate(self, request: arc.GetCandidateRequest, context: Any) -> pb.Candidate:
        if self.state is None:
            return DELIVERED[request.candidate]
        return pb.Candidate(id=request.candidate, run=request.run, state=self.state)

    async def GetBaselines(self, request: arc.GetBaselinesRequest, context: Any) -> arc.GetBaselinesReply:
        return arc.GetBaselinesReply(baselines=self.baselines)


@asynccontextmanager
async def engineering(
    sandbox: Sandbox, stages: Stages, data: Path, archive: Archive | None = None
) -> AsyncIterator[Engineer]:
    """The handler as the service wires it, without a language model."""
    settings = ServiceSettings()
    server = Server(settings)
    archive_pb2_grpc.add_ArchiveServicer_to_server(archive or Archive(), server.grpc)
    await server.start()
    try:
        async with channel(f"127.0.0.1:{server.port}", settings) as connection:
            stub = archive_pb2_grpc.ArchiveStub(connection)
            yield Engineer(sandbox, stages, stub, OfflineReviser(), data)
    finally:
        await server.stop(0)


def delivery(
    bus: Bus,
    program: str = CONVOLUTION,
    seeds: Sequence[int] = (1,),
    attempt: int = 1,
    draining: asyncio.Event | None = None,
) -> Job:
    """The delivery of a proposed candidate. The same arguments give the same cause."""
    event = first("r1", "proposed", "researcher")
    event.time.FromSeconds(1)
    event.candidate = "c000001"
    proposal = pb.Proposal(name="Subject", program=program)
    event.candidate_proposed.CopyFrom(events_pb2.CandidateProposed(proposal=proposal, stage="tiny"))
    DELIVERED[event.candidate] = pb.Candidate(
        id="c000001",
        run="r1",
        stage="tiny",
        state=pb.STATE_PROPOSED,
        request=pb.Request(number=1, seeds=seeds),
        proposal=proposal,
        head=event.id,
    )
    return Job(Cause.published(event), attempt, 1, bus, "engineer", draining or asyncio.Event())
