"""One batch of messages folded into what a backend has to write. Pure: no database here, the same for every backend.

A backend reads what `needs` names into a `Loaded`, calls `fold`, and writes the `Effects`, all in one transaction.
Later messages of a batch see what earlier ones did.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from services.chassis.bus import Logged
from services.contracts import events_pb2
from services.store.port import CandidateRow, Change, LogRow, OutOfOrder, PoolRow, React, RunRow
from services.store.projection import Incoming, project, read, without_payload

Key = tuple[str, str]
"""A run and the id of a candidate in it."""


@dataclass(frozen=True)
class Needs:
    """What has to be read before a batch can be folded."""

    runs: frozenset[str]
    candidates: frozenset[Key]
    ids: frozenset[str]


@dataclass
class Loaded:
    """What the archive holds of the things that a batch touches; `fold` brings it up to date."""

    runs: dict[str, RunRow] = field(default_factory=dict)
    rows: dict[Key, CandidateRow] = field(default_factory=dict)
    accepted: dict[str, int] = field(default_factory=dict)  # event id → the sequence at which it counted


@dataclass
class Effects:
    """Everything that a batch writes."""

    sequence: int
    messages: list[Logged]  # as they lie in the log
    changes: list[Change] = field(default_factory=list)
    answers: dict[str, events_pb2.Event] = field(default_factory=dict)  # by event id
    stored: list[str] = field(default_factory=list)  # ids that the log holds now: no need to publish them
    runs: dict[str, RunRow] = field(default_factory=dict)
    rows: dict[Key, CandidateRow] = field(default_factory=dict)
    proposed: dict[Key, int] = field(default_factory=dict)  # the sequence at which a candidate got its program

    @property
    def logs(self) -> list[LogRow]:
        """What is remembered of each message, in order."""
        return [change.log for change in self.changes]

    @property
    def pools(self) -> list[PoolRow]:
        """The pool snapshots, in order."""
        return [change.pool for change in self.changes if change.pool]


def due(messages: Sequence[Logged], applied: int) -> list[Incoming]:
    """The messages that the archive has not applied yet, read. Raises OutOfOrder at the first gap."""
    incoming: list[Incoming] = []
    for message in messages:
        if message.sequence <= applied:
            continue
        if message.sequence != applied + 1:
            raise OutOfOrder(f"event {message.sequence} came, but {applied + 1} is missing before it")
        incoming.append(read(message))
        applied = message.sequence
    return incoming


def needs(incoming: Sequence[Incoming]) -> Needs:
    """What a batch refers to."""
    events = [one.log.event for one in incoming if one.readable]
    return Needs(
        runs=frozenset(event.run for event in events),
        candidates=frozenset((event.run, event.candidate) for event in events if event.candidate),
        ids=frozenset(event.id for event in events),
    )


def fold(incoming: Sequence[Incoming], loaded: Loaded, react: React | None) -> Effects:
    """The effects of a batch on what stands."""
    effects = Effects(incoming[-1].log.sequence, [one.message for one in incoming])
    for one in incoming:
        had_program = _has_program(loaded.rows.get((one.log.run, one.log.candidate)))
        change = _change(one, loaded)
        effects.changes.append(change)
        without_payload(one.log.event)
        if not change.log.accepted:
            continue
        _remember(change, loaded, effects)
        if not had_program and _has_program(change.candidate):
            effects.proposed[one.log.run, one.log.candidate] = one.log.sequence
        event = change.log.event
        effects.answers.pop(event.id, None)
        effects.stored.append(event.id)
        for answer in react(change, event, change.log.sha256) if react and not one.inherited else ():
            effects.answers[answer.id] = answer
    return effects


def _change(incoming: Incoming, loaded: Loaded) -> Change:
    log = incoming.log
    if not incoming.readable:
        return Change(log)
    if seen := loaded.accepted.get(log.event.id):
        return Change(replace(log, accepted=False, refused_because=f"seen already at sequence {seen}"))
    try:
        return project(incoming, loaded.runs.get(log.run), loaded.rows.get((log.run, log.candidate)))
    except ValueError as error:
        return Change(replace(log, accepted=False, refused_because=f"it cannot be applied: {error}"))


def _remember(change: Change, loaded: Loaded, effects: Effects) -> None:
    log = change.log
    loaded.accepted[log.event.id] = log.sequence
    if change.run:
        loaded.runs[log.run] = effects.runs[log.run] = change.run
    if change.candidate:
        key = (log.run, log.candidate)
        loaded.rows[key] = effects.rows[key] = change.candidate


def _has_program(row: CandidateRow | None) -> bool:
    return row is not None and row.record.HasField("proposal")


class Digest:
    """Feed candidates by id, then pools in order, then accepted events by id; every backend does it in this order."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._events = 0

    def candidate(self, record: bytes) -> None:
        """A record as it is stored."""
        self._add(b"candidate", record)

    def pool(self, pool: PoolRow) -> None:
        """A snapshot, without the sequence from which it held."""
        self._add(b"pool", str(pool.entries).encode(), *(member.SerializeToString() for member in pool.members))

    def event(self, sha256: bytes) -> None:
        """An accepted event."""
        self._events += 1
        self._add(b"event", sha256)

    def result(self) -> tuple[str, int]:
        """The digest as hex, and the number of accepted events."""
        return self._hash.hexdigest(), self._events

    def _add(self, *parts: bytes) -> None:
        for part in (str(len(parts)).encode(), *parts):
            self._hash.update(len(part).to_bytes(8, "little"))
            self._hash.update(part)
