"""`asi-arch run`: a whole discovery run on one machine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from services.chassis.errors import SettingsError
from services.chassis.rpc import channel
from services.console.archive import all_candidates, open_archive
from services.console.commands.forking import fork_run, until_applied
from services.console.estimate import settle
from services.console.forks import Fork, fork_settings
from services.console.local.system import System, running
from services.console.overrides import must_be_possible
from services.console.plan import Flags, budget, run_settings, stages_of
from services.console.progress import Progress
from services.console.rows import Row, row
from services.console.settings import ConsoleSettings
from services.console.steer import pause_run, resume_run, start_run
from services.contracts import archive_pb2 as pb
from services.contracts import archive_pb2_grpc, candidate_pb2, events_pb2
from services.llm.port import asks_endpoint
from services.llm.settings import validate_prices

POLL_SECONDS = 1.0
OVER = frozenset({"finished", "stopped"})


@dataclass(frozen=True)
class Outcome:
    """How a run ended for this command."""

    status: pb.RunStatus
    rows: list[Row]
    records: list[candidate_pb2.Candidate]  # slim: without programs and curves
    interrupted: bool
    report: Path | None


async def discover(
    settings: ConsoleSettings,
    flags: Flags,
    name: str | None,
    resume: bool,
    progress: Progress,
    fork: Fork | None = None,
) -> Outcome:
    """Start the system and a run (or go on with one, or with another's history), watch it to its end, drain everything.

    Raises SettingsError, NotFound (nothing to resume), ServiceFailed, AlreadyRunning.
    """
    wanted = run_settings(flags)
    if fork is not None:
        wanted = fork_settings(await settings_of(settings, fork.run), wanted, fork.given)
    await asyncio.to_thread(must_be_possible, wanted)
    new_budget = budget(flags) if _has_budget(flags) else None
    before = await _resumable(settings, name, new_budget) if resume else None
    going = before.settings if before else wanted
    limited = (new_budget or going.budget).HasField("money")
    validate_prices(os.environ, asks_endpoint(going.mind), limited)  # what is missing is said before anything starts
    extra = _for_engineer(going)
    interrupted = asyncio.Event()
    with _on_signals(interrupted):
        progress.note("starting the services …")
        async with (
            running(settings, extra) as system,
            channel(system.client.archive_address, system.client) as connection,
        ):
            archive = archive_pb2_grpc.ArchiveStub(connection)
            if fork is not None:
                run = await _fork(system, archive, name, fork, wanted)
            else:
                run = await _begin(system, archive, name, wanted, before, new_budget, progress)
            progress.note(f"run {run} · archive {settings.archive_place} · Ctrl-C drains and loses nothing")
            status, rows = await _watch(system, archive, run, interrupted, progress)
            if interrupted.is_set() and status.phase not in OVER:
                progress.note("draining: work in hand is checkpointed, the run is paused …")
                await pause_run(system.client, run, "interrupted at the terminal")
            report = await write_run_report(archive, run, settings.run_folder(run) / "report")
            request = pb.ListCandidatesRequest(run=run, slim=True)
            return Outcome(status, rows, await all_candidates(archive, request), interrupted.is_set(), report)


def _for_engineer(wanted: events_pb2.RunSettings) -> dict[str, str]:
    """What the engineer of this machine trains, and which benchmarks it must have; the environment comes first."""
    told = {"ASI_ENGINEER_STAGES": stages_of(wanted)}
    if "tasks" in wanted.scale_overrides:
        told["ASI_ENGINEER_TASKS"] = wanted.scale_overrides["tasks"]
    return {name: value for name, value in told.items() if name not in os.environ}


async def settings_of(settings: ConsoleSettings, name: str | None) -> events_pb2.RunSettings:
    """The settings of a run that is to go on. Raises NotFound."""
    async with open_archive(settings) as archive:
        return (await archive.GetRun(pb.RunRequest(run=name or ""), timeout=30)).settings


async def _resumable(settings: ConsoleSettings, name: str | None, new_budget: events_pb2.Budget | None) -> pb.RunStatus:
    """The run that is to go on, as it stands. Raises NotFound, and SettingsError for one that is over."""
    async with open_archive(settings) as archive:
        about = await archive.GetRun(pb.RunRequest(run=name or ""), timeout=30)
    if about.phase in OVER and new_budget is None and not about.in_flight:
        raise SettingsError(f"run {about.run} has {about.phase}: give it another budget, as in --candidates 20.")
    return about


async def _begin(
    system: System,
    archive: archive_pb2_grpc.ArchiveAsyncStub,
    name: str | None,
    wanted: events_pb2.RunSettings,
    before: pb.RunStatus | None,
    new_budget: events_pb2.Budget | None,
    progress: Progress,
) -> str:
    """The name of the run that goes on from here: the one that `before` was, or a new one."""
    if before is not None:
        if before.phase not in OVER or new_budget is not None:  # else: what was retried comes to its own end
            await resume_run(system.client, before.run, new_budget)
            await until_known(archive, before.run, before)
        return before.run
    runs = {status.run: status for status in (await archive.ListRuns(pb.ListRunsRequest(), timeout=30)).runs}
    run = name or new_name(runs)
    if run in runs:
        raise SettingsError(f"a run called {run} exists already: choose another --run, or --resume it.")
    if decision := await settle(system.client, wanted):
        progress.note(decision)
    await start_run(system.client, run, wanted)
    await until_known(archive, run, None)
    return run


async def _fork(
    system: System,
    archive: archive_pb2_grpc.ArchiveAsyncStub,
    name: str | None,
    fork: Fork,
    wanted: events_pb2.RunSettings,
) -> str:
    """The name of the run that goes on from another's history."""
    runs = {status.run: status for status in (await archive.ListRuns(pb.ListRunsRequest(), timeout=30)).runs}
    run = name or new_name(runs)
    await until_applied(archive, run, await fork_run(system.client, fork.spec, run, wanted))
    return run


async def until_known(archive: archive_pb2_grpc.ArchiveAsyncStub, run: str, before: pb.RunStatus | None) -> None:
    """Wait until the store has taken what was said to the run."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                status = await archive.GetRun(pb.RunRequest(run=run), timeout=5)
                if before is None or status.sequence > before.sequence:
                    return
            await asyncio.sleep(0.1)


async def _watch(
    system: System,
    archive: archive_pb2_grpc.ArchiveAsyncStub,
    run: str,
    interrupted: asyncio.Event,
    progress: Progress,
) -> tuple[pb.RunStatus, list[Row]]:
    with progress:
        while True:
            for name in system.supervise():
                progress.note(f"the {name} ended unexpectedly and was started again")
            with contextlib.suppress(grpc.aio.AioRpcError):
                status, rows = await look(archive, run)
                progress.show(status, rows)
                if (status.phase in OVER and not status.in_flight) or interrupted.is_set():
                    return status, rows
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(interrupted.wait(), POLL_SECONDS)


async def write_run_report(archive: archive_pb2_grpc.ArchiveAsyncStub, run: str, folder: Path) -> Path | None:
    """The report of a run as it stands; None while it has no candidate."""
    status = await archive.GetRun(pb.RunRequest(run=run), timeout=30)
    records = await all_candidates(archive, pb.ListCandidatesRequest(run=status.run))
    if not records:
        return None
    from services.console.report import write_report  # matplotlib takes half a second to import

    return await asyncio.to_thread(write_report, status, records, folder)


async def look(archive: archive_pb2_grpc.ArchiveAsyncStub, run: str) -> tuple[pb.RunStatus, list[Row]]:
    """A run's status and the rows of all its candidates."""
    status = await archive.GetRun(pb.RunRequest(run=run), timeout=30)
    records = await all_candidates(archive, pb.ListCandidatesRequest(run=run, slim=True))
    root = status.loss_of_root if status.HasField("loss_of_root") else None
    return status, [row(one, root) for one in records]


def new_name(runs: dict[str, pb.RunStatus]) -> str:
    """The next of r1, r2, … that no run has."""
    number = len(runs) + 1
    while f"r{number}" in runs:
        number += 1
    return f"r{number}"


def _has_budget(flags: Flags) -> bool:
    return any(one is not None for one in (flags.candidates, flags.hours, flags.gpu_hours, flags.tokens, flags.money))


@contextlib.contextmanager
def _on_signals(interrupted: asyncio.Event) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) asks for a drain; a second one while draining changes nothing."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
