"""The scores of one trained model: held-out loss, benchmarks, and the comparison that finds looking ahead."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from services.engineer.data import heldout_blocks
from services.engineer.evaluation.benchmarks import run_benchmarks
from services.engineer.evaluation.reader import open_reader
from services.engineer.evaluation.truncation import Trial, recheck, trials_of
from services.engineer.training.errors import TrainingFailed
from services.engineer.training.ports import Sandbox
from services.engineer.training.result import Scores, TaskScore
from services.engineer.training.session import Job, Weights

QUICK_BLOCKS = 32
"""Held-out blocks scored on the way; the end is measured on all of the scale's."""
LENGTHS = 8
"""At how many different places held-out blocks are cut for the comparison."""


@dataclass(frozen=True)
class Examination:
    """A trained model and what it was trained for."""

    job: Job
    sandbox: Sandbox
    weights: Weights

    @property
    def blocks(self) -> NDArray[np.int64]:
        """The held-out blocks [blocks, context + 1] of the scale."""
        scale = self.job.scale
        return heldout_blocks(self.job.corpus.heldout, scale.heldout_blocks, scale.context)


async def examine(exam: Examination) -> Scores:
    """Everything, in fresh children. Raises LooksAhead and TrainingFailed where the candidate is at fault."""
    scale, blocks = exam.job.scale, exam.blocks
    random = np.random.default_rng(int(exam.job.identity[:16], 16))
    async with open_reader(exam.job, exam.sandbox, exam.weights) as reader:
        predictions = await reader.predict(blocks)
        losses = _finite(-predictions.log_probs.mean(axis=1, dtype=np.float64))
        trials = trials_of(blocks, predictions, count=scale.check_truncations, lengths=LENGTHS, random=random)
        tasks, asked = await run_benchmarks(reader, random)
    await _recheck(exam, [*trials, *asked], random)
    loss = float(losses.mean())
    return Scores(
        loss=loss,
        loss_stderr=float(losses.std(ddof=1) / math.sqrt(len(losses))),
        bits_per_byte=loss / math.log(2) / exam.job.corpus.heldout_bytes_per_token,
        block_losses=tuple(float(value) for value in losses),
        tasks=tasks,
        benchmark=benchmark_of(tasks, scale.averaged),
    )


async def quick_loss(exam: Examination) -> float:
    """Held-out loss in nats per token on a fixed part of the blocks: a point of the curve."""
    blocks = exam.blocks
    some = blocks[:: max(1, len(blocks) // QUICK_BLOCKS)][:QUICK_BLOCKS]
    async with open_reader(exam.job, exam.sandbox, exam.weights) as reader:
        predictions = await reader.predict(some)
    return float(_finite(-predictions.log_probs.mean(axis=1, dtype=np.float64)).mean())


def benchmark_of(tasks: Sequence[TaskScore], averaged: Sequence[str]) -> float | None:
    """Mean accuracy over the averaged tasks, or None where one of them is missing or there are none."""
    found = {task.task: task.value for task in tasks}
    if not averaged or any(name not in found for name in averaged):
        return None
    return mean(found[name] for name in averaged)


async def _recheck(exam: Examination, trials: Sequence[Trial], random: np.random.Generator) -> None:
    async with open_reader(exam.job, exam.sandbox, exam.weights) as fresh:
        await recheck(fresh, trials, random)


def _finite(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    if np.isfinite(losses).all():
        return losses
    bad = int((~np.isfinite(losses)).sum())
    raise TrainingFailed(
        "not-finite", f"The held-out loss of {bad} of {len(losses)} blocks is not finite.", {"blocks": bad}
    )
