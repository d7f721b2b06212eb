"""Connections to the event log, published events of runs, and events as rows and lines.

The broker is the one at ASI_NATS_URL, else the running system's, else one that is started on the log's files.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import TypedDict
from urllib.parse import urlsplit

from services.chassis import logs
from services.chassis.bus import Bus, Logged
from services.chassis.bus.subjects import fact_of
from services.chassis.errors import BusLost
from services.chassis.events import first
from services.console.processes import Broker
from services.console.settings import ConsoleSettings, running_system
from services.console.tables import number
from services.contracts import events_pb2

REACH_SECONDS = 5.0
NATS_PORT = 4222


@contextlib.contextmanager
def log_environment(settings: ConsoleSettings) -> Iterator[dict[str, str]]:
    """The variables that give a tool access to the event log; starts a broker for the context if none runs."""
    if "ASI_NATS_URL" in os.environ:
        yield {}
    elif (system := running_system(settings)) is not None:
        yield {"ASI_NATS_URL": system.nats_url}
    else:
        broker = Broker(settings.data_dir / "nats")
        broker.start()
        try:
            yield {"ASI_NATS_URL": broker.url}
        finally:
            broker.stop()


@asynccontextmanager
async def open_log(settings: ConsoleSettings) -> AsyncIterator[Bus]:
    """A connection to the log, for as long as the context lasts. Raises BusLost when no server answers."""
    logs.configure("console", "warning")
    with ExitStack() as stack:
        client = settings
        if "nats_url" not in settings.model_fields_set:  # neither a variable nor the caller names a server
            log = stack.enter_context(log_environment(settings))
            client = settings.model_copy(update={"nats_url": log.get("ASI_NATS_URL", settings.nats_url)})
        await require_server(client.nats_url)
        async with Bus(client, "asi-console") as bus:
            yield bus


async def publish(settings: ConsoleSettings, events: Sequence[events_pb2.Event]) -> None:
    """Publish in order, over one connection. Raises BusLost when no server answers."""
    async with open_log(settings) as bus:
        for event in events:
            await bus.publish(event)


async def require_server(nats_url: str) -> None:
    """Raises BusLost if nothing listens there, since commands do not wait for a broker."""
    if "," in nats_url:  # of a cluster one is enough
        return
    parts = urlsplit(nats_url)
    try:
        async with asyncio.timeout(REACH_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or NATS_PORT)
    except (OSError, TimeoutError, ValueError):
        shown = nats_url.replace(f"{parts.netloc.rpartition('@')[0]}@", "")
        raise BusLost(f"no NATS server answers at {shown}: start one, or correct ASI_NATS_URL") from None
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


SERVICE = "console"


async def start_run(settings: ConsoleSettings, run: str, run_settings: events_pb2.RunSettings) -> None:
    """Publish run.started. The caller has checked that no run has this name."""
    event = first(run, "started", SERVICE)
    event.run_started.settings.CopyFrom(run_settings)
    await publish(settings, [event])


async def pause_run(settings: ConsoleSettings, run: str, reason: str) -> None:
    """Start no further candidates; those in flight go on where a service is there to do it."""
    event = first(run, "paused", SERVICE, now())
    event.run_paused.reason = reason
    await publish(settings, [event])


async def resume_run(settings: ConsoleSettings, run: str, budget: events_pb2.Budget | None = None) -> None:
    """Start candidates again; with a budget, until that one is used up."""
    event = first(run, "resumed", SERVICE, now())
    event.run_resumed.CopyFrom(events_pb2.RunResumed(budget=budget))
    await publish(settings, [event])


async def stop_run(settings: ConsoleSettings, run: str, reason: str) -> None:
    """End the run; candidates in flight still come to their end."""
    event = first(run, "stopped", SERVICE, now())
    event.run_stopped.reason = reason
    await publish(settings, [event])


def now() -> int:
    """Seconds since the epoch, which make the ids of repeated commands unique."""
    return int(time.time())


class EventRow(TypedDict):
    """One event, as `asi-arch watch --json` prints it. Time is UTC; loss in nats per token, judge 1–10."""

    sequence: int
    time: str
    id: str
    run: str
    fact: str
    candidate: str | None
    name: str | None
    stage: str | None
    service: str
    attempt: int
    loss: float | None
    benchmark: float | None
    judge: float | None
    fitness: float | None
    reason: str | None


def event_row(logged: Logged, earlier: EventRow | None = None) -> EventRow:
    """A message of the log as a row. Raises ValueError for a fact unknown to this version.

    Values that the fact does not carry are copied from `earlier`, the candidate's previous row.
    """
    event = events_pb2.Event.FromString(logged.body)
    requested, proposal = event.candidate_requested, event.candidate_proposed.proposal
    training, verdict = event.candidate_trained.training, event.candidate_judged.verdict
    fitness = event.candidate_rescored.fitness if event.HasField("candidate_rescored") else verdict.fitness
    scored = event.HasField("candidate_rescored") or verdict.HasField("fitness")
    previous: EventRow | dict[str, None] = earlier or {}
    stage = requested.stage or event.candidate_promoted.stage or event.candidate_verified.stage
    return EventRow(
        sequence=logged.sequence,
        time=event.time.ToDatetime().isoformat(timespec="milliseconds") + "Z",
        id=event.id,
        run=event.run,
        fact=fact_of(event),
        candidate=event.candidate or None,
        name=proposal.name or requested.request.baseline or previous.get("name"),
        stage=stage or event.candidate_proposed.stage or event.candidate_trained.stage or previous.get("stage"),
        service=event.service,
        attempt=event.attempt,
        loss=training.loss if training.HasField("loss") else previous.get("loss"),
        benchmark=training.benchmark if training.HasField("benchmark") else previous.get("benchmark"),
        judge=verdict.raw if verdict.HasField("raw") else previous.get("judge"),
        fitness=fitness.value if scored else previous.get("fitness"),
        reason=_reason(event),
    )


def line(row: EventRow) -> str:
    """As a line, such as "07:31:02 c000003 trained DeltaNet: loss 1.3798"."""
    fact = row["fact"].removeprefix("candidate.")
    who = " ".join(part for part in (row["candidate"], fact, row["name"]) if part)
    numbers = _numbers(row)
    return f"{row['time'][11:19]} {who}" + (f": {numbers}" if numbers else "")


def _numbers(row: EventRow) -> str:
    """The numbers that this fact adds."""
    fact = row["fact"]
    if fact in ("candidate.rejected", "run.stopped") or row["reason"]:
        return row["reason"] or ""
    if fact == "candidate.trained":
        return f"loss {number(row['loss'])}, benchmark {number(row['benchmark'], '.3f')}"
    if fact in ("candidate.judged", "candidate.rescored"):
        return f"judge {number(row['judge'], '.1f')}, fitness {number(row['fitness'], '.3f')}"
    if fact == "candidate.archived" and row["fitness"] is not None:
        return f"fitness {number(row['fitness'], '.3f')}"
    return ""


def _reason(event: events_pb2.Event) -> str | None:
    """The reason that an event carries."""
    fact = event.WhichOneof("fact")
    match fact:
        case "candidate_rejected":
            rejection = event.candidate_rejected.rejection
            return f"{rejection.stage}: {rejection.reason}"
        case "candidate_claimed":
            return f"by {event.candidate_claimed.worker}" + (", resumed" if event.candidate_claimed.resumed else "")
        case ("candidate_promoted" | "candidate_verified" | "candidate_rescored" | "run_paused" | "run_resumed"
              | "run_stopped"):  # fmt: skip
            return getattr(event, fact).reason or None
        case "mind_answered":
            call = event.mind_answered.call
            return call.error or f"{call.role} by {call.model}, {call.prompt_tokens + call.completion_tokens} tokens"
        case "dead":
            return f"{event.dead.consumer}: {event.dead.reason}"
        case _:
            return None
