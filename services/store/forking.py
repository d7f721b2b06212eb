"""Forks of runs: the history of a run up to an event under another name, then other settings.

The fork's log is complete, so that it can be replayed, audited and exported like any other: first the events of the
history (`run.inherited`, which cause no work), then `run.forked` with the new settings. The history includes the
store's reactions to its events, and excludes candidates that had not ended: their seats are requested again, and model
calls that they had made are answered from the log.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from services.chassis.bus import Bus, Logged
from services.chassis.bus.subjects import fact_of, subject_of
from services.chassis.errors import AlreadyStored, NotFound, NotPossible, SettingsError
from services.chassis.events import first
from services.contracts import events_pb2
from services.llm.port import OPENAI, recorded
from services.store.port import Archive, LogRow
from services.store.projection import adopt, original

SERVICE = "console"
MAX_CONCURRENT = 64
_REACTIONS = frozenset({"candidate.archived", "pool.updated"})


@dataclass(frozen=True)
class History:
    """The part of a run's log that a fork inherits: the hash of each event by its sequence."""

    run: str
    until: int
    events: dict[int, bytes]


async def history(archive: Archive, run: str, at: str) -> History:
    """The history of a run up to a log sequence or an event id; all of it for an empty `at`.

    Raises NotFound if the run has no such event.
    """
    rows = [row async for row in archive.log(run) if row.accepted]
    sequences = [row.sequence for row in rows if at in ("", str(row.sequence), row.event.id)]
    if not sequences:
        raise NotFound(
            f"run {run} has no accepted event {at!r}: name a sequence or an event id as `asi-arch audit` prints them"
        )
    return History(run, sequences[-1], {row.sequence: row.sha256 for row in _until(rows, sequences[-1])})


async def fork(bus: Bus, source: History, run: str, settings: events_pb2.RunSettings) -> int:
    """Publish a fork named `run`; returns the sequence of its run.forked. An interrupted fork continues where it ended.

    Raises SettingsError if the log has another run of this name, NotPossible if it differs from the archive, and
    Transient if the broker is unreachable.
    """
    published = [_identity(message.body) async for message in bus.read_log(f"asi.v1.{run}.>")]
    pending: list[events_pb2.Event] = []
    matched = 0
    async for logged in _verified(bus, source):
        event = inherited(logged, run, source.until)
        if not published and not matched:  # alone, so that of two forks at once only one publishes its history
            await _publish_only(bus, event, f"asi.v1.{run}.>")
        elif matched >= len(published):
            pending.append(event)
        elif published[matched] != _identity(event.SerializeToString()):
            raise _taken(run)
        matched += 1
        if len(pending) >= MAX_CONCURRENT:
            await _publish(bus, pending)
            pending = []
    if matched < len(published):
        raise _taken(run)
    await _publish(bus, pending)
    event = first(run, "forked", SERVICE, source.until)  # the history may contain another fork
    event.run_forked.CopyFrom(events_pb2.RunForked(of_run=source.run, at_sequence=source.until, settings=settings))
    if settings.mind == OPENAI:
        event.run_forked.settings.mind = recorded(source.run, source.until)
    return await _publish_only(bus, event, subject_of(event))


def inherited(logged: Logged, run: str, until: int) -> events_pb2.Event:
    """An event of the source as an event of the fork's history, which goes up to `until`; deterministic."""
    body = original(logged.body)
    copied = events_pb2.Event.FromString(body)
    adopt(copied, run)
    event = events_pb2.Event(id=copied.id, run=run, attempt=1, service=SERVICE, time=copied.time)
    event.run_inherited.CopyFrom(events_pb2.RunInherited(sequence=logged.sequence, event=body, until=until))
    return event


def _identity(body: bytes) -> bytes:
    """Identifies a message of a history, ignoring its trace."""
    try:
        event = events_pb2.Event.FromString(body)
    except DecodeError:  # not a message of a history
        return b""
    copy = event.run_inherited
    return hashlib.sha256(f"{event.id} {copy.sequence} {copy.until} ".encode() + copy.event).digest()


def _taken(run: str) -> SettingsError:
    return SettingsError(f"a run called {run} exists already: choose another --run.")


def _until(rows: Iterable[LogRow], until: int) -> list[LogRow]:
    """Events up to a sequence and the store's reactions to them, without candidates that had not ended."""
    chosen: list[LogRow] = []
    ids: set[str] = set()
    ended: set[str] = set()
    for row in rows:
        fact = fact_of(row.event)
        if row.sequence > until and not (fact in _REACTIONS and row.event.cause in ids):
            continue
        chosen.append(row)
        ids.add(row.event.id)
        if fact in ("candidate.archived", "candidate.imported"):
            ended.add(row.candidate)
        elif row.event.retry_of:
            ended.discard(row.candidate)
    return [row for row in chosen if not row.candidate or row.candidate in ended]


async def _verified(bus: Bus, source: History) -> AsyncIterator[Logged]:
    """The messages of the history, verified against the archive."""
    missing = set(source.events)
    async for logged in bus.read_log(f"asi.v1.{source.run}.>"):
        if logged.sequence not in missing:
            continue
        missing.discard(logged.sequence)
        if hashlib.sha256(original(logged.body)).digest() != source.events[logged.sequence]:
            raise NotPossible(f"event {logged.sequence} of run {source.run} was changed: run `asi-arch replay`")
        yield logged
    if missing:
        raise NotPossible(f"event {min(missing)} of run {source.run} is missing in the log: run `asi-arch replay`")


async def _publish_only(bus: Bus, event: events_pb2.Event, only: str) -> int:
    """Publish the first or last event of a fork. Raises SettingsError if another command has taken the name."""
    try:
        return await bus.publish(event, only)
    except AlreadyStored:
        raise _taken(event.run) from None


async def _publish(bus: Bus, events: list[events_pb2.Event]) -> None:
    """Publish concurrently over one connection, which keeps their order."""
    sequences = await asyncio.gather(*(bus.publish(event) for event in events))
    if sequences != sorted(sequences):
        raise NotPossible("the broker did not keep the order of the history: fork again under another name")
