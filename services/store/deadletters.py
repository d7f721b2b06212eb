"""The keeper of dead letters: what a worker gave up becomes a fact that everybody can read.

A service that fails on a message publishes the dead letter itself, with its traceback, and ends its deliveries. Where
it died between the two the broker's advisory is all that is known. Both have the same id.
"""

import json
from collections.abc import Awaitable, Callable

from services.chassis.bus import Bus, Consumer, Delivery
from services.chassis.bus.subjects import fact_of, is_forged
from services.chassis.errors import Transient
from services.chassis.events import Cause
from services.chassis.logs import get_logger
from services.chassis.worker import dead_letter

SERVICE = "store"


class DeadLetterKeeper:
    """Turns advisories into `*.dead` events."""

    def __init__(self, bus: Bus, consumer: Consumer) -> None:
        self._bus = bus
        self._consumer = consumer

    async def run(self) -> None:
        """For ever. Raises BusLost when the durable is gone."""
        async for deliveries in self._consumer.batches(20):
            for delivery in deliveries:
                await _or_again(delivery, self._keep)

    async def _keep(self, delivery: Delivery) -> None:
        advisory = json.loads(delivery.body)
        sequence, consumer = int(advisory["stream_seq"]), str(advisory["consumer"])
        message = await self._bus.message_at(sequence)
        cause = Cause.of(message.body)
        fact_of(cause.event)  # what this version does not know says nothing about a candidate
        if is_forged(message.subject, cause.event):
            raise ValueError(f"message {sequence} on {message.subject} is another fact than it says")
        reason = str(advisory.get("reason") or "given up without a word")
        deliveries = int(advisory.get("deliveries", 0))
        dead = dead_letter(cause, SERVICE, consumer, sequence, deliveries, reason)
        get_logger().error("dead letter", durable=consumer, sequence=sequence, reason=reason, run=cause.event.run)
        await self._bus.publish(dead)


async def _or_again(delivery: Delivery, keep: Callable[[Delivery], Awaitable[None]]) -> None:
    try:
        await keep(delivery)
    except Transient:
        await delivery.again(5)
    except (KeyError, ValueError) as error:
        get_logger().error("an advisory that says nothing", error=str(error), sequence=delivery.sequence)
        await delivery.done_soon()
    else:
        await delivery.done_soon()
