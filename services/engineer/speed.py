"""How fast this machine trains at a scale: a few steps of the root baseline, as many at once as the engineer trains."""

import asyncio
from dataclasses import asdict, replace
from time import monotonic

import numpy as np

from services.domain.zoo import baselines
from services.engineer.data import Corpus, batches
from services.engineer.evaluation.scoring import QUICK_ROWS
from services.engineer.evaluation.tasks import ITEMS
from services.engineer.scales import Scale
from services.engineer.training.dialogue import ask, limits_of
from services.engineer.training.host import GUEST
from services.engineer.training.ports import JSON, Array, Child, Sandbox
from services.engineer.training.result import TrainingFailed
from services.engineer.training.sizes import ModelSizes
from services.engineer.training.trainer import Plan
from services.sandbox import SandboxUnavailable

_STEPS = 3
_SECONDS = 120.0
_READING = 3.0
"""Reading a token takes a third of training on it: no backward pass."""
_AROUND_SECONDS = 4.0
"""Processes, the harness's start and its own work in one evaluation."""


async def measure_speed(sandbox: Sandbox, scale: Scale, corpus: Corpus, trainings: int) -> float:
    """Tokens per second of each of `trainings` trainings side by side. Raises SandboxUnavailable.

    A step here has at most two micro-batches, and nothing is compiled: both would cost more than they tell.
    """
    scale = replace(scale, batch=min(scale.batch, 2 * scale.micro_batch), compile=False, tokens=scale.tokens_per_step)
    order = batches(corpus.train, batch=scale.batch, context=scale.context, seed=0, first=0, count=_STEPS)
    tokens = np.stack(list(order)).astype(np.uint16)
    ready = asyncio.Barrier(trainings)

    async def one() -> float:
        async with sandbox.child(GUEST, limits_of(scale)) as child:
            await _begin(child, scale, corpus)
            await _train(child, tokens[:1])  # the first step allocates
            async with ready:
                seconds = await _train(child, tokens)
            return len(tokens) * scale.tokens_per_step / seconds

    try:
        together = await asyncio.gather(*(one() for _ in range(trainings)))
    except TrainingFailed as failed:
        raise SandboxUnavailable(f"the speed could not be measured: {failed.message}") from failed
    return sum(together) / len(together)


def training_seconds(scale: Scale, tokens_per_second: float) -> float:
    """About how long one training with its evaluation takes at that speed."""
    questions = len(scale.tasks) * (scale.task_limit or ITEMS)
    blocks = scale.heldout_blocks + scale.evaluations * QUICK_ROWS + scale.check_truncations + questions
    return (scale.tokens + blocks * scale.context / _READING) / tokens_per_second + _AROUND_SECONDS


async def _begin(child: Child, scale: Scale, corpus: Corpus) -> None:
    header: dict[str, JSON] = {
        "program": baselines()[0].program,
        "seed": 0,
        "sizes": ModelSizes.of(scale, corpus.tokens.vocabulary).header(),
        "plan": asdict(Plan.of(scale)),
        "context": scale.context,
        "device": scale.device,
        "threads": scale.threads,
    }
    await ask(child, "begin", header, {}, expect="ready", timeout=_SECONDS)


async def _train(child: Child, tokens: Array) -> float:
    began = monotonic()
    await ask(child, "train", {}, {"tokens": tokens}, expect="metrics", timeout=_SECONDS)
    return monotonic() - began
