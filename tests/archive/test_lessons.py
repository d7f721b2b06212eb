"""Lessons are weighed by what was measured, not by who claims them."""

from services.archive.lessons import lessons_of, lessons_text
from services.contracts import candidate_pb2 as pb


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

    (lesson,) = lessons_of(records, most=5)

    assert (lesson.supported_by, lesson.contradicted_by) == (("c2", "c3"), ())
    assert lesson.confidence == 0.75
    assert lessons_text([lesson]) == "- gate helps: it does (from c2; supported by c2, c3)"


def test_a_refuted_lesson_is_dropped() -> None:
    """More candidates speak against it than for it; one against one is kept, with both named."""
    records = [
        candidate(1, 1.5, "delta-rule"),
        claiming(candidate(2, 1.4, "delta-rule", "gate", parent=1), "gate", "helps"),
        candidate(3, 1.6, "delta-rule", "gate", parent=1),
    ]
    assert "contradicted by c3" in lessons_text(lessons_of(records, most=5))

    assert lessons_of([*records, candidate(4, 1.7, "delta-rule", "gate", parent=1)], most=5) == []


def test_a_difference_within_its_error_is_neutral() -> None:
    """Two standard errors of the difference: 0.028 here."""
    records = [
        candidate(1, 1.50, "delta-rule"),
        claiming(candidate(2, 1.48, "delta-rule", "gate", parent=1), "gate", "neutral"),
    ]

    assert lessons_of(records, most=5)[0].supported_by == ("c2",)


def test_the_newest_claim_speaks_and_the_surest_comes_first() -> None:
    """One line for a component and effect; untested claims come after supported ones."""
    records = [
        candidate(1, 1.5, "delta-rule"),
        claiming(candidate(2, 1.4, "delta-rule", "gate", parent=1), "norm", "hurts"),
        claiming(candidate(3, 1.4, "delta-rule", "gate", parent=1), "gate", "helps", "older"),
        claiming(candidate(4, 1.4, "delta-rule", "gate", parent=1), "gate", "helps", "newer"),
    ]

    lessons = lessons_of(records, most=5)

    assert [(lesson.component, lesson.claim) for lesson in lessons] == [("gate", "newer"), ("norm", "it does")]
    assert len(lessons_of(records, most=1)) == 1
