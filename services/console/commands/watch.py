"""`asi-arch watch`: a live view of a run, from its log and the archive."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Annotated

import grpc.aio
import typer
from google.protobuf.message import DecodeError

from services.archive import all_candidates
from services.chassis.bus import Bus, Logged
from services.chassis.errors import NotFound
from services.console.options import Json, Run, RunArgument, chosen_run
from services.console.tables import say
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc
from services.contracts.events_pb2 import Event
from services.local.archive import open_archive
from services.local.log import follow_run, open_log
from services.local.settings import ClientSettings, client_settings, running_system
from services.report.progress import LINE_SECONDS, OVER, EventRow, View, best_line, event_row, line
from services.report.rows import IN_FLIGHT, Row, row

READ_SECONDS = 1.0
MAX_ASKED = 16


def watch(
    argument: RunArgument = "",
    run: Run = "",
    from_start: Annotated[bool, typer.Option("--from-start", help="begin with all earlier events")] = False,
    as_json: Json = False,
) -> None:
    """Follow a run live; ends with the run, or with Ctrl-C, which does not affect the run.

    A live table on a terminal, a line per event elsewhere, one JSON object per event with --json.
    """
    run = chosen_run(argument, run)
    with contextlib.suppress(KeyboardInterrupt):
        if sys.stdout.isatty() and not as_json:
            asyncio.run(_live(client_settings(), run, from_start))
        else:
            asyncio.run(_lines(client_settings(), run, from_start, as_json))


async def _lines(settings: ClientSettings, run: str, from_start: bool, as_json: bool) -> None:
    state: WatchedRun | None = None
    shown_at = time.monotonic()
    async with aclosing(updates(settings, run, from_start)) as stream:
        async for state, event in stream:
            if event is not None:
                say(json.dumps(event, ensure_ascii=False) if as_json else line(event))
            elif not as_json and time.monotonic() - shown_at >= LINE_SECONDS:
                shown_at = time.monotonic()
                say(state.view.line())
    if state is not None and not as_json:
        say(f"run {state.status.run}: {state.status.phase}; {best_line(state.status)}")


async def _live(settings: ClientSettings, run: str, from_start: bool) -> None:
    from rich.live import Live

    live: Live | None = None
    try:
        async with aclosing(updates(settings, run, from_start)) as stream:
            async for state, _ in stream:
                if live is None:
                    live = Live(get_renderable=state.view.block, refresh_per_second=4)
                    live.start()
    finally:
        if live is not None:
            live.stop()


@dataclass
class WatchedRun:
    """The run as of the last message."""

    status: pb.RunStatus
    moving: list[Row]  # candidates in flight
    read_at: float  # when the archive was asked
    view: View = field(default_factory=View)

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.status.phase in OVER and not self.status.in_flight


async def updates(
    settings: ClientSettings, run: str, from_start: bool
) -> AsyncGenerator[tuple[WatchedRun, EventRow | None], None]:
    """The run after each event (None after a second without any), from the first on if `from_start`, until it ends.

    Raises NotFound for an unknown run, or if nothing is running.
    """
    alive = running_system(settings) is not None or settings.archive_is_elsewhere
    async with open_archive(settings) as archive, open_log(settings) as bus:
        state = WatchedRun(*await _read_run(archive, run), time.monotonic())
        if not from_start and (state.over or not alive):
            nothing = f"is {state.status.phase}, but nothing runs in {settings.data_dir}"
            reason = f"run {state.status.run} {f'has {state.status.phase}' if state.over else nothing}"
            raise NotFound(
                f"{reason}: `asi-arch run --resume` continues it, and --from-start begins with its earlier events"
            )
        state.view.update(state.status, state.moving)
        state.view.last_events = await _last_events(archive, state)
        start = 1 if from_start else await bus.last_sequence() + 1
        wait = alive and not state.over
        async with bus.announcements(state.status.run) as announced:
            async for logged in _log(bus, state.status.run, start, wait):
                state.view.record_all(announced)
                yield state, await _next_event(archive, state, logged, settled=not wait)
                if state.over and logged is None:
                    return


async def _log(bus: Bus, run: str, start: int, wait: bool) -> AsyncIterator[Logged | None]:
    if wait:
        yield None
    async for logged in follow_run(bus, run, start) if wait else bus.read_log(f"asi.v1.{run}.>", start):
        yield logged


async def _next_event(
    archive: archive_pb2_grpc.ArchiveAsyncStub, state: WatchedRun, logged: Logged | None, settled: bool
) -> EventRow | None:
    """Apply one message, and read the archive at most once a second."""
    fact = None
    if logged is not None:
        with contextlib.suppress(DecodeError, ValueError):  # an event of a newer version
            fact = event_row(Event.FromString(logged.body), logged.sequence, state.view.last_events)
            state.view.event(fact)
    if not settled and time.monotonic() - state.read_at >= READ_SECONDS:
        state.read_at = time.monotonic()
        with contextlib.suppress(grpc.aio.AioRpcError):  # the store is restarting
            state.status, state.moving = await _read_run(archive, state.status.run)
            state.view.update(state.status, state.moving)
    return fact


async def _last_events(archive: archive_pb2_grpc.ArchiveAsyncStub, state: WatchedRun) -> dict[str, EventRow]:
    """The last event of each candidate in flight, from its chain."""
    events = {}
    for candidate in state.moving[:MAX_ASKED]:
        request = pb.GetCandidateRequest(run=state.status.run, candidate=candidate["id"])
        for link in (await archive.GetChain(request, timeout=30)).links[-1:]:
            last = event_row(link.event, link.sequence, {})
            events[candidate["id"]] = EventRow(**{**last, "name": candidate["name"], "stage": candidate["stage"]})
    return events


async def _read_run(archive: archive_pb2_grpc.ArchiveAsyncStub, run: str) -> tuple[pb.RunStatus, list[Row]]:
    status = await archive.GetRun(pb.RunRequest(run=run), timeout=30)
    request = pb.ListCandidatesRequest(run=status.run, states=IN_FLIGHT, slim=True, sort="time")
    return status, [row(record) for record in await all_candidates(archive, request)]
