"""`python -m tests.chaos.instant_services researcher|engineer`: both with instant proposals and trainings.

All else of them is what it always is: the worker loop, the claims, the archive behind gRPC, the drains. Their settings
are the services' own; CHAOS_FOLDER holds the list of executions, CHAOS_POISON whoever kills their handlers, and
CHAOS_TRAINING_SECONDS how long a training lasts, more or less.
"""

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from bench.loop import InstantChecker, InstantProposer, instant_researcher, instant_result
from services.archive.records import record_for
from services.chassis.bus.topology import engineer_durable
from services.chassis.rpc import channel
from services.chassis.service import Service, main
from services.chassis.settings import ServiceSettings
from services.chassis.worker import Job
from services.contracts import archive_pb2_grpc, checker_pb2_grpc, events_pb2
from services.engineer.claims import Claims
from services.researcher.app import ResearcherSettings
from services.researcher.draft import Context, Draft, Refusal

PARALLEL = 3


def poisonous(service: str, candidate: str) -> bool:
    """Whether the candidate kills this service."""
    return f"{service}:{candidate}" in os.environ.get("CHAOS_POISON", "").split(",")


@asynccontextmanager
async def engineer(service: Service, settings: ServiceSettings) -> AsyncIterator[None]:
    """Claims and confirms as the real one."""
    executions, seconds = Path(os.environ["CHAOS_FOLDER"]) / "executions", float(os.environ["CHAOS_TRAINING_SECONDS"])
    async with channel(settings.archive_address, settings) as connection:
        archive = archive_pb2_grpc.ArchiveStub(connection)
        claims = Claims(archive)

        async def handle(job: Job) -> Sequence[events_pb2.Event]:
            record = await record_for(archive, job)
            if record is None:
                return []
            async with claims.claim(job, record) as attempt:
                with executions.open("a") as lines:
                    lines.write(f"{record.id} {attempt}\n")
                if poisonous("engineer", record.id):
                    os.kill(os.getpid(), signal.SIGKILL)
                try:
                    await asyncio.sleep(seconds * random.uniform(0.3, 1.7))
                except asyncio.CancelledError:  # a drain: the real one goes on from a checkpoint
                    with executions.open("a") as lines:
                        lines.write(f"{record.id} {attempt} drained\n")
                    raise
                await claims.confirm(job, instant_result(job, attempt))
            return []

        checker_pb2_grpc.add_CheckerServicer_to_server(InstantChecker(), service.server.grpc)
        await service.work(engineer_durable("tiny"), handle, PARALLEL)
        yield


class DeadlyProposer(InstantProposer):
    """Some requests kill who answers them."""

    async def propose(self, context: Context, refusals: Sequence[Refusal]) -> Draft:
        if poisonous("researcher", context.record.id):
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().propose(context, refusals)


if __name__ == "__main__":
    if sys.argv.pop(1) == "engineer":
        main("engineer", ServiceSettings, engineer)
    else:
        main("researcher", ResearcherSettings, partial(instant_researcher, proposer=DeadlyProposer()))
