"""Connections to the event log, and published events of runs.

The broker is the one at ASI_NATS_URL, else the running system's, else one that is started on the log's files.
"""

import contextlib
import os
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager

from services.chassis import logs
from services.chassis.bus import Bus, Logged
from services.chassis.bus.topology import REACH_SECONDS
from services.chassis.events import first
from services.contracts import events_pb2
from services.contracts.events_pb2 import RunPaused, RunResumed, RunStopped
from services.local.processes import Broker
from services.local.settings import ClientSettings, LogInUse, running_system

DISCONNECTED_SECONDS = 3.0
"""Without a connection for longer than this, a follower of the log assumes that the broker has ended."""


@contextlib.contextmanager
def log_environment(settings: ClientSettings) -> Iterator[dict[str, str]]:
    """The variables that give a tool access to the event log.

    Starts a broker for the context if none runs; one that another command has started ends with that command.
    """
    if "ASI_NATS_URL" in os.environ:
        yield {}
    elif (system := running_system(settings)) is not None:
        yield {"ASI_NATS_URL": system.nats_url}
    else:
        broker = Broker(settings.data_dir / "nats")
        try:
            broker.start(patience=0.0)
        except LogInUse as used:  # by another command, or by a system that is starting
            yield {"ASI_NATS_URL": used.url}
            return
        try:
            yield {"ASI_NATS_URL": broker.url}
        finally:
            broker.stop()


@asynccontextmanager
async def open_log(settings: ClientSettings) -> AsyncIterator[Bus]:
    """A connection to the log, for as long as the context lasts. Raises BusLost when no server answers."""
    logs.configure_for_people()
    with ExitStack() as stack:
        client = settings
        if "nats_url" not in settings.model_fields_set:  # neither a variable nor the caller names a server
            log = stack.enter_context(log_environment(settings))
            client = settings.model_copy(update={"nats_url": log.get("ASI_NATS_URL", settings.nats_url)})
        async with Bus(client, "asi-console", REACH_SECONDS) as bus:
            yield bus


async def follow_run(bus: Bus, run: str, start: int) -> AsyncGenerator[Logged | None]:
    """The run's messages from sequence `start` on, and None after a second without one, until the broker has ended."""
    silent = 0.0
    async with aclosing(bus.follow(f"asi.v1.{run}.>", start)) as messages:
        async for message in messages:
            silent = 0.0 if bus.connected else silent + 1.0
            if silent > DISCONNECTED_SECONDS:
                return  # on one machine the whole system has ended with its broker
            yield message


async def publish(settings: ClientSettings, events: Sequence[events_pb2.Event], only: str | None = None) -> int:
    """Publish in order over one connection; the last sequence, 0 for none. Raises BusLost and as `Bus.publish`."""
    sequence = 0
    async with open_log(settings) as bus:
        for event in events:
            sequence = await bus.publish(event, only)
    return sequence


SERVICE = "console"


async def start_run(settings: ClientSettings, run: str, run_settings: events_pb2.RunSettings) -> int:
    """Publish run.started; its sequence. Raises AlreadyStored if another command has taken the name."""
    event = first(run, "started", SERVICE)
    event.run_started.settings.CopyFrom(run_settings)
    return await publish(settings, [event], only=f"asi.v1.{run}.>")


async def steer_run(settings: ClientSettings, run: str, command: RunPaused | RunResumed | RunStopped) -> int:
    """Pause, resume or stop a run, whose candidates in flight still complete; the event's sequence."""
    fact = type(command).__name__.removeprefix("Run").lower()
    event = first(run, fact, SERVICE, now())
    event.id += f".{uuid.uuid4().hex[:8]}"  # a repeated command, even in the same second, must have an effect again
    getattr(event, f"run_{fact}").CopyFrom(command)
    return await publish(settings, [event])


def now() -> int:
    """Seconds since the epoch, which make the ids of events different from those of earlier commands."""
    return int(time.time())
