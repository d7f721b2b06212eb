"""Detection of a lost, truncated or changed log, and its recovery from the archive.

The archive stores the sequence and the hash of the last applied message. A log that ends before it, has another message
at that sequence, or lacks messages, is not the log that the archive was built from: after a disk failure, an older
backup of the broker, or a stream that was deleted and created again. Services cannot continue in this state. The
archive stores every applied message, so that the log can be rebuilt from it exactly.
"""

import asyncio
from hashlib import sha256
from typing import NamedTuple

from services.chassis.bus import Bus, Logged
from services.chassis.bus.topology import EVENTS
from services.chassis.errors import BusLost, LogDamaged, SettingsError, Transient
from services.chassis.logs import get_logger
from services.store.port import Archive
from services.store.projection import read
from services.store.reactions import react
from services.store.replay import batched

NO_LOG = "there was no stream of events"
CHECKS = 3
CHECK_SECONDS = 0.5
WINDOW = 128
"""Messages that are published concurrently; one connection keeps their order."""
WHAT_TO_DO = (
    "Stop the services. Restore a backup of the broker's files, or run `asi-arch recover`, which rebuilds the log "
    "from the archive; then start the services again."
)


class Recovery(NamedTuple):
    """The result of a recovery."""

    damage: str | None  # None: the log was not damaged
    messages: int  # in the log now
    rescued: int  # of those, messages of the damaged log that the archive had not applied
    lost: int = 0  # messages that neither the archive nor the damaged log had


async def require_same_log(bus: Bus, archive: Archive) -> None:
    """Raises LogDamaged if the archive was not built from this log; Transient, BusLost.

    Checks several times, since the first replies after an election of a leader may be stale.
    """
    for check in range(1, CHECKS + 1):
        damage = await damage_of_log(bus, archive)
        if damage is None:
            return
        if check < CHECKS:
            await asyncio.sleep(CHECK_SECONDS)
    raise LogDamaged(f"the event log is damaged: {damage}. {WHAT_TO_DO}")


async def damage_of_log(bus: Bus, archive: Archive) -> str | None:
    """How the log differs from the applied one; None if it does not."""
    sequence, expected = await archive.position()  # before reading the log, which only grows
    state = await bus.log_state()
    if state.last < sequence:
        return f"it ends at message {state.last}, but the archive has applied {sequence}"
    if state.missing:
        return f"{state.missing} of its {state.last} messages are lost"
    if expected is None:
        return None
    try:
        actual = read(await bus.message_at(sequence)).log.sha256
    except KeyError:
        return f"message {sequence} is lost"
    if actual != expected:
        return (
            f"its message {sequence} is another ({actual.hex()[:16]}) than the archive applied ({expected.hex()[:16]})"
        )
    return None


async def recover(bus: Bus, archive: Archive, replicas: int | None = None) -> Recovery:
    """Rebuild a damaged log from the archive. All services must be stopped.

    Readable messages that the archive has not applied are applied first, so that nothing is lost when the stream is
    deleted, and an interrupted recovery can be repeated. The stream gets `replicas`, by default as many as before.
    Raises SettingsError if the archive does not have every message, Transient if the broker cannot keep `replicas`, and
    the errors of the bus and the archive.
    """
    try:
        damage: str | None = await damage_of_log(bus, archive)
    except BusLost:
        damage = NO_LOG
    if damage is None:
        return Recovery(None, await archive.applied(), 0)
    await _require_complete(archive)
    if damage != NO_LOG and not await archive.applied():
        raise SettingsError(
            "the archive has applied no message of this log, so it cannot replace lost ones: set ASI_ARCHIVE_URL to "
            "the store's archive, or restore a backup of it."
        )
    replicas = replicas or await bus.replicas()
    await bus.require_replicas(replicas)
    rescued, lost = (0, 0) if damage == NO_LOG else await _apply_rest(bus, archive)
    await bus.remove_stream(EVENTS)
    await bus.set_up(replicas)
    async for window in batched(archive.bodies(), WINDOW):
        await _publish(bus, window)
    await require_same_log(bus, archive)
    return Recovery(f"the event log was damaged: {damage}", await archive.applied(), rescued, lost)


async def _require_complete(archive: Archive) -> None:
    complete = 0  # the sequence up to which no message is missing
    async for message in archive.bodies():
        if message.sequence != complete + 1:
            break
        complete += 1
    if complete < await archive.applied():
        raise SettingsError(
            "the archive lacks messages of the log, since an older version created it: restore a backup of the broker."
        )


async def _apply_rest(bus: Bus, archive: Archive) -> tuple[int, int]:
    """Apply the readable messages of the damaged log that the archive has not applied.

    Returns their number, and the number of those that could not be read.
    """
    applied = {sha256(message.body).digest() async for message in archive.bodies()}
    rescued, sequence = 0, await archive.applied()
    newer = range(sequence + 1, await bus.last_sequence() + 1)
    lost = len(newer)
    try:
        async for message in bus.read_log():
            lost -= message.sequence in newer
            if sha256(message.body).digest() not in applied:
                sequence, rescued = sequence + 1, rescued + 1
                await archive.apply([Logged(sequence, message.subject, message.body)], react)
    except Transient as error:
        get_logger().warning("the rest of the damaged log cannot be read", error=str(error))
    return rescued, lost


async def _publish(bus: Bus, messages: list[Logged]) -> None:
    stored = await asyncio.gather(*(bus.publish_body(message.subject, "", message.body) for message in messages))
    if list(stored) != [message.sequence for message in messages]:
        raise LogDamaged("another process publishes to the log: stop all services, then run `asi-arch recover` again.")
