"""What the console says to a run: start, pause, resume, stop. Each is an event; the store does the rest."""

import time
from collections.abc import Sequence

from services.archive.scoring import score, terms_of
from services.chassis.bus import Bus
from services.chassis.errors import NotPossible, SettingsError
from services.chassis.events import first
from services.console.log import must_answer
from services.console.settings import ConsoleSettings
from services.contracts import events_pb2 as pb
from services.contracts.archive_pb2 import RunStatus
from services.contracts.candidate_pb2 import Candidate
from services.domain.fitness import VERSIONS

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


def rescored(about: RunStatus, records: Sequence[Candidate], version: str) -> list[pb.Event]:
    """One candidate.rescored for each candidate whose fitness the version can be computed for.

    Raises SettingsError for an unknown version, NotPossible when the root was not measured.
    """
    if version not in VERSIONS:
        raise SettingsError(f"--fitness is {version!r}; choose one of {', '.join(VERSIONS)}.")
    name = about.settings.baselines[0]
    root = next((one for one in records if one.request.baseline == name and one.training.HasField("loss")), None)
    if root is None:
        raise NotPossible(
            f"the root baseline {name} of run {about.run} was not measured: nothing can be compared with it"
        )
    events = []
    for record in records:
        raw = record.verdict.raw if record.verdict.HasField("raw") else None
        value = (
            score(version, record, raw, root, terms_of(about.settings)) if record.training.HasField("loss") else None
        )
        if value is not None:
            event = first(about.run, f"{record.id}.rescored.{version}", SERVICE, _moment())
            event.candidate = record.id
            event.candidate_rescored.fitness.CopyFrom(value)
            event.candidate_rescored.reason = f"rescored as {version}"
            events.append(event)
    return events


async def publish_all(settings: ConsoleSettings, events: Sequence[pb.Event]) -> None:
    """Publish in order, over one connection."""
    await must_answer(settings.nats_url)
    async with Bus(settings, "asi-console") as bus:
        for event in events:
            await bus.publish(event)


def _moment() -> int:
    """Seconds since the epoch: tells one pause from the next."""
    return int(time.time())


async def _publish(settings: ConsoleSettings, event: pb.Event) -> None:
    await publish_all(settings, [event])
