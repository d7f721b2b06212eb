"""The offline mind behind the port of proposing."""

import json
import random
from collections.abc import Sequence

from google.protobuf.json_format import MessageToDict

from services.chassis.errors import Rejected
from services.contracts import candidate_pb2 as pb
from services.domain.structure import fingerprint
from services.mixers.catalogue import CATALOGUE
from services.mixers.components import components_of
from services.mixers.render import render
from services.researcher.draft import Context, Draft, Refusal
from services.researcher.offline import removal
from services.researcher.offline.bandit import Observation
from services.researcher.offline.hints import CognitionHint
from services.researcher.offline.search import (
    OfflineProposal,
    SearchExhaustedError,
    Seed,
    propose_by_surrogate,
    propose_offline,
    propose_random,
    starting_point,
)

NAME = "offline search 1"
SURROGATE, BANDIT, RANDOM = "surrogate", "bandit", "random"
RANDOM_NAME = "random compositions 1"
NAMES = {BANDIT: NAME, SURROGATE: "offline surrogate 1", RANDOM: RANDOM_NAME}
WHY_NOT = "it is no part of it, or nothing sound remains"


class OfflineProposer:
    """A search over known architectural moves.

    The run's policy `search` says how: `bandit` (the default) by what each move gained, `surrogate` by a model of
    everything measured, `random` blindly.
    """

    async def propose(self, context: Context, refusals: Sequence[Refusal]) -> Draft:
        """As the port says: the same context and refusals give the same draft."""
        search = context.settings.policies.search or BANDIT
        refused = {fingerprint(one.draft.program).digest for one in refusals}
        rng = random.Random(f"{context.settings.seed}:{context.record.id}:{len(refusals)}")
        try:
            proposal = self._proposal(context, refused, rng, search)
        except SearchExhaustedError as error:
            raise Rejected("propose", str(error), {"refused": [one.sentence for one in refusals]}) from error
        return Draft(
            name=proposal.name,
            motivation=proposal.motivation,
            program=proposal.program,
            components=proposal.components,
            ideas=[pb.Idea(text=one.text, origin=one.origin, source=one.source or "") for one in proposal.ideas],
            moves=proposal.moves,
            description=json.loads(proposal.description),
            mind=NAMES[search],
        )

    async def repeats(self, context: Context, draft: Draft, neighbours: Sequence[pb.Candidate]) -> str:
        """Nothing: motivations made of moves tell no more than the programs, which are compared by structure."""
        del context, draft, neighbours
        return ""

    async def without(self, original: pb.Candidate, record: pb.Candidate, refusals: Sequence[Refusal]) -> Draft:
        """By the description that the original was rendered from; there is one such program, so a refusal is final."""
        component = record.request.without_component
        if refusals:
            raise Rejected("propose", f"without {component} it is not sound: {refusals[-1].sentence}")
        if not describes(original):
            raise Rejected(
                "propose", f"{original.id} has no description, so that nothing can be left out of it without a model"
            )
        changed = removal.without(starting_point(seed_of(original))[0], component)
        if changed is None:
            raise Rejected("propose", f"{component} cannot be left out of {original.proposal.name}: {WHY_NOT}")
        mixer, told = changed
        name = f"{original.proposal.name} without {component}"
        text = f"{original.proposal.name} without {component}, to measure what it brings: {'; '.join(told)}."
        return Draft(
            name=name,
            motivation=text,
            program=render(mixer, name, text),
            components=components_of(mixer),
            description=json.loads(mixer.to_json()),
            mind=NAME,
        )

    def _proposal(self, context: Context, refused: set[str], rng: random.Random, search: str) -> OfflineProposal:
        parent = seed_of(context.parent)
        references = [seed_of(one) for one in context.references]
        history = [
            Observation(tuple(one.moves), one.gain if one.HasField("gain") else None, one.structure)
            for one in context.history
            if one.HasField("gain") or one.rejected
        ]
        if search == RANDOM:
            return propose_random(parent, references, history, rng)
        hints = [CognitionHint(entry.id, tuple(entry.components), entry.title) for entry in context.entries]

        def is_repeat(program: str) -> bool:
            return fingerprint(program).digest in refused

        if search != SURROGATE:
            return propose_offline(parent, references, history, hints, rng, is_repeat)
        measured = [seed_of(record) for record in (*context.board, context.parent, *context.references)]
        measured = list({seed.candidate: seed for seed in measured}.values())
        return propose_by_surrogate(parent, references, measured, history, hints, rng, is_repeat)


def describes(record: pb.Candidate) -> bool:
    """Whether a description of the candidate's program is known."""
    return record.proposal.HasField("description") or record.request.baseline in CATALOGUE


def seed_of(record: pb.Candidate) -> Seed:
    """A candidate as the search reads it."""
    proposal = record.proposal
    return Seed(
        candidate=record.id,
        name=proposal.name,
        program=record.training.program or proposal.program,
        fitness=record.verdict.fitness.value if record.verdict.HasField("fitness") else None,
        description=_json_of(proposal) if proposal.HasField("description") else None,
        family=record.request.baseline or None,
    )


def _json_of(proposal: pb.Proposal) -> str:
    """The typed description; a Struct holds whole numbers as floats, which are given back as whole."""
    return json.dumps(_whole(MessageToDict(proposal.description)), sort_keys=True)


def _whole(value: object) -> object:
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
