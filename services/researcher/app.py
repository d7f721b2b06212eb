"""The researcher's settings and wiring, and the proposer that chooses a language model or the offline search."""

import os
import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import fmean

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
from services.llm.port import MIXED, Role
from services.researcher.draft import Context, Draft, Proposer, Refusal
from services.researcher.handlers import Researcher
from services.researcher.model_proposer import ModelProposer
from services.researcher.offline.proposer import OfflineProposer, describes


class ResearcherSettings(ServiceSettings):
    """The researcher's own variables begin with ASI_RESEARCHER_."""

    parallel: int = Field(4, ge=1, description="seats worked on at once; a language model has a limit of its own")


class MixedProposer:
    """Chooses between `model` and `offline` for each seat by the success per cost of earlier proposals.

    A proposal succeeds if its fitness exceeds its parent's, and fails if it is rejected. For each proposer, a success
    rate is drawn from its posterior (Beta prior 1, 1) and divided by the mean cost of its seats; the proposer with the
    higher ratio gets the seat (Thompson sampling with budgets: Xia et al., IJCAI 2015). The draw is seeded by the run's
    seed and the candidate, so a redelivered seat gets the same proposer. If the offline search is exhausted, the model
    proposes.
    """

    def __init__(self, model: Proposer, offline: Proposer) -> None:
        self._model = model
        self._offline = offline

    async def propose(self, context: Context, refusals: Sequence[Refusal]) -> Draft:
        seed = f"{context.settings.seed}:{context.record.id}:mix"
        if not offline_is_drawn(context.history, seed, seat_costs(context.board)):
            return await self._model.propose(context, refusals)
        try:
            return await self._offline.propose(context, refusals)
        except Rejected:
            return await self._model.propose(context, refusals)

    async def repeats(self, context: Context, draft: Draft, neighbours: Sequence[pb.Candidate]) -> str:
        """See the port. Drafts of the offline search are compared by structure alone."""
        return "" if draft.moves else await self._model.repeats(context, draft, neighbours)

    async def without(self, original: pb.Candidate, record: pb.Candidate, refusals: Sequence[Refusal]) -> Draft:
        proposer = self._offline if describes(original) else self._model
        return await proposer.without(original, record, refusals)


EQUAL_COSTS: Mapping[bool, float] = {True: 1.0, False: 1.0}


def seat_costs(records: Iterable[pb.Candidate]) -> Mapping[bool, float]:
    """The mean cost of a seat of each proposer (True: the offline search), as the mean of two shares.

    The first is the time of training and of waiting for answers, the second the dollars, or the tokens if a price is
    unknown; each as a share of the sum over both proposers. A proposer that takes the same time as the other and no
    tokens thus costs a third of it. Both costs are equal until each proposer has a seat that ended.
    """
    seats: dict[bool, list[pb.Candidate]] = {True: [], False: []}
    for record in records:
        proposed = record.proposal.moves or any(call.role == Role.PROPOSE for call in record.calls)
        if proposed and record.kind == pb.KIND_PROPOSAL and record.state in (pb.STATE_ARCHIVED, pb.STATE_REJECTED):
            seats[bool(record.proposal.moves)].append(record)
    if not all(seats.values()):
        return EQUAL_COSTS
    priced = all(call.HasField("price") for records in seats.values() for record in records for call in record.calls)
    shares: list[dict[bool, float]] = []
    for used in (_seconds, _dollars if priced else _tokens):
        means = {offline: fmean(map(used, ended)) for offline, ended in seats.items()}
        if total := sum(means.values()):
            shares.append({offline: mean / total for offline, mean in means.items()})
    costs = {offline: fmean(share[offline] for share in shares) if shares else 1.0 for offline in seats}
    return costs if all(costs.values()) else EQUAL_COSTS


def _seconds(record: pb.Candidate) -> float:
    training = sum(seed.measurements.seconds for seed in record.training.seeds)
    return training + sum(call.seconds for call in record.calls)


def _tokens(record: pb.Candidate) -> float:
    return sum(call.reserved_tokens or call.prompt_tokens + call.completion_tokens for call in record.calls)


def _dollars(record: pb.Candidate) -> float:
    return sum(call.reserved_price or call.price for call in record.calls)


def offline_is_drawn(
    history: Iterable[archive_pb2.MoveOutcome], seed: str, costs: Mapping[bool, float] = EQUAL_COSTS
) -> bool:
    """Whether the offline search gets the seat. Proposals that name moves are its own."""
    counts = {True: [1, 1], False: [1, 1]}  # successes and failures, by whether the proposal was offline
    for outcome in history:
        if outcome.HasField("gain") or outcome.rejected:
            failed = outcome.rejected or outcome.gain <= 0
            counts[bool(outcome.moves)][failed] += 1
    rng = random.Random(seed)
    return rng.betavariate(*counts[True]) / costs[True] > rng.betavariate(*counts[False]) / costs[False]


DIMENSION = 256  # of the local embedder, for texts of a paragraph


@asynccontextmanager
async def build(service: Service, settings: ResearcherSettings) -> AsyncIterator[None]:
    """Propose candidates for requested seats."""
    offline, local = OfflineProposer(), LocalEmbedder(DIMENSION)
    endpoint = endpoint_embedder(os.environ)

    async def choose(mind: str, job: Job) -> Proposer:
        model_mind = await minds.mind(mind, job)
        if model_mind is None:
            return offline
        model = ModelProposer(model_mind, checker_stub)
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
