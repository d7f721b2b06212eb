"""Applies the log to the archive in order, and publishes the events that follow from it.

The archive's own sequence is the position, not the broker's acknowledgements: missing events are read from the log, at
the start and at gaps between deliveries. An archive that is new, restored from a backup or moved to another database
therefore catches up by itself.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from services.chassis import telemetry
from services.chassis.bus import Bus, Consumer, Delivery, Logged
from services.chassis.errors import SettingsError, Transient
from services.chassis.logs import get_logger
from services.store.port import Archive, ArchiveUnavailable, Change, OtherWriter, WriterState
from services.store.reactions import react
from services.store.recovery import require_same_log
from services.store.steering import moment

OUTBOX_DELETIONS = 64
AHEAD_SECONDS = 60.0
Work = Callable[[], Awaitable[None]]


class Applier:
    """The one writer of the archive. Watchers of a run wait on its state for new events."""

    def __init__(self, bus: Bus, archive: Archive, consumer: Consumer, batch: int, retry: float = 1.0) -> None:
        """`retry` is the time in seconds between two attempts to reach the database or the broker."""
        self._bus = bus
        self._archive = archive
        self._consumer = consumer
        self._batch, self._retry = batch, retry
        self._published: set[int] = set()  # outbox numbers; most entries are deleted when their event is applied
        self._ahead: set[str] = set()  # services whose clocks are ahead of ours
        self._reconnects = bus.reconnects
        self.state = WriterState(behind=True)

    async def run(self) -> None:
        """Catch up with the log, then apply deliveries without end.

        Raises BusLost if the durable consumer is deleted, and LogDamaged if the log differs from the applied one, which
        is checked at the start, after reconnections and when idle.
        """
        await self._until_reachable(self._publish_outbox)
        while True:
            if deliveries := await self._consumer.fetch(self._batch):
                await self._until_reachable(partial(self._apply_deliveries, deliveries))
                for delivery in deliveries:
                    await delivery.acknowledge()
            else:
                await self._until_reachable(self._idle)

    async def _idle(self) -> None:
        await self._require_same_log()
        if await self._bus.last_sequence() > await self._archive.applied():  # another store has received the deliveries
            await self._apply_log()
        await self._publish_outbox()
        await self._clear_outbox()

    async def _require_same_log(self) -> None:
        self._reconnects = self._bus.reconnects
        await require_same_log(self._bus, self._archive)

    async def _apply_log(self) -> None:
        """Apply events of the log that the archive has not applied."""
        batch: list[Logged] = []
        async for logged in self._bus.read_log(start=await self._archive.applied() + 1):
            batch.append(logged)
            if len(batch) >= self._batch:
                await self._apply(batch)
                batch = []
        await self._apply(batch)

    async def _apply_deliveries(self, deliveries: Sequence[Delivery]) -> None:
        """Apply a batch of deliveries and publish the events that follow."""
        if self._reconnects != self._bus.reconnects:
            await self._require_same_log()
        applied = await self._archive.applied()
        new = {
            delivery.sequence: Logged(delivery.sequence, delivery.subject, delivery.body)
            for delivery in deliveries
            if delivery.sequence > applied
        }
        messages = [new[sequence] for sequence in sorted(new)]
        if messages and (messages[0].sequence, messages[-1].sequence) == (applied + 1, applied + len(messages)):
            await self._apply(messages)
        elif messages:  # some are missing before or between them
            await self._apply_log()
        await self._publish_outbox()

    async def _apply(self, messages: Sequence[Logged]) -> None:
        if not messages:
            return
        started_ns = time.time_ns()
        for change in await self._archive.apply(messages, react):
            _trace(change, started_ns)
            self._compare_clocks(change, started_ns / 1e9)
        self.state.reached = max(self.state.reached, messages[-1].sequence)
        self.state.changed()

    def _compare_clocks(self, change: Change, now: float) -> None:
        """Warn once of each service whose clock is ahead: a run's budget of time is computed from such times."""
        service, ahead = change.log.event.service, moment(change.log.event) - now
        if ahead > AHEAD_SECONDS and service not in self._ahead:
            self._ahead.add(service)
            get_logger().warning(
                "an event is from the future: synchronise the clocks of all machines",
                from_service=service, event_id=change.log.event.id, seconds=round(ahead),
            )  # fmt: skip

    async def _publish_outbox(self) -> None:
        """Publish the outbox, oldest first; what a crash interrupts is published after the restart."""
        while outgoing := [entry for entry in await self._archive.outbox() if entry.number not in self._published]:
            for entry in outgoing:
                await self._bus.publish(entry.event)
                self._published.add(entry.number)
            if len(self._published) >= OUTBOX_DELETIONS:
                await self._clear_outbox()

    async def _clear_outbox(self) -> None:
        """Delete published events from the outbox; in batches, since each deletion writes to disk."""
        if self._published:
            await self._archive.sent(sorted(self._published))
            self._published.clear()

    async def _until_reachable(self, work: Work) -> None:
        """Retry while database or broker are unreachable; deliveries stay unacknowledged."""
        conflicts = 0
        while True:
            try:
                await self._catch_up()
                await work()
            except Transient as error:
                conflicts = conflicts + 1 if isinstance(error, OtherWriter) else 0
                if conflicts == 1:  # usual beside a standby; a store that was killed may hold its locks for longer
                    await asyncio.sleep(self._retry)
                    continue
                if not self.state.outage:
                    get_logger().error("the store cannot go on for now", error=str(error))
                self.state.outage = str(error)
                self._published.clear()  # the database may be replaced meanwhile
                await asyncio.sleep(self._retry)
                if isinstance(error, ArchiveUnavailable):
                    await self._open_again()
            else:
                if self.state.outage:
                    get_logger().info("the store goes on")
                self.state.outage = ""
                return

    async def _catch_up(self) -> None:
        """Apply the log to an archive that is new, or whose database was replaced by an older copy or deleted."""
        if not self.state.behind and await self._archive.applied() < self.state.reached:
            self.state.behind = True
            self._published.clear()  # the outbox of another database reuses numbers
            await self._open()
        if self.state.behind:
            await self._require_same_log()
            await self._apply_log()
            self.state.behind = False

    async def _open_again(self) -> None:
        """Reconnect. If the database was lost, queries are refused until it is rebuilt from the log."""
        behind, self.state.behind = self.state.behind, True
        try:
            await self._open()
            self.state.behind = behind or await self._archive.applied() < self.state.reached
        except Transient as error:
            self.state.outage, self.state.behind = str(error), behind

    async def _open(self) -> None:
        """Open the archive. A damaged one raises Transient, since it may be repaired while this process runs."""
        try:
            await self._archive.open()
        except SettingsError as error:
            raise ArchiveUnavailable(str(error)) from error


def _trace(change: Change, started_ns: int) -> None:
    log = change.log
    telemetry.record(f"store applies {log.event.id}", log.event.trace, started_ns, run=log.run, candidate=log.candidate)
    if log.accepted:
        get_logger().debug("applied", event_id=log.event.id, sequence=log.sequence)
    else:
        get_logger().warning(
            "refused", event_id=log.event.id, sequence=log.sequence, reason=log.refused_because, run=log.run
        )
