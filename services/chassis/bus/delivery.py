"""Deliveries of a durable consumer, and the consumer."""

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import TypeVar

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo

from services.chassis import metrics
from services.chassis.bus.access import API
from services.chassis.bus.topology import ConsumerSpec
from services.chassis.errors import AlreadyStored, BusLost, Denied, Transient
from services.chassis.logs import get_logger

T = TypeVar("T")
_SHORT_WAIT = 0.1  # in seconds, for an acknowledgement
FAILURES = (TimeoutError, nats.errors.Error, nats.js.errors.Error)
_WRONG_LAST_SEQUENCE = 10071
_ADVICE = {
    "nats: timeout": "it gave no answer: it cannot be reached, or its disk is full",
    "insufficient resources": "its disk or JetStream's `max_file_store` is full: free space there or raise it, then "
    "restart it",
    "maximum bytes exceeded": "the log has reached its `max_bytes`: raise it",
    "maximum messages exceeded": "the log has reached its `max_msgs`: remove this limit",
}
_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)


def refused_publication(error: Exception, what: str) -> AlreadyStored | Transient:
    """The error of a publication that the server did not confirm."""
    if getattr(error, "err_code", None) == _WRONG_LAST_SEQUENCE:
        return AlreadyStored(f"the log has {what} already")
    reason = str(error) or type(error).__name__
    reason = next((advice for cause, advice in _ADVICE.items() if cause in reason), reason)
    return Transient(f"the broker did not accept {what}: {reason}")


class Denials:
    """Matches permission errors, which the client reports asynchronously, to the operations that caused them."""

    def __init__(self) -> None:
        self._operations: set[_Operation] = set()

    def record(self, error: Exception) -> bool:
        """Handle an error that the client reports. True if it is a permission error, which is then logged."""
        violation = _VIOLATION.search(str(error))
        if violation is None:
            return False
        operation, subject = violation[1].lower(), violation[2]
        metrics.DENIED.labels(operation).inc()
        get_logger().error("NATS denied an operation", denied=True, operation=operation, subject=subject)
        denied = Denied(f"NATS denied a {operation} to {subject}: the credentials in use do not allow it")
        for pending in self._operations:
            # The client reports subjects in lower case. A refused inbox fails all requests.
            if pending.denied is None and (operation == "subscription" or pending.subject == subject.lower()):
                pending.denied = denied
                pending.limit.reschedule(0.0)
        return True

    async def watch(self, subject: str, operation: Awaitable[T]) -> T:
        """The result of the operation. Raises Denied once the server refuses a publication to `subject`."""
        pending = _Operation(subject.lower(), asyncio.timeout(None))
        self._operations.add(pending)
        try:
            async with pending.limit:
                return await operation
        except TimeoutError:
            if pending.denied is None:
                raise
            raise pending.denied from None
        finally:
            self._operations.discard(pending)

    async def request(self, subject: str, request: Awaitable[T]) -> T | None:
        """As `watch`, for JetStream's API; None if the object does not exist. Raises Transient without an answer."""
        try:
            return await self.watch(subject, request)
        except nats.js.errors.NotFoundError:
            return None
        except FAILURES as error:
            raise Transient(f"NATS did not answer {subject}: {error or type(error).__name__}") from error


@dataclass(eq=False, slots=True)
class _Operation:
    subject: str
    limit: asyncio.Timeout  # expires when the operation is denied
    denied: Denied | None = None


PULL_SECONDS = 5.0  # short, since a pull in flight across a reconnect is lost until its timeout
_EXPIRED = {"404", "408"}  # statuses of a pull that received less than requested


class Delivery:
    """One delivery of one event. Exactly one of `acknowledge`, `redeliver` and `terminate` ends it."""

    def __init__(self, message: Msg, denials: Denials) -> None:
        self._message = message
        self._denials = denials
        self.subject: str = message.subject
        self.body: bytes = message.data
        metadata = message.metadata
        self.sequence: int = metadata.sequence.stream
        self.deliveries: int = metadata.num_delivered or 1

    async def acknowledge(self) -> None:
        """Acknowledge, without waiting for a confirmation: if it is lost, the message is delivered again, and its
        handler sees in the archive that the work was done.
        """
        await self._message.ack()

    async def redeliver(self, delay: float) -> None:
        """Request redelivery, to any replica, after `delay` seconds."""
        await self._message.nak(delay=delay or None)

    async def terminate(self) -> None:
        """Stop redelivery. The server publishes an advisory, which the store records as a dead letter."""
        await self._message.term()

    async def heartbeat(self) -> None:
        """Extend the acknowledgement deadline during long work."""
        await self._message.in_progress()


class Consumer:
    """A durable pull consumer. Replicas share it, which is how work is spread.

    Only one reader may fetch at a time. Unlike the client's own pull, a fetch returns as soon as messages arrive, and
    needs one request and no task.
    """

    def __init__(self, js: JetStreamContext, spec: ConsumerSpec, denials: Denials) -> None:
        self._js = js
        self._client: Client = js._nc
        self._spec = spec
        self._denials = denials
        self._next = f"{API}.CONSUMER.MSG.NEXT.{spec.stream}.{spec.durable}"
        self._arrived: asyncio.Queue[Msg] = asyncio.Queue()
        self._inbox: Subscription | None = None
        self._requested = 0  # messages that the latest request still expects

    async def bind(self) -> Subscription:
        """Subscribe; the inbox. Raises BusLost if the durable consumer does not exist."""
        await self._require_exists()
        self._inbox = await self._client.subscribe(
            self._client.new_inbox(), cb=self._arrived.put, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        return self._inbox

    async def release(self) -> None:
        """Stop receiving; messages that were received and not fetched are redelivered to other replicas."""
        if self._inbox is None:
            return
        inbox, self._inbox, self._requested = self._inbox, None, 0
        with contextlib.suppress(nats.errors.Error):
            await inbox.unsubscribe()
            while not self._arrived.empty():
                message = self._arrived.get_nowait()
                if not _status(message):
                    await message.nak()

    async def fetch(self, most: int, wait: float = PULL_SECONDS, ahead: int = 0) -> list[Delivery]:
        """Up to `most` received deliveries; empty if none arrive within `wait` seconds.

        A request to the server includes `ahead` more, which later fetches return: the caller can handle them at once.
        Raises BusLost if the durable consumer was deleted, which would otherwise cause a busy loop of errors.
        """
        inbox = self._inbox or await self.bind()
        if self._requested <= 0 and self._arrived.empty():
            request = json.dumps({"batch": most + ahead, "expires": int(wait * 1e9)}).encode()
            try:
                await self._client.publish(self._next, request, inbox.subject)
            except nats.errors.Error:  # not connected: the next fetch retries
                await self._require_exists()
            self._requested = most + ahead
        messages = await self._denials.watch(self._next, receive(self._arrived, most, wait + 0.5))
        deliveries = [Delivery(message, self._denials) for message in messages if not _status(message)]
        statuses = {status for message in messages if (status := _status(message))}
        self._requested = 0 if statuses or not messages else self._requested - len(deliveries)
        if not deliveries:  # the request expired, was refused, or was lost with a connection
            await asyncio.sleep(0.0 if statuses <= _EXPIRED else 0.2)
            await self._require_exists()
        return deliveries

    async def take_back(self) -> None:
        """Make the server deliver again, at once, what was delivered and not acknowledged.

        A server that was restarted remembers deliveries, but not that they were handed back, and would wait for
        `ack_wait`. Only while no service runs: another replica would get what it works on. Raises Transient.
        """
        info = await self.info()
        interrupted = info is not None and info.config.ack_wait == _SHORT_WAIT  # the runner ended during an earlier one
        if info is None or not (info.num_ack_pending or interrupted):
            return
        await self._configure(replace(self._spec, ack_wait=_SHORT_WAIT))  # the server then looks at its deliveries
        await asyncio.sleep(5 * _SHORT_WAIT)
        await self._configure(self._spec)

    async def _configure(self, spec: ConsumerSpec) -> None:
        subject = f"{API}.CONSUMER.DURABLE.CREATE.{spec.stream}.{spec.durable}"
        await self._denials.request(subject, self._js.add_consumer(spec.stream, spec.config()))

    async def info(self) -> ConsumerInfo | None:
        """The consumer as the server knows it, or None. Raises Transient if the server is unreachable."""
        request = self._js.consumer_info(self._spec.stream, self._spec.durable)
        return await self._denials.request(f"{API}.CONSUMER.INFO.{self._spec.stream}.{self._spec.durable}", request)

    async def _require_exists(self) -> None:
        if self._client.is_closed:
            raise BusLost("the connection to NATS is closed")
        with contextlib.suppress(Transient):  # unreachable: the client reconnects
            if await self.info() is None:
                stream = self._spec.stream
                raise BusLost(
                    f"consumer {self._spec.durable!r} does not exist on stream {stream!r}; run `asi-arch setup`"
                )


async def receive(arrived: asyncio.Queue[T], most: int, wait: float) -> list[T]:
    """The next entry and those that have arrived with it, up to `most`; none after `wait` seconds."""
    entries: list[T] = []
    try:
        if arrived.empty():
            async with asyncio.timeout(wait):
                entries.append(await arrived.get())
    except TimeoutError:
        return []
    while len(entries) < most and not arrived.empty():
        entries.append(arrived.get_nowait())
    return entries


def _status(message: Msg) -> str:
    """The status of a control message, such as "408"; empty for a delivery."""
    return (message.headers or {}).get("Status", "") if not message.data else ""
