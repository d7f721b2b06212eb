"""`python -m tests.chaos [--seed N …]`: every schedule, and one drawn from each seed, on SQLite and MongoDB.

Exit status: 0 where all invariants hold, 1 otherwise. What a run leaves behind is kept below --keep.
"""

import argparse
import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from services.chassis import logs
from tests.chaos.schedules import ALL, Schedule, drawn
from tests.chaos.system import run_schedule
from tests.mongod import Mongod

MAX_SECONDS = 900.0


def main() -> int:
    """Run the selected schedules, one after the other."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, nargs="*", default=[], help="also, or with --only seeds nothing but, these")
    parser.add_argument("--only", help="schedules whose name holds this text")
    parser.add_argument("--archive", choices=("sqlite", "mongo", "both"), default="both")
    parser.add_argument("--candidates", type=int, default=60)
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1, help="of three the leader is killed")
    parser.add_argument("--keep", type=Path, help="where the folders of runs with a broken invariant go")
    arguments = parser.parse_args()
    logs.configure("chaos", "error")
    written = [schedule for schedule in ALL if arguments.only is None or arguments.only in schedule.name]
    failed = tried = 0
    with _databases(arguments.archive) as databases:
        for database in databases:
            left_out = "sqlite_only" if database else "mongo_only"
            schedules = [schedule for schedule in written if not getattr(schedule, left_out)]
            schedules += [drawn(seed, "mongo" if database else "sqlite") for seed in arguments.seed]
            for number, schedule in enumerate(schedules):
                failed += _run_schedule(schedule, database, f"chaos{number}", arguments)
            tried += len(schedules)
    print(f"{failed} of {tried} schedules broke an invariant" if failed else "all invariants held")
    return 1 if failed else 0


def _run_schedule(schedule: Schedule, database: Mongod | None, name: str, arguments: argparse.Namespace) -> bool:
    """Whether an invariant broke."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        url = f"{database.url}/{name}?replicaSet=rs0" if database else f"sqlite:///{folder}/archive.db"
        limit = max(MAX_SECONDS, arguments.candidates)
        try:
            violations = asyncio.run(
                run_schedule(schedule, Path(folder), url, arguments.candidates, limit, arguments.brokers, database)
            )
        except Exception as error:  # noqa: BLE001 - the other schedules are to be tried all the same
            violations = [f"it did not end: {type(error).__name__}: {error}"]
        kind = "mongo" if database else "sqlite"
        print(
            f"{'BROKEN' if violations else 'held':<7}{kind:<7}{time.monotonic() - started:5.0f} s  {schedule.name}",
            flush=True,
        )
        for line in violations:
            print(f"         {line}", flush=True)
        if violations and arguments.keep:
            shutil.copytree(folder, arguments.keep / f"{kind}-{schedule.name.replace(' ', '-')}", dirs_exist_ok=True)
    return bool(violations)


@contextlib.contextmanager
def _databases(archive: str) -> Iterator[list[Mongod | None]]:
    """Where archives go: None for files, and a mongod that lasts as long as the context."""
    binary = shutil.which("mongod")
    if archive == "sqlite" or (archive == "both" and binary is None):
        if archive == "both":
            print("no mongod on the PATH: SQLite only")
        yield [None]
        return
    if binary is None:
        sys.exit("no mongod on the PATH")
    with tempfile.TemporaryDirectory() as folder:
        server = Mongod(binary, Path(folder))
        server.start()
        try:
            yield [server] if archive == "mongo" else [None, server]
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
