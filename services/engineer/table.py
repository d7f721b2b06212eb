"""`python -m services.engineer.table`: train the cells of the table of mixers in the sandbox.

Several processes may work on one folder: each training is protected by a file lock, which the kernel releases when the
process dies. Finished trainings are on disk; a killed process loses only its current ones.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, median

from services.chassis import logs
from services.engineer.data import Corpus, open_corpus
from services.engineer.data.corpus import CorpusError
from services.engineer.evaluation.trained_tasks import TASKS, train_on
from services.engineer.scales import Scale, ScaleError, load_scale, overrides_of
from services.engineer.training.host import train
from services.engineer.training.measurements import versions
from services.engineer.training.result import Metrics, TrainingFailed, TrainingResult
from services.mixers.render import render
from services.sandbox import Sandbox, SandboxUnavailable
from services.table.lattice import Cell, cells, find
from services.table.records import Record, append, read_all

WITHOUT_TASKS = {"tasks": "", "averaged": ""}
SCALES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "mini-half": ("mini", {**WITHOUT_TASKS, "tokens": "100352"}),
    "mini": ("mini", WITHOUT_TASKS),
    "tiny": ("tiny", {**WITHOUT_TASKS, "precision": "fp32"}),
}
"""The table's scales by name, as scales of the engineer with overrides. All use fp32, which every machine supports, and
omit benchmarks, which are near chance at these sizes; ``--tasks`` adds trained tasks."""
ORDER_SEED = 17
RELIABILITY_CELLS = 8
"""Number of cells that are trained with all seeds first, to estimate seed noise."""
FIRST_CELLS = (
    "delta_net",
    "gated_delta_net",
    "delta_net_value_skip",
    "delta.none.sigmoid.silu.l2.qkv.swish.none.rms",
    "linear.channel.one.identity.none.plain.swish.none.rms",
    "linear.channel.one.identity.none.plain.none.none.rms",
    "linear.channel.one.identity.none.qkv.swish.none.rms",
    "delta.none.sigmoid.silu.l2.plain.none.none.rms",
)
"""The cells of the lattice in the zoo, and those between DeltaNet and gated linear attention."""


def order(seeds: Sequence[int]) -> list[tuple[Cell, int]]:
    """All trainings in order of priority: a few cells with all seeds, then all others in random order, seed by seed."""
    first = [find(name) for name in FIRST_CELLS]
    rest = [cell for cell in cells() if cell not in first]
    random.Random(ORDER_SEED).shuffle(rest)
    shuffled = first + rest
    repeated = [(cell, seed) for cell in shuffled[:RELIABILITY_CELLS] for seed in seeds]
    return repeated + [(cell, seed) for seed in seeds for cell in shuffled[RELIABILITY_CELLS:]]


def is_complete(record: Record | None, tasks: Sequence[str]) -> bool:
    """Whether a training is on record with these trained tasks, or failed."""
    return record is not None and (record.failure is not None or set(tasks) <= record.scores.keys())


class Builder:
    """Runs trainings and appends their records to a file of this process."""

    def __init__(
        self, folder: Path, name: str, scale: Scale, corpus: Corpus, sandbox: Sandbox, tasks: Sequence[str] = ()
    ) -> None:
        self.folder, self.name, self.scale, self.corpus, self.sandbox = folder, name, scale, corpus, sandbox
        self.tasks = tasks
        self.file = folder / f"{name}-{time.time_ns():x}-{os.getpid()}.jsonl"
        parts = [asdict(scale), corpus.fingerprint, versions()["torch"].split("+")[0]]
        self.conditions = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        self.finished = 0
        self._locks = (folder / f"{name}.locks").open("a")
        self._locked: set[int] = set()

    async def work(self, jobs: Sequence[tuple[Cell, int]], until: float, limit: int) -> None:
        """Run trainings one after another; several workers may run in one process."""
        for cell, seed in jobs:
            if time.monotonic() >= until or self.finished >= limit:
                return
            with self._lock(cell, seed) as locked:
                if not locked or is_complete(earlier := self.records().get((cell.name, self.name, seed)), self.tasks):
                    continue
                self.finished += 1
                start, record = time.monotonic(), earlier or await self._train(cell, seed)
                if not record.failure:
                    record = replace(record, scores=await self._scores(record))
                append(self.file, record)
                scores = "".join(f", {task} {record.scores[task]:.3f}" for task in self.tasks if task in record.scores)
                outcome = record.failure or f"{record.loss:.4f}{scores}"
                print(f"{cell.name} seed {seed}: {outcome} in {time.monotonic() - start:.1f} s", flush=True)

    def records(self) -> dict[tuple[str, str, int], Record]:
        """The records of all processes, by identity."""
        return {record.key: record for record in read_all(self.folder)}

    @contextmanager
    def _lock(self, cell: Cell, seed: int) -> Iterator[bool]:
        """Lock a training for the time of the context. False if it is running elsewhere.

        Each training has a byte in the lock file. `_locked` excludes the other workers of this process, which share
        its file locks.
        """
        offset = seed * len(cells()) + cells().index(cell)
        if offset in self._locked:
            yield False
            return
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
        except OSError:
            yield False
            return
        self._locked.add(offset)
        try:
            yield True
        finally:
            self._locked.discard(offset)
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, offset)

    async def _train(self, cell: Cell, seed: int) -> Record:
        start, chunks = time.monotonic(), list[Metrics]()
        try:
            result = await train(
                render(cell.mixer, "Cell"), seed, self.scale, self.corpus, self.sandbox, on_progress=chunks.append
            )
        except TrainingFailed as failed:
            return Record(
                cell.name, self.name, seed, failure=f"{failed.kind}: {failed.message}"[:300],
                seconds=round(time.monotonic() - start, 2), conditions=self.conditions,
            )  # fmt: skip
        return self._record(cell, seed, result, chunks)

    async def _scores(self, record: Record) -> dict[str, float]:
        """The final accuracy in each trained task, and its mean over the measured steps; none where training fails."""
        scores, program = dict(record.scores), render(find(record.cell).mixer, "Cell")
        for task in self.tasks:
            if task in scores:
                continue
            try:
                result, _ = await train_on(TASKS[task], program, record.seed, self.sandbox)
            except TrainingFailed as failed:  # the loss on text counts all the same
                print(f"{record.cell} seed {record.seed}: no score in {task}: {failed.message}")
                continue
            scores[task] = round(result.accuracy, 5)
            scores[f"{task}, mean of the curve"] = round(fmean(accuracy for _, accuracy in result.curve), 5)
        return scores

    def _record(self, cell: Cell, seed: int, result: TrainingResult, chunks: Sequence[Metrics]) -> Record:
        starts = [0, *(chunk.step for chunk in chunks)]
        busy = [chunk.busy_per_step or 0.0 for chunk in chunks]
        measurements = result.measurements
        return Record(
            cell=cell.name,
            scale=self.name,
            seed=seed,
            loss=round(result.loss, 5),
            loss_stderr=round(result.loss_stderr, 5),
            curve=tuple(
                (point.step, round(point.train_loss, 4), None if point.loss is None else round(point.loss, 5))
                for point in result.curve
                if point.train_loss is not None
            ),
            parameters=measurements.parameters,
            flops_per_token=measurements.flops_per_token,
            tokens_per_cpu_second=round(self.scale.tokens_per_step / median(busy), 1) if any(busy) else None,
            cpu_seconds=round(sum(b * (c.step - s) for b, c, s in zip(busy, chunks, starts, strict=False)), 2),
            seconds=round(measurements.seconds, 2),
            conditions=self.conditions,
        )


async def build(arguments: argparse.Namespace) -> int:
    """Train until a limit is reached or nothing is left, for the exit status. Raises ScaleError for unusable flags."""
    given = overrides_of(arguments.set)
    for flag, least, values in (("seeds", 0, arguments.seeds), ("workers", 1, [arguments.workers])):
        if min(values) < least:
            raise ScaleError(f"--{flag} is {min(values)}; give whole numbers from {least}.")
    try:
        arguments.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScaleError(f"--folder {arguments.folder} cannot be created: {error.strerror}.") from None
    name = arguments.scale
    base, overrides = SCALES[name]
    scale = load_scale(base, {**overrides, **given})
    corpus = open_corpus(scale, arguments.folder / "corpus", "table")  # a fixed secret, as programs are trusted
    until = time.monotonic() + arguments.hours * 3600
    async with Sandbox() as sandbox:
        builder = Builder(arguments.folder, name, scale, corpus, sandbox, arguments.tasks)
        records = builder.records()
        jobs = [
            (cell, seed)
            for cell, seed in order(arguments.seeds)
            if not is_complete(records.get((cell.name, name, seed)), arguments.tasks)
        ]
        print(f"{len(jobs)} of {len(cells()) * len(arguments.seeds)} trainings at {name} are left", flush=True)
        tasks = [asyncio.create_task(builder.work(jobs, until, arguments.limit)) for _ in range(arguments.workers)]
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: [task.cancel() for task in tasks])
        try:
            await asyncio.gather(*tasks)
        except asyncio.CancelledError:
            return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="asi-arch table build", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the records are appended")
    parser.add_argument("--scale", choices=SCALES, default="mini-half")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override of the scale")
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=TASKS,
        default=[],
        help="tasks to train on besides the text; earlier records get the scores that they lack",
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--workers", type=int, default=1, help="concurrent trainings in this process")
    parser.add_argument("--hours", type=float, default=1e6)
    parser.add_argument("--limit", type=int, default=sys.maxsize, help="maximum number of trainings")
    return parser


if __name__ == "__main__":
    logs.configure_for_people()
    try:
        sys.exit(asyncio.run(build(_parser().parse_args())))
    except (ScaleError, CorpusError) as error:
        sys.stderr.write(f"asi-arch: {error}\n")
        sys.exit(2)
    except SandboxUnavailable as error:
        sys.stderr.write(f"asi-arch: the sandbox cannot be used on this machine: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
