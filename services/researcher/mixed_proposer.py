"""Proposals by a language model and by the offline search in one run: a bandit gives each seat to the one that pays."""

import random
from collections.abc import Iterable, Sequence

from services.chassis.errors import Rejected
from services.contracts import archive_pb2
from services.contracts import candidate_pb2 as pb
from services.researcher.draft import Context, Draft, Proposer, Refusal
from services.researcher.offline.proposer import describes


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
