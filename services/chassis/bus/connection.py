"""The connection to NATS: set-up and comparison of streams, publishing, reading the log from its beginning."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from services.chassis.bus.delivery import Consumer
from services.chassis.bus.subjects import subject_of
from services.chassis.bus.topology import EVENTS, MAX_EVENT_BYTES, ConsumerSpec, drift, topology
from services.chassis.errors import BusLost, SettingsError, Transient
from services.chassis.logs import get_logger
from services.chassis.settings import ServiceSettings
from services.contracts import events_pb2 as pb


class EventTooBig(Exception):  # noqa: N818
    """An event passes 256 KiB. (Past 1 MiB the server would close the connection for good.)"""


@dataclass(frozen=True)
class Logged:
    """One message of the log as it lies there."""

    sequence: int
    subject: str
    body: bytes


class Bus:
    """One connection. Use as an async context manager, or `connect` and `close`."""

    def __init__(self, settings: ServiceSettings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._client = Client()
        self._closing = False
        self._js: JetStreamContext = self._client.jetstream(timeout=5)

    async def __aenter__(self) -> "Bus":
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        """Whether the server answers just now."""
        return self._client.is_connected

    async def connect(self, attempts: int = -1) -> None:
        """Connect, waiting for a server that is not up yet. Raises SettingsError on refused credentials."""
        settings = self._settings
        try:
            await self._client.connect(
                servers=[settings.nats_url],
                name=self._name,
                max_reconnect_attempts=attempts,
                reconnect_time_wait=1,
                ping_interval=10,
                max_outstanding_pings=2,
                inbox_prefix=settings.nats_inbox_prefix.encode(),
                error_cb=self._report,
                disconnected_cb=self._say("disconnected from NATS"),
                reconnected_cb=self._say("reconnected to NATS"),
                closed_cb=self._say("connection to NATS closed"),
                nkeys_seed=str(settings.nats_creds) if settings.nats_creds else None,
                tls=_tls(settings) if settings.nats_ca else None,
            )
        except nats.errors.AuthorizationError:
            raise SettingsError("NATS refused the credentials in ASI_NATS_CREDS.") from None
        self._js = self._client.jetstream(timeout=5)

    async def close(self) -> None:
        """Flush and close for good. Not `drain`, which stalls for its whole time-out once a pull has timed out."""
        self._closing = True
        if self._client.is_connected:
            try:
                await self._client.flush(timeout=2)
            except (TimeoutError, nats.errors.Error):
                get_logger().warning("could not flush before closing")
        await self._client.close()

    async def set_up(self, replicas: int = 1) -> list[str]:
        """Create what is missing, change nothing that exists. Returns what was created."""
        streams, consumers = topology()
        created = []
        for stream in streams:
            try:
                await self._js.stream_info(stream.name)
            except nats.js.errors.NotFoundError:
                await self._js.add_stream(stream.config(replicas))
                created.append(f"stream {stream.name}")
        for consumer in consumers:
            try:
                await self._js.consumer_info(consumer.stream, consumer.durable)
            except nats.js.errors.NotFoundError:
                await self._js.add_consumer(consumer.stream, consumer.config())
                created.append(f"consumer {consumer.durable}")
        return created

    async def compare(self) -> list[str]:
        """Every difference between the server and the design, a sentence each."""
        streams, consumers = topology()
        found: list[str] = []
        for stream in streams:
            try:
                info = await self._js.stream_info(stream.name)
            except nats.js.errors.NotFoundError:
                found.append(f"stream {stream.name} does not exist")
                continue
            wanted = stream.config(info.config.num_replicas or 1)
            found += [f"stream {stream.name}: {line}" for line in drift(wanted, info.config)]
        for spec in consumers:
            try:
                consumer = await self._js.consumer_info(spec.stream, spec.durable)
            except nats.js.errors.NotFoundError:
                found.append(f"consumer {spec.durable} does not exist")
                continue
            found += [f"consumer {spec.durable}: {line}" for line in drift(spec.config(), consumer.config)]
        return found

    async def remove_stream(self, name: str) -> None:
        """Delete a stream and all it holds: for tests and for throwing away a trial. Nothing happens without one."""
        with contextlib.suppress(nats.js.errors.NotFoundError):
            await self._js.delete_stream(name)

    async def publish(self, event: pb.Event) -> int:
        """Publish and wait until the stream has stored it; the same event id within ten minutes is stored once.

        Returns the sequence. Raises EventTooBig, or Transient when the stream is out of reach or full.
        """
        body = event.SerializeToString(deterministic=True)
        return await self.publish_body(subject_of(event), event.id, body, event.trace.get("traceparent"))

    async def publish_body(self, subject: str, event_id: str, body: bytes, traceparent: str | None = None) -> int:
        """As `publish`, for an event that is serialised already."""
        if len(body) > MAX_EVENT_BYTES:
            raise EventTooBig(f"event {event_id} has {len(body)} bytes; at most {MAX_EVENT_BYTES} are allowed")
        headers = {"Nats-Msg-Id": event_id} | ({"traceparent": traceparent} if traceparent else {})
        try:
            ack = await self._js.publish(subject, body, timeout=5, headers=headers)
        except (TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
            raise Transient(f"the event stream did not take {event_id}: {error or type(error).__name__}") from error
        return int(ack.seq)

    async def consumer(self, durable: str) -> Consumer:
        """Bind a durable of the design. Raises BusLost when it is missing or differs."""
        spec = self._spec(durable)
        consumer = Consumer(self._js, spec)
        await consumer.bind()
        return consumer

    def _spec(self, durable: str) -> ConsumerSpec:
        for spec in topology()[1]:
            if spec.durable == durable:
                return spec
        raise BusLost(f"no durable is called {durable!r}")

    async def body_at(self, sequence: int) -> bytes:
        """The body of one message of the log. Raises KeyError when there is none."""
        try:
            message = await self._js.get_msg(EVENTS, seq=sequence)
        except nats.js.errors.NotFoundError:
            raise KeyError(f"the log holds no message {sequence}") from None
        return message.data or b""

    async def last_sequence(self) -> int:
        """The newest sequence of the log; 0 when it is empty."""
        info = await self._js.stream_info(EVENTS)
        return int(info.state.last_seq)

    async def read_log(self, subject: str = "asi.v1.>", start: int = 1) -> AsyncIterator[Logged]:
        """Every message on `subject` from sequence `start` to what is newest now, in order.

        An ordered consumer with a callback: three times as fast as asking for one message after the other.
        """
        try:
            newest = await self._js.get_last_msg(EVENTS, subject)
        except nats.js.errors.NotFoundError:
            return
        last = newest.seq or 0
        if start > last:
            return
        queue: asyncio.Queue[Logged] = asyncio.Queue(maxsize=1000)  # a slow reader slows the server down

        async def take(message: Msg) -> None:
            await queue.put(Logged(message.metadata.sequence.stream, message.subject, message.data))

        config = api.ConsumerConfig(deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=start)
        subscription = await self._js.subscribe(
            subject,
            stream=EVENTS,
            ordered_consumer=True,
            config=config,
            cb=take,
            pending_msgs_limit=-1,
            pending_bytes_limit=-1,
        )
        try:
            reached = 0
            while reached < last:
                logged = await asyncio.wait_for(queue.get(), 30)
                reached = logged.sequence
                if reached <= last:
                    yield logged
        finally:
            await subscription.unsubscribe()

    def _say(self, text: str) -> Callable[[], Awaitable[None]]:
        """A callback that logs `text`, unless the connection is being closed on purpose."""

        async def callback() -> None:
            if not self._closing:
                get_logger().warning(text)

        return callback

    async def _report(self, error: Exception) -> None:
        """Log what the client says. It must not raise: that would kill the client's read loop for good."""
        denied = "permissions violation" in str(error).lower()
        get_logger().error("NATS denied an operation" if denied else "NATS error", error=str(error), denied=denied)


def _tls(settings: ServiceSettings) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(settings.nats_ca))
    if settings.nats_cert and settings.nats_key:
        context.load_cert_chain(str(settings.nats_cert), str(settings.nats_key))
    return context
