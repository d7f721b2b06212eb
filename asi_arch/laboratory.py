"""The Python API: read runs and candidates as data frames, start a run, follow it.

    from asi_arch import Laboratory

    laboratory = Laboratory()                       # the data folder of ASI_DATA_DIR, as for the command line
    started = laboratory.start(candidates=3)        # a new process; started.wait(), started.interrupt()
    for change in laboratory.follow(started.run):   # each candidate whose state has changed
        print(change["id"], change["name"], change["state"], change["loss"])
    laboratory.candidates(started.run)              # a pandas data frame

Works in notebooks, whose thread already runs an event loop: calls of the archive run in another thread.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from services.archive import all_candidates
from services.chassis.errors import NotFound
from services.contracts import archive_pb2 as pb
from services.contracts import candidate_pb2
from services.local.archive import open_archive
from services.local.settings import ClientSettings, client_settings, running_system
from services.report.progress import OVER
from services.report.rows import Row, as_dict, root_among, row

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Laboratory", "StartedRun"]

POLL_SECONDS = 1.0
START_SECONDS = 600.0  # a failed start is detected at once; this limit is for busy machines
T = TypeVar("T")


@dataclass(frozen=True)
class StartedRun:
    """A run that this process has started: its name, and the command line that drives it."""

    run: str
    process: subprocess.Popen[bytes]

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; returns the exit status of `asi-arch run`. Raises subprocess.TimeoutExpired."""
        return self.process.wait(timeout)

    def interrupt(self) -> None:
        """Drain: trainings are checkpointed, and the run is paused."""
        self.process.send_signal(signal.SIGINT)


class Laboratory:
    """The archive of one data folder."""

    def __init__(self, data_dir: Path | str | None = None) -> None:
        """Uses the settings of the environment; `data_dir` overrides ASI_DATA_DIR."""
        self._settings: ClientSettings = client_settings()
        if data_dir is not None:
            self._settings = self._settings.model_copy(update={"data_dir": Path(data_dir)})

    def statuses(self) -> list[dict[str, Any]]:
        """The status messages of all runs, newest first; empty if there is no archive yet."""
        return [as_dict(status) for status in self._statuses()]

    def runs(self) -> pd.DataFrame:
        """One row per run, newest first: phase, scale, mind, counts by state, the best fitness, the resources used."""
        import pandas as pd

        rows = [
            {
                "run": status.run, "phase": status.phase, "scale": status.settings.scale,
                "mind": status.settings.mind, "in_flight": status.in_flight, **dict(status.states),
                "best": status.best.name or None,
                "fitness": status.best.fitness if status.best.HasField("fitness") else None,
                "seconds": status.spent.seconds, "tokens": status.spent.tokens, "money": status.spent.money,
            }
            for status in self._statuses()
        ]  # fmt: skip
        return pd.DataFrame(rows).set_index("run") if rows else pd.DataFrame()

    def rows(self, run: str = "") -> list[Row]:
        """The candidates of a run, by default the newest, in the order of their ids. Raises NotFound."""
        return _wait(self._rows(run))

    def candidates(self, run: str = "") -> pd.DataFrame:
        """One row per candidate, without unmeasured values. Raises NotFound."""
        import pandas as pd

        rows = self.rows(run)
        return pd.DataFrame(rows).set_index("id") if rows else pd.DataFrame()

    def curves(self, run: str = "") -> pd.DataFrame:
        """One row per point of a learning curve: candidate, seed, step, tokens, training loss, held-out loss."""
        import pandas as pd

        rows = [
            {
                "candidate": record.id, "seed": seed.seed, "step": point.step, "tokens": point.tokens or None,
                "train_loss": point.train_loss if point.HasField("train_loss") else None,
                "loss": point.loss if point.HasField("loss") else None,
            }
            for record in _wait(self._records(run))
            for seed in record.training.seeds
            for point in seed.curve
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def candidate(self, candidate: str, run: str = "") -> dict[str, Any]:
        """The complete record of a candidate, by id or unique name. Raises NotFound."""
        return as_dict(_wait(self._record(candidate, run)))

    def program(self, candidate: str, run: str = "") -> str:
        """The trained program of a candidate. Raises NotFound."""
        record = _wait(self._record(candidate, run))
        return record.training.program or record.proposal.program

    def start(self, run: str = "", **settings: object) -> StartedRun:
        """Start the services and a run in a new process, and return once the archive has the run.

        `settings` are the flags of `asi-arch run`: `candidates=3`, `seed_program=["mine.py"]`, `set={"tokens": 20000}`;
        `resume=True` continues `run`, or the newest one. The command's messages are appended to `logs/run.log` in the
        data folder. Raises RuntimeError if the name is taken, and with these messages if it ends before that.
        """
        known = {status.run: status.sequence for status in self._statuses()}  # the newest run first
        resumes = bool(settings.get("resume"))
        newest = next(iter(known), "") if resumes else ""
        numbered = (f"r{number}" for number in itertools.count(len(known) + 1))
        name = run or newest or next(name for name in numbered if name not in known)
        if name in known and not (resumes or settings.get("fork")):
            raise RuntimeError(f"a run called {name} exists already: choose another name, or resume=True")
        command = [sys.executable, "-m", "services.console", "run", "--run", name, "--json", *flags(settings)]
        environment = {**os.environ, "ASI_DATA_DIR": str(self._settings.data_dir)}
        log = self._settings.data_dir / "logs" / "run.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        # A file, since a pipe that nobody reads would fill, and would break when this process ends.
        with log.open("a+", encoding="utf-8", errors="replace") as messages:
            before = messages.seek(0, os.SEEK_END)
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=messages,
                start_new_session=True,
            )  # fmt: skip
            deadline = time.monotonic() + START_SECONDS
            ended = False
            while not ended and time.monotonic() < deadline:
                ended = process.poll() is not None  # with --join it ends at once
                if any(status.run == name and status.sequence != known.get(name) for status in self._statuses()):
                    return StartedRun(name, process)
                time.sleep(POLL_SECONDS / 4)
            process.terminate()
            process.wait()
            messages.seek(before)
            raise RuntimeError(f"run {name} did not start: {messages.read().strip()[-2000:]}")

    def follow(self, run: str = "") -> Iterator[Row]:
        """Each candidate once, and again after each change of its state. Raises NotFound.

        Ends with the run, and when nothing works on it: no system runs in the data folder.
        """
        states: dict[str, str] = {}
        while True:
            works = self._settings.archive_is_elsewhere or running_system(self._settings) is not None
            status = _wait(self._status(run))
            for changed in self.rows(status.run):
                if states.get(changed["id"]) != changed["state"]:
                    states[changed["id"]] = changed["state"]
                    yield changed
            if not works or (status.phase in OVER and not status.in_flight):
                return
            time.sleep(POLL_SECONDS)

    def _statuses(self) -> list[pb.RunStatus]:
        try:
            return _wait(self._list_runs())
        except NotFound:
            return []

    async def _list_runs(self) -> list[pb.RunStatus]:
        async with open_archive(self._settings) as archive:
            return list((await archive.ListRuns(pb.ListRunsRequest(), timeout=30)).runs)

    async def _status(self, run: str) -> pb.RunStatus:
        async with open_archive(self._settings) as archive:
            return await archive.GetRun(pb.RunRequest(run=run), timeout=30)

    async def _records(self, run: str, slim: bool = False) -> list[candidate_pb2.Candidate]:
        async with open_archive(self._settings) as archive:
            status = await archive.GetRun(pb.RunRequest(run=run), timeout=30)
            return await all_candidates(archive, pb.ListCandidatesRequest(run=status.run, slim=slim, sort="time"))

    async def _rows(self, run: str) -> list[Row]:
        status, records = await self._status(run), await self._records(run, slim=True)
        root = root_among(records, status.settings)
        return sorted((row(record, root) for record in records), key=lambda candidate: candidate["id"])

    async def _record(self, candidate: str, run: str) -> candidate_pb2.Candidate:
        async with open_archive(self._settings) as archive:
            return await archive.GetCandidate(pb.GetCandidateRequest(run=run, candidate=candidate), timeout=30)


def flags(settings: Mapping[str, object]) -> list[str]:
    """Settings as flags of the command line: lists as repeated flags, tables as NAME=VALUE, True as the flag alone."""
    arguments: list[str] = []
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, Mapping):
            arguments += [part for key, content in value.items() for part in (flag, f"{key}={content}")]
        elif isinstance(value, list | tuple):
            arguments += [part for content in value for part in (flag, str(content))]
        elif value is True:
            arguments.append(flag)
        elif value is not None and value is not False:
            arguments += [flag, str(value)]
    return arguments


def _wait(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine, whether or not this thread runs an event loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
