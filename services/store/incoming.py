"""Messages of the log, read: what an event says, whose it is, and the hash by which the next one of its chain names it.

The history of a forked run lies in its log as copies of its source's events (`run.inherited`). A copy is read as the
event it holds, under the fork's name; its hash stays that of the original, so that the chain holds as it was made.
"""

import hashlib
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from services.chassis.bus import Logged
from services.chassis.bus.subjects import fact_of, is_forged
from services.contracts import candidate_pb2, events_pb2
from services.store.port import LogRow

UNREADABLE = "its body is no event of its subject that this version can read"
PART_OF = {
    "candidate.proposed": "proposal",
    "candidate.trained": "training",
    "candidate.judged": "verdict",
    "candidate.analysed": "analysis",
    "candidate.rejected": "rejection",
    "candidate.verified": "verifications",
    "discovery.confirmed": "discovery",
    "discovery.refuted": "discovery",
}
"""The part of a candidate that a fact adds: nobody rewrites what others measured."""
_WHOLE = frozenset({"candidate.requested", "candidate.imported"})
_PARTS = [field.name for field in candidate_pb2.CandidateEnvelope.DESCRIPTOR.fields]


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message. The event of `log` is remembered without the candidate that it carries.

    Attributes:
        body: as it lies in the log; empty where only what it says is wanted.
        candidate: the candidate so far, serialised, without the parts that the event's fact does not add.
    """

    log: LogRow
    body: bytes
    candidate: bytes = b""
    readable: bool = True
    inherited: bool = False  # it happened in the run that this one was forked from: nobody answers it again

    def carried(self) -> candidate_pb2.Candidate:
        """The candidate so far as the event carries it; an empty one where it carries none. Raises ValueError.

        Read again each time: a batch of whole records kept in memory costs more than reading those that are wanted.
        """
        try:
            record = candidate_pb2.Candidate.FromString(self.candidate)
        except DecodeError as error:
            raise ValueError(f"its candidate cannot be read: {error}") from None
        if self.inherited:
            record.run = self.log.run
        return record


def read(message: Logged) -> Incoming:
    """A message as the projection takes it; what is no event, or not the one of its subject, is not `readable`."""
    try:
        event, candidate = _apart(message.body)
        if _is_forged(message, event):
            return _unreadable(message)
        if not event.HasField("run_inherited"):
            return Incoming(_log_row(message.sequence, event, message.body), message.body, candidate)
        copy = event.run_inherited.event
        copied, candidate = _apart(copy)
    except DecodeError:
        return _unreadable(message)
    adopt(copied, event.run)
    return Incoming(_log_row(message.sequence, copied, copy), message.body, candidate, inherited=True)


def _apart(body: bytes) -> tuple[events_pb2.Event, bytes]:
    """An event without its candidate, and of that, serialised, what the event adds. Raises DecodeError.

    The candidate is most of an event, and most of it is what earlier events have said: none of that is decoded.
    """
    envelope = events_pb2.EventEnvelope.FromString(body)
    candidate = b"".join(envelope.so_far)
    envelope.ClearField("so_far")
    event = events_pb2.Event.FromString(envelope.SerializeToString())
    fact = fact_of(event) if event.WhichOneof("fact") else ""
    if not candidate or fact in _WHOLE:
        return event, candidate
    parts = candidate_pb2.CandidateEnvelope.FromString(candidate)
    for part in _PARTS:
        if part != PART_OF.get(fact):
            parts.ClearField(part)  # type: ignore[arg-type]
    return event, parts.SerializeToString()


def _is_forged(message: Logged, event: events_pb2.Event) -> bool:
    """See `is_forged`; one subject names the stage, which the candidate holds."""
    if event.HasField("candidate_proposed"):
        event = events_pb2.Event.FromString(message.body)
    return is_forged(message.subject, event)


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
    return LogRow(sequence, event.run, event.candidate, hashlib.sha256(body).digest(), event, accepted=True)


def _unreadable(message: Logged) -> Incoming:
    parts = message.subject.split(".")
    run = parts[2] if len(parts) > 2 else ""
    sha256 = hashlib.sha256(message.body).digest()
    log = LogRow(message.sequence, run, "", sha256, events_pb2.Event(), accepted=False, refused_because=UNREADABLE)
    return Incoming(log, message.body, readable=False)
