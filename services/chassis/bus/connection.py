"""The connection to NATS: set-up and comparison of streams, publishing, reading the log."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Collection
from functools import partial

import nats.errors
from google.protobuf.message import DecodeError
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import api

from services.chassis import telemetry
from services.chassis.bus import Logged
from services.chassis.bus.access import API, connect_options, refusal
from services.chassis.bus.delivery import FAILURES, Consumer, Denials, receive, refused_publication
from services.chassis.bus.subjects import ALL, subject_of
from services.chassis.bus.topology import (
    EVENTS,
    HANDLING,
    MAX_COPY_BYTES,
    MAX_EVENT_BYTES,
    ConsumerSpec,
    Depth,
    LogState,
    StreamSpec,
    drift,
    no_server,
    require_broker,
    topology,
)
from services.chassis.errors import AlreadyStored, BusLost, EventTooBig, SettingsError, Transient
from services.chassis.events import body_of, fit
from services.chassis.logs import get_logger
from services.chassis.settings import ServiceSettings, without_user
from services.contracts import events_pb2 as pb
from services.contracts import progress_pb2

SILENCE_SECONDS = 30.0
_EXPECTED_SUBJECT = "Nats-Expected-Last-Subject-Sequence-Subject"  # servers before 2.11 compare the own subject
_MISSING = f"stream {EVENTS} does not exist; run `asi-arch setup`"


class Bus:
    """One connection; an async context manager."""

    def __init__(self, settings: ServiceSettings, name: str, patience: float | None = None) -> None:
        """`patience` is how long to wait for a server at the start, in seconds; None: for ever, as a service does."""
        self._settings = settings
        self._name = name
        self._patience = patience
        self._streams, consumers = topology(silence_seconds=settings.silence_seconds)
        self._specs = {spec.durable: spec for spec in consumers}
        self._client = Client()
        self._closing = False
        self._last_error = ""  # an outage also begins with "disconnected"
        self._denials = Denials()
        self._refused: asyncio.Future[None] | None = None
        self._js = self._client.jetstream(timeout=5)

    @property
    def connected(self) -> bool:
        """Whether the connection is up."""
        return self._client.is_connected

    @property
    def server_version(self) -> tuple[int, int, int]:
        """The version of the connected server."""
        version = self._client.connected_server_version
        return version.major, version.minor, version.patch

    @property
    def reconnects(self) -> int:
        """The number of reconnections."""
        return int(self._client.stats["reconnects"])

    async def __aenter__(self) -> "Bus":
        """Connect. Raises SettingsError if the server refuses the credentials, and BusLost at the end of patience."""
        if self._patience is not None:
            await require_broker(self._settings.nats_url)
        refused = self._refused = asyncio.get_running_loop().create_future()
        connecting = asyncio.ensure_future(
            self._client.connect(
                servers=[url.strip() for url in self._settings.nats_url.split(",")],
                name=self._name,
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                ping_interval=10,
                max_outstanding_pings=2,
                error_cb=self._report,
                disconnected_cb=partial(self._log, "disconnected from NATS"),
                reconnected_cb=partial(self._log, "reconnected to NATS"),
                closed_cb=partial(self._log, "connection to NATS closed"),
                **connect_options(self._settings),
            )
        )
        try:
            done, _ = await asyncio.wait(
                {connecting, refused}, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise no_server(self._settings.nats_url)
            await (refused if refused.done() else connecting)
        finally:
            refused.cancel()
            if not self.connected:  # the client would go on in the background
                connecting.cancel()
                await self.__aexit__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Flush and close. Not `drain`, which blocks for its whole timeout once a pull has timed out."""
        self._closing = True
        if self._client.is_connected:
            try:
                await self._client.flush(timeout=2)
            except (TimeoutError, nats.errors.Error):
                get_logger().warning("could not flush before closing")
        with contextlib.suppress(RuntimeError, OSError):  # of uvloop: the client writes to a connection that is lost
            await self._client.close()

    async def set_up(self, replicas: int = 1) -> list[str]:
        """Create missing streams and consumers; returns their names. Existing ones are unchanged.

        Raises Transient if the server does not create one, as with more `replicas` than servers.
        """
        created = []
        for stream in self._streams:
            if await self._stream(stream.name) is None:
                adding = self._js.add_stream(stream.config(replicas))
                await self._create(f"{API}.STREAM.CREATE.{stream.name}", adding)
                created.append(f"stream {stream.name}")
        for spec in self._specs.values():
            if await self._info(spec) is None:
                subject = f"{API}.CONSUMER.DURABLE.CREATE.{spec.stream}.{spec.durable}"
                await self._create(subject, self._js.add_consumer(spec.stream, spec.config()))
                created.append(f"consumer {spec.durable}")
        return created

    async def _create(self, subject: str, creating: Awaitable[object]) -> None:
        try:
            await self._denials.watch(subject, creating)
        except FAILURES as error:
            reason = getattr(error, "description", None) or error or type(error).__name__
            raise Transient(f"NATS did not create {subject.rpartition('.')[2]}: {reason}") from error

    async def compare(self, durables: Collection[str] | None = None) -> list[str]:
        """Differences of the server's configuration from the expected one, as sentences; for `durables` or all."""
        specs = [spec for spec in self._specs.values() if durables is None or spec.durable in durables]
        needed = {HANDLING, *(spec.stream for spec in specs)}
        differences: list[str] = []
        for stream in self._streams:
            if stream.name in needed:
                info = await self._stream(stream.name)
                config = info.config if info else None
                expected = stream.config((config and config.num_replicas) or 1)
                differences += drift(f"stream {stream.name}", expected, config)
        for spec in specs:
            consumer = await self._info(spec)
            differences += drift(f"consumer {spec.durable}", spec.config(), consumer.config if consumer else None)
        return differences

    async def replicas(self) -> int:
        """The replication factor of the log; 1 if there is no log."""
        info = await self._stream(EVENTS)
        return (info and info.config.num_replicas) or 1

    async def require_replicas(self, replicas: int) -> None:
        """Raises Transient if the server cannot keep so many copies of a stream."""
        trial = StreamSpec(f"{EVENTS}-TRIAL", ("asi.trial",))
        await self._create(f"{API}.STREAM.CREATE.{trial.name}", self._js.add_stream(trial.config(replicas)))
        await self.remove_stream(trial.name)

    async def remove_stream(self, name: str) -> None:
        """Delete a stream and its messages, if it exists."""
        await self._denials.request(f"{API}.STREAM.DELETE.{name}", self._js.delete_stream(name))

    async def log_state(self) -> LogState:
        """Raises BusLost if the stream does not exist, Transient if it is unreachable."""
        info = await self._stream(EVENTS)
        if info is None:
            raise BusLost(_MISSING)
        return LogState(info.state.last_seq, info.state.last_seq - info.state.messages)

    async def last_sequence(self) -> int:
        """The newest sequence of the log; 0 if it is empty. Raises the same errors as `log_state`."""
        return (await self.log_state()).last

    async def consumer(self, durable: str) -> Consumer:
        """Bind to a durable consumer. Raises BusLost if it is missing."""
        consumer = Consumer(self._js, self._specs[durable], self._denials)
        await consumer.bind()
        return consumer

    async def take_back(self) -> None:
        """Let all unfinished deliveries come again at once; only while no service runs. Raises Transient."""
        await asyncio.gather(*(Consumer(self._js, spec, self._denials).take_back() for spec in self._specs.values()))

    async def depth(self, durable: str) -> Depth:
        """The queue depth of a durable consumer. Raises Transient if it is missing or the server is unreachable."""
        info = await self._info(self._specs[durable])
        if info is None:
            raise Transient(f"consumer {durable!r} does not exist; run `asi-arch setup`")
        return Depth(info.num_pending or 0, info.num_ack_pending or 0)

    async def _stream(self, name: str) -> api.StreamInfo | None:
        return await self._denials.request(f"{API}.STREAM.INFO.{name}", self._js.stream_info(name))

    async def _info(self, spec: ConsumerSpec) -> api.ConsumerInfo | None:
        return await Consumer(self._js, spec, self._denials).info()

    async def publish(self, event: pb.Event, only: str | None = None) -> int:
        """Publish and wait until the stream has stored it; the same event id within ten minutes is stored once.

        Adds the current trace context and truncates prose that is too long. Returns the sequence. Raises EventTooBig if
        truncation does not suffice, Denied if the credentials do not allow the fact, Transient if the stream is
        unreachable or full, and with `only`, its subject or a pattern of it, AlreadyStored if another event has one.
        """
        telemetry.inject(event.trace)
        limit = MAX_COPY_BYTES
        if not event.HasField("run_inherited"):
            limit = MAX_EVENT_BYTES
            fit(event, limit)
        trace = event.trace.get("traceparent")
        return await self.publish_body(subject_of(event), event.id, body_of(event), trace, limit, only)

    async def publish_body(
        self, subject: str, event_id: str, body: bytes, traceparent: str | None = None, max_bytes: int = MAX_COPY_BYTES,
        only: str | None = None,
    ) -> int:  # fmt: skip
        """As `publish`, for a serialised event. Without an id there is neither deduplication nor a size check."""
        if event_id and len(body) > max_bytes:
            raise EventTooBig(f"event {event_id} has {len(body)} bytes; at most {max_bytes} are allowed")
        headers = {"Nats-Msg-Id": event_id} if event_id else {}
        headers |= {"traceparent": traceparent} if traceparent else {}
        headers |= {api.Header.EXPECTED_LAST_SUBJECT_SEQUENCE: "0", _EXPECTED_SUBJECT: only} if only else {}
        what = event_id or f"a message on {subject}"
        try:
            ack = await self._denials.watch(subject, self._js.publish(subject, body, timeout=5, headers=headers))
        except FAILURES as error:
            raise refused_publication(error, what) from error
        if only and ack.duplicate:
            raise AlreadyStored(f"the log has {what} already")
        return int(ack.seq)

    async def message_at(self, sequence: int) -> Logged:
        """One message of the log. Raises KeyError if there is none, Transient if the log is unreachable."""
        message = await self._message(EVENTS, self._js.get_msg(EVENTS, sequence))
        if message is None:
            raise KeyError(f"the log has no message {sequence}")
        return message

    async def newest(self, subject: str, stream: str = EVENTS) -> Logged | None:
        """The newest message on `subject`, or None. Raises Transient if the stream is unreachable."""
        return await self._message(stream, self._js.get_last_msg(stream, subject))

    async def _message(self, stream: str, request: Awaitable[api.RawStreamMsg]) -> Logged | None:
        message = await self._denials.request(f"{API}.STREAM.MSG.GET.{stream}", request)
        return Logged(message.seq or 0, message.subject or "", message.data or b"") if message else None

    async def read_log(self, subject: str = ALL, start: int = 1) -> AsyncIterator[Logged]:
        """Every message on `subject` from sequence `start` to the newest one at the time of the call, in order.

        Raises Transient if the log is unreachable or delivers nothing for 30 seconds.
        """
        newest = await self.newest(subject)
        if newest is None or start > newest.sequence:
            return
        async with self._ordered(subject, start) as queue:
            while messages := await receive(queue, queue.maxsize, SILENCE_SECONDS):
                for logged in messages:
                    if logged.sequence <= newest.sequence:
                        yield logged
                    if logged.sequence >= newest.sequence:
                        return
        raise Transient(f"the log delivered nothing for {SILENCE_SECONDS:g} s")

    async def follow(self, subject: str = ALL, start: int = 1) -> AsyncGenerator[Logged | None]:
        """Every message on `subject` from sequence `start` on, without end; None after a second without one.

        Raises BusLost if the stream does not exist.
        """
        async with self._ordered(subject, start) as queue:
            while True:
                messages = await receive(queue, 1, 1.0)
                yield messages[0] if messages else None

    async def announce(self, progress: progress_pb2.Progress) -> None:
        """Send the progress of a candidate to all current subscribers; it is not stored."""
        await self._client.publish(f"asi.progress.{progress.run}.{progress.candidate}", progress.SerializeToString())

    @contextlib.asynccontextmanager
    async def announcements(self, run: str) -> AsyncIterator["asyncio.Queue[progress_pb2.Progress]"]:
        """The progress that services of a run announce from now on. The oldest entries of a full queue are dropped."""
        queue: asyncio.Queue[progress_pb2.Progress] = asyncio.Queue(maxsize=100)

        async def take(message: Msg) -> None:
            if queue.full():
                queue.get_nowait()
            with contextlib.suppress(DecodeError):  # from a newer version
                queue.put_nowait(progress_pb2.Progress.FromString(message.data))

        subscription = await self._client.subscribe(f"asi.progress.{run}.*", cb=take)
        try:
            yield queue
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    @contextlib.asynccontextmanager
    async def _ordered(self, subject: str, start: int) -> AsyncIterator["asyncio.Queue[Logged]"]:
        """The messages that an ordered consumer receives, with a callback, which is three times as fast as fetching."""
        queue: asyncio.Queue[Logged] = asyncio.Queue(maxsize=1000)  # a slow reader slows the server down

        async def take(message: Msg) -> None:
            tokens = message.reply.split(".")  # `Msg.metadata` takes ten times as long
            sequence = int(tokens[5] if len(tokens) == 9 else tokens[7])  # more with an account's domain
            await queue.put(Logged(sequence, message.subject, message.data))

        config = api.ConsumerConfig(deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=start)
        subscribing = self._js.subscribe(
            subject, cb=take, stream=EVENTS, ordered_consumer=True, config=config, pending_msgs_limit=-1,
            pending_bytes_limit=-1,
        )  # fmt: skip
        subscription = await self._denials.request(f"{API}.CONSUMER.CREATE.{EVENTS}", subscribing)
        if subscription is None:
            raise BusLost(_MISSING)
        try:
            yield queue
        finally:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _log(self, text: str) -> None:
        if not self._closing:
            get_logger().warning(text)

    async def _report(self, error: Exception) -> None:
        """Log an error of the client. An exception here would end the client's read loop."""
        if self._denials.record(error) or self._closing:
            return
        text = str(error) or type(error).__name__
        if text != self._last_error:  # while no server answers, one attempt a second fails
            get_logger().error("NATS error", error=text, servers=without_user(self._settings.nats_url))
        self._last_error = text
        reason = refusal(error)
        if reason and self._refused and not self._refused.done():
            self._refused.set_exception(SettingsError(reason))
