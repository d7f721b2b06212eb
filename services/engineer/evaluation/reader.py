"""Log-probabilities of held-out tokens: the child reads, the host scores."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from services.engineer.training.dialogue import array, ask, limits_of
from services.engineer.training.ports import JSON, Array, Child, Sandbox
from services.engineer.training.session import Job, Weights

GUEST = "services.engineer.evaluation.guest:run"
_LOGITS_AT_ONCE = 1 << 24
"""Logits held in memory at a time, as a number of elements."""


@dataclass(frozen=True)
class Predictions:
    """What a model thinks of rows of tokens: log-probabilities of the next token, and whether it is the likeliest."""

    log_probs: NDArray[np.float32]
    greedy: NDArray[np.bool_]


@dataclass(frozen=True)
class Trial:
    """The first tokens of a row that was asked, the token after them, and the log-probability it got with the rest."""

    tokens: NDArray[np.int64]
    target: int
    log_prob: float


@dataclass(frozen=True)
class Reader:
    """One fresh child with trained weights. The head's matrix [vocabulary, width] stays on this side."""

    child: Child
    job: Job
    head: torch.Tensor

    async def hidden(self, rows: NDArray[np.int64], training_from: Weights | None = None) -> NDArray[np.float32]:
        """Hidden states [rows, length, width] of tokens [rows, length], a micro-batch at a time, in the given order.

        In evaluation mode, or in training mode with the generators in the state that `training_from` holds.
        """
        scale, answers = self.job.scale, []
        at_once = max(1, scale.micro_batch * scale.context // max(1, rows.shape[1]))
        for start in range(0, len(rows), at_once):
            part = rows[start : start + at_once]
            tokens = {"tokens": part.astype(np.uint16)}
            arrays = {**tokens, **(training_from or {})} if start == 0 else tokens
            header: dict[str, JSON] = {"training": training_from is not None}
            answer = await ask(self.child, "read", header, arrays, expect="hidden", timeout=scale.wall_seconds)
            answers.append(array(answer, "hidden", (*part.shape, scale.width)).astype(np.float32))
        return np.concatenate(answers)

    async def gradients(self, rows: NDArray[np.int64], weights: Weights, random: Weights) -> dict[str, Array]:
        """Gradients by parameter of the mean loss of a batch [rows, context + 1] at these weights.

        `random` is the state of the generators to go on from, where it is given.
        """
        scale = self.job.scale
        arrays = {"tokens": rows.astype(np.uint16), **weights, **random}
        header: dict[str, JSON] = {"micro_batch": scale.micro_batch}
        return (
            await ask(self.child, "gradients", header, arrays, expect="gradients", timeout=scale.wall_seconds)
        ).arrays

    async def predict(self, rows: NDArray[np.int64]) -> Predictions:
        """Score rows [rows, length + 1]: the child sees all but the last column, targets are all but the first."""
        hidden = await self.hidden(rows[:, :-1])
        return self.score(hidden, rows[:, 1:])

    def score(self, hidden: NDArray[np.float32], targets: NDArray[np.int64]) -> Predictions:
        """Log-probabilities, in float32, of targets [...] under hidden states [..., width]."""
        flat, wanted = torch.from_numpy(hidden).flatten(0, -2), torch.from_numpy(targets).flatten()
        log_probs, greedy = [], []
        size = max(1, _LOGITS_AT_ONCE // len(self.head))
        for part, target in zip(torch.split(flat, size), torch.split(wanted, size), strict=True):
            logits = part @ self.head.T
            chosen = logits.gather(-1, target[:, None])[:, 0]
            log_probs.append(chosen - logits.logsumexp(-1))
            greedy.append(logits.argmax(-1) == target)
        shape = targets.shape
        return Predictions(torch.cat(log_probs).view(shape).numpy(), torch.cat(greedy).view(shape).numpy())


@asynccontextmanager
async def open_reader(job: Job, sandbox: Sandbox, weights: Weights) -> AsyncIterator[Reader]:
    """A fresh child loaded with `weights`; it ends with the context."""
    scale = job.scale
    header: dict[str, JSON] = {
        "program": job.program,
        "sizes": job.sizes.header(),
        "device": scale.device,
        "threads": scale.threads,
        "precision": scale.precision,
    }
    async with sandbox.child(GUEST, limits_of(scale)) as child:
        await ask(child, "begin", header, weights, expect="ready", timeout=scale.wall_seconds)
        yield Reader(child, job, head_of(weights, scale.tied))


def head_of(weights: Weights, tied: bool) -> torch.Tensor:
    """The output matrix [vocabulary, width] among trained weights, in float32."""
    found: Array = weights["model/embedding.weight" if tied else "model/head.weight"]
    return torch.from_numpy(np.array(found, dtype=np.float32))
