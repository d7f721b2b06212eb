"""Long texts are truncated, so that every fact can be published."""

from services.chassis.bus import Bus
from services.chassis.bus.topology import MAX_EVENT_BYTES
from services.chassis.errors import Rejected
from services.chassis.events import Cause, body_of, first, fit, follow, rejection
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2

STARTED = Cause.published(first("r1", "started", "console"))


def analysed(characters: int) -> events_pb2.Event:
    """A very long text of a model."""
    event = follow(STARTED, "analysed", "analyst", 1, "c000001")
    event.candidate_analysed.analysis.results = "é" * characters
    event.candidate_analysed.analysis.synthesis = "short"
    return event


def test_a_text_that_is_too_long_is_cut_with_a_mark() -> None:
    """Truncated at whole characters; short texts are unchanged."""
    event = analysed(300_000)
    fit(event, MAX_EVENT_BYTES)
    analysis = event.candidate_analysed.analysis

    assert MAX_EVENT_BYTES // 4 < len(body_of(event)) <= MAX_EVENT_BYTES
    assert " … (cut here: " in analysis.results
    assert "of 300000 characters)" in analysis.results
    assert analysis.synthesis == "short"


def test_an_event_that_fits_is_not_changed() -> None:
    """To the byte."""
    event = analysed(100)
    before = body_of(event)
    fit(event, len(before))

    assert body_of(event) == before


def test_evidence_is_cut_at_any_depth_but_programs_are_not() -> None:
    """Lists in a rejection's evidence, errors of revisions; a program in part would be another program."""
    refused = Rejected("propose", "no", {"refused": ["x" * 5000] * 100, "log": {"tail": "y" * 400_000}})
    event = rejection(Cause(events_pb2.Event(id="a", run="r1", candidate="c000001"), b""), refused, "researcher", 1)
    fit(event, MAX_EVENT_BYTES)
    program = "x = 1\n" * 20_000
    trained = follow(STARTED, "trained", "engineer", 1, "c000001")
    trained.candidate_trained.training.program = program
    trained.candidate_trained.training.revisions.extend([pb.Revision(error="e" * 200_000)] * 3)
    fit(trained, MAX_EVENT_BYTES)

    assert len(body_of(event)) <= MAX_EVENT_BYTES
    assert len(body_of(trained)) <= MAX_EVENT_BYTES
    assert trained.candidate_trained.training.program == program


async def test_whatever_is_written_can_be_published(bus: Bus) -> None:
    """Truncation is deterministic: an event that is published again is identical."""
    once, again = analysed(1_000_000), analysed(1_000_000)
    again.time.CopyFrom(once.time)

    assert await bus.publish(once) == await bus.publish(again) == 1
    assert body_of(once) == body_of(again) == (await bus.message_at(1)).body
