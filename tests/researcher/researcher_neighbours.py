# ruff: noqa: N802, ARG002 - names and signatures are those of the generated servicers
"""The researcher's neighbours behind real gRPC: an archive with one parent, a checker and a cognition base."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from services.archive.policies import parse_policies
from services.chassis.bus import Bus
from services.chassis.errors import NotFound
from services.chassis.events import Cause, first
from services.chassis.rpc import Server, channel
from services.chassis.settings import ServiceSettings
from services.chassis.worker import Job
from services.contracts import archive_pb2 as arc
from services.contracts import (
    archive_pb2_grpc,
    checker_pb2,
    checker_pb2_grpc,
    cognition_pb2,
    cognition_pb2_grpc,
    events_pb2,
)
from services.contracts import candidate_pb2 as pb
from services.domain.structure import fingerprint, same_structure, similarity
from services.domain.zoo import baseline
from services.llm.embedder import LocalEmbedder, Vector
from services.llm.minds import Minds
from services.llm.openai_embedder import MotivationEmbedder, OpenAIEmbedder, RunEmbedder
from services.researcher.draft import Proposer
from services.researcher.handlers import Researcher

PARENT_PROGRAM = baseline("delta_net").program
PARENT = pb.Candidate(
    id="c000001", run="r1", stage="tiny", kind=pb.KIND_BASELINE, state=pb.STATE_ARCHIVED,
    request=pb.Request(number=1, baseline="delta_net"),
    proposal=pb.Proposal(name="DeltaNet", motivation="The delta rule corrects what is stored.", program=PARENT_PROGRAM),
    training=pb.Training(loss=1.5, benchmark=0.4, seeds=[pb.SeedResult(seed=1, loss=1.5)]),
    analysis=pb.Analysis(synthesis="A forget gate may help on long context."),
)  # fmt: skip
PASSED = pb.CheckReport(passed=True, seconds=0.1)
LEAKS = pb.CheckReport(
    passed=False,
    verdicts=[pb.ProbeVerdict(probe="causality", outcome="fail", message="position 7 sees position 9, by 0.25")],
)


DELIVERED: dict[str, pb.Candidate] = {}
"""What the archive knows of candidates that were delivered, by id."""


@dataclass
class Archive(archive_pb2_grpc.ArchiveServicer):
    """One parent, and `known` candidates that proposals are compared with."""

    settings: events_pb2.RunSettings
    known: list[pb.Candidate] = field(default_factory=lambda: [PARENT])
    state: pb.State.ValueType = pb.STATE_REQUESTED
    parent: pb.Candidate = field(default_factory=lambda: PARENT)
    references: Sequence[pb.Candidate] = ()
    settled: list[arc.SettleRequest] = field(default_factory=list)

    async def GetRun(self, request: arc.RunRequest, context: Any) -> arc.RunStatus:
        return arc.RunStatus(run=request.run, settings=self.settings)

    async def GetCandidate(self, request: arc.GetCandidateRequest, context: Any) -> pb.Candidate:
        if request.at_least and self.state == pb.STATE_REQUESTED:
            return DELIVERED[request.candidate]
        if request.candidate == "nobody":
            raise NotFound("no candidate nobody in run r1")
        seat = pb.Candidate(id=request.candidate, run=request.run, state=self.state)
        return next((one for one in self.known if one.id == request.candidate), seat)

    async def ListCandidates(self, request: arc.ListCandidatesRequest, context: Any) -> arc.ListCandidatesReply:
        measured = [one for one in self.known if one.training.HasField("loss")]
        return arc.ListCandidatesReply(candidates=sorted(measured, key=lambda one: one.training.loss))

    async def GetBaselines(self, request: arc.GetBaselinesRequest, context: Any) -> arc.GetBaselinesReply:
        return arc.GetBaselinesReply(baselines=[one for one in self.known if one.request.baseline])

    async def DrawSeeds(self, request: arc.DrawSeedsRequest, context: Any) -> arc.DrawSeedsReply:
        return arc.DrawSeedsReply(parent=self.parent, references=self.references)

    async def Reserve(self, request: arc.ReserveRequest, context: Any) -> arc.ReserveReply:
        return arc.ReserveReply(reservation=1)

    async def Settle(self, request: arc.SettleRequest, context: Any) -> arc.SettleReply:
        self.settled.append(request)
        return arc.SettleReply()

    async def NearestMotivations(self, request: arc.NearestMotivationsRequest, context: Any) -> arc.NearestReply:
        return arc.NearestReply(near=[arc.NearCandidate(candidate=one, similarity=0.5) for one in self.known])

    async def GetNeighbours(self, request: arc.NeighboursRequest, context: Any) -> arc.NeighboursReply:
        try:
            structure = fingerprint(request.program).digest
        except ValueError:
            return arc.NeighboursReply()
        return arc.NeighboursReply(
            structure=structure,
            motivations=[arc.NearCandidate(candidate=one, similarity=0.5) for one in self.known],
            programs=[_near(one, request.program) for one in self.known],
        )

    async def NearestPrograms(self, request: arc.NearestProgramsRequest, context: Any) -> arc.NearestReply:
        return arc.NearestReply(near=[_near(one, request.program) for one in self.known])


def _near(one: pb.Candidate, program: str) -> arc.NearCandidate:
    earlier = one.proposal.program
    likeness = similarity(fingerprint(earlier), fingerprint(program))
    return arc.NearCandidate(candidate=one, similarity=likeness, same_structure=same_structure(earlier, program))


class Checker(checker_pb2_grpc.CheckerServicer):
    """Gives these reports in turn, the last one for ever; keeps what it was asked."""

    def __init__(self, *reports: pb.CheckReport) -> None:
        self.reports = list(reports or (PASSED,))
        self.asked: list[checker_pb2.CheckRequest] = []

    async def Check(self, request: checker_pb2.CheckRequest, context: Any) -> pb.CheckReport:
        self.asked.append(request)
        return self.reports.pop(0) if len(self.reports) > 1 else self.reports[0]

    async def Describe(self, request: checker_pb2.ScaleRequest, context: Any) -> checker_pb2.ScaleDescription:
        return checker_pb2.ScaleDescription(width=128, heads=4, blocks=2, context=256, steps=100, unit="byte")


class Cognition(cognition_pb2_grpc.CognitionServicer):
    """Knows one entry; keeps the queries."""

    def __init__(self) -> None:
        self.queries: list[str] = []
        self.embedders: list[str] = []  # of the queries' vectors; empty without one

    async def Search(self, request: cognition_pb2.SearchRequest, context: Any) -> cognition_pb2.SearchReply:
        self.queries.append(request.query)
        self.embedders.append(request.embedder if request.embedding else "")
        entry = cognition_pb2.CognitionEntry(
            id="e1", title="Gating what is kept", components=["forget-gate"], similarity=0.6, design_insight="Forget."
        )
        return cognition_pb2.SearchReply(entries=[entry])


@dataclass
class Neighbours:
    """Everyone whom the researcher asks."""

    archive: Archive
    checker: Checker = field(default_factory=Checker)
    cognition: Cognition = field(default_factory=Cognition)

    @asynccontextmanager
    async def served(self) -> AsyncIterator[str]:
        """All three behind one address."""
        server = Server(ServiceSettings())
        archive_pb2_grpc.add_ArchiveServicer_to_server(self.archive, server.grpc)
        checker_pb2_grpc.add_CheckerServicer_to_server(self.checker, server.grpc)
        cognition_pb2_grpc.add_CognitionServicer_to_server(self.cognition, server.grpc)
        await server.start()
        try:
            yield f"127.0.0.1:{server.port}"
        finally:
            await server.stop(0)


@asynccontextmanager
async def researcher(
    neighbours: Neighbours,
    proposer: Callable[[], Proposer],
    bus: Bus | None = None,
    endpoint: OpenAIEmbedder | None = None,
    artifacts: str = "",
) -> AsyncIterator[Researcher]:
    """The handler as the service wires it, with this proposer for every run; with an endpoint its calls need a bus."""

    async def choose(_mind: str, _job: Job) -> Proposer:
        return proposer()

    async with neighbours.served() as address, channel(address, ServiceSettings()) as connection:
        archive = archive_pb2_grpc.ArchiveStub(connection)
        embed: Callable[[str, str, Job], Awaitable[Vector | None]] = _nothing
        local = LocalEmbedder(64)
        spaces = MotivationEmbedder(local)
        if endpoint is not None and bus is not None:
            embedder = RunEmbedder(endpoint, Minds("researcher", bus, archive, artifacts))
            embed, spaces = embedder.vector, MotivationEmbedder(local, embedder)
        yield Researcher(
            archive,
            checker_pb2_grpc.CheckerStub(connection),
            cognition_pb2_grpc.CognitionStub(connection),
            spaces,
            embed,
            choose,
        )


async def _nothing(_query: str, _mind: str, _job: Job) -> Vector | None:
    """No endpoint embeds."""
    return None


def settings_of(policies: Sequence[tuple[str, str]] = (), **ablations: Any) -> events_pb2.RunSettings:
    """The settings of an offline run with seed 7."""
    settings = events_pb2.RunSettings(
        scale="tiny", mind="offline", seed=7, baselines=["delta_net"], ablations=events_pb2.Ablations(**ablations)
    )
    settings.policies.CopyFrom(parse_policies(dict(policies)))
    return settings


def requested(bus: Bus, baseline_name: str = "", number: int = 2, attempt: int = 1) -> Job:
    """The delivery of a seat."""
    record = pb.Candidate(
        id=f"c{number:06d}", run="r1", stage="tiny", state=pb.STATE_REQUESTED,
        request=pb.Request(number=number, baseline=baseline_name, seeds=[1], mind="offline"),
    )  # fmt: skip
    event = first("r1", "requested", "store")
    event.candidate = record.id
    event.candidate_requested.CopyFrom(
        events_pb2.CandidateRequested(request=record.request, kind=record.kind, stage="tiny")
    )
    record.head = event.id
    DELIVERED[record.id] = record
    return Job(Cause.published(event), attempt, 1, bus, "researcher")
