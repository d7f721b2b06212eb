"""Forks of runs: the same history up to an event under another name, then other policies or another mind.

The fork's log holds all of it, so that it is replayed, audited and exported like any other: first every event of the
history as it was (`run.inherited`, which causes no work), then `run.forked` with the settings that hold from there on.
What the store said in answer to an event of the history belongs to it; a candidate that had not ended does not: its
seat is asked for again, and what an endpoint had answered on its behalf by then is answered from the log.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from services.chassis.bus import Bus, Logged
from services.chassis.bus.subjects import fact_of
from services.chassis.errors import NotFound, NotPossible, SettingsError
from services.chassis.events import first
from services.contracts import events_pb2
from services.llm.port import OPENAI, recorded
from services.store.port import Archive, LogRow
from services.store.projection import adopt, original

SERVICE = "console"
AT_ONCE = 64
_ANSWERS = frozenset({"candidate.archived", "pool.updated"})


@dataclass(frozen=True)
class History:
    """The part of a run's log that a fork inherits: the hash of each event by its sequence."""

    run: str
    until: int
    events: dict[int, bytes]


async def history(archive: Archive, run: str, at: str) -> History:
    """The history of a run up to a log sequence or an event id; all of it for an empty `at`.

    Raises NotFound where the run has no such event.
    """
    rows = [row async for row in archive.log(run) if row.accepted]
    until = _place(rows, run, at)
    return History(run, until, {row.sequence: row.sha256 for row in _belonging(rows, until)})


async def fork(bus: Bus, source: History, run: str, settings: events_pb2.RunSettings) -> int:
    """Publish a fork named `run`; returns the sequence of its run.forked. An interrupted fork continues where it ended.

    Raises:
        SettingsError: the log holds something else under this name.
        NotPossible: the log is not what the archive saw.
        Transient: the broker does not take an event.
    """
    there = [_mark(one.body) async for one in bus.read_log(f"asi.v1.{run}.>")]
    waiting: list[events_pb2.Event] = []
    place = 0
    async for logged in _chosen(bus, source):
        event = inherited(logged, run)
        if place >= len(there):
            waiting.append(event)
        elif there[place] != _mark(event.SerializeToString()):
            raise _taken(run)
        place += 1
        if len(waiting) >= AT_ONCE:
            await _publish(bus, waiting)
            waiting = []
    if place < len(there):
        raise _taken(run)
    await _publish(bus, waiting)
    return await bus.publish(_forked(source, run, settings))


def inherited(logged: Logged, run: str) -> events_pb2.Event:
    """An event of the source as an event of the fork's history; deterministic."""
    body = original(logged.body)
    copied = events_pb2.Event.FromString(body)
    adopt(copied, run)
    event = events_pb2.Event(id=copied.id, run=run, attempt=1, service=SERVICE, time=copied.time)
    event.run_inherited.CopyFrom(events_pb2.RunInherited(sequence=logged.sequence, event=body))
    return event


def _mark(body: bytes) -> bytes:
    """Identifies a message of a history, ignoring its trace."""
    try:
        event = events_pb2.Event.FromString(body)
    except DecodeError:  # no history holds such a message
        return b""
    content = f"{event.id} {event.run_inherited.sequence} ".encode() + event.run_inherited.event
    return hashlib.sha256(content).digest()


def _taken(run: str) -> SettingsError:
    return SettingsError(f"a run called {run} exists already: choose another --run.")


def _place(rows: Iterable[LogRow], run: str, at: str) -> int:
    sequences = [row.sequence for row in rows if at in ("", str(row.sequence), row.event.id)]
    if not sequences:
        raise NotFound(
            f"run {run} has no event {at!r} that counted: name a sequence or an event id as audit prints them"
        )
    return sequences[-1]


def _belonging(rows: Iterable[LogRow], until: int) -> list[LogRow]:
    """Events up to a sequence and the store's reactions to them, without candidates that had not ended."""
    taken: list[LogRow] = []
    ids: set[str] = set()
    ended: set[str] = set()
    for row in rows:
        fact = fact_of(row.event)
        if row.sequence > until and not (fact in _ANSWERS and row.event.cause in ids):
            continue
        taken.append(row)
        ids.add(row.event.id)
        if fact in ("candidate.archived", "candidate.imported"):
            ended.add(row.candidate)
        elif row.event.retry_of:
            ended.discard(row.candidate)
    return [row for row in taken if not row.candidate or row.candidate in ended]


async def _chosen(bus: Bus, source: History) -> AsyncIterator[Logged]:
    """The history's messages, each verified against the archive."""
    missing = set(source.events)
    async for logged in bus.read_log(f"asi.v1.{source.run}.>"):
        if logged.sequence not in missing:
            continue
        missing.discard(logged.sequence)
        if hashlib.sha256(original(logged.body)).digest() != source.events[logged.sequence]:
            raise NotPossible(f"event {logged.sequence} of run {source.run} was changed: see `asi-arch replay`")
        yield logged
    if missing:
        raise NotPossible(f"event {min(missing)} of run {source.run} is missing in the log: see `asi-arch replay`")


async def _publish(bus: Bus, events: list[events_pb2.Event]) -> None:
    """Publish concurrently over one connection, which keeps their order."""
    places = await asyncio.gather(*(bus.publish(event) for event in events))
    if list(places) != sorted(places):
        raise NotPossible("the broker did not keep the order of the history: fork again under another name")


def _forked(source: History, run: str, settings: events_pb2.RunSettings) -> events_pb2.Event:
    event = first(run, "forked", SERVICE, source.until)  # a history may hold another fork
    event.run_forked.CopyFrom(events_pb2.RunForked(of_run=source.run, at_sequence=source.until, settings=settings))
    if settings.mind == OPENAI:
        event.run_forked.settings.mind = recorded(source.run, source.until)
    return event
