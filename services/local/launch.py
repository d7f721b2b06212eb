"""Start, resume or fork a run; watch it to its end; drain all services."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio
from google.protobuf.json_format import MessageToJson

from services.archive.policies import stages_of
from services.chassis import tasks
from services.chassis.bus import Bus
from services.chassis.errors import AlreadyStored, NotFound, NotPossible, SettingsError
from services.chassis.rpc import channel, require_server
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc, candidate_pb2, events_pb2
from services.llm.port import RECORDED, asks_endpoint, exchange_file, record_of
from services.llm.settings import validate_prices
from services.local.archive import read_run, run_status, until_applied
from services.local.engineer_tools import require_effective
from services.local.estimate import (
    PROFILE_SECONDS,
    SMALLER,
    adapts,
    busy_sentence,
    decide_precision,
    plan_run,
    require_devices,
)
from services.local.log import start_run, steer_run
from services.local.plan import CONTINUED, Limits, RunOptions, budget, changed_settings, run_settings
from services.local.processes import processor_time, stop_signal
from services.local.programs import check_programs
from services.local.settings import ClientSettings, running_system
from services.local.system import System, running
from services.report.progress import OVER, Progress
from services.report.rows import Row, root_among, row

T = TypeVar("T")
POLL_SECONDS = 1.0
SAMPLE_SECONDS = 0.3
JOIN_PATIENCE = 15.0  # for engineers of a cluster, which may have been scaled to zero
IMPORTED = "imported"  # the mind of runs of published records
IMPOSSIBLE = 2  # exit status of the store's tool


@dataclass(frozen=True)
class Start:
    """How the run begins: its name, and whether it forks RUN[@EVENT] or resumes."""

    name: str | None = None
    fork: str = ""
    resume: bool = False

    def __post_init__(self) -> None:
        if self.fork and self.resume:
            raise SettingsError("--fork begins a run and --resume continues one: give one of them.")

    @property
    def source(self) -> str:
        return self.fork.partition("@")[0]


@dataclass(frozen=True)
class Outcome:
    """The end of a run or of this command."""

    status: pb.RunStatus
    rows: list[Row]
    records: list[candidate_pb2.Candidate]
    interrupted: bool
    report: Path | None


async def run_locally(settings: ClientSettings, options: RunOptions, start: Start, progress: Progress) -> Outcome:
    """Start the services and the run, watch it to its end, drain everything.

    Raises SettingsError, NotFound (nothing to resume), NotPossible, and KeyboardInterrupt on a signal before the run
    has begun.
    """
    new_budget = budget(options) if any(getattr(options, name) is not None for name in Limits.model_fields) else None
    before = await _resumable(settings, start.name, new_budget) if start.resume else None
    if before is not None:
        new_settings = changed_settings(before.settings, options, CONTINUED)
    else:
        new_settings = await _settings_of(settings, options, start, here=True)
    current = before.settings if before else new_settings
    limited = (new_budget or current.budget).HasField("money")
    validate_prices(os.environ, asks_endpoint(current.mind), limited)  # report missing prices before anything starts
    await _require_new_name(settings, start)
    if start.fork:
        await _fork(settings, start.fork, "", new_settings)  # refuse an unknown event before the services start
    with stop_signal() as interrupted:
        if not (start.fork or start.resume):
            sample = await tasks.unless_stopped(processor_time(SAMPLE_SECONDS), interrupted)
            if busy := busy_sentence(*sample):
                progress.note(busy)
        progress.note("starting the services …")
        extra = _engineer_environment(current, adapts(options) and not start.resume)
        async with (
            running(settings, extra, interrupted) as system,
            channel(system.client.archive_address, system.client) as connection,
        ):
            archive = archive_pb2_grpc.ArchiveStub(connection)
            if system.broker and "ASI_ENGINEER_STAGES" in extra:  # else other engineers may have what this one lacks
                checking = _supervised(system, progress, require_devices(system.client, current))
                for warning in await tasks.unless_stopped(checking, interrupted):
                    progress.note(warning)
            if before is not None:
                run = before.run
                if before.phase not in OVER or new_budget is not None:  # else retried candidates complete without it
                    resuming = steer_run(system.client, run, events_pb2.RunResumed(budget=new_budget))
                    sequence = await _supervised(system, progress, resuming)
                    await _supervised(system, progress, until_applied(archive, run, sequence))
            else:
                preparing = _prepare(system.client, archive, start, new_settings, progress, options)
                run, new_settings = await tasks.unless_stopped(_supervised(system, progress, preparing), interrupted)
                run = await _supervised(system, progress, _begin(system.client, archive, start, run, new_settings))
            progress.note(f"run {run} · archive {settings.archive_place} · Ctrl-C drains and loses nothing")
            status, rows = await _watch(system, archive, run, interrupted, progress)
            if interrupted.is_set() and status.phase not in OVER:
                progress.note("draining: trainings are checkpointed, the run is paused …")
                command = events_pb2.RunPaused(reason="interrupted at the terminal")
                sequence = await steer_run(system.client, run, command)
                await _supervised(system, progress, until_applied(archive, run, sequence))
            status, records = await read_run(archive, run)  # with the time until a pause
            report = None
            if records:
                from services.report.page import write_report  # matplotlib takes half a second to import

                try:
                    report = await asyncio.to_thread(write_report, status, records, settings.run_folder(run) / "report")
                except NotPossible as error:  # the run's results do not depend on it
                    progress.note(str(error))
            return Outcome(status, rows, records, interrupted.is_set(), report)


async def join(settings: ClientSettings, options: RunOptions, start: Start, progress: Progress) -> str:
    """Start a run in the services of this data folder, or of ASI_ARCHIVE_ADDRESS and ASI_NATS_URL; return its name.

    Raises NotPossible if no services are running, Transient if none answers, SettingsError for an impossible run.
    """
    new_settings = await _settings_of(settings, options, start)
    client = settings
    if not settings.archive_is_elsewhere:
        system = running_system(settings)
        if system is None:
            raise NotPossible(
                f"no services of {settings.data_dir} are running: without --join they are started with the run"
            )
        client = system.client(settings)
    async with channel(client.archive_address, client) as connection:
        if settings.archive_is_elsewhere:
            await require_server(connection, client.archive_address, "ASI_ARCHIVE_ADDRESS")
        archive = archive_pb2_grpc.ArchiveStub(connection)
        run, new_settings = await _prepare(client, archive, start, new_settings, progress)
        return await _begin(client, archive, start, run, new_settings)


async def _settings_of(
    settings: ClientSettings, options: RunOptions, start: Start, here: bool = False
) -> events_pb2.RunSettings:
    """The settings of the new run; a fork's are based on its source. Raises SettingsError, NotFound.

    `here`: an engineer on this machine will train.
    """
    if start.fork:
        source = await run_status(settings, start.source)
        _require_trained(source)
        new_settings = changed_settings(source.settings, options)
    else:
        new_settings = run_settings(options)
    if options.mind.startswith(RECORDED) and exchange_file(options.mind) is None:
        try:
            await run_status(settings, record_of(options.mind)[0])
        except NotFound as error:
            raise NotFound(f"--mind {options.mind}: {error}") from None
    await asyncio.to_thread(require_effective, options, new_settings, here)
    return new_settings


def _engineer_environment(settings: events_pb2.RunSettings, adapting: bool) -> dict[str, str]:
    """Variables for the engineer: its stages and benchmarks. Variables that are set take precedence."""
    smaller = [SMALLER[settings.scale]] if adapting and settings.scale in SMALLER else []
    variables = {"ASI_ENGINEER_STAGES": ",".join([stages_of(settings), *smaller])}
    for name in ("tasks", "task_path"):
        if name in settings.scale_overrides:
            variables[f"ASI_ENGINEER_{name.upper()}"] = settings.scale_overrides[name]
    return {name: value for name, value in variables.items() if name not in os.environ}


async def _resumable(settings: ClientSettings, name: str | None, new_budget: events_pb2.Budget | None) -> pb.RunStatus:
    """The status of the run to resume. Raises NotFound, and SettingsError if it has ended."""
    status = await run_status(settings, name or "")
    _require_trained(status)
    if status.phase in OVER and new_budget is None and not status.in_flight:
        raise SettingsError(f"run {status.run} has {status.phase}: give it a new budget, for example --candidates 20.")
    return status


def _require_trained(status: pb.RunStatus) -> None:
    """Raises NotPossible for imported records: no root was trained with which descendants could be compared."""
    if status.settings.mind == IMPORTED:
        raise NotPossible(
            f"run {status.run} was {status.origin} and no candidate of it was trained here: it cannot be continued. "
            "Save a program with `asi-arch show C --program > FILE.py`, and start from it with --seed-program FILE.py"
        )


async def _require_new_name(settings: ClientSettings, start: Start) -> None:
    """Raises SettingsError for a name that is taken, if the archive of this data folder shows it already."""
    if start.name is None or start.resume or settings.archive_is_elsewhere:
        return
    try:
        status = await run_status(settings, start.name)
    except NotFound:  # no such run, or no archive yet
        return
    if start.fork and not status.origin:  # an interrupted fork, which began as its source did, continues
        source = await run_status(settings, start.source)
        if status.started == source.started and status.run != source.run:
            return
    raise _taken(start.name, "" if start.fork else ", or --resume it")


def _taken(run: str, alternative: str) -> SettingsError:
    return SettingsError(f"a run called {run} exists already: choose another --run{alternative}.")


async def _prepare(
    client: ClientSettings,
    archive: archive_pb2_grpc.ArchiveAsyncStub,
    start: Start,
    new_settings: events_pb2.RunSettings,
    progress: Progress,
    options: RunOptions | None = None,
) -> tuple[str, events_pb2.RunSettings]:
    """The name and the settings of a new run, or of a fork. Nothing is published.

    With `options` the run is first estimated and adapted to the machine. Raises SettingsError for a name that is taken.
    """
    runs = {status.run: status for status in (await archive.ListRuns(pb.ListRunsRequest(), timeout=30)).runs}
    numbered = (f"r{number}" for number in itertools.count(len(runs) + 1))
    run = start.name or next(name for name in numbered if name not in runs)
    if start.fork:  # an interrupted fork continues under its name
        return run, new_settings
    if run in runs:
        raise _taken(run, ", or --resume it")
    if options is not None and (adapts(options) or not progress.quiet):
        new_settings = await plan_run(client, options, new_settings, list(runs.values()), progress.note)
    elif decision := await decide_precision(
        client, new_settings, JOIN_PATIENCE if options is None else PROFILE_SECONDS
    ):
        progress.note(decision)
    if unchecked := await check_programs(client, new_settings):
        progress.note(unchecked)
    return run, new_settings


async def _begin(
    client: ClientSettings,
    archive: archive_pb2_grpc.ArchiveAsyncStub,
    start: Start,
    run: str,
    settings: events_pb2.RunSettings,
) -> str:
    """Publish a prepared run or fork, and wait until the store has applied it; returns its name.

    Another command may have taken the name since it was prepared: a given one raises SettingsError, else the next free
    one is used.
    """
    if start.fork:
        sequence = await _fork(client, start.fork, run, settings)
    else:
        while True:
            try:
                sequence = await start_run(client, run, settings)
                break
            except AlreadyStored:
                if start.name is not None:
                    raise _taken(run, ", or --resume it") from None
                run = f"r{int(run[1:]) + 1}"
    await until_applied(archive, run, sequence)
    return run


async def _supervised(system: System, progress: Progress, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, while which services that end are started again."""
    working = asyncio.ensure_future(work)
    try:
        while not working.done():
            for event in system.supervise():
                progress.note(event)
            await asyncio.wait({working}, timeout=POLL_SECONDS)
        return working.result()
    finally:
        await tasks.end(working)


async def _fork(client: ClientSettings, spec: str, name: str, settings: events_pb2.RunSettings) -> int:
    """Fork `spec` as run `name` with the store's own tool; the log sequence at which the fork begins.

    Without a name it only verifies `spec`. Raises SettingsError and NotPossible with the tool's message.
    """
    tool = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.store.tools", "fork", spec, name,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "ASI_NATS_URL": client.nats_url, "ASI_DATA_DIR": str(client.data_dir.absolute())},
    )  # fmt: skip
    out, error = await tool.communicate(MessageToJson(settings).encode())
    if tool.returncode:
        sentence = error.decode().strip().rpartition("\n")[2].removeprefix("asi-arch: ")
        raise (SettingsError if tool.returncode == IMPOSSIBLE else NotPossible)(sentence)
    return int(json.loads(out)["sequence"]) if name else 0


async def _watch(
    system: System, archive: archive_pb2_grpc.ArchiveAsyncStub, run: str, interrupted: asyncio.Event, progress: Progress
) -> tuple[pb.RunStatus, list[Row]]:
    async with Bus(system.client, "asi-console") as bus, bus.announcements(run) as announced:
        with progress:
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    status, records = await _supervised(system, progress, read_run(archive, run, slim=True))
                    root = root_among(records, status.settings)
                    rows = [row(record, root) for record in records]
                    progress.view.record_all(announced)
                    progress.view.update(status, rows)
                    progress.show()
                    if (status.phase in OVER and not status.in_flight) or interrupted.is_set():
                        return status, rows
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(interrupted.wait(), POLL_SECONDS)
