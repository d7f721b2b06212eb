"""`python -m services.store.tools`: replay, import, export, backup and restore of archives, for the command line.

Exit status: 0 for success, 1 for differences or a missing run, 2 for invalid input.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from google.protobuf.json_format import Parse, ParseError

from services.chassis import logs
from services.chassis.bus import Bus, Logged
from services.chassis.bus.subjects import run_name
from services.chassis.bus.topology import REACH_SECONDS
from services.chassis.errors import (
    BusLost,
    Denied,
    NotFound,
    NotPossible,
    SettingsError,
    Transient,
    printable,
    sentence,
)
from services.chassis.service import run_on_uvloop
from services.chassis.settings import load
from services.contracts import events_pb2
from services.store import auditing, exporting, importing
from services.store.app import StoreSettings
from services.store.backends import SQLITE, open_archive, opened, restore_archive
from services.store.forking import fork, history
from services.store.importing import BadArchive
from services.store.port import Archive, ArchiveUnavailable, Query
from services.store.published import write_published
from services.store.reactions import react
from services.store.recovery import damage_of_log, recover, require_same_log
from services.store.replay import BATCH, batched, refusals, replay


class SetUp(NamedTuple):
    """What was created, and the remaining differences, one sentence each."""

    created: tuple[str, ...]
    differences: tuple[str, ...]


async def set_up(settings: StoreSettings, create: bool, replicas: int = 1) -> SetUp:
    """Compare streams, consumers and the archive's schema with the expected ones; if `create`, create and migrate
    first.

    New streams get `replicas`; consumers those of their stream. Raises the errors of `Archive.open` and the bus.
    """
    archive = open_archive(settings.archive)
    async with Bus(settings, "asi-setup", REACH_SECONDS) as bus:
        created = await bus.set_up(replicas) if create else []
        differences = await bus.compare()
        try:
            if create:
                await archive.open()
            differences += [f"archive: {line}" for line in await archive.drift()]
            if create and (damage := await damage_of_log(bus, archive)):
                differences.append(f"log: {damage}: run `asi-arch recover` while no service runs")
        except ArchiveUnavailable as error:
            differences.append(f"archive: it cannot be read: {error}")
        finally:
            await archive.close()
    return SetUp(tuple(created), tuple(differences))


@asynccontextmanager
async def _existing(settings: StoreSettings) -> AsyncIterator[Archive]:
    """The archive, open within the context. Raises NotFound where a file would be created."""
    archive = settings.archive
    if archive.startswith(SQLITE) and not await asyncio.to_thread(Path(archive.removeprefix(SQLITE)).exists):
        raise NotFound(f"there is no archive {archive}: set ASI_ARCHIVE_URL to the store's")
    async with opened(archive) as existing:
        yield existing


async def main(arguments: argparse.Namespace, settings: StoreSettings) -> int:
    """Run a command; returns its exit status."""
    commands = {
        "setup": _set_up, "replay": _replay, "import": _import, "export": _export, "audit": _audit, "backup": _backup,
        "restore": _restore, "catch-up": _apply, "recover": _recover, "fork": _fork,
    }  # fmt: skip
    return await commands[arguments.command](arguments, settings)


async def _set_up(arguments: argparse.Namespace, settings: StoreSettings) -> int:
    setup = await set_up(settings, not arguments.check, arguments.replicas)
    if arguments.json:
        _say(json.dumps(setup._asdict(), indent=2))
        return 1 if setup.differences else 0
    for line in setup.created:
        _say(f"created {line}")
    for line in setup.differences:
        sys.stderr.write(f"drift: {line}\n")
    if not setup.differences:
        _say("streams, consumers and the archive are as they must be")
    return 1 if setup.differences else 0


async def _replay(arguments: argparse.Namespace, settings: StoreSettings) -> int:
    async with AsyncExitStack() as stack:
        into = await stack.enter_async_context(opened(arguments.into, "--into")) if arguments.into else None
        live = await stack.enter_async_context(_existing(settings))
        run = (await live.run(arguments.run)).run
        bus = await stack.enter_async_context(Bus(settings, "asi-replay", REACH_SECONDS))
        comparison = await replay(bus, run, into, live)
    if arguments.json:
        numbers = asdict(comparison) | {"seconds": round(comparison.seconds, 3), "agrees": comparison.agrees}
        _say(json.dumps(numbers, indent=2))
    else:
        _say(f"run {comparison.run}: {comparison.events} events replayed in {comparison.seconds:.2f} s")
        _say(f"  digest of the replay   {comparison.digest}")
        _say(f"  digest of the archive  {comparison.live_digest}")
        for line in comparison.differences:
            _say(f"  ! {line}")
        _say("the archive is what its log says" if comparison.agrees else "the archive is NOT what its log says")
    return 0 if comparison.agrees else 1


async def _import(arguments: argparse.Namespace, settings: StoreSettings) -> int:
    other_fields, refused = tuple[str, ...](), tuple[str, ...]()
    arguments.format = arguments.format or importing.format_of(arguments.path)
    of_log = arguments.format in ("jsonl", "parquet")
    if (of_log and arguments.run) or (arguments.detach and arguments.format != "asi-arch"):
        flag = "--detach" if arguments.detach else "--run"
        raise SettingsError(f"{flag} has no effect with the format {arguments.format}: leave it out.")
    if of_log:
        run, bodies, left_out = importing.exported_bodies(arguments.path, arguments.format, arguments.skip_bad)
        refused = await asyncio.to_thread(refusals, run, bodies)
        left_out += refused
        taken, kind, count = "a log keeps its run's name, so import it into another ASI_DATA_DIR", "events", len(bodies)
    else:
        programs = arguments.format == "programs"
        published = (
            importing.read_programs(arguments.path, arguments.skip_bad)
            if programs
            else importing.read_published(arguments.path, arguments.skip_bad, arguments.detach)
        )
        run = run_name(arguments.run or ("programs" if programs else "imported"))
        bodies = importing.bodies_of(importing.events_of(run, published.records, arguments.format))
        left_out, other_fields, count = published.left_out, published.other_fields, len(published.records)
        taken, kind = "choose another --run", "programs" if programs else "records"
    async with opened(settings.archive) as archive, Bus(settings, "asi-import", REACH_SECONDS) as bus:
        await bus.set_up()
        await require_same_log(bus, archive)
        new = await importing.publish(bus, run, bodies, taken)
        await _catch_up(archive, bus)
    if arguments.json:
        numbers = {"run": run, "imported": count if new else 0, "left_out": left_out, "other_fields": other_fields}
        _say(json.dumps(numbers, indent=2))
        return 0
    for line in left_out:
        _say(f"  left out: {line}")
    if other_fields:
        _say(f"  not imported: the fields {', '.join(other_fields)}")
    things = f"{count} {kind if count != 1 else kind[:-1]}"
    done = f"imported {things} as run {run}" if new else f"run {run} holds the {things} already"
    _say(done + (f", {len(refused)} of them refused" if refused else ""))
    return 0


async def _apply(arguments: argparse.Namespace, settings: StoreSettings) -> int:
    """Apply events of the log that the archive has not applied, as a store does when it starts."""
    del arguments
    async with opened(settings.archive) as archive, Bus(settings, "asi-catch-up", REACH_SECONDS) as bus:
        await _catch_up(archive, bus)
    return 0


async def _fork(arguments: argparse.Namespace, settings: StoreSettings) -> int:
    """Publish a fork with the settings that standard input provides as JSON; without a name, only verify its source."""
    settings_of_fork = Parse(await asyncio.to_thread(sys.stdin.read), events_pb2.RunSettings())
    source, _, at = arguments.source.partition("@")
    async with _existing(settings) as archive:
        past = await history(archive, (await archive.run(source)).run, at)
        if not arguments.name:
            return 0
        run = run_name(arguments.name)
        async with Bus(settings, "asi-fork", REACH_SECONDS) as bus:
            is_new = not await bus.newest(f"asi.v1.{run}.>")  # else it must be this fork, interrupted
            if is_new and run in {row.run for row in await archive.runs()}:
                raise SettingsError(f"a run called {run} exists already: choose another --run.")
            sequence = await fork(bus, past, run, settings_of_fork)
    _say(json.dumps({"run": run, "of": past.run, "at": past.until, "events": len(past.events), "sequence": sequence}))
    return 0


async def _recover(arguments: argparse.Namespace, settings: StoreSettings) -> int:
    """Rebuild a damaged or lost log from the archive."""
    async with _existing(settings) as archive:
        if damage := await archive.damage():
            raise SettingsError(f"the archive is damaged itself: {damage[0]}: restore a backup of it first.")
        async with Bus(settings, "asi-recover", REACH_SECONDS) as bus:
            recovery = await recover(bus, archive, arguments.replicas)
    if arguments.json:
        _say(json.dumps(recovery._asdict()))
    elif not recovery.damage:
        _say(f"the log and the archive agree on all {recovery.messages} messages: there is nothing to recover")
    else:
        _say(f"{recovery.damage}")
        rescued = f", {recovery.rescued} of which only the damaged log had" if recovery.rescued else ""
        _say(f"the log was rebuilt from the archive: {recovery.messages} messages{rescued}")
        if recovery.lost:
            _say(f"{recovery.lost} newer messages, which the archive had not applied, could not be read and are lost")
    return 0


async def _catch_up(archive: Archive, bus: Bus) -> None:
    """Apply what was published. Safe alongside a running store: each event is applied once."""
    await require_same_log(bus, archive)
    async for batch in batched(bus.read_log(start=await archive.applied() + 1), BATCH):
        await archive.apply(batch, react)


async def _export(arguments: argparse.Namespace, settings: StoreSettings) -> int:
    if arguments.manifest and arguments.format != "jsonl":
        raise SettingsError(f"--manifest has no effect with the format {arguments.format}: leave it out.")
    async with _existing(settings) as archive:
        run = (await archive.run(arguments.run)).run
        target: Path = arguments.out or Path(run if arguments.format == "asi-arch" else f"{run}.{arguments.format}")
        if arguments.format == "jsonl":
            logged = await _logged(settings, run)
            await asyncio.to_thread(exporting.write_log, logged, target)
            if arguments.manifest:
                refused = [row.sha256 async for row in archive.log(run) if not row.accepted]
                manifest = auditing.manifest_of(logged, run, (await archive.digest(run))[0], refused)
                auditing.manifest_path(target).write_text(json.dumps(manifest, indent=0) + "\n", encoding="utf-8")
        else:
            page = await archive.list_candidates(Query(run, sort="time", limit=10**9))
            records = sorted(page.candidates, key=lambda record: record.request.number)
            if arguments.format == "parquet":
                exporting.write_parquet(records, await _logged(settings, run), target)
            else:
                write_published(records, target)
    _say(json.dumps({"run": run, "path": str(target)}) if arguments.json else f"run {run} is in {target}")
    return 0


async def _audit(arguments: argparse.Namespace, settings: StoreSettings) -> int:
    """Audit an exported log without a server or archive."""
    del settings
    if not arguments.path.is_file():
        raise SettingsError(f"there is no log {arguments.path}: `asi-arch export RUN --manifest` writes one.")
    path: Path = arguments.manifest or auditing.manifest_path(arguments.path)
    manifest = await asyncio.to_thread(auditing.read_manifest, path)
    audit = await auditing.audit_log(arguments.path, manifest)
    if arguments.json:
        _say(json.dumps(asdict(audit)))
    else:
        _say(f"run {audit.run}: {audit.events} events, digest {audit.digest}")
        for problem in audit.problems:
            _say(f"  ! {problem}")
    return 1 if audit.problems else 0


async def _logged(settings: StoreSettings, run: str) -> list[Logged]:
    async with Bus(settings, "asi-export", REACH_SECONDS) as bus:
        return [message async for message in bus.read_log(f"asi.v1.{run}.>")]


async def _backup(arguments: argparse.Namespace, settings: StoreSettings) -> int:
    async with _existing(settings) as archive:
        await archive.backup(arguments.path)
    _say(json.dumps({"path": str(arguments.path)}) if arguments.json else f"the archive is copied to {arguments.path}")
    return 0


async def _restore(arguments: argparse.Namespace, settings: StoreSettings) -> int:
    await restore_archive(arguments.path, settings.archive)
    message = f"the archive is restored from {arguments.path}; a store applies the newer events of the log"
    _say(json.dumps({"path": str(arguments.path)}) if arguments.json else message)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asi-arch")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser
    sub = add("setup", description="Create or verify streams, consumers, tables and indexes; exits 1 on drift.")
    sub.add_argument("--check", action="store_true", help="create nothing, report differences")
    sub.add_argument("--replicas", type=int, choices=(1, 3, 5), default=1, help="copies of the streams, one per broker")
    sub = add("replay", description="Rebuild a run from its log and compare digests.")
    sub.add_argument("run", nargs="?", default="", help="default: the newest run")
    sub.add_argument("--into", metavar="URL", help="a new archive to keep, as sqlite:///PATH or mongodb://…")
    sub = add("import", description="Import a published archive or an exported log as a new run.")
    sub.add_argument("format", nargs="?", choices=importing.FORMATS, help="default: as the path looks")
    sub.add_argument("path", type=Path, help="a log, tree.json and 106.json, a mongoexport or mongodump, or programs")
    sub.add_argument("--run", help="name of the new run; default: imported or programs (an exported log keeps its own)")
    sub.add_argument("--skip-bad", action="store_true", help="skip invalid records, and list them")
    sub.add_argument("--detach", action="store_true", help="of asi-arch: make records with an unknown parent roots")
    epilog = (
        "One architecture as a package: asi-arch export RUN --as module --candidate C --out DIR. All candidates in an "
        "experiment tracker's folder: asi-arch export RUN --to wandb, mlflow or tensorboard."
    )
    sub = add("export", description="Export a run as its log, as tables, or in the published format.", epilog=epilog)
    sub.add_argument("run", nargs="?", default="", help="default: the newest run")
    sub.add_argument(
        "--format", choices=("jsonl", "parquet", "asi-arch"), default="jsonl",
        help="asi-arch: the published format, with training losses, benchmarks and fitness, without held-out losses",
    )  # fmt: skip
    sub.add_argument(
        "--out", type=Path, help="file (of parquet two), or folder for asi-arch; default: named after the run"
    )
    sub.add_argument("--manifest", action="store_true", help="of jsonl: also its hashes and digest, for `audit FILE`")
    sub = add("audit", description="Audit an exported log from its file alone: bytes, hashes, replay, claims.")
    sub.add_argument("path", type=Path)
    sub.add_argument("--manifest", type=Path, help="default: beside the log")
    sub = add("fork", description="Start a run with the history of another; settings on standard input.")
    sub.add_argument("source", metavar="RUN[@SEQUENCE|EVENT_ID]")
    sub.add_argument("name", nargs="?", help="default: publish nothing, only look for the event")
    sub = add("recover", description="Rebuild a damaged event log from the archive, while no service runs.")
    sub.add_argument("--replicas", type=int, choices=(1, 3, 5), help="of the streams; default: as many as before")
    add("catch-up", description="Apply events of the log that the archive has not applied.")
    add("backup", description="Copy the archive to a file.").add_argument("path", type=Path, help="a new file")
    add("restore", description="Restore the archive from a copy.").add_argument(
        "path", type=Path, help="a file of `backup`"
    )
    for name, sub in commands.choices.items():
        if name not in ("fork", "catch-up"):
            sub.add_argument("--json", action="store_true", help="machine-readable output")
    return parser


def _say(text: str) -> None:
    sys.stdout.write(f"{printable(text)}\n")


if __name__ == "__main__":
    logs.configure_for_people()
    try:
        options, superfluous = _parser().parse_known_args()
        if superfluous:
            raise SettingsError(f"{' '.join(superfluous)} is not understood: see `asi-arch {options.command} --help`.")
        sys.exit(run_on_uvloop(main(options, load(StoreSettings, "store"))))
    except (SettingsError, BadArchive, ParseError, ValueError, FileExistsError, FileNotFoundError) as error:
        sys.stderr.write(f"asi-arch: {sentence(error)}\n")
        sys.exit(2)
    except (NotFound, NotPossible, BusLost, Denied, Transient, ArchiveUnavailable, OSError) as error:
        sys.stderr.write(f"asi-arch: {sentence(error)}\n")
        sys.exit(1)
