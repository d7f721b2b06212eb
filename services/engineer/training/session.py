"""The host's side of one training: data, time, the curve, checkpoints and stopping; the child only computes."""

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any, cast

import numpy as np
import structlog
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from services.domain.curves import Curve
from services.engineer.data import Corpus, batches
from services.engineer.scales import Scale
from services.engineer.training.compiled import ARRAY, CompileCache
from services.engineer.training.protocol import amount, array, ask, limits_of, names, state
from services.engineer.training.result import CurvePoint, Drained, Metrics, TrainingFailed
from services.engineer.training.sizes import ModelSizes, Plan, model_sizes
from services.engineer.training.watcher import Peers, Stop, WatchSettings, watch
from services.sandbox import JSON, Array, Child, Message
from services.sandbox.processes import Usage, waited_seconds

Weights = dict[str, Array]


def write_checkpoint(path: Path, about: Mapping[str, object], arrays: Weights) -> None:
    """Replace the file at `path` atomically and durably.

    `about` is JSON with the number of steps, the elapsed seconds, the curve, and as `identity` a hash of what a resumed
    training must have in common (program, seed, scale, data).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(arrays, partial, metadata={"checkpoint": json.dumps(about)})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_checkpoint(path: Path, identity: str) -> tuple[dict[str, Any], Weights] | None:
    """What `write_checkpoint` wrote to `path`; None if there is nothing, it is damaged or the identity differs."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads(file.metadata()["checkpoint"])
        return (about, load_file(path)) if about["identity"] == identity else None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        structlog.get_logger().warning("a checkpoint cannot be read", path=str(path), error=str(error))
        return None


Rows = tuple[NDArray[np.int64], ...]
LossAt = Callable[[Weights, int], Awaitable[float]]
CHECKPOINT_SECONDS = 60.0
"""Least time between checkpoints; longer where one takes more than SAVING_SHARE of it."""
STATE_BYTES = 64 << 20
SAVING_SHARE = 0.02
"""States up to STATE_BYTES, or whose saving takes at most SAVING_SHARE of a chunk's time, are saved after every chunk,
so that any chunk can be audited; others only for checkpoints."""


@dataclass(frozen=True)
class Job:
    """A training: one program with one seed at one scale on one corpus."""

    program: str
    seed: int
    scale: Scale
    corpus: Corpus
    compiled: CompileCache | None = None

    def compiler_caches(self) -> dict[str, Array]:
        """The array of compiler caches for the message `begin` of a child. Reads a file."""
        return self.compiled.arrays() if self.compiled is not None and self.compiles else {}

    @property
    def compiles(self) -> bool:
        """Whether a child compiles: blocks, or on a GPU at least fla's kernels."""
        return self.scale.compile or self.scale.device == "cuda"

    @property
    def sizes(self) -> ModelSizes:
        return model_sizes(self.scale, self.corpus.tokens.vocabulary)

    def batches(self, first: int, count: int) -> Iterator[NDArray[np.int64]]:
        """The batches [batch, context + 1] of `count` steps from step `first` on."""
        batch, context = self.scale.batch, self.scale.context
        return batches(self.corpus.train, batch=batch, context=context, seed=self.seed, first=first, count=count)

    def header(self) -> dict[str, JSON]:
        """The header of the message `begin` of a training child."""
        scale = self.scale
        return {
            "program": self.program,
            "seed": self.seed,
            "sizes": asdict(self.sizes),
            "plan": asdict(Plan.of(scale)),
            "context": scale.context,
            "device": scale.device,
            "threads": scale.threads,
            "memory_share": 1.0 / scale.per_device,
        }

    @property
    def identity(self) -> str:
        """A hash of everything that determines the training."""
        parts = [self.program, self.seed, asdict(self.scale), self.corpus.fingerprint]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Supervision:
    """Callbacks and settings: `stop` requests a drain, `checkpoint` is the file to resume from."""

    on_progress: Callable[[Metrics], None] | None = None
    stop: asyncio.Event | None = None
    checkpoint: Path | None = None
    watch: WatchSettings = field(default_factory=WatchSettings)
    peers: Peers = field(default_factory=Peers)
    finished: Sequence[Curve] = ()


@dataclass(frozen=True)
class Segment:
    """Steps of a training to audit: the states before and after, batches [batch, context + 1], and reported losses."""

    start: int
    rows: tuple[NDArray[np.int64], ...]
    losses: tuple[float, ...]
    before: Weights
    after: Weights


class Session:
    """Runs one child through all steps, and measures times and memory. Reported losses only influence stopping."""

    def __init__(self, job: Job, supervision: Supervision, child: Child, loss_at: LossAt) -> None:
        self.job, self.supervision, self.child, self._loss_at = job, supervision, child, loss_at
        self.step, self.spent = 0, 0.0
        self.parameters: tuple[str, ...] = ()
        self.flops_per_token: float | None = None
        self.first: Weights = {}
        self.segment: Segment | None = None
        self._state, self._state_step = Weights(), -1  # of the child: everything that the next step depends on
        self.curve: list[CurvePoint] = []
        self.history: list[Metrics] = []
        self.compiled, self.auxiliary_loss = False, cast("float | None", None)
        self._checkpoint_at, self._saving_seconds = monotonic() + CHECKPOINT_SECONDS, float("inf")
        self._prefetched: asyncio.Task[Rows] | None = None  # the next chunk's batches

    async def begin(self) -> None:
        """Send the child its program, and resume from the checkpoint if there is one."""
        job = self.job
        caches = await asyncio.to_thread(job.compiler_caches)
        ready = await ask(self.child, "begin", job.header(), caches, expect="ready", timeout=self._time_left())
        self.parameters = names(ready, "parameters")
        self.flops_per_token, minimum = amount(ready, "flops_per_token"), job.sizes.flops_without_mixers
        if self.flops_per_token is not None and self.flops_per_token < minimum:
            flops = self.flops_per_token
            text = f"{flops:,.0f} operations per token are reported; without any mixer there are {minimum:,}."
            raise TrainingFailed("forged", text, {"told": flops, "least": minimum})
        self.first = await self.weights()
        await self._restore()
        await self._save()

    async def run(self) -> Stop | None:
        """Run the remaining steps; returns the watcher's decision to stop early, if any. Raises Drained."""
        steps = self.job.scale.steps
        random = self.job.corpus.random(f"audit {self.job.identity}")
        audited = int(random.integers(self.step, steps)) if self.step < steps else steps
        while self.step < steps:
            metrics = await self._train(audited)
            decision = watch(self.history, self.supervision.watch, self.supervision.peers, self.supervision.finished)
            if decision is None and self.step in self._evaluation_steps():
                loss = await self._loss_at(await self.weights(), self.step)
                self.curve[-1] = replace(self.curve[-1], loss=loss)
            if self.supervision.on_progress is not None:
                self.supervision.on_progress(metrics)
            if decision is not None:
                return decision
            await self._checkpoint()
        return None

    async def store_compiled(self) -> None:
        """Store the compiler caches of a program of the zoo for other trainings."""
        cache = self.job.compiled
        if cache is not None and self.job.compiles and cache.accepts(self.job.program):
            answer = await ask(self.child, "compiled", {}, {}, expect="compiled", timeout=self._time_left())
            await asyncio.to_thread(cache.store, answer.arrays[ARRAY])

    async def weights(self) -> Weights:
        """The current parameters and buffers, from the saved state if it is current, as an audit may end there."""
        if self._state_step == self.step:
            return {name: array for name, array in self._state.items() if name.startswith("model/")}
        answer = await ask(self.child, "weights", {}, {}, expect="weights", timeout=self._time_left())
        return state(answer, self.job.scale)

    def _evaluation_steps(self) -> set[int]:
        """The steps after which points of the curve are evaluated, without the last one."""
        parts = self.job.scale.evaluations + 1
        return {self.job.scale.steps * part // parts for part in range(1, parts)} - {0}

    def _time_left(self) -> float:
        return max(1.0, limits_of(self.job.scale).wall_seconds - self.spent)

    async def _train(self, audited: int) -> Metrics:
        start, before, is_saved = self.step, self._state, self._state_step == self.step
        rows = await self._prefetched if self._prefetched is not None else self._batches(start)
        count, tokens = len(rows), np.stack(rows).astype(np.uint16)
        started, busy, waited = monotonic(), self.child.usage().cpu_seconds, waited_seconds(self.child.processes())
        if start + count < self.job.scale.steps:  # read from disk while the child computes
            self._prefetched = asyncio.create_task(asyncio.to_thread(self._batches, start + count))
        answer = await ask(self.child, "train", {}, {"tokens": tokens}, expect="metrics", timeout=self._time_left())
        seconds, waited = monotonic() - started, max(0.0, waited_seconds(self.child.processes()) - waited)
        self.step += count
        metrics = self._record(answer, count, seconds, self.child.usage(), busy, waited)
        due = self.segment is None and self.step > audited and is_saved
        small = sum(array.nbytes for array in self._state.values()) <= STATE_BYTES
        if due or small or self._saving_seconds <= SAVING_SHARE * seconds:
            await self._save()
        if due:
            losses = tuple(float(loss) for loss in array(answer, "loss", (count,)))
            self.segment = Segment(start, rows, losses, before, self._state)
        return metrics

    def _batches(self, start: int) -> Rows:
        """The batches of the chunk that begins with step `start`."""
        steps, every = self.job.scale.steps, self.job.scale.log_every
        stops = (*self._evaluation_steps(), steps, (start // every + 1) * every)
        return tuple(self.job.batches(start, min(stop for stop in stops if stop > start) - start))

    def _record(self, answer: Message, count: int, seconds: float, used: Usage, busy: float, waited: float) -> Metrics:
        scale = self.job.scale
        on_cpu = scale.device == "cpu"
        self.spent += seconds
        auxiliary = answer.arrays.get("auxiliary")
        memory = used.private_bytes if on_cpu else amount(answer, "device_memory")
        self.auxiliary_loss = None if auxiliary is None or not auxiliary.size else float(auxiliary.astype(float).mean())
        self.compiled = answer.header.get("compiled") is True
        metrics = Metrics(
            seed=self.job.seed,
            step=self.step,
            steps=scale.steps,
            tokens=self.step * scale.tokens_per_step,
            train_loss=float(array(answer, "loss", (count,)).astype(float).mean()),
            grad_norm=float(array(answer, "grad_norm", (count,)).astype(float).max()),
            tokens_per_second=count * scale.tokens_per_step / seconds,
            seconds_per_step=seconds / count,
            seconds=self.spent,
            peak_memory_bytes=None if memory is None else int(memory),
            busy_per_step=(used.cpu_seconds - busy) / scale.threads / count if on_cpu else None,
            waited_per_step=waited / count,
        )
        self.history.append(metrics)
        if np.isfinite(metrics.train_loss):
            self.curve.append(CurvePoint(metrics.step, metrics.tokens, metrics.train_loss))
        return metrics

    async def _restore(self) -> None:
        path = self.supervision.checkpoint
        saved = read_checkpoint(path, self.job.identity) if path else None
        if saved is None:
            return
        (about, arrays), timeout = saved, self._time_left()
        await ask(self.child, "restore", {"step": about["step"]}, arrays, expect="restored", timeout=timeout)
        self.step, self.spent = about["step"], about["seconds"]
        self.curve = [CurvePoint(**point) for point in about["curve"]]

    async def _save(self) -> None:
        """Request the child's current state, once per step."""
        if self._state_step != self.step:
            start = monotonic()
            saved = await ask(self.child, "save", {}, {}, expect="saved", timeout=self._time_left())
            self._saving_seconds = monotonic() - start
            self._state, self._state_step = state(saved, self.job.scale), self.step

    async def _checkpoint(self) -> None:
        """Write a checkpoint if one is due, at the end, or when stopped. Raises Drained when stopped."""
        supervision, path = self.supervision, self.supervision.checkpoint
        ended = self.step == self.job.scale.steps
        stopped = supervision.stop is not None and supervision.stop.is_set() and not ended
        if path is not None and (stopped or ended or monotonic() >= self._checkpoint_at):
            began = monotonic()
            await self._save()
            about = {"identity": self.job.identity, "step": self.step, "seconds": self.spent}
            about["curve"] = [asdict(point) for point in self.curve]
            try:
                await asyncio.to_thread(write_checkpoint, path, about, self._state)
            except (OSError, SafetensorError) as error:  # as on a full disk: the training itself needs no checkpoint
                structlog.get_logger().warning("a checkpoint was not written", path=str(path), error=str(error))
            now = monotonic()
            self._checkpoint_at = now + max(CHECKPOINT_SECONDS, (now - began) / SAVING_SHARE)
        if stopped:
            raise Drained(path, self.step)
