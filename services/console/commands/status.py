"""`asi-arch status` and `asi-arch runs`: the state of one run, and all runs in a line each."""

import asyncio
from collections.abc import Sequence

import grpc.aio

from services.chassis.rpc import channel
from services.console.archive import open_archive, run_status
from services.console.options import Json, Run, RunArgument, chosen_run, print_json
from services.console.rows import as_dict
from services.console.settings import ConsoleSettings, console_settings, running_system
from services.console.tables import ABSENT, Column, clock, pairs, say, table
from services.contracts import archive_pb2 as pb
from services.contracts.archive_pb2_grpc import ArchiveStub


def status(argument: RunArgument = "", run: Run = "", as_json: Json = False) -> None:
    """The state of a run."""
    found = asyncio.run(_status(console_settings(), chosen_run(argument, run)))
    print_json(as_dict(found)) if as_json else say(pairs(_lines(found)))


def runs(as_json: Json = False) -> None:
    """All runs, newest first."""
    found = asyncio.run(_runs(console_settings()))
    print_json([as_dict(run) for run in found]) if as_json else say(_overview(found))


async def _status(settings: ConsoleSettings, run: str) -> pb.RunStatus:
    """What the archive says of a run; of a store that runs here, also whether it can go on."""
    found = await run_status(settings, run)
    system = running_system(settings)
    if system is not None and not settings.archive_is_elsewhere:
        async with channel(system.addresses["archive"], settings) as connection:
            try:
                asked = pb.RunRequest(run=found.run)
                found.outage = (await ArchiveStub(connection).GetRun(asked, timeout=5)).outage
            except grpc.aio.AioRpcError as error:
                found.outage = f"the store does not answer: {error.details()}"
    return found


async def _runs(settings: ConsoleSettings) -> list[pb.RunStatus]:
    async with open_archive(settings) as archive:
        return list((await archive.ListRuns(pb.ListRunsRequest(), timeout=30)).runs)


def _lines(status: pb.RunStatus) -> list[tuple[str, str]]:
    best = status.best
    return [
        ("run", f"{status.run} · {status.phase}" + (f" · {status.stop_reason}" if status.stop_reason else "")),
        ("scale, mind", f"{status.settings.scale}, {status.settings.mind}"),
        ("candidates", _states(status)),
        ("in flight", f"{status.in_flight} of {status.settings.seats} seats"),
        ("best", f"{best.name} ({best.id}), fitness {best.fitness:.3f}" if status.HasField("best") else ABSENT),
        ("spent", _spent(status.spent)),
        ("dead letters", str(status.dead_letters)),
        *([("OUTAGE", status.outage)] if status.outage else []),
    ]


def _states(status: pb.RunStatus) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(status.states.items())) or "none yet"


def _spent(spent: pb.Spent) -> str:
    parts = [clock(spent.seconds), f"{spent.training_seconds:.0f} s of training"]
    if spent.gpu_seconds:
        parts.append(f"{spent.gpu_seconds / 3600:.2f} GPU-hours")
    if spent.tokens:
        parts.append(f"{spent.tokens:,} tokens for {spent.money:.4f} $")
    return ", ".join(parts)


def _overview(found: Sequence[pb.RunStatus]) -> str:
    if not found:
        return "no run yet"
    return table([
        Column("run", [run.run for run in found]),
        Column("phase", [run.phase for run in found]),
        Column("candidates", [_states(run) for run in found], flexible=True),
        Column("best", [f"{run.best.fitness:.3f}" if run.HasField("best") else ABSENT for run in found], right=True),
        Column("time", [clock(run.spent.seconds) for run in found], right=True),
    ])  # fmt: skip
