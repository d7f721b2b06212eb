"""What the console says to a run: start, pause, resume, stop. Each is an event; the store does the rest."""

import time

from services.chassis.bus import Bus
from services.chassis.events import first
from services.console.settings import ConsoleSettings
from services.contracts import events_pb2 as pb

SERVICE = "console"


async def start_run(settings: ConsoleSettings, run: str, wanted: pb.RunSettings) -> None:
    """Publish run.started. The caller has looked that no run has this name."""
    event = first(run, "started", SERVICE)
    event.run_started.settings.CopyFrom(wanted)
    await _publish(settings, event)


async def pause_run(settings: ConsoleSettings, run: str, reason: str) -> None:
    """No further seats; what is in flight goes on where a service is there to do it."""
    event = first(run, "paused", SERVICE, _moment())
    event.run_paused.reason = reason
    await _publish(settings, event)


async def resume_run(settings: ConsoleSettings, run: str, budget: pb.Budget | None) -> None:
    """Give out seats again; with a budget, until that one is used up."""
    event = first(run, "resumed", SERVICE, _moment())
    event.run_resumed.SetInParent()
    if budget is not None:
        event.run_resumed.budget.CopyFrom(budget)
    await _publish(settings, event)


async def stop_run(settings: ConsoleSettings, run: str, reason: str) -> None:
    """The run is over; candidates in flight still come to their end."""
    event = first(run, "stopped", SERVICE, _moment())
    event.run_stopped.reason = reason
    await _publish(settings, event)


async def set_up(settings: ConsoleSettings, create: bool) -> tuple[list[str], list[str]]:
    """What was created, and what differs from the design afterwards."""
    async with Bus(settings, "asi-console") as bus:
        created = await bus.set_up() if create else []
        return created, await bus.compare()


def _moment() -> int:
    """Seconds since the epoch: tells one pause from the next."""
    return int(time.time())


async def _publish(settings: ConsoleSettings, event: pb.Event) -> None:
    async with Bus(settings, "asi-console") as bus:
        await bus.publish(event)
