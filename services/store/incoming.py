"""Messages of the log, read: what an event says, whose it is, and the hash by which the next one of its chain names it.

The history of a forked run lies in its log as copies of its source's events (`run.inherited`). A copy is read as the
event it holds, under the fork's name; its hash stays that of the original, so that the chain holds as it was made.
"""

import hashlib
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from services.chassis.bus import Logged
from services.chassis.bus.subjects import is_forged
from services.contracts import events_pb2
from services.store.port import LogRow

UNREADABLE = "its body is no event of its subject that this version can read"


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message as the projection takes it."""

    log: LogRow
    readable: bool = True
    inherited: bool = False  # it happened in the run that this one was forked from: nobody answers it again


def read(message: Logged) -> Incoming:
    """A message as the projection takes it; what is no event, or not the one of its subject, is not `readable`."""
    try:
        event, body = events_pb2.Event.FromString(message.body), message.body
        if is_forged(message.subject, event):
            return _unreadable(message)
        inherited = event.HasField("run_inherited")
        if inherited:
            run, body = event.run, event.run_inherited.event
            event = events_pb2.Event.FromString(body)
            adopt(event, run)
    except DecodeError:
        return _unreadable(message)
    sha256 = hashlib.sha256(body).digest()
    return Incoming(LogRow(message.sequence, event.run, event.candidate, sha256, event, True), inherited=inherited)


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


def _unreadable(message: Logged) -> Incoming:
    parts = message.subject.split(".")
    run = parts[2] if len(parts) > 2 else ""
    sha256 = hashlib.sha256(message.body).digest()
    log = LogRow(message.sequence, run, "", sha256, events_pb2.Event(), False, UNREADABLE)
    return Incoming(log, readable=False)
