"""Lessons of a run: what analyses claim about a component, weighed by what the run's records measured.

A claim is an analyst's sentence on one component ("helps", "hurts" or "neutral"). Evidence is independent of who made
it: each candidate whose components differ from its parent's by that component, and whose loss differs from its parent's
by more than twice the standard error, supports or contradicts the claim. A lesson with more counter-evidence than
evidence is dropped.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.contracts import candidate_pb2 as pb

HELPS, HURTS, NEUTRAL = "helps", "hurts", "neutral"
STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Lesson:
    """A claim with its source (a candidate's id) and the candidates that support or contradict it."""

    component: str
    effect: str
    claim: str
    source: str
    supported_by: tuple[str, ...]
    contradicted_by: tuple[str, ...]

    @property
    def confidence(self) -> float:
        """Posterior mean of being right, from a uniform prior: 0.5 without evidence."""
        return (1 + len(self.supported_by)) / (2 + len(self.supported_by) + len(self.contradicted_by))


def lessons_of(records: Iterable[pb.Candidate], most: int) -> list[Lesson]:
    """The lessons that are not refuted, surest first, one for each component and effect: the newest claim speaks."""
    records = sorted(records, key=lambda record: record.request.number)
    effects = [effect for record in records for effect in _measured_effects(record, records)]
    newest = {
        (lesson.component, lesson.effect): (lesson, record.id)
        for record in records
        for lesson in record.analysis.lessons
    }
    lessons = [_weighed(lesson, source, effects) for lesson, source in newest.values()]
    kept = [lesson for lesson in lessons if len(lesson.contradicted_by) <= len(lesson.supported_by)]
    kept.sort(key=lambda lesson: (-lesson.confidence, -len(lesson.supported_by), lesson.component, lesson.effect))
    return kept[:most]


def lessons_text(lessons: Sequence[Lesson]) -> str:
    """One line for each lesson, with its source and evidence, as prompts show it."""
    lines = []
    for lesson in lessons:
        evidence = f"supported by {', '.join(lesson.supported_by)}" if lesson.supported_by else "not tested yet"
        if lesson.contradicted_by:
            evidence += f"; contradicted by {', '.join(lesson.contradicted_by)}"
        lines.append(f"- {lesson.component} {lesson.effect}: {lesson.claim} (from {lesson.source}; {evidence})")
    return "\n".join(lines) or "None."


@dataclass(frozen=True)
class _Effect:
    """What adding a component did in one candidate."""

    component: str
    effect: str
    candidate: str


def _measured_effects(record: pb.Candidate, records: Sequence[pb.Candidate]) -> list[_Effect]:
    """One for each component in which the candidate differs from its parent; none where the loss cannot be compared."""
    parent = next((other for other in records if other.id == record.proposal.parent), None)
    if parent is None or not (record.training.HasField("loss") and parent.training.HasField("loss")):
        return []
    errors = [_standard_error(one) for one in (record, parent)]
    if None in errors:
        return []
    lower = parent.training.loss - record.training.loss
    margin = STANDARD_ERRORS * math.hypot(*(error or 0.0 for error in errors))
    effect = NEUTRAL if abs(lower) <= margin else HELPS if lower > 0 else HURTS
    opposite = {HELPS: HURTS, HURTS: HELPS, NEUTRAL: NEUTRAL}[effect]
    own, parents = set(record.proposal.components), set(parent.proposal.components)
    return [_Effect(name, effect, record.id) for name in sorted(own - parents)] + [
        _Effect(name, opposite, record.id) for name in sorted(parents - own)
    ]


def _standard_error(record: pb.Candidate) -> float | None:
    """Of the mean loss over seeds; with one seed over its held-out blocks, which is smaller than that over seeds."""
    if record.training.HasField("loss_stderr"):
        return record.training.loss_stderr
    seeds = record.training.seeds
    return seeds[0].loss_stderr if seeds and seeds[0].HasField("loss_stderr") else None


def _weighed(lesson: pb.Lesson, source: str, effects: Iterable[_Effect]) -> Lesson:
    about = [effect for effect in effects if effect.component == lesson.component]
    return Lesson(
        lesson.component,
        lesson.effect,
        lesson.claim,
        source,
        tuple(effect.candidate for effect in about if effect.effect == lesson.effect),
        tuple(effect.candidate for effect in about if effect.effect != lesson.effect),
    )
