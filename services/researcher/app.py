"""The researcher, put together, and the proposer that gives each seat to a language model or to the offline search."""

import os
import random
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from pydantic import Field

from services.chassis.errors import Rejected
from services.chassis.rpc import channel
from services.chassis.service import Service
from services.chassis.settings import ServiceSettings
from services.chassis.worker import Job
from services.contracts import archive_pb2, archive_pb2_grpc, checker_pb2_grpc, cognition_pb2_grpc
from services.contracts import candidate_pb2 as pb
from services.llm.embedder import LocalEmbedder
from services.llm.minds import Minds
from services.llm.openai_embedder import MotivationEmbedder, RunEmbedder, endpoint_embedder
from services.llm.port import MIXED
from services.researcher.draft import Context, Draft, Proposer, Refusal
from services.researcher.handlers import Researcher
from services.researcher.model_proposer import ModelProposer
from services.researcher.offline.proposer import OfflineProposer, describes


class ResearcherSettings(ServiceSettings):
    """Variables begin with ASI_RESEARCHER_ where they are the researcher's own."""

    parallel: int = Field(4, ge=1, description="seats worked on at once; a language model has a limit of its own")


class MixedProposer:
    """Chooses between `model` and `offline` for each seat by Thompson sampling on earlier proposals of the run.

    A proposal succeeds when its fitness is above its parent's; one that was rejected fails (Beta prior 1, 1; Thompson
    1933; Chapelle and Li 2011). The draw is seeded by the run's seed and the candidate, so that a seat handled twice
    chooses alike. Where the offline search has nothing new to offer, the model proposes.
    """

    def __init__(self, model: Proposer, offline: Proposer) -> None:
        self._model = model
        self._offline = offline

    async def propose(self, context: Context, refusals: Sequence[Refusal]) -> Draft:
        """As the port says."""
        if not offline_is_drawn(context.history, f"{context.settings.seed}:{context.record.id}:mix"):
            return await self._model.propose(context, refusals)
        try:
            return await self._offline.propose(context, refusals)
        except Rejected:
            return await self._model.propose(context, refusals)

    async def repeats(self, context: Context, draft: Draft, neighbours: Sequence[pb.Candidate]) -> str:
        """As the port says; drafts of the offline search are compared by structure alone."""
        return "" if draft.moves else await self._model.repeats(context, draft, neighbours)

    async def without(self, original: pb.Candidate, record: pb.Candidate, refusals: Sequence[Refusal]) -> Draft:
        """As the port says."""
        proposer = self._offline if describes(original) else self._model
        return await proposer.without(original, record, refusals)


def offline_is_drawn(history: Iterable[archive_pb2.MoveOutcome], seed: str) -> bool:
    """Whether the offline search is given the seat. Its outcomes are those that name moves."""
    counts = {True: [1, 1], False: [1, 1]}  # successes and failures, by whether the proposal was offline
    for outcome in history:
        if outcome.HasField("gain") or outcome.rejected:
            failed = outcome.rejected or outcome.gain <= 0
            counts[bool(outcome.moves)][failed] += 1
    rng = random.Random(seed)
    return rng.betavariate(*counts[True]) > rng.betavariate(*counts[False])


DIMENSION = 256  # of the local embedder: a motivation is a paragraph


@asynccontextmanager
async def build(service: Service, settings: ResearcherSettings) -> AsyncIterator[None]:
    """Fill the seats that the store gives out."""
    offline, local = OfflineProposer(), LocalEmbedder(DIMENSION)
    endpoint = endpoint_embedder(os.environ)

    async def choose(mind: str, job: Job) -> Proposer:
        thinking = await minds.mind(mind, job)
        if thinking is None:
            return offline
        model = ModelProposer(thinking, checker=checker_stub)
        return MixedProposer(model, offline) if mind == MIXED else model

    async with AsyncExitStack() as stack:
        archive, checker, cognition = [
            await stack.enter_async_context(channel(address, settings))
            for address in (settings.archive_address, settings.checker_address, settings.cognition_address)
        ]
        archive_stub, checker_stub = archive_pb2_grpc.ArchiveStub(archive), checker_pb2_grpc.CheckerStub(checker)
        minds = Minds(service.name, service.bus, archive_stub, settings.artifacts)
        stack.push_async_callback(minds.close)
        embedder = RunEmbedder(endpoint, minds)
        stack.push_async_callback(embedder.close)
        researcher = Researcher(
            archive_stub,
            checker_stub,
            cognition_pb2_grpc.CognitionStub(cognition),
            MotivationEmbedder(local, embedder),
            embedder.vector,
            choose,
        )
        await service.work("researcher", researcher.handle, settings.parallel)
        yield
