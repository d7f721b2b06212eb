"""`python -m services.engineer.table`: train cells of the table of mixers, each in the sandbox, until none is left.

Any number of such processes may work on one folder of a machine: a lock per training, which the kernel releases when
its holder dies, keeps them apart. What is finished is on disk; a killed process loses the training under way only.
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
from dataclasses import asdict
from pathlib import Path
from statistics import median

from services.chassis import logs
from services.engineer.data import Corpus, open_corpus
from services.engineer.data.corpus import CorpusError
from services.engineer.scales import Scale, ScaleError, load_scale
from services.engineer.training.host import train
from services.engineer.training.measurements import versions
from services.engineer.training.result import Metrics, TrainingFailed, TrainingResult
from services.mixers.render import render
from services.sandbox import Sandbox, SandboxUnavailable
from services.table.lattice import Cell, cells, find
from services.table.table import Record, append, read_all

WITHOUT_TASKS = {"tasks": "", "averaged": ""}
SCALES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "mini-half": ("mini", {**WITHOUT_TASKS, "tokens": "100352"}),
    "mini": ("mini", WITHOUT_TASKS),
    "tiny": ("tiny", {**WITHOUT_TASKS, "precision": "fp32"}),
}
"""Under which name the table keeps what, as a scale of the engineer with overrides. All in fp32: every machine has it.
Benchmarks are left out: at these sizes they lie near chance."""
ORDER_SEED = 17
RELIABILITY_CELLS = 8
"""So many cells get all their seeds first: they tell how much of a difference is seed noise."""
ALWAYS_FIRST = (
    "delta_net",
    "gated_delta_net",
    "delta_net_value_skip",
    "delta.none.sigmoid.silu.l2.qkv.swish.none.rms",
    "linear.channel.one.identity.none.plain.swish.none.rms",
    "linear.channel.one.identity.none.plain.none.none.rms",
    "linear.channel.one.identity.none.qkv.swish.none.rms",
    "delta.none.sigmoid.silu.l2.plain.none.none.rms",
)
"""What the zoo has of the lattice, and what lies between DeltaNet and gated linear attention."""


def order(seeds: Sequence[int]) -> list[tuple[Cell, int]]:
    """All trainings, the most useful first: a few cells with every seed, then all cells seed by seed, cells shuffled.

    Any beginning of this list is a sample of the whole lattice without bias.
    """
    first = [find(name) for name in ALWAYS_FIRST]
    rest = [cell for cell in cells() if cell not in first]
    random.Random(ORDER_SEED).shuffle(rest)
    shuffled = first + rest
    begin = [(cell, seed) for cell in shuffled[:RELIABILITY_CELLS] for seed in seeds]
    later = [(cell, seed) for seed in seeds for cell in shuffled[RELIABILITY_CELLS:]]
    return begin + later


class Builder:
    """Trains what is left and appends it to a file of this process's own."""

    def __init__(self, folder: Path, name: str, scale: Scale, corpus: Corpus, sandbox: Sandbox) -> None:
        self.folder, self.name, self.scale, self.corpus, self.sandbox = folder, name, scale, corpus, sandbox
        self.file = folder / f"{name}-{time.time_ns():x}-{os.getpid()}.jsonl"
        parts = [asdict(scale), corpus.fingerprint, versions()["torch"].split("+")[0]]
        self.conditions = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        self.finished = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._locks = (folder / f"{name}.locks").open("a")
        self._held: set[int] = set()

    async def work(self, jobs: Sequence[tuple[Cell, int]], until: float, limit: int) -> None:
        """One training after another; several of these may run at once in one process."""
        for cell, seed in jobs:
            if time.monotonic() >= until or self.finished >= limit:
                return
            with self._claimed(cell, seed) as claimed:
                if claimed:
                    self.finished += 1
                    record = await self._train(cell, seed)
                    append(self.file, record)
                    outcome = record.failure or f"{record.loss:.4f}"
                    sys.stdout.write(f"{cell.name} seed {seed}: {outcome} in {record.seconds:.1f} s\n")
                    sys.stdout.flush()

    @contextmanager
    def _claimed(self, cell: Cell, seed: int) -> Iterator[bool]:
        """Whether the training is ours: no process is at it, and no file has its record.

        One byte of the lock file stands for each training. The kernel's locks keep processes apart, `_held` the
        workers of this one.
        """
        place = seed * len(cells()) + cells().index(cell)
        if place in self._held:
            yield False
            return
        try:
            fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
        except OSError:
            yield False
            return
        self._held.add(place)
        try:
            yield (cell.name, self.name, seed) not in {record.key for record in read_all(self.folder)}
        finally:
            self._held.discard(place)
            fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, place)

    async def _train(self, cell: Cell, seed: int) -> Record:
        began, chunks = time.monotonic(), list[Metrics]()
        try:
            program = render(cell.mixer, "Cell")
            result = await train(program, seed, self.scale, self.corpus, self.sandbox, on_progress=chunks.append)
        except TrainingFailed as failed:
            return Record(
                cell.name, self.name, seed, failure=f"{failed.kind}: {failed.message}"[:300],
                seconds=round(time.monotonic() - began, 2), conditions=self.conditions,
            )  # fmt: skip
        return self._record(cell, seed, result, chunks)

    def _record(self, cell: Cell, seed: int, result: TrainingResult, chunks: Sequence[Metrics]) -> Record:
        starts = [0, *(chunk.step for chunk in chunks)]
        busy = [chunk.busy_per_step or 0.0 for chunk in chunks]
        measured = result.measurements
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
            parameters=measured.parameters,
            flops_per_token=measured.flops_per_token,
            tokens_per_cpu_second=round(self.scale.tokens_per_step / median(busy), 1) if any(busy) else None,
            cpu_seconds=round(sum(b * (c.step - s) for b, c, s in zip(busy, chunks, starts, strict=False)), 2),
            seconds=round(measured.seconds, 2),
            conditions=self.conditions,
        )


async def build(arguments: argparse.Namespace) -> int:
    """Train until the hours or the limit are used up, or nothing is left. Returns the exit status."""
    name = arguments.scale
    base, overrides = SCALES[name]
    scale = load_scale(base, {**overrides, **dict(one.split("=", 1) for one in arguments.set)})
    corpus = open_corpus(scale, arguments.folder / "corpus", "table")  # trusted programs: the same text everywhere
    until = time.monotonic() + arguments.hours * 3600
    async with Sandbox() as sandbox:
        builder = Builder(arguments.folder, name, scale, corpus, sandbox)
        done = {record.key for record in read_all(arguments.folder)}
        jobs = [(cell, seed) for cell, seed in order(arguments.seeds) if (cell.name, name, seed) not in done]
        sys.stdout.write(f"{len(jobs)} of {len(cells()) * len(arguments.seeds)} trainings at {name} are left\n")
        sys.stdout.flush()
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
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="override, to try things out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--workers", type=int, default=1, help="trainings at once in this process")
    parser.add_argument("--hours", type=float, default=1e6)
    parser.add_argument("--limit", type=int, default=sys.maxsize, help="trainings, then stop")
    return parser


if __name__ == "__main__":
    logs.configure("engineer", "warning")
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
