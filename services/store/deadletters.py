"""The keeper of dead letters: what the broker gave up on becomes a fact that everybody can read.

A service that fails on a message publishes the dead letter itself, with its traceback. What is left are messages whose
service died with them every time: the broker's advisory is all that is known then. Both have the same id.
"""

import json
from collections.abc import Awaitable, Callable

from services.chassis import metrics
from services.chassis.bus import Bus, Consumer, Delivery
from services.chassis.bus.subjects import is_forged
from services.chassis.errors import Transient
from services.chassis.events import Cause
from services.chassis.logs import get_logger
from services.chassis.worker import dead_letter

SERVICE = "store"
MOST_DELIVERIES = "max_deliver"


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
        if is_forged(message.subject, cause.event):
            raise ValueError(f"message {sequence} on {message.subject} is another fact than it says")
        reason = str(advisory.get("reason") or "delivered as often as allowed without an end")
        deliveries = int(advisory.get("deliveries", 0))
        dead = dead_letter(cause, SERVICE, consumer, sequence, deliveries, reason)
        get_logger().error("dead letter", durable=consumer, sequence=sequence, reason=reason, run=cause.event.run)
        await self._bus.publish(dead)
        if advisory.get("type", "").endswith(MOST_DELIVERIES):  # what a worker buried it has counted itself
            metrics.DEAD_LETTERS.labels(consumer).inc()


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
