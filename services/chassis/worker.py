"""The worker loop: calls a handler for each delivery, sends heartbeats, publishes, acknowledges, and drains.

A handler gets a `Job` and returns the events to publish, in order; `services.chassis.errors` lists the exceptions that
it may raise. An `Activity` announces its progress to the console.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field

import grpc.aio
import structlog

from services.chassis import metrics, tasks, telemetry
from services.chassis.bus import Bus, Consumer, Delivery
from services.chassis.bus.subjects import fact_of, is_forged
from services.chassis.errors import HandedBack, NotYet, Rejected, Superseded, Transient, is_of_the_machine
from services.chassis.events import Cause, follow, rejection
from services.chassis.logs import get_logger
from services.chassis.poison import CrashNotes
from services.chassis.rpc import is_transient
from services.contracts import events_pb2
from services.contracts import progress_pb2 as pb

REPEAT_SECONDS = 3.0
QUICK_SECONDS = 0.1
"""Work that ends sooner, without waiting for anything, is not announced."""
BACK_OFF_SECONDS = (1.0, 2.0, 5.0, 15.0, 30.0)

_current: ContextVar[Activity | None] = ContextVar("activity", default=None)


class Activity:
    """The progress of one delivery. `send` publishes it; its exceptions are ignored."""

    def __init__(
        self, run: str, candidate: str, service: str, attempt: int, send: Callable[[pb.Progress], Awaitable[None]]
    ) -> None:
        self._attempt, self._send, self._changed = attempt, send, asyncio.Event()
        self._state = pb.Progress(run=run, candidate=candidate, service=service)
        self.wait("")

    @contextlib.asynccontextmanager
    async def announcing(self) -> AsyncIterator[None]:
        """Announce the progress within the context, unless it ends soon: at every change, and every few seconds."""
        token = _current.set(self)
        announcing = asyncio.create_task(self._announce())
        try:
            yield
        finally:
            _current.reset(token)
            announcing.cancel()

    async def _announce(self) -> None:
        seconds = QUICK_SECONDS
        self._changed.clear()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):  # Python 3.11's wait_for may drop a cancellation
                    await self._changed.wait()
            self._changed.clear()
            with contextlib.suppress(Exception):
                await self._send(self._state)
            seconds = REPEAT_SECONDS

    def train(self, training: pb.TrainingProgress) -> None:
        """Set the progress of the training of a seed."""
        by_seed = {other.seed: other for other in self._state.trainings} | {training.seed: training}
        del self._state.trainings[:]
        self._state.trainings.extend(by_seed[seed] for seed in sorted(by_seed))
        self._changed.set()

    def wait(self, what: str, attempt: int | None = None) -> None:
        """Set what the work waits for, empty if it does not wait, and the attempt (default: that of the delivery)."""
        self._state.waits_for = what
        self._state.attempt = self._attempt if attempt is None else attempt
        self._state.since.FromNanoseconds(time.time_ns())
        self._changed.set()


def training(progress: pb.TrainingProgress) -> None:
    """Report the progress of the training of a seed."""
    if (activity := _current.get()) is not None:
        activity.train(progress)


@contextlib.contextmanager
def waiting_for(what: str, attempt: int) -> Iterator[None]:
    """Report within the context that the work waits for something, such as "the model"."""
    if (activity := _current.get()) is not None:
        activity.wait(what, attempt)
    try:
        yield
    finally:
        if activity is not None:
            activity.wait("")


@dataclass(frozen=True)
class Job:
    """One delivery as a handler sees it."""

    cause: Cause
    attempt: int  # the delivery number
    sequence: int  # of the event in the log: the archive must have applied it before it is read
    bus: Bus
    service: str
    draining: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def event(self) -> events_pb2.Event:
        """The event to handle."""
        return self.cause.event

    def activity(self) -> Activity:
        """The progress of this job, not yet announced."""
        return Activity(self.event.run, self.event.candidate, self.service, self.attempt, self.bus.announce)


Handler = Callable[[Job], Awaitable[Sequence[events_pb2.Event]]]


@dataclass(eq=False)
class Worker:
    """Handles up to `parallel` deliveries of one durable consumer at once."""

    bus: Bus
    consumer: Consumer
    durable: str
    service: str
    handler: Handler
    parallel: int
    heartbeat_seconds: float = 15.0
    crash_notes: CrashNotes | None = None  # shared by the workers of a process

    def __post_init__(self) -> None:
        self._crash_notes = self.crash_notes or CrashNotes(self.bus)
        self._free = asyncio.Semaphore(self.parallel)
        self._running: set[asyncio.Task[None]] = set()
        self._pausing: set[asyncio.Task[None]] = set()  # announcements of deliveries that wait for redelivery
        self._draining = asyncio.Event()
        self._fetching: asyncio.Timeout | None = None

    @property
    def busy(self) -> int:
        """Deliveries that are being handled."""
        return len(self._running)

    async def run(self) -> None:
        """Fetch and handle until `drain` is called. Raises BusLost when the durable is gone."""
        while not self._draining.is_set():
            await self._free.acquire()
            delivery = None if self._draining.is_set() else await self._fetch()
            if delivery is None:
                self._free.release()
            elif self._draining.is_set():
                await delivery.redeliver(0)
            else:
                task = asyncio.create_task(self._handle(delivery))
                self._running.add(task)
                task.add_done_callback(self._finished)

    async def drain(self, grace: float) -> None:
        """Stop fetching; cancel handlers that have not ended within `grace` seconds."""
        self._draining.set()
        if self._fetching is not None:
            self._fetching.reschedule(0.0)
        await self.consumer.release()
        for pausing in self._pausing:
            pausing.cancel()
        if not self._running:
            return
        _, late = await asyncio.wait(self._running, timeout=grace)
        await tasks.end(*late, within=10, again=6)  # ending a sandboxed program takes seconds

    async def _fetch(self) -> Delivery | None:
        """One delivery, or None if none arrived or draining began."""
        try:
            async with asyncio.timeout(None) as self._fetching:
                return next(iter(await self.consumer.fetch(1, ahead=self.parallel - self.busy - 1)), None)
        except TimeoutError:
            return None
        finally:
            self._fetching = None

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._free.release()
        if not task.cancelled() and (error := task.exception()):
            said = "a delivery could not be completed; it will be redelivered"
            if isinstance(error, Transient):
                get_logger().warning(said, reason=str(error))
            else:
                get_logger().error(said, exc_info=error)

    async def _handle(self, delivery: Delivery) -> None:
        try:
            cause = Cause.of(delivery.body)
            fact = fact_of(cause.event)
            if is_forged(delivery.subject, cause.event):
                raise ValueError(f"{fact} of run {cause.event.run} was published on {delivery.subject}")
        except ValueError as error:
            get_logger().error("not an event", sequence=delivery.sequence, error=str(error))
            await delivery.terminate()
            return
        if delivery.deliveries > 1:
            metrics.REDELIVERIES.labels(self.durable).inc()
        names = {"run": cause.event.run, "candidate": cause.event.candidate}
        structlog.contextvars.bind_contextvars(**names)
        job = Job(cause, delivery.deliveries, delivery.sequence, self.bus, self.service, self._draining)
        heartbeats = asyncio.create_task(_send_heartbeats(delivery, self.heartbeat_seconds))
        span = telemetry.span(f"{self.durable} handles {fact}", cause.event.trace, **names, attempt=str(job.attempt))
        try:
            with metrics.HANDLER_SECONDS.labels(self.durable).time(), span:
                async with job.activity().announcing():
                    await self._attempt(job, delivery)
        finally:
            heartbeats.cancel()

    async def _attempt(self, job: Job, delivery: Delivery) -> None:
        try:
            async with self._crash_notes.watched(self.durable, delivery):
                try:
                    events = await self.handler(job)
                except Rejected as rejected:
                    get_logger().info("rejected", stage=rejected.stage, reason=rejected.reason)
                    events = [rejection(job.cause, rejected, job.service, job.attempt)]
                for event in events:
                    await self.bus.publish(event)
                    metrics.published(fact_of(event), event)
        except Superseded as superseded:
            get_logger().info("superseded", reason=str(superseded))
        except asyncio.CancelledError:
            await delivery.redeliver(0)
            raise
        except HandedBack as back:
            get_logger().info("handed back", reason=str(back))
            await delivery.redeliver(0)
        except NotYet as early:
            get_logger().debug("not yet", reason=str(early))
            await delivery.redeliver(early.delay or 0)
        except Exception as error:  # noqa: BLE001 - any unexpected error becomes a dead letter
            failed_call = isinstance(error, grpc.aio.AioRpcError) and is_transient(error)
            if failed_call or isinstance(error, Transient) or is_of_the_machine(error):
                await self._retry_later(job, delivery, error)
            else:
                await self._publish_dead_letter(job, delivery, error)
        else:
            await delivery.acknowledge()

    async def _retry_later(self, job: Job, delivery: Delivery, error: Exception) -> None:
        telemetry.fail(error)
        wait = error.delay if isinstance(error, Transient) else None
        if wait is None:
            wait = BACK_OFF_SECONDS[min(delivery.deliveries, len(BACK_OFF_SECONDS)) - 1]
        reason = _reason(error)
        get_logger().warning("again later", reason=reason, seconds=wait, deliveries=delivery.deliveries)
        await delivery.redeliver(wait)
        pausing = asyncio.create_task(_announce_pause(job.activity(), reason, wait))
        self._pausing.add(pausing)
        pausing.add_done_callback(self._pausing.discard)

    async def _publish_dead_letter(self, job: Job, delivery: Delivery, error: Exception) -> None:
        telemetry.fail(error)
        get_logger().error("dead letter", durable=self.durable, sequence=delivery.sequence, exc_info=error)
        numbers = delivery.sequence, delivery.deliveries
        dead = dead_letter(job.cause, self.service, self.durable, *numbers, _reason(error))
        dead.dead.traceback = "".join(traceback.format_exception(error))[-8000:]
        dead.dead.subject = delivery.subject
        await self.bus.publish(dead)
        await delivery.terminate()
        metrics.DEAD_LETTERS.labels(self.durable).inc()


def dead_letter(
    cause: Cause, service: str, durable: str, sequence: int, deliveries: int, reason: str
) -> events_pb2.Event:
    """The fact that `durable` could not handle message `sequence`. Its id is the same for every reporter."""
    dead = follow(cause, "dead", service, 1, cause.event.candidate, suffix=f"{durable}-{sequence}")
    letter = events_pb2.DeadLetter(consumer=durable, sequence=sequence, deliveries=deliveries, reason=reason[:2000])
    dead.dead.CopyFrom(letter)
    return dead


async def _announce_pause(activity: Activity, reason: str, seconds: float) -> None:
    activity.wait(f"another attempt: {reason}")
    async with activity.announcing():
        await asyncio.sleep(seconds)


def _reason(error: Exception) -> str:
    """An error in one line; for a failed call, the status and details of the other service."""
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    if isinstance(error, Transient) or is_of_the_machine(error):
        return str(error)
    return f"{type(error).__name__}: {error}"


async def _send_heartbeats(delivery: Delivery, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            await delivery.heartbeat()
        except Exception as error:  # noqa: BLE001 - a failed heartbeat must not end the work
            get_logger().warning("heartbeat failed", error=str(error))
