"""Detection of a lost, truncated or changed log, and its recovery from the archive.

The archive knows how far it has applied the log, and by its hash the message at that place. A log that ends before it,
holds another message there, or lacks some before it, is not the log that the archive was made from: a disk that failed,
a backup of the broker that was older, a stream that was deleted and made again. Services cannot continue in this state.
The archive keeps every message that it has applied, so the log can be made of them, byte by byte and place by place.
"""

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from itertools import count
from typing import NamedTuple

from services.chassis.bus import Bus, Logged
from services.chassis.bus.topology import EVENTS
from services.chassis.errors import BusLost, LogDamaged, SettingsError, Transient
from services.chassis.logs import get_logger
from services.store.port import Archive
from services.store.projection import read
from services.store.reactions import react

NO_LOG = "there was no stream of events"
LOOKS = 3
LOOK_SECONDS = 0.5
WINDOW = 128
"""Messages that are published concurrently; one connection keeps their order."""
WHAT_TO_DO = (
    "Stop the services. Restore a backup of the broker's files, or run `asi-arch recover`, which makes the log anew "
    "from the archive; then start the services again."
)


class Recovery(NamedTuple):
    """What was wrong with the log (None: nothing), how many messages it holds now, and those of them that it had
    beyond the archive."""

    damage: str | None
    messages: int
    rescued: int


async def require_same_log(bus: Bus, archive: Archive) -> None:
    """Raises LogDamaged if the archive was not built from this log; Transient, BusLost.

    Looks several times: where a cluster has just chosen another leader, its first answers may be behind.
    """
    for look in range(1, LOOKS + 1):
        damage = await damage_of_log(bus, archive)
        if damage is None:
            return
        if look < LOOKS:
            await asyncio.sleep(LOOK_SECONDS)
    raise LogDamaged(f"the event log is damaged: {damage}. {WHAT_TO_DO}")


async def damage_of_log(bus: Bus, archive: Archive) -> str | None:
    """How the log differs from what the archive has applied; None if it does not."""
    sequence, expected = await archive.position()  # before the log: that only grows
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

    What is left of the log and the archive has not seen is applied to the archive first, so that the archive holds all
    that there is before anything is deleted: after an interruption it can be run again. The stream has as many replicas
    as before, or `replicas`. Raises SettingsError where the archive does not keep every message, and what the bus and
    the archive raise.
    """
    try:
        damage: str | None = await damage_of_log(bus, archive)
    except BusLost:
        damage = NO_LOG
    if damage is None:
        return Recovery(None, await archive.applied(), 0)
    await _require_whole(archive)
    rescued = 0 if damage == NO_LOG else await _republish_from_archive(bus, archive)
    replicas = replicas or await bus.replicas()
    await bus.remove_stream(EVENTS)
    await bus.set_up(replicas)
    window: list[Logged] = []
    async for message in archive.bodies():
        window.append(message)
        if len(window) >= WINDOW:
            await _publish(bus, window)
            window = []
    await _publish(bus, window)
    await require_same_log(bus, archive)
    return Recovery(f"the event log was damaged: {damage}", await archive.applied(), rescued)


async def _require_whole(archive: Archive) -> None:
    expected = count(1)
    async for message in archive.bodies():
        if message.sequence != next(expected):
            break
    else:
        if next(expected) == await archive.applied() + 1:
            return
    raise SettingsError(
        "the archive does not keep every message of the log (an older version made it): restore a backup of the broker."
    )


async def _republish_from_archive(bus: Bus, archive: Archive) -> int:
    """Append messages of the log that the archive has not applied; returns their number."""
    known = {sha256(message.body).digest() async for message in archive.bodies()}
    rescued, place = 0, await archive.applied()
    async for message in _readable(bus):
        if sha256(message.body).digest() not in known:
            place, rescued = place + 1, rescued + 1
            await archive.apply([Logged(place, message.subject, message.body)], react)
    return rescued


async def _readable(bus: Bus) -> AsyncIterator[Logged]:
    """The readable messages of the damaged log."""
    try:
        async for message in bus.read_log():
            yield message
    except Transient as error:
        get_logger().warning("the rest of the damaged log cannot be read", error=str(error))


async def _publish(bus: Bus, messages: list[Logged]) -> None:
    stored = await asyncio.gather(*(bus.publish_body(message.subject, "", message.body) for message in messages))
    if list(stored) != [message.sequence for message in messages]:
        raise LogDamaged("another process publishes to the log: stop all services, then run `asi-arch recover` again.")
