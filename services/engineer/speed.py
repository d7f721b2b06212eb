"""The speed of this machine: in both precisions, of a training at a scale, and of fla's functions.

`python -m services.engineer.speed SCALE [NAME=VALUE …]` prints whether this machine is slow in a scale's precision.
bfloat16 is fast only on processors with instructions for it (AVX-512 BF16, AMX, the bf16 extension of Arm v8.6).
Elsewhere it is emulated, up to forty times slower than float32.
"""

import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import cast

import numpy as np

from services.chassis.tasks import end
from services.domain.zoo import baselines
from services.engineer.data import Corpus
from services.engineer.evaluation.scoring import QUICK_ROWS
from services.engineer.evaluation.tasks import ITEMS, TRAINED_NAMES
from services.engineer.scales import AUTO, BF16, FP32, Scale, ScaleError
from services.engineer.scales.__main__ import scale_of
from services.engineer.training.host import JOB
from services.engineer.training.protocol import ask, limits_of, measured, names, number
from services.engineer.training.result import TrainingFailed
from services.engineer.training.session import Job
from services.sandbox import JSON, Array, Child, Limits, Sandbox, SandboxUnavailable

MAX_SLOWDOWN = 1.5
"""Of bf16 relative to float32; an engineer that exceeds it reports that it is unsuited to a bf16 run."""
_PRECISION_SECONDS = 60.0
_STEPS = 3
_MEASURED_SECONDS = 1.5
"""Least duration of a measurement: shorter ones differ by a factor of two on a busy machine."""
_SECONDS = 220.0
"""Limit on one answer: on a GPU fla compiles and times two hundred variants of kernels in the first step. The client
that shows the speed waits for 240."""
_EVALUATION_SPEEDUP = 3.0
"""Evaluating a token takes a third of the time of training on it, as there is no backward pass."""
_OVERHEAD_SECONDS = 4.0
"""Starting processes and the harness, for one evaluation."""
_TRAINED_TASK_TOKENS = 300_000
"""Tokens of `tiny` that take as long as a trained task, whose model has half its width: 200 steps of 32 rows."""
MAX_TOKENS = 1024  # of the batch on which functions are timed
_COST_SECONDS = 30.0  # CPU time after which the remaining functions are omitted


@dataclass(frozen=True)
class PrecisionSpeed:
    """CPU seconds of one projection, forward and backward, in each precision; None for an unsupported one."""

    fp32_seconds: float
    bf16_seconds: float | None

    @property
    def best(self) -> str:
        faster = self.bf16_seconds is not None and self.bf16_seconds < self.fp32_seconds
        return BF16 if faster else FP32

    def slow(self, precision: str) -> str | None:
        """The reason if `precision` is much slower than float32 on this machine; else None."""
        if precision != BF16 or (self.bf16_seconds or float("inf")) <= MAX_SLOWDOWN * self.fp32_seconds:
            return None
        times = "" if self.bf16_seconds is None else f", {self.bf16_seconds / self.fp32_seconds:.0f} × slower than fp32"
        return f"bfloat16 is emulated on this machine{times}"


async def measure_precision(sandbox: Sandbox, scale: Scale) -> PrecisionSpeed:
    """Time both precisions in a child with a training's threads, device and limits. Raises SandboxUnavailable."""
    limits = replace(limits_of(scale), cpu_seconds=_PRECISION_SECONDS, wall_seconds=_PRECISION_SECONDS)
    header: dict[str, JSON] = {"device": scale.device, "threads": scale.threads}
    job = "services.engineer.speed_child:run_precisions"
    answer = await measured(sandbox, job, limits, header, "the faster precision")
    bf16 = answer.header.get("bf16")
    return PrecisionSpeed(number(answer, "fp32"), None if bf16 is None else number(answer, "bf16"))


def with_precision(scale: Scale, speed: PrecisionSpeed) -> Scale:
    """The scale, with `auto` replaced by the faster precision."""
    return replace(scale, precision=speed.best) if scale.precision == AUTO else scale


async def measure_speed(
    sandbox: Sandbox, scale: Scale, corpus: Corpus, trainings: int, at_least: float = _MEASURED_SECONDS
) -> float:
    """Tokens per second of each of `trainings` concurrent trainings. Raises SandboxUnavailable.

    To keep the measurement short, a step has at most two micro-batches and nothing is compiled. The steps are repeated
    until each training has run for `at_least` seconds.
    """
    batch = min(scale.batch, 2 * scale.micro_batch)
    scale = replace(scale, batch=batch, compile=False, tokens=scale.tokens_per_step, per_device=1)
    job = Job(baselines()[0].program, 0, scale, corpus)
    tokens = np.stack(list(job.batches(0, _STEPS))).astype(np.uint16)
    ready = asyncio.Barrier(trainings)

    async def training() -> float:
        async with sandbox.child(JOB, limits_of(scale)) as child:
            await ask(child, "begin", job.header(), {}, expect="ready", timeout=_SECONDS)
            await _train(child, tokens[:1])  # the first step allocates memory
            steps, seconds = 0, 0.0
            async with ready:
                while seconds < at_least:
                    seconds += await _train(child, tokens)
                    steps += len(tokens)
            return steps * scale.tokens_per_step / seconds

    tasks = [asyncio.create_task(training()) for _ in range(trainings)]
    try:
        speeds = await asyncio.gather(*tasks)
    except TrainingFailed as failed:
        raise SandboxUnavailable(f"the speed could not be measured: {failed.message}") from failed
    finally:
        await end(*tasks)  # those that wait for a failed one
    return sum(speeds) / len(speeds)


def training_seconds(scale: Scale, tokens_per_second: float) -> float:
    """An estimate of the duration of one training with its evaluation at that speed."""
    trained = sum(name in TRAINED_NAMES for name in scale.tasks)
    questions = (len(scale.tasks) - trained) * (scale.task_limit or ITEMS)
    blocks = scale.heldout_blocks + scale.evaluations * QUICK_ROWS + scale.check_truncations + questions
    tokens = scale.tokens + trained * _TRAINED_TASK_TOKENS + blocks * scale.context / _EVALUATION_SPEEDUP
    return tokens / tokens_per_second + _OVERHEAD_SECONDS


async def _train(child: Child, tokens: Array) -> float:
    start = monotonic()
    await ask(child, "train", {}, {"tokens": tokens}, expect="metrics", timeout=_SECONDS)
    return monotonic() - start


@dataclass(frozen=True)
class FunctionCosts:
    """CPU time of fla's functions and modules, forward and backward, at a scale's sizes."""

    tokens: int
    linear_seconds: float  # of `nn.Linear(width, width)` on the same tokens
    times: Mapping[str, float]  # multiples of linear_seconds
    modules: Sequence[str]  # names that a program can import without CUDA, such as "fla.modules: RMSNorm, …"


async def measure_costs(sandbox: Sandbox, scale: Scale) -> FunctionCosts:
    """Measure in a child with a training's threads and precision. Raises SandboxUnavailable."""
    limits = Limits(
        memory_bytes=2 << 30, cpu_seconds=2 * _COST_SECONDS, wall_seconds=4 * _COST_SECONDS, threads=scale.threads
    )
    length = min(scale.context, MAX_TOKENS)
    rows = max(1, min(scale.micro_batch, MAX_TOKENS // length))
    header: dict[str, JSON] = {"rows": rows, "length": length, "heads": scale.heads, "width": scale.width}
    header |= {"precision": scale.precision, "threads": scale.threads, "seconds": _COST_SECONDS}
    job = "services.engineer.speed_child:run_costs"
    answer = await measured(sandbox, job, limits, header, "the cost of fla's functions")
    linear = number(answer, "linear")
    times = {name: seconds / linear for name, seconds in cast("Mapping[str, float]", answer.header["seconds"]).items()}
    return FunctionCosts(rows * length, linear, times, names(answer, "modules"))


async def main(arguments: list[str]) -> None:
    """Print as JSON why this machine is slow in the scale's precision, or null; exits with 2 for an invalid scale."""
    try:
        scale = scale_of(arguments)
        async with Sandbox() as sandbox:
            speed = await measure_precision(sandbox, scale)
    except (ScaleError, SandboxUnavailable) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2 if isinstance(error, ScaleError) else 1)
    sys.stdout.write(json.dumps({"slow": speed.slow(scale.precision)}) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
