"""An archive rebuilt from the log alone, and compared with the one that lives.

The log's own order numbers the events anew, so that one run out of many gives the same archive wherever it lies.
"""

import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from itertools import zip_longest

from services.chassis.bus import Bus, Logged
from services.chassis.errors import NotFound, SettingsError
from services.store.port import Archive, LogRow

BATCH = 256
MOST_NAMED = 20


@dataclass(frozen=True)
class Replay:
    """What a replay came to. `live_digest` is None where there is no live archive to compare with."""

    run: str
    digest: str
    live_digest: str | None
    events: int
    seconds: float
    differences: tuple[str, ...] = field(default=())

    @property
    def agrees(self) -> bool:
        """Whether the rebuilt archive is the live one."""
        return self.live_digest in (None, self.digest) and not self.differences


async def replay(bus: Bus, run: str, into: Archive, live: Archive | None) -> Replay:
    """Rebuild `run` in the empty archive `into` and compare. Both archives are open.

    Raises:
        SettingsError: `into` holds something already.
        NotFound: the log holds no event of this run.
    """
    if await into.applied():
        raise SettingsError("--into names an archive that holds something already: give it a fresh place.")
    begun = time.perf_counter()
    last = await apply_all(into, bus.read_log(f"asi.v1.{run}.>"))
    if not last:
        raise NotFound(f"the log holds no event of a run called {run}")
    digest, events = await into.digest(run)
    seconds = time.perf_counter() - begun
    if live is None:
        return Replay(run, digest, None, events, seconds)
    live_digest, _ = await live.digest(run)
    found = [line async for line in differences(into.log(run), live.log(run))]
    return Replay(run, digest, live_digest, events, seconds, tuple(found[:MOST_NAMED]))


async def apply_all(archive: Archive, logged: AsyncIterator[Logged]) -> int:
    """Apply messages in the order they come, numbered from 1; how many there were."""
    batch: list[Logged] = []
    count = 0
    async for one in logged:
        count += 1
        batch.append(Logged(count, one.subject, one.body))
        if len(batch) >= BATCH:
            await archive.apply(batch)
            batch = []
    if batch:
        await archive.apply(batch)
    return count


async def differences(rebuilt: AsyncIterator[LogRow], live: AsyncIterator[LogRow]) -> AsyncIterator[str]:
    """Every event that was changed, is missing, is new, or was decided otherwise, a sentence each."""
    ours, theirs = [row async for row in rebuilt], [row async for row in live]
    known, there = {row.event.id for row in ours}, {row.event.id for row in theirs}
    for row in theirs:
        if row.event.id not in known:
            yield f"event {row.event.id} (sequence {row.sequence}) is in the archive, but missing in the log"
    for row in ours:
        if row.event.id not in there:
            yield f"event {row.event.id} is in the log, but the archive has never seen it"
    for line in _in_order(_shared(ours, there), _shared(theirs, known)):
        yield line


def _shared(rows: Iterable[LogRow], ids: set[str]) -> list[LogRow]:
    return [row for row in rows if row.event.id in ids]


def _in_order(ours: list[LogRow], theirs: list[LogRow]) -> Iterable[str]:
    for our, their in zip_longest(ours, theirs):
        if our is None or their is None:
            continue
        if our.event.id != their.event.id:
            yield f"event {our.event.id} stands where the archive saw {their.event.id}: the order was changed"
            return
        if our.sha256 != their.sha256:
            ours_is, theirs_is = our.sha256.hex()[:16], their.sha256.hex()[:16]
            yield f"event {our.event.id} was changed: the log holds {ours_is}, the archive saw {theirs_is}"
        elif our.accepted != their.accepted:
            yield f"event {our.event.id} is {_decided(our)} in the replay and was {_decided(their)} in the archive"


def _decided(row: LogRow) -> str:
    return "accepted" if row.accepted else f"refused ({row.refused_because})"
