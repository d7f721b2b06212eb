"""Lessons are weighed by measurements."""

import gzip
import json
from pathlib import Path

from google.protobuf.json_format import ParseDict

from services.archive.lessons import Quotation, lessons_of, lessons_text, quotations
from services.contracts import archive_pb2
from services.contracts import candidate_pb2 as pb
from tests.archive_server import KnownArchive, archive_client

FLAGSHIP = Path("examples/flagship")


def candidate(number: int, loss: float, *components: str, parent: int = 0, error: float = 0.01) -> pb.Candidate:
    """A measured candidate with these components."""
    training = pb.Training(loss=loss, seeds=[pb.SeedResult(seed=1, loss=loss, loss_stderr=error)])
    proposal = pb.Proposal(parent=f"c{parent}" if parent else "", components=components)
    return pb.Candidate(id=f"c{number}", request=pb.Request(number=number), proposal=proposal, training=training)


def claiming(record: pb.Candidate, component: str, effect: str, claim: str = "it does") -> pb.Candidate:
    """The candidate with a lesson in its analysis."""
    record.analysis.lessons.append(pb.Lesson(component=component, effect=effect, claim=claim))
    return record


def test_a_claim_is_supported_by_children_that_differ_in_its_component() -> None:
    """Added and better, or removed and worse, both say that it helps."""
    records = [
        candidate(1, 1.5, "delta-rule"),
        claiming(candidate(2, 1.4, "delta-rule", "gate", parent=1), "gate", "helps"),
        candidate(3, 1.6, "delta-rule", parent=2),
    ]

    (lesson,) = lessons_of(records).lessons

    assert (list(lesson.supported_by), list(lesson.contradicted_by)) == (["c2", "c3"], [])
    assert lesson.confidence == 0.75
    assert lessons_text([lesson]) == "- gate helps: it does (from c2; 75% sure; for it c2, c3)"


def test_a_refuted_lesson_is_dropped() -> None:
    """More candidates speak against it than for it; one against one is kept, with both named."""
    records = [
        candidate(1, 1.5, "delta-rule"),
        claiming(candidate(2, 1.4, "delta-rule", "gate", parent=1), "gate", "helps"),
        candidate(3, 1.6, "delta-rule", "gate", parent=1),
    ]
    assert "50% sure; for it c2; against it c3" in lessons_text(lessons_of(records).lessons)

    result = lessons_of([*records, candidate(4, 1.7, "delta-rule", "gate", parent=1)])

    assert not result.lessons
    assert [lesson.component for lesson in result.refuted] == ["gate"]


def test_candidates_measured_on_other_data_do_not_weigh_a_lesson() -> None:
    """Losses on different texts have no difference."""
    records = [
        candidate(1, 1.5, "delta-rule"),
        claiming(candidate(2, 1.4, "delta-rule", "gate", parent=1), "gate", "helps"),
        candidate(3, 1.3, "delta-rule", "gate", parent=1),
    ]
    records[2].training.seeds[0].measurements.data_fingerprint = "other"

    (lesson,) = lessons_of(records).lessons

    assert list(lesson.supported_by) == ["c2"]


def test_a_training_that_was_stopped_early_does_not_weigh_a_lesson() -> None:
    """Its loss is that of fewer steps."""
    parent, child = candidate(1, 1.5, "delta-rule"), candidate(2, 1.8, "delta-rule", "gate", parent=1)
    child.training.seeds[0].stopped = "By 25% of the steps the training loss is 2.1."

    (lesson,) = lessons_of([parent, claiming(child, "gate", "hurts")]).lessons

    assert not lesson.supported_by


def test_a_difference_within_its_error_is_neutral() -> None:
    """Two standard errors of the difference: 0.028 here. It says nothing against a claim that it helps."""
    records = [
        candidate(1, 1.50, "delta-rule"),
        claiming(candidate(2, 1.48, "delta-rule", "gate", parent=1), "gate", "neutral"),
        claiming(candidate(3, 1.48, "delta-rule", "gate", parent=1), "gate", "helps"),
    ]

    neutral, helps = lessons_of(records).lessons

    assert list(neutral.supported_by) == ["c2", "c3"]
    assert (helps.effect, list(helps.supported_by), list(helps.contradicted_by)) == ("helps", [], [])


def test_losses_are_paired_by_block_where_both_have_them() -> None:
    """Blocks differ by far more than the two candidates do: unpaired, the same gain would be lost in the noise."""
    parent, child = candidate(1, 1.5, "delta-rule", error=0.2), candidate(2, 1.49, "gate", parent=1, error=0.2)
    for record, shift in ((parent, 0.01), (child, 0.0)):
        record.training.seeds[0].block_losses.extend(1.0 + block + shift for block in range(8))
    parent.training.seeds[0].block_losses[0] += 0.001

    (lesson,) = lessons_of([parent, claiming(child, "gate", "helps")]).lessons

    assert list(lesson.supported_by) == ["c2"]


def test_a_difference_within_the_noise_between_seeds_is_neutral() -> None:
    """However small the error over blocks. The gain is three times its error, of which two seeds know little."""
    parent, child, baseline = candidate(1, 1.50, "a"), candidate(2, 1.47, "a", "gate", parent=1), candidate(3, 1.5, "b")
    baseline.training.seeds.append(pb.SeedResult(seed=2, loss=1.51))
    for record in (parent, child):
        record.training.seeds[0].block_losses.extend(record.training.loss + 0.001 * block for block in range(-4, 5))
    child.training.seeds[0].block_losses[0] += 1e-5

    (alone,), (beside,) = (
        lessons_of([*records, claiming(child, "gate", "helps")]).lessons for records in ([parent], [parent, baseline])
    )

    assert (list(alone.supported_by), list(beside.supported_by)) == (["c2"], [])


def test_only_common_seeds_weigh_a_lesson() -> None:
    """The parent's second seed was unlucky; with the first it is better than its child."""
    parent, child = candidate(1, 1.47, "a"), claiming(candidate(2, 1.464, "a", "gate", parent=1), "gate", "hurts")
    parent.training.seeds[0].loss = 1.45
    calm = [candidate(number, 1.5, "b") for number in range(3, 63)]
    for record in (parent, *calm):
        record.training.seeds.append(
            pb.SeedResult(seed=2, loss=2 * record.training.loss - record.training.seeds[0].loss)
        )
    for seed in (*parent.training.seeds, *child.training.seeds):
        seed.block_losses.extend(seed.loss + 0.001 * block for block in range(-4, 5))
    child.training.seeds[0].block_losses[0] += 1e-5

    (lesson,) = lessons_of([parent, child, *calm]).lessons

    assert list(lesson.supported_by) == ["c2"]


def test_what_the_analyst_names_counts_as_a_component() -> None:
    """A proposer may not name what the analyst, who has read the program, finds in it."""
    child = claiming(candidate(2, 1.4, "delta-rule", parent=1), "gate", "helps")
    child.analysis.components.append("gate")

    assert list(lessons_of([candidate(1, 1.5, "delta-rule"), child]).lessons[0].supported_by) == ["c2"]


PROMPT = """Design one.
# Parent: Net1

Explanation: The gate opens too late for the
first tokens. Nothing else.

# Everything that was tried

- Net2 (c2); 1.4000; Keep the gate that opens early and look for…
"""


def test_sentences_of_a_prompt_are_found_in_the_analyses_that_wrote_them() -> None:
    """Across line breaks, and as far as a cut one goes; what is too short to be anybody's is left out."""
    first, second = candidate(1, 1.5), candidate(2, 1.4)
    first.analysis.explanation = "The gate opens too late for the first tokens. Nothing else."
    first.analysis.synthesis = first.analysis.explanation  # one quotation, of the part that comes first
    second.analysis.synthesis = (
        "Keep the gate that opens early and look for a cheaper one. Drop the window and its keys."
    )

    assert quotations(PROMPT, [first, second, candidate(3, 1.3)]) == [
        Quotation("Parent: Net1", "c1", "explanation", "The gate opens too late for the first tokens."),
        Quotation("Everything that was tried", "c2", "synthesis", "Keep the gate that opens early and look for…"),
    ]


def test_lessons_use_the_newest_claim_and_are_ordered_by_certainty() -> None:
    """One line for a component and effect; untested claims come after supported ones."""
    records = [
        candidate(1, 1.5, "delta-rule"),
        claiming(candidate(2, 1.4, "delta-rule", "gate", parent=1), "norm", "hurts"),
        claiming(candidate(3, 1.4, "delta-rule", "gate", parent=1), "gate", "helps", "older"),
        claiming(candidate(4, 1.4, "delta-rule", "gate", parent=1), "gate", "helps", "newer"),
    ]

    lessons = lessons_of(records).lessons

    assert [(lesson.component, lesson.claim) for lesson in lessons] == [("gate", "newer"), ("norm", "it does")]


def test_an_effect_of_a_later_version_is_told_as_it_is() -> None:
    """Nothing speaks against it that this version knows."""
    records = [claiming(candidate(1, 1.5, "delta-rule"), "gate", "stabilises")]

    (lesson,) = lessons_of(records).lessons

    assert (lesson.effect, lesson.confidence) == ("stabilises", 0.5)


async def test_the_store_answers_with_the_lessons_of_all_candidates() -> None:
    """Computed again after each change of the run; refuted lessons are separate."""
    records = [
        candidate(1, 1.5, "delta-rule"),
        claiming(candidate(2, 1.4, "delta-rule", "gate", parent=1), "gate", "helps"),
    ]
    for record in records:
        record.state = pb.STATE_ARCHIVED
    archive = KnownArchive(*records)
    async with archive_client(archive) as stub:
        first = await stub.GetLessons(archive_pb2.LessonsRequest(run="r1", most=3))
        archive.put(*(worse(number) for number in (3, 4)))
        second = await stub.GetLessons(archive_pb2.LessonsRequest(run="r1"))

    assert [lesson.component for lesson in first.lessons] == ["gate"]
    assert not second.lessons
    assert list(second.refuted[0].contradicted_by) == ["c3", "c4"]


def worse(number: int) -> pb.Candidate:
    """A child that the gate does not help."""
    record = candidate(number, 1.6, "delta-rule", "gate", parent=1)
    record.state = pb.STATE_ARCHIVED
    return record


def test_every_lesson_in_a_prompt_of_the_flagship_is_some_analysis_own_sentence() -> None:
    """The prompt is read from the recorded exchanges, the analyses from the log."""
    analyses = {}
    with gzip.open(FLAGSHIP / "search.jsonl.gz", "rt", encoding="utf-8") as lines:
        for event in (json.loads(line)["event"] for line in lines):
            if "candidate_analysed" in event:
                analyses[event["candidate"]] = ParseDict(
                    event["candidate_analysed"]["analysis"], pb.Analysis(), ignore_unknown_fields=True
                )
    exchanges = [json.loads(line) for line in (FLAGSHIP / "exchanges.jsonl").read_text("utf-8").splitlines()]
    (prompt,) = [
        exchange["request"]["messages"][1]["content"]
        for exchange in exchanges
        if '"name": "LocalFirstDeltaNet"' in exchange["answer"]
    ]

    quoted = quotations(prompt, [pb.Candidate(id=name, analysis=analysis) for name, analysis in analyses.items()])

    section = prompt.partition("# What the analyses of this run learnt")[2].partition("\n# ")[0]
    sources = [line.rpartition("(from ")[2][:7] for line in section.splitlines() if line.startswith("- ")]
    assert [quotation.source for quotation in quoted if quotation.section.startswith("What the analyses")] == sources
    assert {quotation.part for quotation in quoted} >= {"lesson", "synthesis", "explanation", "results"}
