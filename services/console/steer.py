"""Start, pause, resume, stop: each is an event that the console publishes; the store does the rest."""

import time

from services.chassis.events import first
from services.console.log import publish
from services.console.settings import ConsoleSettings
from services.contracts import events_pb2 as pb

SERVICE = "console"


async def start_run(settings: ConsoleSettings, run: str, run_settings: pb.RunSettings) -> None:
    """Publish run.started. The caller has checked that no run has this name."""
    event = first(run, "started", SERVICE)
    event.run_started.settings.CopyFrom(run_settings)
    await publish(settings, [event])


async def pause_run(settings: ConsoleSettings, run: str, reason: str) -> None:
    """Start no further candidates; those in flight go on where a service is there to do it."""
    event = first(run, "paused", SERVICE, now())
    event.run_paused.reason = reason
    await publish(settings, [event])


async def resume_run(settings: ConsoleSettings, run: str, budget: pb.Budget | None = None) -> None:
    """Start candidates again; with a budget, until that one is used up."""
    event = first(run, "resumed", SERVICE, now())
    event.run_resumed.CopyFrom(pb.RunResumed(budget=budget))
    await publish(settings, [event])


async def stop_run(settings: ConsoleSettings, run: str, reason: str) -> None:
    """End the run; candidates in flight still come to their end."""
    event = first(run, "stopped", SERVICE, now())
    event.run_stopped.reason = reason
    await publish(settings, [event])


def now() -> int:
    """Seconds since the epoch, which tells one pause from the next."""
    return int(time.time())
