"""`asi-arch status` and `runs` show the state of runs; `pause`, `resume` and `stop` change it by an event.

The client of the bus is imported by the commands that publish: the others read the archive alone.
"""

import asyncio
import contextlib
import time
from collections.abc import Sequence

from services.chassis.errors import NotPossible
from services.console.options import Json, Run, RunArgument, chosen_run, print_json, run_async
from services.console.tables import Column, pairs, say, table
from services.contracts import archive_pb2 as pb
from services.contracts.events_pb2 import RunPaused, RunResumed, RunStopped
from services.contracts.progress_pb2 import Progress
from services.domain.run_state import GOING_ON
from services.local.archive import catch_up, open_archive, run_status, until_applied
from services.local.settings import ClientSettings, client_settings, running_system
from services.report.rows import ABSENT, as_dict, clock, number

POSSIBLE = {"pause": GOING_ON, "resume": {"paused", "stopped"}, "stop": {*GOING_ON, "paused"}}
"""The phases of a run in which it can be paused, resumed or stopped."""
LISTEN_SECONDS = 3.5  # a little more than between two announcements of a service


@run_async
async def status(argument: RunArgument = "", run: Run = "", as_json: Json = False) -> None:
    """Show the state of a run."""
    settings = client_settings()
    state = await run_status(settings, chosen_run(argument, run))
    system = running_system(settings)
    if system is not None and not settings.archive_is_elsewhere:  # a store that runs here knows whether it can go on
        import grpc.aio  # needed only if a system runs

        from services.chassis.rpc import channel
        from services.contracts.archive_pb2_grpc import ArchiveStub

        async with channel(system.addresses["archive"], settings) as connection:
            try:
                state.outage = (await ArchiveStub(connection).GetRun(pb.RunRequest(run=state.run), timeout=5)).outage
            except grpc.aio.AioRpcError as error:
                state.outage = f"the store does not answer: {error.details()}"
    waits = await _waits(settings, state)
    if as_json:
        print_json({**as_dict(state), **({"waits": waits} if waits else {})})
    else:
        say(pairs([*_lines(state), *(("waits", line) for line in waits)]))


async def _waits(settings: ClientSettings, status: pb.RunStatus) -> list[str]:
    """What services announce that they wait for; only in runs with a language model."""
    if not status.in_flight or "openai" not in status.settings.mind or running_system(settings) is None:
        return []
    from services.local.log import open_log  # imports the client of the bus

    progress_of: dict[str, Progress] = {}
    async with open_log(settings) as bus, bus.announcements(status.run) as announced:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LISTEN_SECONDS):
                while True:
                    progress = await announced.get()
                    progress_of[progress.candidate] = progress
    return [
        f"{progress.candidate}: {progress.service} for {progress.waits_for}, "
        f"{clock(time.time() - progress.since.ToNanoseconds() / 1e9)}"
        for _, progress in sorted(progress_of.items())
        if progress.waits_for
    ]


@run_async
async def runs(as_json: Json = False) -> None:
    """List all runs, newest first."""
    async with open_archive(client_settings()) as archive:
        statuses = (await archive.ListRuns(pb.ListRunsRequest(), timeout=30)).runs
    print_json([as_dict(run) for run in statuses]) if as_json else say(_overview(statuses))


def _lines(status: pb.RunStatus) -> list[tuple[str, str]]:
    best = status.best
    return [
        ("run", f"{status.run} · {status.phase}" + (f" · {status.stop_reason}" if status.stop_reason else "")),
        ("scale, mind", f"{status.settings.scale}, {status.settings.mind}"),
        ("candidates", _states(status)),
        ("in flight", f"{status.in_flight} of {status.settings.seats} seats"),
        ("best", f"{best.name} ({best.id}), fitness {_best(status)}" if status.HasField("best") else ABSENT),
        ("spent", _spent(status.spent)),
        ("dead letters", str(status.dead_letters)),
        *([("OUTAGE", status.outage)] if status.outage else []),
    ]


def _best(status: pb.RunStatus) -> str:
    return number(status.best.fitness if status.HasField("best") else None, ".3f")


def _states(status: pb.RunStatus) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(status.states.items())) or "none yet"


def _spent(spent: pb.Spent) -> str:
    parts = [clock(spent.seconds), f"{clock(spent.training_seconds)} of training"]
    if spent.gpu_seconds:
        parts.append(f"{spent.gpu_seconds / 3600:.2f} GPU-hours")
    if spent.tokens:
        parts.append(f"{spent.tokens:,} tokens" + (f" for {spent.money:.4f} $" if spent.money else ""))
    return ", ".join(parts)


def _overview(statuses: Sequence[pb.RunStatus]) -> str:
    if not statuses:
        return "no run yet"
    return table([
        Column("run", [run.run for run in statuses]),
        Column("phase", [run.phase for run in statuses]),
        Column("candidates", [_states(run) for run in statuses], flexible=True),
        Column("best", [_best(run) for run in statuses], right=True),
        Column("time", [clock(run.spent.seconds) for run in statuses], right=True),
    ])  # fmt: skip


@run_async
async def pause(argument: RunArgument = "", run: Run = "", as_json: Json = False) -> None:
    """Start no further candidates; those in flight continue."""
    await _steer("pause", RunPaused(reason="paused by hand"), chosen_run(argument, run), as_json)


@run_async
async def resume(argument: RunArgument = "", run: Run = "", as_json: Json = False) -> None:
    """Start candidates again, if services are running; `asi-arch run --resume` starts the services too."""
    await _steer("resume", RunResumed(), chosen_run(argument, run), as_json)


@run_async
async def stop(argument: RunArgument = "", run: Run = "", as_json: Json = False) -> None:
    """End a run; candidates in flight still complete."""
    await _steer("stop", RunStopped(reason="stopped by hand"), chosen_run(argument, run), as_json)


async def _steer(verb: str, command: RunPaused | RunResumed | RunStopped, run: str, as_json: bool) -> None:
    from services.local.log import steer_run

    settings = client_settings()
    status = await run_status(settings, run)
    name = status.run
    if status.phase not in POSSIBLE[verb]:
        over = (verb, status.phase) == ("resume", "finished")
        extend = ": `asi-arch run --resume` with a larger budget extends it" if over else ""
        raise NotPossible(f"run {name} is {status.phase}, so there is nothing to {verb}{extend}")
    if verb == "resume" and not (running_system(settings) or settings.archive_is_elsewhere):
        raise NotPossible(
            f"nothing runs in {settings.data_dir}, and the time of a resumed run counts: `asi-arch run --resume` "
            "starts the services and continues it"
        )
    sequence = await steer_run(settings, name, command)
    await catch_up(settings)
    async with open_archive(settings) as archive:  # a following command reads the phase that this one has made
        await until_applied(archive, name, sequence)
    sentence = f"run {name}: {verb} published; see `asi-arch status`"
    print_json({"run": name, "published": verb}) if as_json else say(sentence)
