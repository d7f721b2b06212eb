"""The offline mind behind the port of proposing."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from types import NoneType
from typing import Literal, get_args, get_origin

from google.protobuf.json_format import MessageToDict
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from services.archive.scoring import costs_of_record, objectives_of
from services.chassis.errors import Rejected
from services.contracts import candidate_pb2 as pb
from services.contracts.events_pb2 import RunSettings
from services.domain.objectives import scalarised
from services.domain.structure import fingerprint
from services.mixers.description import CATALOGUE, Mixer, components_of
from services.mixers.render import render
from services.researcher.draft import Context, Draft, Refusal
from services.researcher.offline.search import (
    CognitionHint,
    Observation,
    OfflineProposal,
    SearchExhaustedError,
    Seed,
    propose_by_surrogate,
    propose_offline,
    propose_random,
    starting_point,
)

FORM = frozenset({"chunkwise-form"})
"""How a mixer is computed, not what it computes: there is nothing to leave out."""

Change = tuple[str, str, object]
"""A part of the mixer, a field of it, and the field's new value."""


def without(mixer: Mixer, component: str) -> tuple[Mixer, tuple[str, ...]] | None:
    """The nearest sound description without ``component`` and what was changed, in words; None where there is none.

    Nearest: it gains the fewest other components, then needs the fewest changes, then loses the fewest others.
    """
    mixer = mixer.canonical()
    had = set(components_of(mixer))
    if component not in had or component in FORM:
        return None
    changes = list(_changes(mixer))
    singles: list[tuple[Change, ...]] = [(change,) for change in changes]
    pairs: list[tuple[Change, ...]] = [pair for pair in product(changes, repeat=2) if pair[0][:2] < pair[1][:2]]
    found: list[tuple[tuple[int, ...], tuple[Change, ...], Mixer]] = []
    for one in singles + pairs:
        changed = _changed(mixer, one)
        if changed is None or component in (has := set(components_of(changed))):
            continue
        cost = (len(has - had), len(one), len(had - has), sum(not _is_default(change) for change in one))
        if cost[:3] == (0, 1, 1):
            return changed, _told(mixer, one)
        found.append((cost, one, changed))
    if not found:
        return None
    _, best, changed = min(found, key=lambda one: (one[0], str(one[1])))
    return changed, _told(mixer, best)


def _changes(mixer: Mixer) -> Iterator[Change]:
    """Every other value of every field with a list of values, and the paths fewer."""
    for part in ("inputs", "features", "memory", "fusion", "output"):
        own = getattr(mixer, part)
        for field, info in type(own).model_fields.items():
            for value in sorted(_values(info), key=lambda value: (value != info.default, str(value))):
                if value != getattr(own, field):
                    yield part, field, value
    for path in mixer.paths:
        yield "paths", "", tuple(one for one in mixer.paths if one != path)
    if len(mixer.paths) > 1:
        yield "paths", "", ()


def _values(info: FieldInfo) -> tuple[object, ...]:
    annotation = info.annotation or NoneType
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return (True, False) if annotation is bool else ()


def _changed(mixer: Mixer, changes: tuple[Change, ...]) -> Mixer | None:
    parts: dict[str, object] = {}
    for part, field, value in changes:
        if part == "paths":
            parts[part] = value
        else:
            own = parts.get(part, getattr(mixer, part))
            assert isinstance(own, BaseModel)  # noqa: S101 - all parts but the paths are
            parts[part] = own.model_copy(update={field: value})
    try:
        return Mixer.model_validate(mixer.model_copy(update=parts).model_dump()).canonical()
    except ValidationError:
        return None


def _is_default(change: Change) -> bool:
    part, field, value = change
    return part == "paths" or getattr(getattr(Mixer(), part), field) == value or value in ("none", "", False)


def _told(mixer: Mixer, changes: tuple[Change, ...]) -> tuple[str, ...]:
    return tuple(_words(mixer, *change) for change in changes)


def _words(mixer: Mixer, part: str, field: str, value: object) -> str:
    if part == "paths":
        left = {path.kind for path in value} if isinstance(value, tuple) else set()
        return f"the paths {', '.join(path.kind for path in mixer.paths if path.kind not in left)} are left out"
    return f"{part}.{field} is {value!r} instead of {getattr(getattr(mixer, part), field)!r}"


NAME = "offline search 1"
SURROGATE, BANDIT, RANDOM = "surrogate", "bandit", "random"
RANDOM_NAME = "random compositions 1"
NAMES = {BANDIT: NAME, SURROGATE: "offline surrogate 2", RANDOM: RANDOM_NAME}
WHY_NOT = "it is no part of it, or nothing sound remains"


class OfflineProposer:
    """A search over known architectural moves.

    The run's policy `search` says how: `surrogate` (of new runs) by a model of everything measured, from any parent;
    `bandit` (where a run says nothing) by what each move gained; `random` blindly.
    """

    async def propose(self, context: Context, refusals: Sequence[Refusal]) -> Draft:
        """As the port says: the same context and refusals give the same draft."""
        search = context.settings.policies.search or BANDIT
        refused = {fingerprint(refusal.draft.program).digest for refusal in refusals}
        rng = random.Random(f"{context.settings.seed}:{context.record.id}:{len(refusals)}")
        try:
            proposal = self._proposal(context, refused, rng, search)
        except SearchExhaustedError as error:
            raise Rejected("propose", str(error), {"refused": [refusal.sentence for refusal in refusals]}) from error
        return Draft(
            name=proposal.name,
            motivation=proposal.motivation,
            program=proposal.program,
            components=proposal.components,
            ideas=[pb.Idea(text=idea.text, origin=idea.origin, source=idea.source or "") for idea in proposal.ideas],
            moves=proposal.moves,
            description=json.loads(proposal.description),
            mind=NAMES[search],
            parent=proposal.parent,
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
        changed = without(starting_point(seed_of(original))[0], component)
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
        references = [seed_of(reference) for reference in context.references]
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
        records = {record.id: record for record in (*context.board, context.parent, *context.references)}
        measured = _scored(list(records.values()), context.settings, rng)
        names = [objective.name for objective in objectives_of(context.settings)]
        measure = f"a score of {', '.join(names)} under weights of its own" if names else "fitness"
        return propose_by_surrogate(parent, references, measured, history, hints, rng, is_repeat, measure)


def _scored(records: Sequence[pb.Candidate], settings: RunSettings, rng: random.Random) -> list[Seed]:
    """What the surrogate learns: fitness; in a run with several objectives their scores under weights drawn for this
    proposal, and what is not measured in all of them has none."""
    seeds = [seed_of(record) for record in records]
    if not objectives_of(settings):
        return seeds
    costs = {record.id: cost for record in records if (cost := costs_of_record(record, settings)) is not None}
    scores = dict(zip(costs, scalarised(list(costs.values()), rng), strict=True))
    return [replace(seed, fitness=scores.get(seed.candidate)) for seed in seeds]


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
