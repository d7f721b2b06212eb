"""The offline proposer: proposals and ablations by a search over descriptions, without a language model."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from types import NoneType
from typing import Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from services.archive.scoring import costs_of_record, curves_of, objectives_of, program_of, stopped_early
from services.chassis.errors import Rejected
from services.contracts import candidate_pb2 as pb
from services.contracts.events_pb2 import RunSettings
from services.domain.components import FORM
from services.domain.curves import expected_ends
from services.domain.objectives import scalarised
from services.domain.structure import fingerprint
from services.mixers.components import components_of
from services.mixers.description import CATALOGUE, Mixer
from services.mixers.render import render
from services.mixers.surrogate import Observation, Prior
from services.researcher.draft import Context, Draft, Refusal, struct_json
from services.researcher.offline_search import (
    SearchExhaustedError,
    Seed,
    propose_by_surrogate,
    propose_offline,
    starting_point,
)
from services.table import Table

Change = tuple[str, str, object]
"""A part of the mixer, one of its fields, and the field's new value."""


def without(mixer: Mixer, component: str) -> tuple[Mixer, tuple[str, ...]] | None:
    """The nearest valid description without `component`, and the changes in words; None if there is none.

    Nearest: with the fewest added components, then the fewest changes, then the fewest other removed components.
    """
    mixer = mixer.canonical()
    before = set(components_of(mixer))
    if component not in before or component in FORM:
        return None
    changes = list(_changes(mixer))
    singles: list[tuple[Change, ...]] = [(change,) for change in changes]
    pairs: list[tuple[Change, ...]] = [pair for pair in product(changes, repeat=2) if pair[0][:2] < pair[1][:2]]
    options: list[tuple[tuple[int, ...], tuple[Change, ...], Mixer]] = []
    for combination in singles + pairs:
        changed = _changed(mixer, combination)
        if changed is None or component in (after := set(components_of(changed))):
            continue
        unusual = sum(not _is_default(change) for change in combination)
        cost = (len(after - before), len(combination), len(before - after), unusual)
        if cost[:3] == (0, 1, 1):  # no other one is nearer
            options = [(cost, combination, changed)]
            break
        options.append((cost, combination, changed))
    if not options:
        return None
    _, best, changed = min(options, key=lambda option: (option[0], str(option[1])))
    return changed, tuple(_change_text(mixer, *change) for change in best)


def _changes(mixer: Mixer) -> Iterator[Change]:
    """All other values of fields with fixed choices, and removals of paths."""
    for part in ("inputs", "features", "memory", "fusion", "output"):
        own = getattr(mixer, part)
        for field, info in type(own).model_fields.items():
            for value in sorted(_values(info), key=lambda value: (value != info.default, str(value))):
                if value != getattr(own, field):
                    yield part, field, value
    for path in mixer.paths:
        yield "paths", "", tuple(kept for kept in mixer.paths if kept != path)
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
            assert isinstance(own, BaseModel)  # noqa: S101 - all parts except paths are
            parts[part] = own.model_copy(update={field: value})
    try:
        return Mixer.model_validate(mixer.model_copy(update=parts).model_dump()).canonical()
    except ValidationError:
        return None


def _is_default(change: Change) -> bool:
    part, field, value = change
    return part == "paths" or getattr(getattr(Mixer(), part), field) == value or value in ("none", "", False)


def _change_text(mixer: Mixer, part: str, field: str, value: object) -> str:
    if part == "paths":
        left = {path.kind for path in value} if isinstance(value, tuple) else set()
        return f"the paths {', '.join(path.kind for path in mixer.paths if path.kind not in left)} are left out"
    return f"{part}.{field} is {value!r} instead of {getattr(getattr(mixer, part), field)!r}"


NAME = "offline search 1"
INFORMED, SURROGATE, BANDIT, RANDOM = "informed", "surrogate", "bandit", "random"
MODELS = (INFORMED, SURROGATE)
RANDOM_NAME = "random compositions 1"
NAMES = {BANDIT: NAME, INFORMED: "offline informed 1", SURROGATE: "offline surrogate 3", RANDOM: RANDOM_NAME}
WHY_NOT = "it is no part of it, or nothing sound remains"


class OfflineProposer:
    """A search over known architectural moves, by the run's policy `search`.

    `surrogate` uses a model of all measured candidates, `informed` one that begins with the shipped table of mixers,
    `bandit` (if the policy is absent) the gains of moves, and `random` neither.
    """

    async def propose(self, context: Context, refusals: Sequence[Refusal]) -> Draft:
        """See the port. The same context and refusals give the same draft."""
        search = context.settings.policies.search or BANDIT
        refused = {fingerprint(refusal.draft.program).digest for refusal in refusals}
        rng = random.Random(f"{context.settings.seed}:{context.record.id}:{len(refusals)}")
        try:
            draft = self._proposal(context, refused, rng, search)
        except SearchExhaustedError as error:
            raise Rejected("propose", str(error), {"refused": [refusal.sentence for refusal in refusals]}) from error
        return replace(draft, mind=NAMES[search])

    async def repeats(self, context: Context, draft: Draft, neighbours: Sequence[pb.Candidate]) -> str:
        """Always empty: motivations of moves add nothing to the programs, which are compared by structure."""
        del context, draft, neighbours
        return ""

    async def without(self, original: pb.Candidate, record: pb.Candidate, refusals: Sequence[Refusal]) -> Draft:
        """Ablate the original's description. There is only one such program, so a refusal is final."""
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
        mixer, changes = changed
        name = f"{original.proposal.name} without {component}"
        text = f"{original.proposal.name} without {component}, to measure what it brings: {'; '.join(changes)}."
        return Draft(
            name=name,
            motivation=text,
            program=render(mixer, name, text),
            components=components_of(mixer),
            description=mixer.model_dump(mode="json"),
            mind=NAME,
        )

    def _proposal(self, context: Context, refused: set[str], rng: random.Random, search: str) -> Draft:
        parent = seed_of(context.parent)
        references = [seed_of(reference) for reference in context.references]
        proposed = refused | context.drafted | {outcome.structure for outcome in context.history}

        def is_repeat(program: str) -> bool:
            return fingerprint(program).digest in proposed

        if search == RANDOM:
            return propose_offline(parent, references, (), (), rng, is_repeat)
        if search not in MODELS:
            history = [
                Observation(tuple(outcome.moves), outcome.gain if outcome.HasField("gain") else None)
                for outcome in context.history
                if outcome.HasField("gain") or outcome.rejected
            ]
            return propose_offline(parent, references, history, context.entries, rng, is_repeat)
        records = {record.id: record for record in (*context.board, context.parent, *context.references)}
        measured = _scored(list(records.values()), context.settings, rng)
        names = [objective.name for objective in objectives_of(context.settings)]
        measure = f"a score of {', '.join(names)} under weights of its own" if names else "fitness"
        prior = _prior() if search == INFORMED else None
        return propose_by_surrogate(parent, references, measured, context.entries, rng, is_repeat, measure, prior)


@cache
def _prior() -> Prior:
    """The shipped table's, made once, in a second."""
    return Table.load().prior


def _scored(records: Sequence[pb.Candidate], settings: RunSettings, rng: random.Random) -> list[Seed]:
    """The data of the surrogate: fitness, or with several objectives their weighted sum, with weights drawn for this
    proposal, if all are measured.

    A fitness after fewer steps is lower than it would be at the end, so the end's is predicted from the curves. Taken
    for final, such values double the search's regret (`python -m bench.early_stopping`).
    """
    seeds = [seed_of(record) for record in records]
    if not objectives_of(settings):
        expected = _expected_fitness(records)
        return [replace(seed, fitness=expected.get(seed.candidate, seed.fitness)) for seed in seeds]
    costs = {record.id: cost for record in records if (cost := costs_of_record(record, settings)) is not None}
    scores = dict(zip(costs, scalarised(list(costs.values()), rng), strict=True))
    return [replace(seed, fitness=scores.get(seed.candidate)) for seed in seeds]


def _expected_fitness(records: Sequence[pb.Candidate]) -> dict[str, float | None]:
    """The predicted fitness of candidates whose training stopped early; None if too few have finished."""
    steps = max((curve.total for curve in curves_of(records)), default=0)
    curves = {record.id: replace(curve, total=steps) for record in records for curve in curves_of([record])[:1]}
    stopped = {record.id for record in records if stopped_early(record)}
    fitness = {seed.candidate: seed.fitness for seed in map(seed_of, records) if seed.candidate not in stopped}
    known = [name for name in curves if name in stopped or fitness[name] is not None]
    ends = expected_ends([replace(curves[name], final=fitness.get(name)) for name in known])
    return dict.fromkeys(stopped) | {name: end for name, end in zip(known, ends, strict=True) if name in stopped}


def describes(record: pb.Candidate) -> bool:
    """Whether the candidate's program has a description."""
    return record.proposal.HasField("description") or record.request.baseline in CATALOGUE


def seed_of(record: pb.Candidate) -> Seed:
    proposal = record.proposal
    return Seed(
        candidate=record.id,
        name=proposal.name,
        program=program_of(record),
        fitness=record.verdict.fitness.value if record.verdict.HasField("fitness") else None,
        description=struct_json(proposal.description) if proposal.HasField("description") else None,
        family=record.request.baseline or None,
    )
