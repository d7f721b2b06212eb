"""Replay: rebuild a run's archive from the log alone and compare it with the live archive.

Events are renumbered from 1 in log order, so that the result does not depend on other runs in the log. A replay without
a target archive keeps the records of ended candidates in a temporary file: memory grows only by ids and hashes.
"""

import asyncio
import hashlib
import tempfile
import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count, islice

from services.chassis.bus import Bus, Logged
from services.chassis.bus.subjects import subject_of
from services.chassis.errors import NotFound, SettingsError
from services.contracts import archive_pb2, candidate_pb2, events_pb2
from services.domain.run_state import RunState
from services.store.backends.folding import Digest, Key, Loaded, fold, needs
from services.store.backends.rows import NODE, columns, record_bytes, tree_node
from services.store.port import Archive, CandidateRow, LogRow, PoolRow, RunRow
from services.store.projection import Incoming, read


@dataclass(frozen=True, slots=True)
class EventOutcome:
    """The outcome of one event in an archive, for comparison."""

    event: str  # its id; for a body that is not an event, its hash
    sequence: int
    sha256: bytes
    accepted: bool
    refused_because: str
    content: bytes  # hash of the event as the archive stores it, without the parts that records hold

    @classmethod
    def of(cls, row: LogRow) -> "EventOutcome":
        content = hashlib.sha256(row.event.SerializeToString(deterministic=True)).digest()
        name = row.event.id or row.sha256.hex()
        return cls(name, row.sequence, row.sha256, row.accepted, row.refused_because, content)


@dataclass(frozen=True, slots=True)
class Shown:
    """What an archive stores of a run beside its records: the columns it lists them by, the settings and the state."""

    nodes: Mapping[str, archive_pb2.TreeNode]
    row: RunRow | None
    records: Mapping[str, bytes]  # their hashes; none where the digests agree

    @classmethod
    async def of_archive(cls, archive: Archive, run: str, with_records: bool) -> "Shown":
        nodes = {node.id: node for node in await archive.tree(run)}
        records, ids = dict[str, bytes](), list(nodes)
        for start in range(0, len(ids) if with_records else 0, BATCH):
            await asyncio.sleep(0)  # else the connection to the broker is not served meanwhile
            batch = await archive.candidates(run, ids[start : start + BATCH])
            records |= {record.id: _hash(record_bytes(record)) for record in batch}
        return cls(nodes, await archive.run(run), records)


class Rebuilt:
    """A run rebuilt in memory. Use it as a context manager."""

    def __init__(self) -> None:
        self.outcomes: list[EventOutcome] = []
        self._loaded = Loaded()
        self._pools: list[PoolRow] = []
        self._ended: dict[Key, tuple[CandidateRow, int, int]] = {}  # records are in the file
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object

    def __enter__(self) -> "Rebuilt":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def apply(self, incoming: Sequence[Incoming]) -> None:
        """Apply the next messages, in order."""
        for key in needs(incoming).candidates & self._ended.keys():
            record = candidate_pb2.Candidate.FromString(self._record(key))
            self._loaded.rows[key] = replace(self._ended.pop(key)[0], record=record)
        effects = fold(incoming, self._loaded, None)
        self.outcomes += [EventOutcome.of(row) for row in effects.logs]
        self._pools += effects.pools
        for key, row in effects.rows.items():
            if row.ended is not None:
                offset, content = self._file.seek(0, 2), record_bytes(row.record)
                self._file.write(content)
                self._ended[key] = replace(row, record=candidate_pb2.Candidate()), offset, len(content)
                del self._loaded.rows[key]

    @property
    def runs(self) -> frozenset[str]:
        """The runs that were started."""
        return frozenset(self._loaded.runs)

    def digest(self) -> tuple[str, int]:
        """The digest and the number of accepted events, computed as in all archives."""
        digest = Digest()
        for key in sorted(self._ended.keys() | self._loaded.rows.keys()):
            digest.candidate(self._record(key))
        for pool in self._pools:
            digest.pool(pool)
        for outcome in sorted((row for row in self.outcomes if row.accepted), key=lambda row: row.event):
            digest.event(outcome.sha256)
        return digest.result()

    def shown(self, run: str) -> Shown:
        """What an archive shows of a run."""
        rows = [self._loaded.rows[key] for key in self._loaded.rows if key[0] == run]
        ended = [
            replace(row, record=candidate_pb2.Candidate.FromString(self._record(key)))
            for key, (row, _, _) in self._ended.items()
            if key[0] == run
        ]
        nodes = (tree_node(columns(row)) for row in (*rows, *ended))
        records = {row.record.id: _hash(self._record((run, row.record.id))) for row in (*rows, *ended)}
        return Shown({node.id: node for node in nodes}, self._loaded.runs.get(run), records)

    def _record(self, key: Key) -> bytes:
        if key not in self._ended:
            return record_bytes(self._loaded.rows[key].record)
        _, offset, size = self._ended[key]
        self._file.seek(offset)
        return self._file.read(size)


def refusals(run: str, bodies: Sequence[bytes]) -> tuple[str, ...]:
    """The events of a log that an archive refuses, one sentence each. Raises SettingsError if none starts the run."""
    with Rebuilt() as rebuilt:
        subjects = (subject_of(events_pb2.Event.FromString(body)) for body in bodies)
        rebuilt.apply(
            [read(Logged(number, *message)) for number, message in enumerate(zip(subjects, bodies, strict=True), 1)]
        )
        if run not in rebuilt.runs:
            raise SettingsError(f"the log holds no valid start of run {run}: export the whole run again.")
        outcomes = [outcome for outcome in rebuilt.outcomes if not outcome.accepted]
    return tuple(f"event {outcome.event} is refused: {outcome.refused_because}" for outcome in outcomes)


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


MAX_NAMED = 20
BATCH = 64


@dataclass(frozen=True)
class Replay:
    """The result of a replay. `live_digest` is None without a live archive."""

    run: str
    digest: str
    live_digest: str | None
    events: int
    seconds: float
    differences: tuple[str, ...] = field(default=())

    @property
    def agrees(self) -> bool:
        """Whether the rebuilt archive equals the live one."""
        return self.live_digest in (None, self.digest) and not self.differences


async def replay(bus: Bus, run: str, into: Archive | None, live: Archive | None) -> Replay:
    """Rebuild `run` from its log, in memory or in the empty archive `into`, and compare. Archives are open.

    Raises SettingsError if `into` is not empty, and NotFound if the log holds no event of this run.
    """
    started = time.perf_counter()
    log = _numbered(bus, run)
    digest, events, outcomes, shown = await (_in_memory(log, run) if into is None else _in_archive(log, run, into))
    seconds = time.perf_counter() - started
    if not outcomes:
        raise NotFound(f"the log holds no event of a run called {run}")
    if live is None:
        return Replay(run, digest, None, events, seconds)
    live_digest, _ = await live.digest(run)
    expected = [EventOutcome.of(row) async for row in live.log(run)]
    live_shown = await Shown.of_archive(live, run, with_records=digest != live_digest)
    found = chain(differences(outcomes, expected), _shown_differences(shown, live_shown))
    return Replay(run, digest, live_digest, events, seconds, tuple(islice(found, MAX_NAMED)))


async def batched(messages: AsyncIterable[Logged], size: int) -> AsyncIterator[list[Logged]]:
    """Batches of at most `size` messages, in order."""
    batch: list[Logged] = []
    async for message in messages:
        batch.append(message)
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


async def _numbered(bus: Bus, run: str) -> AsyncIterator[list[Logged]]:
    """Batches of the run's messages in order, numbered from 1."""
    numbers = count(1)
    async for batch in batched(bus.read_log(f"asi.v1.{run}.>"), BATCH):
        yield [Logged(next(numbers), message.subject, message.body) for message in batch]


_Result = tuple[str, int, Sequence[EventOutcome], Shown]


async def _in_memory(log: AsyncIterator[list[Logged]], run: str) -> _Result:
    with Rebuilt() as rebuilt:
        async for batch in log:
            rebuilt.apply([read(message) for message in batch])
        return *rebuilt.digest(), rebuilt.outcomes, rebuilt.shown(run)


async def _in_archive(log: AsyncIterator[list[Logged]], run: str, into: Archive) -> _Result:
    if await into.applied():
        raise SettingsError("--into names an archive that is not empty: give the URL of a new one.")
    async for batch in log:
        await into.apply(batch)
    if not await into.applied():
        return "", 0, (), Shown({}, None, {})
    outcomes = [EventOutcome.of(row) async for row in into.log(run)]
    return *await into.digest(run), outcomes, await Shown.of_archive(into, run, with_records=True)


def differences(rebuilt: Sequence[EventOutcome], live: Sequence[EventOutcome]) -> Iterable[str]:
    """Events that were changed, are missing or new, or have another outcome, one sentence each."""
    in_log, in_archive = {row.event for row in rebuilt}, {row.event for row in live}
    for row in live:
        if row.event not in in_log:
            yield f"event {row.event} (sequence {row.sequence}) is in the archive, but missing in the log"
    for row in rebuilt:
        if row.event not in in_archive:
            yield f"event {row.event} is in the log, but missing in the archive"
    ours = (row for row in rebuilt if row.event in in_archive)
    theirs = (row for row in live if row.event in in_log)
    for our, their in zip(ours, theirs, strict=False):
        if our.event != their.event:
            yield f"event {our.event} is at the position of {their.event} in the archive: the order was changed"
            return
        if our.sha256 != their.sha256:
            hashes = our.sha256.hex()[:16], their.sha256.hex()[:16]
            yield f"event {our.event} was changed: the log holds {hashes[0]}, the archive has {hashes[1]}"
        elif our.accepted != their.accepted:
            outcomes = ["accepted" if row.accepted else f"refused ({row.refused_because})" for row in (our, their)]
            yield f"event {our.event} is {outcomes[0]} in the replay and was {outcomes[1]} in the archive"
        elif our.content != their.content:
            yield f"event {our.event} is stored in the archive with other content than the log's"


def _shown_differences(ours: Shown, theirs: Shown) -> Iterator[str]:
    """Columns, settings and states that do not follow from the log, one sentence each."""
    for name in sorted(ours.nodes.keys() | theirs.nodes.keys()):
        node, live = ours.nodes.get(name), theirs.nodes.get(name)
        if node is None or live is None:
            where = "is missing in the archive's list" if live is None else "is listed, but not in the log"
            yield f"candidate {name} {where}"
            continue
        for column in NODE:
            listed, given = getattr(live, column), getattr(node, column)
            if listed != given:
                yield f"candidate {name}: its {column} is listed as {listed!r}, but the log gives {given!r}"
    for name in sorted(ours.nodes.keys() & theirs.nodes.keys()) if theirs.records else ():
        if ours.records.get(name) != theirs.records.get(name):
            yield f"the record of candidate {name} is another than the one that its events give"
    if ours.row is None or theirs.row is None:
        return
    if (ours.row.settings, ours.row.origin) != (theirs.row.settings, theirs.row.origin):
        yield f"the settings or the origin of run {ours.row.run} differ from those in its log"
    if _without_sequences(ours.row.state) != _without_sequences(theirs.row.state):
        yield (
            f"the state of run {ours.row.run} (phase, pool, verifications, spending) does not follow from its log "
            "by the rules of this version"
        )


def _without_sequences(state: RunState) -> RunState:
    """The sequences in a pool depend on other runs in the log."""
    pool = state.pool
    members, pending = ([replace(entry, sequence=0) for entry in group] for group in (pool.members, pool.pending))
    return replace(state, pool=replace(pool, members=tuple(members), pending=tuple(pending)))
