"""Proposals by a language model or by the offline search, seat by seat, as each has succeeded per unit of cost."""

import random
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from services.chassis.errors import Rejected
from services.contracts import archive_pb2
from services.contracts import candidate_pb2 as pb
from services.llm.port import Role
from services.researcher.draft import Context, Draft, Proposer, Refusal
from services.researcher.offline_proposer import describes


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
