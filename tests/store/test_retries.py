"""The pure rules of dead letters: what a retry and a drop may do, and what is refused."""

from services.chassis.bus import Logged
from services.chassis.bus.subjects import subject_of
from services.chassis.events import Cause, body_of
from services.chassis.worker import dead_letter
from services.console.commands.dead import dropped, retry_of
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.store.backends.folding import fold, unapplied
from services.store.port import Change
from services.store.reactions import react
from tests.store.simulation import Simulation


def hear(simulation: Simulation, event: events_pb2.Event) -> Change:
    """What one more event would do to a simulation."""
    logged = Logged(len(simulation.log) + 1, subject_of(event), body_of(event))
    return fold(unapplied([logged], len(simulation.log)), simulation.loaded, react).changes[0]


def end_of(simulation: Simulation, candidate: str) -> Cause:
    """The event with which a candidate ended."""
    events = [Cause.of(message.body) for message in simulation.log]
    return [
        cause for cause in events if cause.event.candidate == candidate and cause.event.HasField("candidate_archived")
    ][-1]


def lost(fact: str) -> tuple[Simulation, Cause, Cause]:
    """A simulation whose root was lost at a fact of its way, that work, and the dead letter."""
    simulation = Simulation()
    simulation.start()
    work = simulation.way(simulation.open[0], until=fact)
    return simulation, work, simulation.say(dead_letter(work, "judge", "judge", 99, 5, "KeyError: 'x'"))


def test_a_retry_reverts_the_end_and_nothing_else() -> None:
    """The measurements stay, the seat is taken again, and the next fact has an id of its own."""
    simulation, work, dead = lost("candidate_trained")
    before = simulation.loaded.runs["r1"]
    again = simulation.say(retry_of(dead.event, work.event, end_of(simulation, "c000001")))
    row, run = simulation.loaded.rows["r1", "c000001"], simulation.loaded.runs["r1"]
    judged = simulation.step(again)

    assert (before.dead_letters, run.dead_letters) == (1, 0)
    assert before.state.root_failed
    assert not run.state.root_failed
    assert "c000001" in run.state.in_flight
    assert run.state.spent == before.state.spent
    assert row.record.training.loss == work.event.candidate_trained.training.loss
    assert judged.event.id == "r1.c000001.judged.again-1.1"
    assert simulation.loaded.rows["r1", "c000001"].record.verdict.HasField("raw")


def test_a_candidate_lost_twice_can_be_retried_twice() -> None:
    """The second end and the second retry are other events than the first."""
    simulation, work, dead = lost("candidate_trained")
    again = simulation.say(retry_of(dead.event, work.event, end_of(simulation, "c000001")))
    dead = simulation.say(dead_letter(again, "judge", "judge", 123, 5, "KeyError: 'x'"))
    twice = simulation.say(retry_of(dead.event, again.event, end_of(simulation, "c000001")))
    row = simulation.loaded.rows["r1", "c000001"]

    assert twice.event.id == "r1.c000001.trained.again-2.1"
    assert row.record.retries == 2
    assert row.record.state == pb.STATE_TRAINED


def test_only_an_end_by_a_dead_letter_is_reverted() -> None:
    """Neither a candidate that ended well, nor one that is on its way, nor an older end."""
    simulation, work, dead = lost("candidate_trained")
    other = simulation.way(next(cause for cause in simulation.open if cause.event.candidate == "c000002"))
    well = retry_of(dead.event, other.event, end_of(simulation, "c000002"))
    stale = retry_of(dead.event, work.event, work)
    twice = retry_of(dead.event, work.event, end_of(simulation, "c000001"))
    twice.retries = 2

    assert "has not ended because of a dead letter" in hear(simulation, well).log.refused_because
    assert "the chain's head is" in hear(simulation, stale).log.refused_because
    assert "2 is not next" in hear(simulation, twice).log.refused_because


def test_a_dead_letter_is_dropped_once() -> None:
    """Said twice, it counts once; the candidate stays as it is."""
    simulation, _, dead = lost("candidate_proposed")
    simulation.say(dropped(dead, "known"))
    again = hear(simulation, dropped(dead, "known"))

    assert simulation.loaded.runs["r1"].dead_letters == 0
    assert not again.log.accepted
    assert simulation.loaded.rows["r1", "c000001"].record.state == pb.STATE_REJECTED
