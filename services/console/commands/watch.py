"""`asi-arch watch`: a run as it happens, from its log; what is in flight and the best so far, from the archive."""

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

from services.chassis.bus import Bus, Logged
from services.chassis.errors import NotFound
from services.console.archive import all_candidates, open_archive
from services.console.log import EventRow, event_row, line, open_log
from services.console.options import Json, Run
from services.console.progress import LINE_SECONDS, OVER, View, best_line
from services.console.rows import Row, row
from services.console.settings import ConsoleSettings, console_settings, running_system
from services.console.tables import say
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc, candidate_pb2
from services.contracts.events_pb2 import Event

LEFT_SECONDS = 3.0
LOOK_SECONDS = 1.0
MOST_ASKED = 16
ENDED = (candidate_pb2.STATE_UNSPECIFIED, candidate_pb2.STATE_ARCHIVED, candidate_pb2.STATE_REJECTED)
MOVING = [state for state in candidate_pb2.State.values() if state not in ENDED]


def watch(
    run: Run = "",
    from_start: Annotated[bool, typer.Option("--from-start", help="first all that has happened already")] = False,
    as_json: Json = False,
) -> None:
    """A run as it happens; ends with the run, or with Ctrl-C, which disturbs nothing.

    A live table on a terminal, a line per event elsewhere, one JSON object per event with --json.
    """
    with contextlib.suppress(KeyboardInterrupt):
        if sys.stdout.isatty() and not as_json:
            asyncio.run(_live(console_settings(), run, from_start))
        else:
            asyncio.run(_lines(console_settings(), run, from_start, as_json))


async def _lines(settings: ConsoleSettings, run: str, from_start: bool, as_json: bool) -> None:
    scene: Scene | None = None
    shown_at = time.monotonic()
    async with aclosing(moments(settings, run, from_start)) as seen:
        async for moment in seen:
            scene = moment.scene
            if moment.event is not None:
                say(json.dumps(moment.event, ensure_ascii=False) if as_json else line(moment.event))
            elif not as_json and time.monotonic() - shown_at >= LINE_SECONDS:
                shown_at = time.monotonic()
                say(scene.view.line())
    if scene is not None and not as_json:
        say(f"run {scene.status.run}: {scene.status.phase}; {best_line(scene.status)}")


async def _live(settings: ConsoleSettings, run: str, from_start: bool) -> None:
    from rich.live import Live

    live: Live | None = None
    try:
        async with aclosing(moments(settings, run, from_start)) as seen:
            async for moment in seen:
                if live is None:
                    live = Live(get_renderable=moment.scene.view.block, refresh_per_second=4)
                    live.start()
    finally:
        if live is not None:
            live.stop()


@dataclass
class Scene:
    """What is known of the run at one moment."""

    status: pb.RunStatus
    moving: list[Row]  # candidates in flight
    looked: float  # when the archive was asked
    view: View = field(default_factory=View)

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.status.phase in OVER and not self.status.in_flight


@dataclass(frozen=True)
class Moment:
    """The scene after one event, or after a second without any."""

    scene: Scene
    event: EventRow | None


async def moments(settings: ConsoleSettings, run: str, from_start: bool) -> AsyncGenerator[Moment, None]:
    """The run's events as they happen, the whole log first if `from_start`; ends when the run does.

    Raises NotFound when there is no such run, or nothing that could be waited for.
    """
    alive = running_system(settings) is not None or settings.archive_is_elsewhere
    async with open_archive(settings) as archive, open_log(settings) as bus:
        scene = Scene(*await _look(archive, run), time.monotonic())
        if not from_start and (scene.over or not alive):
            raise NotFound(_nothing(settings, scene))
        scene.view.look(scene.status, scene.moving)
        scene.view.last_events = await _last_events(archive, scene)
        start = 1 if from_start else await bus.last_sequence() + 1
        wait = alive and not scene.over
        async with bus.announcements(scene.status.run) as announced:
            async for logged in _log(bus, scene.status.run, start, wait):
                scene.view.record_all(announced)
                yield await _moment(archive, scene, logged, settled=not wait)
                if scene.over and logged is None:
                    return


def _nothing(settings: ConsoleSettings, scene: Scene) -> str:
    run, phase = scene.status.run, scene.status.phase
    state = f"run {run} has {phase}" if scene.over else f"run {run} is {phase}, but nothing runs in {settings.data_dir}"
    return f"{state}: `asi-arch run --resume` goes on, `asi-arch watch --from-start` shows what has happened"


async def _log(bus: Bus, run: str, start: int, wait: bool) -> AsyncIterator[Logged | None]:
    subject = f"asi.v1.{run}.>"
    if not wait:
        async for logged in bus.read_log(subject, start):
            yield logged
        return
    yield None
    silent = 0.0
    async for message in bus.follow(subject, start):
        silent = 0.0 if bus.connected else silent + 1.0
        if silent > LEFT_SECONDS:
            return  # the broker has gone: on one machine that is the end of the whole system
        yield message


async def _moment(
    archive: archive_pb2_grpc.ArchiveAsyncStub, scene: Scene, logged: Logged | None, settled: bool
) -> Moment:
    """Take one message in. The archive is asked anew only while things may change, and once a second at most."""
    seen = None
    if logged is not None:
        with contextlib.suppress(DecodeError, ValueError):  # of a newer version: it is passed over
            candidate = Event.FromString(logged.body).candidate
            seen = event_row(logged, scene.view.last_events.get(candidate))
            scene.view.event(seen)
    if not settled and time.monotonic() - scene.looked >= LOOK_SECONDS:
        scene.looked = time.monotonic()
        with contextlib.suppress(grpc.aio.AioRpcError):  # the store is starting again: what was known stays
            scene.status, scene.moving = await _look(archive, scene.status.run)
            scene.view.look(scene.status, scene.moving)
    return Moment(scene, seen)


async def _last_events(archive: archive_pb2_grpc.ArchiveAsyncStub, scene: Scene) -> dict[str, EventRow]:
    """The last event of each candidate in flight, as its chain has it."""
    found = {}
    for candidate in scene.moving[:MOST_ASKED]:
        request = pb.GetCandidateRequest(run=scene.status.run, candidate=candidate["id"])
        for link in (await archive.GetChain(request, timeout=30)).links[-1:]:
            last = event_row(Logged(link.sequence, "", link.event.SerializeToString()))
            found[candidate["id"]] = EventRow(**{**last, "name": candidate["name"], "stage": candidate["stage"]})
    return found


async def _look(archive: archive_pb2_grpc.ArchiveAsyncStub, run: str) -> tuple[pb.RunStatus, list[Row]]:
    status = await archive.GetRun(pb.RunRequest(run=run), timeout=30)
    request = pb.ListCandidatesRequest(run=status.run, states=MOVING, slim=True, sort="time")
    return status, [row(record) for record in await all_candidates(archive, request)]
