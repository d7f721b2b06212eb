"""One training as the host drives it: it owns the data, the clock, the curve and the files; the child only computes."""

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import cast

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from services.domain.curves import Curve
from services.engineer.data import Corpus, batches
from services.engineer.scales import Scale
from services.engineer.training.compiled import ARRAY, CompileCache
from services.engineer.training.ports import JSON, Array, Child, Message
from services.engineer.training.protocol import amount, array, ask, names
from services.engineer.training.result import CurvePoint, Drained, Metrics, TrainingFailed
from services.engineer.training.sizes import ModelSizes
from services.engineer.training.trainer import Plan
from services.engineer.training.watcher import Peers, Stop, WatchSettings, watch
from services.sandbox.processes import Usage


@dataclass(frozen=True)
class Checkpoint:
    """Everything to go on from: the child's arrays, the steps done, the curve and the seconds so far.

    `identity` is a hash of what must not change across a resume (program, seed, scale, data).
    """

    identity: str
    step: int
    seconds: float
    curve: tuple[CurvePoint, ...]
    arrays: Mapping[str, Array]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the file at `path` atomically and durably."""
    about = {
        "identity": checkpoint.identity,
        "step": checkpoint.step,
        "seconds": checkpoint.seconds,
        "curve": [asdict(point) for point in checkpoint.curve],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file(dict(checkpoint.arrays), partial, metadata={"checkpoint": json.dumps(about)})
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def read_checkpoint(path: Path, identity: str) -> Checkpoint | None:
    """The checkpoint at `path`, or None where there is none or it belongs to another program, seed, scale or data."""
    if not path.is_file():
        return None
    with safe_open(path, framework="numpy") as file:
        about = json.loads(file.metadata()["checkpoint"])
    if about["identity"] != identity:
        return None
    curve = tuple(CurvePoint(**point) for point in about["curve"])
    return Checkpoint(identity, about["step"], about["seconds"], curve, load_file(path))


Weights = dict[str, Array]
Rows = tuple[NDArray[np.int64], ...]
LossAt = Callable[[Weights, int], Awaitable[float]]
STATE_BYTES = 64 << 20
SAVING_SHARE = 0.02
"""A state up to this size, or saved in this share of a chunk's time, is saved after every chunk, so that any
chunk can be computed again; another one only when a checkpoint is due."""


@dataclass(frozen=True)
class Job:
    """What to train: one program with one seed at one scale on one corpus."""

    program: str
    seed: int
    scale: Scale
    corpus: Corpus

    @property
    def sizes(self) -> ModelSizes:
        """The shape of the language model."""
        return ModelSizes.of(self.scale, self.corpus.tokens.vocabulary)

    def header(self) -> dict[str, JSON]:
        """The header of the message `begin` of a training child."""
        scale = self.scale
        return {
            "program": self.program,
            "seed": self.seed,
            "sizes": self.sizes.header(),
            "plan": asdict(Plan.of(scale)),
            "context": scale.context,
            "device": scale.device,
            "threads": scale.threads,
            "memory_share": 1.0 / scale.per_device,
        }

    @property
    def identity(self) -> str:
        """Hash of everything that a checkpoint must agree with."""
        parts = [self.program, self.seed, asdict(self.scale), self.corpus.fingerprint]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Supervision:
    """Who watches: metrics go to `on_progress`, `stop` asks for a drain, `checkpoint` is the file to resume from."""

    on_progress: Callable[[Metrics], None] | None = None
    stop: asyncio.Event | None = None
    checkpoint: Path | None = None
    checkpoint_seconds: float = 60.0
    watch: WatchSettings = field(default_factory=WatchSettings)
    peers: Peers = field(default_factory=Peers)
    finished: Sequence[Curve] = ()
    compiled: CompileCache | None = None


@dataclass(frozen=True)
class State:
    """Everything that the next step depends on, as the child saved it after `step` steps."""

    step: int
    arrays: Weights


@dataclass(frozen=True)
class Stretch:
    """Steps of a training that can be computed again: states, batches [batch, context + 1] and the losses told."""

    start: int
    rows: tuple[NDArray[np.int64], ...]
    losses: tuple[float, ...]
    before: Weights
    after: Weights


class Session:
    """Drives one child through all steps.

    Times, memory and processor time are the host's; the losses that the child tells only decide stopping.
    """

    def __init__(self, job: Job, supervision: Supervision, child: Child, loss_at: LossAt) -> None:
        self.job, self.supervision, self.child, self._loss_at = job, supervision, child, loss_at
        self.step, self.spent = 0, 0.0
        self.parameters: tuple[str, ...] = ()
        self.flops_per_token: float | None = None
        self.first: Weights = {}
        self.stretch: Stretch | None = None
        self._state: State | None = None
        self.curve: list[CurvePoint] = []
        self.history: list[Metrics] = []
        self.compiled, self.auxiliary_loss = False, cast("float | None", None)
        self._saved_at, self._saving_seconds = monotonic(), float("inf")
        self._ahead: tuple[int, int, asyncio.Task[Rows]] | None = None

    async def begin(self) -> None:
        """Hand the child its program; go on from the checkpoint where there is one."""
        job, cache = self.job, self.supervision.compiled
        compiled = await asyncio.to_thread(cache.arrays) if cache is not None and job.scale.compile else {}
        ready = await ask(self.child, "begin", job.header(), compiled, expect="ready", timeout=self._time_left())
        self.parameters = names(ready, "parameters")
        self.flops_per_token = self._counted(amount(ready, "flops_per_token"))
        self.first = await self.weights()
        await self._restore()
        await self._save()

    def _counted(self, flops: float | None) -> float | None:
        """The child's count. Raises TrainingFailed where it lies below what the host knows without the mixers."""
        least = self.job.sizes.flops_without_mixers
        if flops is not None and flops < least:
            text = f"{flops:,.0f} operations per token are told; without any mixer there are {least:,}."
            raise TrainingFailed("forged", text, {"told": flops, "least": least})
        return flops

    async def run(self) -> Stop | None:
        """All remaining steps. Returns the watcher's decision to cut them short; raises Drained when asked to stop."""
        steps = self.job.scale.steps
        random = self.job.corpus.random(f"audit {self.job.identity}")
        audited = int(random.integers(self.step, steps)) if self.step < steps else steps
        while self.step < steps:
            metrics = await self._train(self._next_stop(self.step) - self.step, audited)
            decision = watch(self.history, self.supervision.watch, self.supervision.peers, self.supervision.finished)
            if decision is None and self.step in self._evaluation_steps():
                metrics = await self._evaluate(metrics)
            if self.supervision.on_progress is not None:
                self.supervision.on_progress(metrics)
            if decision is not None:
                return decision
            await self._keep()
        return None

    async def keep_compiled(self) -> None:
        """Keep what was compiled for a program of the zoo, for the trainings of others."""
        cache = self.supervision.compiled
        if cache is not None and self.compiled and cache.wants(self.job.program):
            answer = await ask(self.child, "compiled", {}, {}, expect="compiled", timeout=self._time_left())
            await asyncio.to_thread(cache.keep, answer.arrays[ARRAY])

    async def weights(self) -> Weights:
        """Parameters and buffers as they are now: of the saved state, if there is one, which a stretch may end at."""
        if self._state is not None and self._state.step == self.step:
            return {name: array for name, array in self._state.arrays.items() if name.startswith("model/")}
        answer = await ask(self.child, "weights", {}, {}, expect="weights", timeout=self._time_left())
        return answer.arrays

    def _next_stop(self, step: int) -> int:
        steps, every = self.job.scale.steps, self.job.scale.log_every
        return min(stop for stop in (*self._evaluation_steps(), steps, (step // every + 1) * every) if stop > step)

    def _evaluation_steps(self) -> set[int]:
        """Where the held-out loss is measured on the way; the end is measured apart, on all blocks."""
        parts = self.job.scale.evaluations + 1
        return {self.job.scale.steps * part // parts for part in range(1, parts)} - {0}

    def _time_left(self) -> float:
        return max(1.0, self.job.scale.wall_seconds - self.spent)

    async def _train(self, count: int, audited: int) -> Metrics:
        start, before = self.step, self._state
        rows = await self._rows(start, count)
        tokens = np.stack(rows).astype(np.uint16)
        began, busy = monotonic(), self.child.usage().cpu_seconds
        self._prefetch(start + count)
        answer = await ask(self.child, "train", {}, {"tokens": tokens}, expect="metrics", timeout=self._time_left())
        seconds = monotonic() - began
        self.step += count
        metrics = self._record(answer, count, seconds, self.child.usage(), busy)
        due = self.stretch is None and self.step > audited and before is not None and before.step == start
        if due or self._small() or self._saving_seconds <= SAVING_SHARE * seconds:
            await self._save()
        if due and before is not None and self._state is not None:
            losses = tuple(float(loss) for loss in array(answer, "loss", (count,)))
            self.stretch = Stretch(start, rows, losses, before.arrays, self._state.arrays)
        return metrics

    async def _rows(self, start: int, count: int) -> Rows:
        """The batches of a chunk: those that were read ahead, where it is the same chunk."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[:2] == (start, count):
            return await ahead[2]
        return self._batches(start, count)

    def _prefetch(self, start: int) -> None:
        """Read the next chunk's batches while the child computes: shards lie on disk."""
        if start < self.job.scale.steps:
            count = self._next_stop(start) - start
            self._ahead = (start, count, asyncio.create_task(asyncio.to_thread(self._batches, start, count)))

    def _batches(self, start: int, count: int) -> Rows:
        scale, train = self.job.scale, self.job.corpus.train
        order = batches(train, batch=scale.batch, context=scale.context, seed=self.job.seed, first=start, count=count)
        return tuple(order)

    def _record(self, answer: Message, count: int, seconds: float, used: Usage, busy: float) -> Metrics:
        scale = self.job.scale
        on_cpu = scale.device == "cpu"
        self.spent += seconds
        auxiliary = answer.arrays.get("auxiliary")
        self.auxiliary_loss = (
            float(auxiliary.astype(float).mean()) if auxiliary is not None and auxiliary.size else None
        )
        self.compiled = answer.header.get("compiled") is True
        metrics = Metrics(
            seed=self.job.seed,
            step=self.step,
            steps=scale.steps,
            tokens=self.step * scale.tokens_per_step,
            train_loss=float(array(answer, "loss", (count,)).astype(float).mean()),
            grad_norm=float(array(answer, "grad_norm", (count,)).astype(float).max()),
            auxiliary_loss=self.auxiliary_loss,
            tokens_per_second=count * scale.tokens_per_step / seconds,
            seconds_per_step=seconds / count,
            seconds=self.spent,
            peak_memory_bytes=used.private_bytes if on_cpu else _whole(amount(answer, "device_memory")),
            busy_per_step=(used.cpu_seconds - busy) / scale.threads / count if on_cpu else None,
        )
        self.history.append(metrics)
        if np.isfinite(metrics.train_loss):
            self.curve.append(CurvePoint(metrics.step, metrics.tokens, metrics.train_loss))
        return metrics

    async def _evaluate(self, metrics: Metrics) -> Metrics:
        loss = await self._loss_at(await self.weights(), self.step)
        self.curve[-1] = replace(self.curve[-1], loss=loss)
        self.history[-1] = replace(metrics, heldout_loss=loss)
        return self.history[-1]

    async def _restore(self) -> None:
        path = self.supervision.checkpoint
        saved = read_checkpoint(path, self.job.identity) if path else None
        if saved is None:
            return
        timeout = self._time_left()
        await ask(self.child, "restore", {"step": saved.step}, saved.arrays, expect="restored", timeout=timeout)
        self.step, self.spent, self.curve = saved.step, saved.seconds, list(saved.curve)

    def _small(self) -> bool:
        return self._state is not None and sum(a.nbytes for a in self._state.arrays.values()) <= STATE_BYTES

    async def _save(self) -> State:
        """What the child would go on from, asked of it once per step."""
        if self._state is None or self._state.step != self.step:
            began = monotonic()
            saved = await ask(self.child, "save", {}, {}, expect="saved", timeout=self._time_left())
            self._saving_seconds = monotonic() - began
            self._state = State(self.step, saved.arrays)
        return self._state

    async def _keep(self) -> None:
        """Write a checkpoint where one is due, at the end of the training too, or asked for; then stop if asked to."""
        supervision, path = self.supervision, self.supervision.checkpoint
        ended = self.step == self.job.scale.steps
        asked = supervision.stop is not None and supervision.stop.is_set() and not ended
        if path is not None and (asked or ended or monotonic() - self._saved_at >= supervision.checkpoint_seconds):
            state = await self._save()
            checkpoint = Checkpoint(self.job.identity, self.step, self.spent, tuple(self.curve), state.arrays)
            await asyncio.to_thread(write_checkpoint, path, checkpoint)
            self._saved_at = monotonic()
        if asked:
            raise Drained(path, self.step)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
