"""Log-probabilities of held-out tokens: the child computes hidden states, the host computes scores from them."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from services.engineer.training.protocol import array, ask, limits_of
from services.engineer.training.result import TrainingFailed
from services.engineer.training.session import Job, Weights
from services.sandbox import JSON, Array, Child, Message, Sandbox

JOB = "services.engineer.evaluation.child:run"
MAX_LOGITS = 1 << 22
"""Number of logits in the memory of one thread."""


@dataclass(frozen=True)
class Predictions:
    """Log-probabilities of target tokens, and whether each is the most likely token."""

    log_probs: NDArray[np.float32]
    greedy: NDArray[np.bool_]


@dataclass(frozen=True)
class Trial:
    """The first tokens of a row, the next token, and its log-probability when the child saw the whole row."""

    tokens: NDArray[np.int64]
    target: int
    log_prob: float


@dataclass(frozen=True)
class Reader:
    """A new child with trained weights. The output matrix [vocabulary, width] stays on the host."""

    child: Child
    job: Job
    head: NDArray[np.float32]
    timeout: float  # seconds for an answer

    async def hidden(self, rows: NDArray[np.int64], training_from: Weights | None = None) -> NDArray[np.float32]:
        """Hidden states [rows, length, width] of tokens [rows, length], read in micro-batches in the given order.

        In evaluation mode, or in training mode with the random generators' states of `training_from`.
        """
        scale, answers = self.job.scale, []
        batch = max(1, scale.micro_batch * scale.context // max(1, rows.shape[1]))
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            tokens = {"tokens": part.astype(np.uint16)}
            arrays = {**tokens, **(training_from or {})} if start == 0 else tokens
            header: dict[str, JSON] = {"training": training_from is not None}
            answer = await ask(self.child, "read", header, arrays, expect="hidden", timeout=self.timeout)
            answers.append(array(answer, "hidden", (*part.shape, scale.width)).astype(np.float32))
        return np.concatenate(answers)

    async def gradients(
        self, rows: NDArray[np.int64], weights: Weights, random: Weights, answers: NDArray[np.bool_] | None = None
    ) -> dict[str, Array]:
        """Gradients by parameter of the mean loss of a batch [rows, context + 1] at these weights.

        `random` may hold the random generators' states; `answers` [rows, context] is the mask of targets that count in
        the loss (default: all).
        """
        scale = self.job.scale
        arrays = {"tokens": rows.astype(np.uint16), **weights, **random}
        if answers is not None:
            arrays["answers"] = answers.astype(np.uint8)
        header: dict[str, JSON] = {"micro_batch": scale.micro_batch}
        answer = await ask(self.child, "gradients", header, arrays, expect="gradients", timeout=self.timeout)
        return answer.arrays

    async def predict(self, rows: NDArray[np.int64]) -> Predictions:
        """Predictions for rows [rows, length + 1]: inputs are all but the last column, targets all but the first."""
        hidden = await self.hidden(rows[:, :-1])
        return await asyncio.to_thread(self.score, hidden, rows[:, 1:])

    def score(self, hidden: NDArray[np.float32], targets: NDArray[np.int64]) -> Predictions:
        """Predictions, in float32, of targets [...] from hidden states [..., width], in the scale's number of threads.

        Raises TrainingFailed("not-finite"): a prediction that is no number could pass for a right one.
        """
        states, flat_targets = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
        size = max(1, MAX_LOGITS // len(self.head))
        parts = [slice(start, start + size) for start in range(0, len(states), size)]
        with ThreadPoolExecutor(self.job.scale.threads) as threads:
            scored = list(threads.map(lambda part: self._score(states[part], flat_targets[part]), parts))
        log_probs, greedy = (np.concatenate(arrays).reshape(targets.shape) for arrays in zip(*scored, strict=True))
        if bad := int((~np.isfinite(log_probs)).sum()):
            text = f"{bad} of {log_probs.size} predictions are not finite."
            raise TrainingFailed("not-finite", text, {"predictions": log_probs.size, "not_finite": bad})
        return Predictions(log_probs, greedy)

    def _score(
        self, states: NDArray[np.float32], targets: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The log-probabilities, and whether each target is the most likely token."""
        with np.errstate(all="ignore"):  # what is not finite is reported by the caller
            logits = states @ self.head.T
            rows = np.arange(len(targets))
            greedy, own = logits.argmax(axis=-1) == targets, logits[rows, targets]
            largest = logits.max(axis=-1)
            logits -= largest[:, None]
            np.exp(logits, out=logits)
            return own - largest - np.log(logits.sum(axis=-1)), greedy


@asynccontextmanager
async def open_reader(job: Job, sandbox: Sandbox, weights: Weights) -> AsyncIterator[Reader]:
    """A new child with `weights`; it ends with the context. Raises TrainingFailed("malformed") without a head."""
    scale = job.scale
    name, shape = "model/embedding.weight" if scale.tied else "model/head.weight", (job.sizes.vocabulary, scale.width)
    head = array(Message("weights", {}, weights), name, shape).astype(np.float32)
    header: dict[str, JSON] = {
        "program": job.program,
        "sizes": asdict(job.sizes),
        "device": scale.device,
        "threads": scale.threads,
        "precision": scale.precision,
    }
    limits = limits_of(scale)
    async with sandbox.child(JOB, limits) as child:
        arrays = {**weights, **await asyncio.to_thread(job.compiler_caches)}
        await ask(child, "begin", header, arrays, expect="ready", timeout=limits.wall_seconds)
        yield Reader(child, job, head, limits.wall_seconds)
