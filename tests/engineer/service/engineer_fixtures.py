"""Shared by the engineer's tests: a store that follows the log, deliveries, and a scale that takes a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from services.chassis.bus import Bus
from services.chassis.events import Cause
from services.chassis.worker import Job
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.engineer.handlers import Engineer
from services.engineer.stages import Stages
from services.sandbox import Sandbox
from tests.archive_server import Store, propose, start_run, store
from tests.engineer.training.programs import CONVOLUTION, SMALL

SETTINGS = events_pb2.RunSettings(scale="tiny", scale_overrides=SMALL, mind="offline", baselines=["delta_net"])


@asynccontextmanager
async def engineering(
    sandbox: Sandbox, stages: Stages, data: Path, bus: Bus, settings: events_pb2.RunSettings = SETTINGS
) -> AsyncIterator[tuple[Engineer, Store]]:
    """The handler as the service wires it, without a language model, and the store of a run that has just begun."""
    async with store(bus) as archive:
        await start_run(bus, settings)
        yield Engineer(sandbox, stages, archive.stub, None, data), archive


async def delivery(
    bus: Bus,
    program: str = CONVOLUTION,
    seeds: Sequence[int] = (1,),
    draining: asyncio.Event | None = None,
    candidate: str = "c000001",
    baseline: str = "",
) -> Job:
    """The delivery of a candidate that has just been proposed."""
    record = pb.Candidate(
        id=candidate,
        kind=pb.KIND_BASELINE if baseline else pb.KIND_PROPOSAL,
        stage="tiny",
        request=pb.Request(number=1, seeds=seeds, baseline=baseline),
        proposal=pb.Proposal(name="Subject", program=program),
    )
    started = Cause.of((await bus.message_at(1)).body)
    cause, sequence = await propose(bus, started, record)
    return Job(cause, 1, sequence, bus, "engineer", draining or asyncio.Event())


async def published(bus: Bus, fact: str) -> list[events_pb2.Event]:
    """What the log holds of one fact."""
    return [events_pb2.Event.FromString(message.body) async for message in bus.read_log(f"asi.v1.r1.candidate.{fact}")]
