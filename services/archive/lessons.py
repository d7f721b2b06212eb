"""Lessons of a run: claims of analyses about components, weighed by the run's measurements.

A claim is an analyst's sentence on one component ("helps", "hurts" or "neutral"). Evidence comes from all candidates
whose components differ from their parent's by that component: a loss difference whose 95 % interval excludes zero
supports or contradicts the claim; a smaller one supports "neutral", and does not contradict the others. The interval
covers the noise between seeds if any candidate of the run has several, by Student's t: two seeds know little of it. A
lesson with more counter-evidence than evidence is refuted.

`quotations` finds the sentences of analyses in a recorded prompt.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from services.archive.scoring import block_gains, is_comparable, loss_error, seed_noise
from services.contracts import archive_pb2
from services.contracts import candidate_pb2 as pb
from services.domain.statistics import LEVEL, student_quantile

HELPS, HURTS, NEUTRAL = "helps", "hurts", "neutral"
STANDARD_ERRORS = 2.0
MIN_QUOTED = 25  # characters; shorter sentences are not specific
CUT = "…"
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def lessons_of(records: Iterable[pb.Candidate]) -> archive_pb2.LessonsReply:
    """All lessons, by descending confidence, then newest first; the newest claim of each component and effect."""
    records = sorted(records, key=lambda record: record.request.number)
    effects = list(_measured_effects(records))
    newest = {
        (lesson.component, lesson.effect): (record.request.number, _weighed(lesson, record.id, effects))
        for record in records
        for lesson in record.analysis.lessons
    }
    reply = archive_pb2.LessonsReply()
    for _, lesson in sorted(
        newest.values(), key=lambda item: (-item[1].confidence, -len(item[1].supported_by), -item[0], item[1].component)
    ):
        refuted = len(lesson.contradicted_by) > len(lesson.supported_by)
        (reply.refuted if refuted else reply.lessons).append(lesson)
    return reply


def lessons_text(lessons: Sequence[archive_pb2.WeighedLesson]) -> str:
    """One line per lesson, for prompts: claim, source, confidence, evidence and counter-evidence."""
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
    """A sentence of an analysis in a prompt."""

    section: str  # the preceding heading of the prompt
    source: str  # a candidate's id
    part: str  # of the analysis: "explanation", "synthesis", "lesson" …
    sentence: str


def quotations(prompt: str, records: Iterable[pb.Candidate]) -> list[Quotation]:
    """All sentences of the records' analyses in the prompt, in the prompt's order.

    White space is ignored, and sentences that the prompt truncates with an ellipsis are found. A sentence that several
    parts of an analysis contain is attributed to the first.
    """
    flat, headings = _flattened(prompt)
    quoted: dict[tuple[int, str], Quotation] = {}
    for record in records:
        for part, text in _parts(record.analysis):
            for sentence in _SENTENCE_END.split(" ".join(text.split())):
                if len(sentence) < MIN_QUOTED:
                    continue
                for offset, excerpt in _occurrences(flat, sentence):
                    section = next((title for start, title in reversed(headings) if start <= offset), "")
                    quoted.setdefault((offset, record.id), Quotation(section, record.id, part, excerpt))
    return [quoted[key] for key in sorted(quoted)]


def _flattened(prompt: str) -> tuple[str, list[tuple[int, str]]]:
    """The prompt with single spaces, and the position of each main heading."""
    headings, pieces, length = [], [], 0
    for line in prompt.splitlines():
        if line.startswith("# "):
            headings.append((length, line.removeprefix("# ").strip()))
        if flat := " ".join(line.split()):
            pieces.append(flat)
            length += len(flat) + 1
    return " ".join(pieces), headings


def _occurrences(flat: str, sentence: str) -> Iterator[tuple[int, str]]:
    """The positions of a sentence, each with the quoted part."""
    head = sentence[:MIN_QUOTED]
    offset = flat.find(head)
    while offset >= 0:
        if flat.startswith(sentence, offset):
            yield offset, sentence
        elif (end := flat.find(CUT, offset)) > 0 and sentence.startswith(flat[offset:end]):
            yield offset, flat[offset : end + 1]
        offset = flat.find(head, offset + 1)


def _parts(analysis: pb.Analysis) -> Iterator[tuple[str, str]]:
    for part in ("design_evaluation", "results", "expectation", "explanation", "synthesis"):
        yield part, getattr(analysis, part)
    yield from (("lesson", lesson.claim) for lesson in analysis.lessons)


@dataclass(frozen=True)
class _Effect:
    """The measured effect of adding a component, in one candidate."""

    component: str
    effect: str
    candidate: str


def _measured_effects(records: Sequence[pb.Candidate]) -> Iterator[_Effect]:
    """An effect per component by which a candidate differs from its parent, if their losses can be compared."""
    by_id = {record.id: record for record in records}
    noise = seed_noise(records)
    between = noise.deviation * student_quantile((1 + LEVEL) / 2, noise.freedom) if noise else 0.0
    for record in records:
        parent = by_id.get(record.proposal.parent)
        if parent is None or (gain := _gain(record, parent, between)) is None:
            continue
        lower, reach = gain
        effect = NEUTRAL if abs(lower) <= reach else HELPS if lower > 0 else HURTS
        opposite = {HELPS: HURTS, HURTS: HELPS, NEUTRAL: NEUTRAL}[effect]
        # components named by the proposer and by the analyst
        own, before = (
            {*candidate.proposal.components, *candidate.analysis.components} for candidate in (record, parent)
        )
        yield from (_Effect(name, effect, record.id) for name in sorted(own - before))
        yield from (_Effect(name, opposite, record.id) for name in sorted(before - own))


def _gain(record: pb.Candidate, parent: pb.Candidate, between: float) -> tuple[float, float] | None:
    """The parent's loss minus the candidate's, and half of its interval, paired by seed and block if both have blocks.

    `between` is half of the interval of one loss between seeds, 0 if it is unknown: the interval then covers the
    held-out text only. None if the two were measured on other data or in another precision.
    """
    if not (record.training.HasField("loss") and parent.training.HasField("loss")):
        return None
    if not is_comparable(record, parent):
        return None
    if rows := block_gains(record, parent):
        blocks = [fmean(block) for block in zip(*rows, strict=True)]
        items = STANDARD_ERRORS * stdev(blocks) / math.sqrt(len(blocks)) if len(blocks) > 1 else None
        return None if items is None else (fmean(blocks), math.hypot(items, between * math.sqrt(2 / len(rows))))
    errors = [loss_error(record), loss_error(parent)]
    seeds = [between if len(each.training.seeds) == 1 else 0.0 for each in (record, parent)]
    known = [STANDARD_ERRORS * error for error in errors if error is not None]
    lower = parent.training.loss - record.training.loss
    return (lower, math.hypot(*known, *seeds)) if len(known) == len(errors) else None


def _weighed(lesson: pb.Lesson, source: str, effects: Iterable[_Effect]) -> archive_pb2.WeighedLesson:
    about = [effect for effect in effects if effect.component == lesson.component]
    against = {HELPS: (HURTS,), HURTS: (HELPS,), NEUTRAL: (HELPS, HURTS)}.get(lesson.effect, ())
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
