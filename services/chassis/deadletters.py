"""What can be said about a dead letter: its work once more, or that nothing more is done about it."""

from services.chassis.events import Cause, follow
from services.contracts import events_pb2

UNFINISHED = frozenset(
    {"candidate_requested", "candidate_proposed", "candidate_trained", "candidate_judged", "candidate_analysed"}
)
"""Facts that a candidate's way goes on from."""


def retry_of(dead: events_pb2.Event, work: events_pb2.Event, head: Cause, service: str) -> events_pb2.Event:
    """The event `work` once more, as the next of its candidate's chain: whoever handles it goes on from there.

    Args:
        dead: the dead letter.
        work: the event that could not be handled, whole.
        head: the last event of the candidate's chain, which is its end.

    Raises:
        ValueError: a candidate's way does not go on from `work`.
    """
    fact = work.WhichOneof("fact") or ""
    if fact not in UNFINISHED:
        raise ValueError(f"{work.id} is no work that a candidate's way goes on from")
    retries = head.event.retries + 1
    again = follow(head, fact.removeprefix("candidate_"), service, 1, work.candidate, retries=retries)
    getattr(again, fact).CopyFrom(getattr(work, fact))
    again.retry_of = dead.id
    return again


def dropped(dead: Cause, service: str, reason: str) -> events_pb2.Event:
    """The fact that a dead letter was dealt with. There is one for each letter, however often it is said."""
    suffix = f"{dead.event.dead.consumer}-{dead.event.dead.sequence}"
    event = follow(dead, "dropped", service, 1, dead.event.candidate, suffix=suffix)
    event.dead_dropped.CopyFrom(events_pb2.DeadDropped(dead=dead.event.id, reason=reason))
    return event
