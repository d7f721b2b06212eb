"""Messages of the log as the projection takes them: less is decoded, and nothing reads otherwise."""

from services.chassis.bus import Logged
from services.chassis.bus.subjects import subject_of
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.store.incoming import read


def trained() -> events_pb2.Event:
    """A result, beside a verdict that an engineer has no business with."""
    event = events_pb2.Event(id="r1.c000001.trained.1", run="r1", candidate="c000001")
    event.candidate_trained.SetInParent()
    event.so_far.CopyFrom(pb.Candidate(id="c000001", run="r1", retries=2))
    event.so_far.training.loss = 1.5
    event.so_far.training.seeds.add(seed=1)
    event.so_far.verdict.raw = 10
    return event


def test_of_a_candidate_only_what_the_fact_adds_is_carried() -> None:
    """And who it is."""
    event = trained()
    carried = read(Logged(7, subject_of(event), event.SerializeToString())).carried()

    assert (carried.id, carried.retries) == ("c000001", 2)
    assert carried.training == event.so_far.training
    assert not carried.HasField("verdict")


def test_a_candidate_in_two_pieces_is_read_as_everybody_else_reads_it() -> None:
    """A message may hold a field twice; a handler that decodes all of it sees both merged, and so must the archive."""
    event, more = trained(), events_pb2.Event()
    more.so_far.training.seeds.add(seed=2)
    body = event.SerializeToString() + more.SerializeToString()
    carried = read(Logged(7, subject_of(event), body)).carried()

    assert carried.training == events_pb2.Event.FromString(body).so_far.training
    assert [one.seed for one in carried.training.seeds] == [1, 2]
