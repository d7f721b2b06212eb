"""Folds a batch of messages into the rows that a backend writes. Pure.

A backend loads the rows that `needs` names, calls `fold`, and writes the `Effects`, all in one transaction. Messages
see the effects of earlier ones in the batch.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from services.chassis.bus import Logged
from services.contracts import events_pb2
from services.store.port import CandidateRow, Change, LogRow, OutOfOrder, PoolRow, React, RunRow
from services.store.projection import Incoming, project, read

Key = tuple[str, str]
"""A run and the id of a candidate in it."""


@dataclass(frozen=True)
class Needs:
    """The rows that a batch refers to."""

    runs: frozenset[str]
    candidates: frozenset[Key]
    ids: frozenset[str]


@dataclass
class Loaded:
    """The rows that a batch refers to, as stored; `fold` updates them."""

    runs: dict[str, RunRow] = field(default_factory=dict)
    rows: dict[Key, CandidateRow] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)  # sequence by event id


@dataclass
class Effects:
    """The rows that a batch writes."""

    sequence: int
    messages: list[Logged]  # as in the log
    changes: list[Change] = field(default_factory=list)
    reactions: dict[str, events_pb2.Event] = field(default_factory=dict)  # by event id
    stored: list[str] = field(default_factory=list)  # ids of events in the log, which need not be published
    runs: dict[str, RunRow] = field(default_factory=dict)
    rows: dict[Key, CandidateRow] = field(default_factory=dict)
    proposed: dict[Key, int] = field(default_factory=dict)  # the sequence of a candidate's proposal

    @property
    def logs(self) -> list[LogRow]:
        return [change.log for change in self.changes]

    @property
    def pools(self) -> list[PoolRow]:
        return [change.pool for change in self.changes if change.pool]


def unapplied(messages: Sequence[Logged], applied: int) -> list[Incoming]:
    """Decode the messages that are not applied yet. Raises OutOfOrder at a gap."""
    incoming: list[Incoming] = []
    for message in messages:
        if message.sequence <= applied:
            continue
        if message.sequence != applied + 1:
            raise OutOfOrder(f"event {message.sequence} arrived, but {applied + 1} is missing before it")
        incoming.append(read(message))
        applied = message.sequence
    return incoming


def needs(incoming: Sequence[Incoming]) -> Needs:
    events = [message.log.event for message in incoming if message.readable]
    return Needs(
        runs=frozenset(event.run for event in events),
        candidates=frozenset((event.run, event.candidate) for event in events if event.candidate),
        ids=frozenset(event.id for event in events),
    )


_STORED_IN_RECORD = {
    "candidate_proposed": "proposal",
    "candidate_trained": "training",
    "candidate_analysed": "analysis",
    "candidate_verified": "training",
    "candidate_imported": "record",
}


def _clear_stored_part(event: events_pb2.Event) -> None:
    """Remove, in place, the part that is stored in the candidate's record, so that it is not stored twice."""
    fact = event.WhichOneof("fact") or ""
    if part := _STORED_IN_RECORD.get(fact):
        getattr(event, fact).ClearField(part)


def fold(incoming: Sequence[Incoming], loaded: Loaded, react: React | None) -> Effects:
    """Apply a batch to the loaded rows."""
    effects = Effects(incoming[-1].log.sequence, [message.message for message in incoming])
    for message in incoming:
        key = (message.log.run, message.log.candidate)
        had_program = _has_program(loaded.rows.get(key))
        change = _change(message, loaded)
        effects.changes.append(change)
        _clear_stored_part(message.log.event)
        if not change.log.accepted:
            continue
        event = change.log.event
        loaded.accepted[event.id] = change.log.sequence
        if change.run:
            loaded.runs[key[0]] = effects.runs[key[0]] = change.run
        if change.candidate:
            loaded.rows[key] = effects.rows[key] = change.candidate
        if not had_program and _has_program(change.candidate):
            effects.proposed[key] = message.log.sequence
        effects.reactions.pop(event.id, None)
        effects.stored.append(event.id)
        for reaction in react(change, event, change.log.sha256) if react and not message.inherited else ():
            effects.reactions[reaction.id] = reaction
    return effects


def _change(incoming: Incoming, loaded: Loaded) -> Change:
    log = incoming.log
    if not incoming.readable:
        return Change(log)
    if sequence := loaded.accepted.get(log.event.id):
        return Change(replace(log, accepted=False, refused_because=f"a duplicate of sequence {sequence}"))
    try:
        return project(incoming, loaded.runs.get(log.run), loaded.rows.get((log.run, log.candidate)))
    except ValueError as error:
        return Change(replace(log, accepted=False, refused_because=f"it cannot be applied: {error}"))


def _has_program(row: CandidateRow | None) -> bool:
    return row is not None and row.record.HasField("proposal")


class Digest:
    """Every backend adds candidates by id, then pools in order, then accepted events by id."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._events = 0

    def candidate(self, record: bytes) -> None:
        """Add a record as it is stored."""
        self._add(b"candidate", record)

    def pool(self, pool: PoolRow) -> None:
        """Add a snapshot without its sequence."""
        self._add(b"pool", str(pool.entries).encode(), *(member.SerializeToString() for member in pool.members))

    def event(self, sha256: bytes) -> None:
        """Add an accepted event."""
        self._events += 1
        self._add(b"event", sha256)

    def result(self) -> tuple[str, int]:
        """The digest as hex, and the number of accepted events."""
        return self._hash.hexdigest(), self._events

    def _add(self, *parts: bytes) -> None:
        for part in (str(len(parts)).encode(), *parts):
            self._hash.update(len(part).to_bytes(8, "little"))
            self._hash.update(part)
