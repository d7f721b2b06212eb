"""Lessons of a run: what analyses claim about a component, weighed by what the run's records measured.

A claim is an analyst's sentence on one component ("helps", "hurts" or "neutral"). Evidence is independent of who made
it: each candidate whose components differ from its parent's by that component, and whose loss differs from its parent's
by more than twice the standard error, supports or contradicts the claim; what cannot be told apart supports that the
component is neutral, and says nothing against "helps" or "hurts". A lesson with more counter-evidence than evidence is
refuted.

`quotations` tells by the text of a recorded prompt which of its sentences an analysis wrote.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from services.archive.scoring import block_gains
from services.contracts import archive_pb2
from services.contracts import candidate_pb2 as pb

HELPS, HURTS, NEUTRAL = "helps", "hurts", "neutral"
STANDARD_ERRORS = 2.0
LEAST_QUOTED = 25  # characters: what is shorter may be anybody's
CUT = "…"
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def lessons_of(records: Iterable[pb.Candidate]) -> archive_pb2.LessonsReply:
    """All lessons, surest first, then newest; one for each component and effect, of which the newest claim speaks."""
    records = sorted(records, key=lambda record: record.request.number)
    effects = list(_measured_effects(records))
    newest = {
        (lesson.component, lesson.effect): (record.request.number, _weighed(lesson, record.id, effects))
        for record in records
        for lesson in record.analysis.lessons
    }
    ranked = [
        lesson
        for _, lesson in sorted(
            newest.values(), key=lambda one: (-one[1].confidence, -len(one[1].supported_by), -one[0], one[1].component)
        )
    ]
    return archive_pb2.LessonsReply(
        lessons=[lesson for lesson in ranked if not _is_refuted(lesson)],
        refuted=[lesson for lesson in ranked if _is_refuted(lesson)],
    )


def lessons_text(lessons: Sequence[archive_pb2.WeighedLesson]) -> str:
    """One line for each lesson: how sure it is, its source, evidence and counter-evidence, as prompts show it."""
    lines = []
    for lesson in lessons:
        evidence = "not tested yet"
        if lesson.supported_by or lesson.contradicted_by:
            evidence = f"{lesson.confidence:.0%} sure"
        evidence += f"; for it {', '.join(lesson.supported_by)}" if lesson.supported_by else ""
        evidence += f"; against it {', '.join(lesson.contradicted_by)}" if lesson.contradicted_by else ""
        lines.append(f"- {lesson.component} {lesson.effect}: {lesson.claim} (from {lesson.source}; {evidence})")
    return "\n".join(lines) or "None."


@dataclass(frozen=True)
class Quotation:
    """A sentence of a prompt that an analysis wrote: where it stands, and whose analysis and which part it is from."""

    section: str  # the heading of the prompt above it
    source: str  # a candidate's id
    part: str  # of the analysis: "explanation", "synthesis", "lesson" …
    sentence: str


def quotations(prompt: str, records: Iterable[pb.Candidate]) -> list[Quotation]:
    """Every sentence of the records' analyses that stands in the prompt, in the prompt's order.

    White space does not count, and a sentence that the prompt cuts off with an ellipsis is found as far as it goes.
    """
    flat, headings = _flattened(prompt)
    found = {}
    for record in records:
        for part, text in _written(record.analysis):
            for sentence in _SENTENCE_END.split(" ".join(text.split())):
                if len(sentence) < LEAST_QUOTED:
                    continue
                for place, quoted in _places(flat, sentence):
                    section = next((title for start, title in reversed(headings) if start <= place), "")
                    found[place, record.id, part] = Quotation(section, record.id, part, quoted)
    return [found[key] for key in sorted(found)]


def _flattened(prompt: str) -> tuple[str, list[tuple[int, str]]]:
    """The prompt with single spaces, and at which of its characters each main heading starts."""
    headings, pieces, length = [], [], 0
    for line in prompt.splitlines():
        if line.startswith("# "):
            headings.append((length, line.removeprefix("# ").strip()))
        if flat := " ".join(line.split()):
            pieces.append(flat)
            length += len(flat) + 1
    return " ".join(pieces), headings


def _places(flat: str, sentence: str) -> Iterator[tuple[int, str]]:
    """Where a sentence stands, and as much of it as stands there."""
    head = sentence[:LEAST_QUOTED]
    place = flat.find(head)
    while place >= 0:
        if flat.startswith(sentence, place):
            yield place, sentence
        elif (end := flat.find(CUT, place)) > 0 and sentence.startswith(flat[place:end]):
            yield place, flat[place : end + 1]
        place = flat.find(head, place + 1)


def _written(analysis: pb.Analysis) -> Iterator[tuple[str, str]]:
    for part in ("design_evaluation", "results", "expectation", "explanation", "synthesis"):
        yield part, getattr(analysis, part)
    yield from (("lesson", lesson.claim) for lesson in analysis.lessons)


@dataclass(frozen=True)
class _Effect:
    """What adding a component did in one candidate."""

    component: str
    effect: str
    candidate: str


def _measured_effects(records: Sequence[pb.Candidate]) -> Iterator[_Effect]:
    """One for each component in which a candidate differs from its parent; none where losses cannot be compared."""
    known = {record.id: record for record in records}
    for record in records:
        parent = known.get(record.proposal.parent)
        gain = None if parent is None else _gain(record, parent)
        if parent is None or gain is None:
            continue
        lower, error = gain
        effect = NEUTRAL if abs(lower) <= STANDARD_ERRORS * error else HELPS if lower > 0 else HURTS
        opposite = {HELPS: HURTS, HURTS: HELPS, NEUTRAL: NEUTRAL}[effect]
        own, before = _components(record), _components(parent)
        yield from (_Effect(name, effect, record.id) for name in sorted(own - before))
        yield from (_Effect(name, opposite, record.id) for name in sorted(before - own))


def _components(record: pb.Candidate) -> set[str]:
    """As the proposer names them, and as the analyst does who has read the program."""
    return {*record.proposal.components, *record.analysis.components}


def _gain(record: pb.Candidate, parent: pb.Candidate) -> tuple[float, float] | None:
    """How much lower the candidate's loss is, and the standard error: paired by held-out block where both have them.

    It covers the text, not other seeds: with one seed it is smaller than what separates two trainings of one program.
    """
    if not (record.training.HasField("loss") and parent.training.HasField("loss")):
        return None
    lower = parent.training.loss - record.training.loss
    if rows := block_gains(record, parent):
        blocks = [fmean(block) for block in zip(*rows, strict=True)]
        return (lower, stdev(blocks) / math.sqrt(len(blocks))) if len(blocks) > 1 else None
    errors = [_standard_error(one) for one in (record, parent)]
    return None if None in errors else (lower, math.hypot(*(error or 0.0 for error in errors)))


def _standard_error(record: pb.Candidate) -> float | None:
    """Of the mean loss over seeds, or of one seed's over its held-out blocks."""
    if record.training.HasField("loss_stderr"):
        return record.training.loss_stderr
    seeds = record.training.seeds
    return seeds[0].loss_stderr if seeds and seeds[0].HasField("loss_stderr") else None


def _weighed(lesson: pb.Lesson, source: str, effects: Iterable[_Effect]) -> archive_pb2.WeighedLesson:
    about = [effect for effect in effects if effect.component == lesson.component]
    against = {HELPS: (HURTS,), HURTS: (HELPS,), NEUTRAL: (HELPS, HURTS)}[lesson.effect]
    weighed = archive_pb2.WeighedLesson(
        component=lesson.component,
        effect=lesson.effect,
        claim=lesson.claim,
        source=source,
        supported_by=[effect.candidate for effect in about if effect.effect == lesson.effect],
        contradicted_by=[effect.candidate for effect in about if effect.effect in against],
    )
    evidence = len(weighed.supported_by) + len(weighed.contradicted_by)
    weighed.confidence = (1 + len(weighed.supported_by)) / (2 + evidence)
    return weighed


def _is_refuted(lesson: archive_pb2.WeighedLesson) -> bool:
    return len(lesson.contradicted_by) > len(lesson.supported_by)
