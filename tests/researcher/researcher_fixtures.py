# ruff: noqa: N802, ARG002 - names and signatures are those of the generated servicers
"""The researcher's neighbours behind real gRPC: an archive with one parent, a checker and a cognition base."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from services.archive.policies import parse_policies
from services.chassis.bus import Bus
from services.chassis.events import first
from services.chassis.rpc import channel
from services.chassis.settings import ServiceSettings
from services.chassis.worker import Job
from services.contracts import (
    archive_pb2_grpc,
    checker_pb2,
    checker_pb2_grpc,
    cognition_pb2,
    cognition_pb2_grpc,
    events_pb2,
)
from services.contracts import candidate_pb2 as pb
from services.domain.zoo import baseline
from services.llm.embedder import LocalEmbedder, Vector
from services.llm.minds import Minds
from services.llm.openai_embedder import MotivationEmbedder, OpenAIEmbedder, RunEmbedder
from services.researcher.draft import Proposer
from services.researcher.handlers import Researcher
from tests.archive_server import KnownArchive
from tests.partial_checker import PartialChecker
from tests.serving import serving

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


PARENT.proposal.embedder = "hashed-64-v1"
PARENT.proposal.motivation_embedding.extend(LocalEmbedder(64).vector(PARENT.proposal.motivation).values)


class Archive(KnownArchive):
    """The store's service; it knows one parent, unless told otherwise."""

    def __init__(self, settings: events_pb2.RunSettings, known: Sequence[pb.Candidate] = (PARENT,)) -> None:
        super().__init__(*known, settings=settings)


class Checker(PartialChecker):
    """Gives these reports in turn, the last one for ever; keeps what it was asked."""

    def __init__(self, *reports: pb.CheckReport) -> None:
        self.reports = list(reports or (PASSED,))
        self.asked: list[checker_pb2.CheckRequest] = []
        self.tried: list[checker_pb2.TrialRequest] = []

    async def Check(self, request: checker_pb2.CheckRequest, context: Any) -> pb.CheckReport:
        self.asked.append(request)
        return self.reports.pop(0) if len(self.reports) > 1 else self.reports[0]

    async def Describe(self, request: checker_pb2.ScaleRequest, context: Any) -> checker_pb2.ScaleDescription:
        return checker_pb2.ScaleDescription(width=128, heads=4, blocks=2, context=256, steps=100, unit="byte")

    async def Trial(self, request: checker_pb2.TrialRequest, context: Any) -> checker_pb2.TrialReport:
        self.tried.append(request)
        return checker_pb2.TrialReport(curve=[pb.CurvePoint(step=request.steps, train_loss=2.0 + len(self.tried))])


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

    def served(self) -> AbstractAsyncContextManager[str]:
        """All three behind one address."""
        return serving(
            (archive_pb2_grpc.add_ArchiveServicer_to_server, self.archive),
            (checker_pb2_grpc.add_CheckerServicer_to_server, self.checker),
            (cognition_pb2_grpc.add_CognitionServicer_to_server, self.cognition),
        )


@dataclass
class Seats:
    """The researcher's handler, and the archive that it asks."""

    handler: Researcher
    archive: KnownArchive

    def requested(
        self, bus: Bus, baseline_name: str = "", number: int = 2, attempt: int = 1, of: str = "", component: str = ""
    ) -> Job:
        """The delivery of a seat: of a baseline, of an ablation of a candidate, or of a proposal."""
        record = pb.Candidate(
            id=f"c{number:06d}", run="r1", stage="tiny", state=pb.STATE_REQUESTED,
            kind=pb.KIND_ABLATION if of else pb.KIND_BASELINE if baseline_name else pb.KIND_PROPOSAL,
            request=pb.Request(
                number=number, baseline=baseline_name, seeds=[1], mind="offline", ablation_of=of,
                without_component=component,
            ),
        )  # fmt: skip
        event = first("r1", "requested", "store")
        event.candidate = record.id
        event.candidate_requested.CopyFrom(
            events_pb2.CandidateRequested(request=record.request, kind=record.kind, stage="tiny")
        )
        return replace(self.archive.deliver(bus, event, record, "researcher"), attempt=attempt)

    async def handle(self, bus: Bus, baseline_name: str = "", **seat: Any) -> Sequence[events_pb2.Event]:
        """What the researcher publishes for a seat that `requested` describes."""
        return await self.handler.handle(self.requested(bus, baseline_name, **seat))


@asynccontextmanager
async def researcher(
    neighbours: Neighbours,
    proposer: Callable[[], Proposer],
    bus: Bus | None = None,
    endpoint: OpenAIEmbedder | None = None,
    artifacts: str = "",
) -> AsyncIterator[Seats]:
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
        handler = Researcher(
            archive,
            checker_pb2_grpc.CheckerStub(connection),
            cognition_pb2_grpc.CognitionStub(connection),
            spaces,
            embed,
            choose,
        )
        yield Seats(handler, neighbours.archive)


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
