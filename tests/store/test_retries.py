"""The pure rules of dead letters: what a retry and a drop may do, and what is refused."""

from services.chassis.bus import Logged
from services.chassis.events import Cause, body_of, dropped, retry_of
from services.chassis.worker import dead_letter
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.store.backends.folding import due, fold
from services.store.port import Change
from services.store.reactions import react
from tests.store.archive_stories import Story


def hear(story: Story, event: events_pb2.Event) -> Change:
    """What one more event would do to a story."""
    logged = Logged(len(story.log) + 1, "", body_of(event))
    return fold(due([logged], len(story.log)), story.loaded, react).changes[0]


def end_of(story: Story, candidate: str) -> Cause:
    """The event with which a candidate ended."""
    events = [Cause.of(one.body) for one in story.log]
    return [one for one in events if one.event.candidate == candidate and one.event.HasField("candidate_archived")][-1]


def lost(fact: str) -> tuple[Story, Cause, Cause]:
    """A story whose root was lost at a fact of its way, that work, and the dead letter."""
    story = Story()
    story.start()
    work = story.way(story.open[0], until=fact)
    return story, work, story.say(dead_letter(work, "judge", "judge", 99, 5, "KeyError: 'x'"))


def test_a_retry_takes_back_the_end_and_nothing_else() -> None:
    """The measurements stay, the seat is taken again, and the next fact has an id of its own."""
    story, work, dead = lost("candidate_trained")
    before = story.loaded.runs["r1"]
    again = story.say(retry_of(dead.event, work.event, end_of(story, "c000001"), "console"))
    row, run = story.loaded.rows["r1", "c000001"], story.loaded.runs["r1"]
    judged = story.step(again)

    assert (before.dead_letters, run.dead_letters) == (1, 0)
    assert before.state.root_failed
    assert not run.state.root_failed
    assert "c000001" in run.state.in_flight
    assert run.state.spent == before.state.spent
    assert row.record.training.loss == work.event.candidate_trained.training.loss
    assert judged.event.id == "r1.c000001.judged.again-1.1"
    assert story.loaded.rows["r1", "c000001"].record.verdict.HasField("raw")


def test_who_was_lost_twice_can_be_retried_twice() -> None:
    """The second end and the second retry are other events than the first."""
    story, work, dead = lost("candidate_trained")
    again = story.say(retry_of(dead.event, work.event, end_of(story, "c000001"), "console"))
    dead = story.say(dead_letter(again, "judge", "judge", 123, 5, "KeyError: 'x'"))
    twice = story.say(retry_of(dead.event, again.event, end_of(story, "c000001"), "console"))
    row = story.loaded.rows["r1", "c000001"]

    assert twice.event.id == "r1.c000001.trained.again-2.1"
    assert row.record.retries == 2
    assert row.record.state == pb.STATE_TRAINED


def test_only_the_end_by_a_dead_letter_is_taken_back() -> None:
    """Neither a candidate that ended well, nor one that is on its way, nor an older end."""
    story, work, dead = lost("candidate_trained")
    other = story.way(next(one for one in story.open if one.event.candidate == "c000002"))
    well = retry_of(dead.event, other.event, end_of(story, "c000002"), "console")
    stale = retry_of(dead.event, work.event, work, "console")
    twice = retry_of(dead.event, work.event, end_of(story, "c000001"), "console")
    twice.retries = 2

    assert "has not ended because of a dead letter" in hear(story, well).log.refused_because
    assert "the chain's head is" in hear(story, stale).log.refused_because
    assert "2 is not next" in hear(story, twice).log.refused_because


def test_a_letter_is_dropped_once() -> None:
    """Said twice, it counts once; the candidate stays as it is."""
    story, _, dead = lost("candidate_proposed")
    story.say(dropped(dead, "console", "known"))
    again = hear(story, dropped(dead, "console", "known"))

    assert story.loaded.runs["r1"].dead_letters == 0
    assert not again.log.accepted
    assert story.loaded.rows["r1", "c000001"].record.state == pb.STATE_REJECTED
