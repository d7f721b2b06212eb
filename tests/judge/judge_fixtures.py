# ruff: noqa: N802, ARG002 - names and signatures are those of the generated servicers
"""Hand-built records, and an archive and a checker behind real gRPC that know them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from services.chassis.bus import Bus
from services.chassis.events import first
from services.chassis.rpc import channel
from services.chassis.settings import ServiceSettings
from services.chassis.worker import Job
from services.contracts import archive_pb2_grpc, checker_pb2, checker_pb2_grpc, events_pb2, judge_pb2_grpc
from services.contracts import candidate_pb2 as pb
from services.domain.zoo import baseline
from services.judge.app import JudgeService
from services.judge.handlers import JudgeHandler
from services.judge.judges import Judge, OfflineJudge
from tests.archive_server import KnownArchive
from tests.partial_checker import PartialChecker
from tests.serving import serving

BLOCKS = 32
ITEMS = 50


def trained(number: int, loss: float, zoo: str = "", parent: str = "", program: str = "x = 1\n") -> pb.Candidate:
    """A candidate with one trained seed: a baseline of the zoo, or a proposal called "Secretive"."""
    proposal = pb.Proposal(name="Secretive", program=program, parent=parent, motivation="Secretive forgets.")
    if zoo:
        proposal = pb.Proposal(name=baseline(zoo).title, program=baseline(zoo).program)
    items = [index < 20 for index in range(ITEMS)]
    seed = pb.SeedResult(
        seed=1, loss=loss, block_losses=[loss + 0.01 * (index * number % 5 - 2) for index in range(BLOCKS)],
        scores=[pb.TaskScore(task="mqar", metric="acc", value=0.4, items=ITEMS, correct=items)],
        measurements=pb.Measurements(
            parameters=400_000, tokens_per_second=16_000.0, peak_memory_bytes=10**9, data_fingerprint="f"
        ),
    )  # fmt: skip
    return pb.Candidate(
        id=f"c{number:06d}", run="r1", kind=pb.KIND_BASELINE if zoo else pb.KIND_PROPOSAL, state=pb.STATE_TRAINED,
        stage="tiny", request=pb.Request(number=number, baseline=zoo), proposal=proposal,
        training=pb.Training(seeds=[seed], loss=loss, benchmark=0.4),
    )  # fmt: skip


def untrained(record: pb.Candidate, state: pb.State.ValueType = pb.STATE_TRAINING) -> pb.Candidate:
    """The same before its training ended, or after it failed."""
    earlier = pb.Candidate()
    earlier.CopyFrom(record)
    earlier.ClearField("training")
    earlier.state = state
    return earlier


ROOT = trained(1, 1.50, "delta_net")
ANCHOR = trained(2, 1.45, "gated_delta_net")


def settings_of(mind: str = "offline", **more: Any) -> events_pb2.RunSettings:
    return events_pb2.RunSettings(mind=mind, baselines=["delta_net", "gated_delta_net"], fitness="paper", **more)


class Archive(KnownArchive):
    """The store's service, with one run and the records it is given."""

    def __init__(self, *records: pb.Candidate, settings: events_pb2.RunSettings | None = None) -> None:
        super().__init__(*records, settings=settings or settings_of())


class Checker(PartialChecker):
    """Gives the same verdicts to every program, and records the requests."""

    def __init__(self, verdicts: Sequence[pb.ProbeVerdict] = ()) -> None:
        self.verdicts = verdicts
        self.asked: list[checker_pb2.CheckRequest] = []

    async def Check(self, request: checker_pb2.CheckRequest, context: Any) -> pb.CheckReport:
        self.asked.append(request)
        return pb.CheckReport(passed=not self.verdicts, verdicts=self.verdicts)


async def offline(_mind: str, _job: Job | None) -> Judge:
    """For any settings of the run."""
    return OfflineJudge()


@dataclass
class Judging:
    """The handler as the service wires it, and a client of the service Judge."""

    handler: JudgeHandler
    client: judge_pb2_grpc.JudgeAsyncStub
    archive: KnownArchive

    def delivery(self, bus: Bus, record: pb.Candidate) -> Job:
        """The delivery of a trained candidate."""
        event = first("r1", "trained", "engineer")
        event.candidate = record.id
        event.candidate_trained.CopyFrom(events_pb2.CandidateTrained(training=record.training, stage=record.stage))
        return self.archive.deliver(bus, event, record, "judge")

    async def handle(self, bus: Bus, record: pb.Candidate) -> Sequence[events_pb2.Event]:
        """What the judge publishes about a trained candidate."""
        return await self.handler.handle(self.delivery(bus, record))


@asynccontextmanager
async def judging(
    archive: KnownArchive,
    checker: Checker | None = None,
    judge: Callable[[str, Job | None], Awaitable[Judge]] = offline,
) -> AsyncIterator[Judging]:
    """A judge whose neighbours are behind real gRPC."""
    own = ServiceSettings()
    neighbours = serving(
        (archive_pb2_grpc.add_ArchiveServicer_to_server, archive),
        (checker_pb2_grpc.add_CheckerServicer_to_server, checker or Checker()),
    )
    async with neighbours as address, channel(address, own) as connection:
        stub: archive_pb2_grpc.ArchiveAsyncStub = archive_pb2_grpc.ArchiveStub(connection)
        handler = JudgeHandler(stub, checker_pb2_grpc.CheckerStub(connection), judge)
        service = judge_pb2_grpc.add_JudgeServicer_to_server, JudgeService(stub, handler)
        async with serving(service) as own_address, channel(own_address, own) as own_connection:
            yield Judging(handler, judge_pb2_grpc.JudgeStub(own_connection), archive)
