"""The speed of training at a scale on this machine, measured with a few steps of the root baseline."""

import asyncio
from dataclasses import replace
from time import monotonic

import numpy as np

from services.domain.zoo import baselines
from services.engineer.data import Corpus, batches
from services.engineer.evaluation.scoring import QUICK_ROWS
from services.engineer.evaluation.tasks import ITEMS
from services.engineer.scales import Scale
from services.engineer.training.host import JOB
from services.engineer.training.ports import Array, Child, Sandbox
from services.engineer.training.protocol import ask, limits_of
from services.engineer.training.result import TrainingFailed
from services.engineer.training.session import Job
from services.sandbox import SandboxUnavailable

_STEPS = 3
_SECONDS = 120.0
_EVALUATION_SPEEDUP = 3.0
"""Evaluating a token takes a third of the time of training on it, as there is no backward pass."""
_OVERHEAD_SECONDS = 4.0
"""Starting processes and the harness, for one evaluation."""


async def measure_speed(sandbox: Sandbox, scale: Scale, corpus: Corpus, trainings: int) -> float:
    """Tokens per second of each of `trainings` concurrent trainings. Raises SandboxUnavailable.

    To keep the measurement short, a step has at most two micro-batches and nothing is compiled.
    """
    batch = min(scale.batch, 2 * scale.micro_batch)
    scale = replace(scale, batch=batch, compile=False, tokens=scale.tokens_per_step, per_device=1)
    order = batches(corpus.train, batch=scale.batch, context=scale.context, seed=0, first=0, count=_STEPS)
    tokens = np.stack(list(order)).astype(np.uint16)
    header = Job(baselines()[0].program, 0, scale, corpus).header()
    ready = asyncio.Barrier(trainings)

    async def training() -> float:
        async with sandbox.child(JOB, limits_of(scale)) as child:
            await ask(child, "begin", header, {}, expect="ready", timeout=_SECONDS)
            await _train(child, tokens[:1])  # the first step allocates memory
            async with ready:
                seconds = await _train(child, tokens)
            return len(tokens) * scale.tokens_per_step / seconds

    try:
        speeds = await asyncio.gather(*(training() for _ in range(trainings)))
    except TrainingFailed as failed:
        raise SandboxUnavailable(f"the speed could not be measured: {failed.message}") from failed
    return sum(speeds) / len(speeds)


def training_seconds(scale: Scale, tokens_per_second: float) -> float:
    """An estimate of the duration of one training with its evaluation at that speed."""
    questions = len(scale.tasks) * (scale.task_limit or ITEMS)
    blocks = scale.heldout_blocks + scale.evaluations * QUICK_ROWS + scale.check_truncations + questions
    return (scale.tokens + blocks * scale.context / _EVALUATION_SPEEDUP) / tokens_per_second + _OVERHEAD_SECONDS


async def _train(child: Child, tokens: Array) -> float:
    start = monotonic()
    await ask(child, "train", {}, {"tokens": tokens}, expect="metrics", timeout=_SECONDS)
    return monotonic() - start
