"""Messages of the log, read: what an event says, whose it is, and the hash by which the next one of its chain names it.

The history of a forked run lies in its log as copies of its source's events (`run.inherited`). A copy is read as the
event it holds, under the fork's name; its hash stays that of the original, so that the chain holds as it was made.
"""

import hashlib
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from services.chassis.bus import Logged
from services.chassis.bus.subjects import is_forged
from services.contracts import candidate_pb2, events_pb2
from services.store.port import LogRow

UNREADABLE = "its body is no event of its subject that this version can read"


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message. The event of `log` is remembered without the candidate that it carries."""

    log: LogRow
    body: bytes
    readable: bool = True
    inherited: bool = False  # it happened in the run that this one was forked from: nobody answers it again

    def carried(self) -> candidate_pb2.Candidate:
        """The candidate so far as the event carries it; an empty one where it carries none.

        Read again each time: a batch of whole records kept in memory costs more than reading those that are wanted.
        """
        if not self.inherited:
            return events_pb2.Event.FromString(self.body).so_far
        record = events_pb2.Event.FromString(original(self.body)).so_far
        record.run = self.log.run
        return record


def read(message: Logged) -> Incoming:
    """A message as the projection takes it; what is no event, or not the one of its subject, is not `readable`."""
    try:
        event = events_pb2.Event.FromString(message.body)
        if is_forged(message.subject, event):
            return _unreadable(message)
        if not event.HasField("run_inherited"):
            return Incoming(_log_row(message.sequence, event, message.body), message.body)
        copied = events_pb2.Event.FromString(event.run_inherited.event)
    except DecodeError:
        return _unreadable(message)
    adopt(copied, event.run)
    return Incoming(_log_row(message.sequence, copied, event.run_inherited.event), message.body, inherited=True)


def adopt(event: events_pb2.Event, run: str) -> None:
    """Give an event to another run: its ids begin with that run's name from now on."""
    own = f"{event.run}."
    for field in ("id", "cause", "retry_of"):
        value: str = getattr(event, field)
        if value.startswith(own):
            setattr(event, field, f"{run}.{value.removeprefix(own)}")
    event.run = run


def original(body: bytes) -> bytes:
    """An event's body as it was first published, be this it or a copy in a fork's history."""
    event = events_pb2.Event.FromString(body)
    return event.run_inherited.event if event.HasField("run_inherited") else body


def _log_row(sequence: int, event: events_pb2.Event, body: bytes) -> LogRow:
    event.ClearField("so_far")
    slim = events_pb2.Event()
    slim.CopyFrom(event)  # which lets go of what was cleared
    return LogRow(sequence, slim.run, slim.candidate, hashlib.sha256(body).digest(), slim, accepted=True)


def _unreadable(message: Logged) -> Incoming:
    parts = message.subject.split(".")
    run = parts[2] if len(parts) > 2 else ""
    sha256 = hashlib.sha256(message.body).digest()
    log = LogRow(message.sequence, run, "", sha256, events_pb2.Event(), accepted=False, refused_because=UNREADABLE)
    return Incoming(log, message.body, readable=False)
