"""The scores of one trained model: held-out loss, benchmarks, and the detection of look-ahead.

Two new children read the held-out rows, one after the other. Each gets some rows unchanged, and others whose tokens
from a secret position on are replaced by other text; each row is unchanged in one child and may be replaced in the
other. A program cannot distinguish them, and gains by look-ahead only where the continuation is the true one. This gain
is measured, rejected if it exceeds rounding, and otherwise subtracted from the score.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from services.engineer.data import Corpus, heldout_blocks
from services.engineer.data.corpus import TokenArray, Tokens
from services.engineer.evaluation.benchmarks import run_benchmarks
from services.engineer.evaluation.reader import Reader, Trial, open_reader
from services.engineer.evaluation.tasks import TRAINED_NAMES
from services.engineer.evaluation.trained_tasks import TASKS, score_of, train_on
from services.engineer.training.result import LooksAhead, PartLoss, Scores, TaskScore, TrainingFailed, benchmark_of
from services.engineer.training.session import Job, Weights
from services.sandbox import JSON, Sandbox

QUICK_ROWS = 32
"""Rows of training text, not yet trained on, for one point of the curve."""
FIRST_POSITIONS = 16
"""The first positions are all compared, later ones by a sample."""
MEAN_TOLERANCE, WORST_TOLERANCE, GAIN_TOLERANCE = 0.02, 0.5, 0.003
"""Limits in nats on rounding: the mean and the worst change of a log-probability, and the mean gain by the true
continuation. Rows of equal length are computed alike, so honest programs stay far below."""
MEMORY_TOLERANCE = 0.01
"""Limit in nats on the mean change of predictions due to rows that were read before."""
SHORTENED_TOLERANCE = 0.03
"""Limit in nats on the mean change between rows of different lengths, which bfloat16 rounds differently."""
POSITIONS = (16, 64, 256, 1024, 4096, 16384)
"""Boundaries between the parts of the context."""
KINDS = ("letters", "digits", "punctuation", "white space", "other characters")
IMPLAUSIBLE_LOSS, IMPLAUSIBLE_BLOCKS = 0.2, 0.03
"""Nats per token that no model of text reaches, and the permitted share of blocks below."""


@dataclass(frozen=True)
class Change:
    """Log-probabilities in nats of one target, with the true continuation in the input and without it."""

    position: int
    original: float
    replaced: float
    weight: float = 1.0  # the number of positions of a row that this one represents

    @property
    def gain(self) -> float:
        """The gain by the true continuation; infinite where a log-probability is not finite."""
        gain = self.original - self.replaced
        return gain if math.isfinite(gain) else math.inf


async def examine(job: Job, sandbox: Sandbox, weights: Weights) -> Scores:
    """All scores of trained weights, from two new children. Raises LooksAhead and TrainingFailed."""
    scale, corpus = job.scale, job.corpus
    blocks = heldout_blocks(corpus.heldout, scale.heldout_blocks, scale.context)
    token_losses, losses, tasks = await _read_twice(job, sandbox, weights, blocks)
    tasks = (*tasks, *await trained_scores(job, sandbox))
    loss = float(losses.mean())
    return Scores(
        loss=loss,
        loss_stderr=float(losses.std(ddof=1) / math.sqrt(len(losses))),
        bits_per_byte=loss / math.log(2) / corpus.heldout_bytes_per_token,
        block_losses=tuple(float(value) for value in losses),
        part_losses=part_losses(token_losses, blocks, corpus.tokens),
        scores=tasks,
        benchmark=benchmark_of(tasks, scale.averaged),
    )


async def trained_scores(job: Job, sandbox: Sandbox, steps: int = 200) -> tuple[TaskScore, ...]:
    """The accuracies of small models of the job's program in the scale's tasks `trained-…`. Raises as `examine`."""
    scores = []
    for name in job.scale.tasks:
        if name in TRAINED_NAMES:
            task = TASKS[name.removeprefix("trained-")]
            result, model = await train_on(
                task, job.program, job.seed, sandbox, steps=steps, evaluations=1, wall_seconds=job.scale.wall_seconds
            )
            async with open_reader(model.job, sandbox, model.weights) as reader:
                await recheck(reader, model.trials, job.corpus.random(f"{name} {job.identity}"))
            scores.append(score_of(name, result))
    return tuple(scores)


async def loss_on(job: Job, sandbox: Sandbox, weights: Weights, other: Corpus) -> float:
    """Loss in nats per token on held-out text of another corpus with the same tokens, with look-ahead detection."""
    scale = job.scale
    count = min(scale.heldout_blocks, len(other.heldout) // (scale.context + 1))
    job = replace(job, corpus=other, scale=replace(scale, heldout_blocks=count))
    blocks = heldout_blocks(other.heldout, count, scale.context)
    _, losses, _ = await _read_twice(job, sandbox, weights, blocks, benchmarks=False)
    return float(losses.mean())


async def next_loss(job: Job, sandbox: Sandbox, weights: Weights, step: int) -> float:
    """Loss in nats per token on the next training batches, for a point of the curve.

    The training child is still running, so held-out text is not used here; it gets the same batches in its next steps.
    """
    count = -(-QUICK_ROWS // job.scale.batch)
    rows = np.concatenate(list(job.batches(step, count)))[:QUICK_ROWS]
    async with open_reader(job, sandbox, weights) as reader:
        predictions = await reader.predict(rows)
    return float(-predictions.log_probs.mean(dtype=np.float64))


def part_losses(losses: NDArray[np.float32], blocks: NDArray[np.int64], tokens: Tokens) -> tuple[PartLoss, ...]:
    """Mean losses by position in the context, by kind of character, and by whether the preceding pair is repeated.

    A token is "after a pair seen before" if the two tokens before it also occur together earlier in its row. Empty
    parts are omitted.
    """
    targets, context = blocks[:, 1:], losses.shape[1]
    vocabulary = np.unique(targets)
    by_token = np.array([_kind(tokens.decode([int(token)])) for token in vocabulary])
    kinds = by_token[np.searchsorted(vocabulary, targets)]
    edges = [0, *(edge for edge in POSITIONS if edge < context), context]
    positions = np.broadcast_to(np.arange(context), losses.shape)
    masks = {f"tokens {low + 1}-{high}": (positions >= low) & (positions < high) for low, high in pairwise(edges)}
    masks |= {kind: kinds == kind for kind in KINDS}
    repeated = np.array([_after_repeated_pairs(row) for row in blocks])
    masks |= {"after a pair seen before": repeated, "after a new pair": ~repeated}
    return tuple(
        PartLoss(part, float(losses[mask].mean(dtype=np.float64)), float(mask.mean()))
        for part, mask in masks.items()
        if mask.any()
    )


def _kind(text: str) -> str:
    """The kind of a token, by its first character that is not white space."""
    first = text.strip()[:1]
    if not first:
        return "white space"
    if not first.isascii():
        return "other characters"
    return "letters" if first.isalpha() else "digits" if first.isdigit() else "punctuation"


def _after_repeated_pairs(row: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each target of a row [context + 1], whether the two tokens before it also occur together earlier."""
    repeated, pairs = np.zeros(len(row) - 1, dtype=np.bool_), set[tuple[int, int]]()
    for position, pair in enumerate(pairwise(row.tolist())):
        if position + 1 < len(repeated):
            repeated[position + 1] = pair in pairs
        pairs.add(pair)
    return repeated


def sample_positions(context: int, count: int, random: np.random.Generator) -> list[tuple[int, float]]:
    """At most `count` positions from 1 to `context` - 1 with weights: the first ones, and a sample of the rest."""
    first = min(FIRST_POSITIONS, count // 2, context - 1)
    edges = np.linspace(first + 1, context, max(1, min(count, context - 1) - first) + 1).round().astype(int)
    rest = [(int(random.integers(low, high)), float(high - low)) for low, high in pairwise(edges) if high > low]
    return [*((position, 1.0) for position in range(1, first + 1)), *rest]


def with_other_ends(
    rows: NDArray[np.int64], positions: NDArray[np.int64], text: TokenArray, random: np.random.Generator
) -> NDArray[np.int64]:
    """Copies of `rows`, with the tokens from each row's position on replaced by a passage that begins differently."""
    replaced = rows.copy()
    width = rows.shape[1]
    for row, position in zip(replaced, positions, strict=True):
        for _ in range(100):
            start = int(random.integers(0, len(text) - width))
            if text[start + position] != row[position]:
                break
        row[position:] = text[start + position : start + width]
    return replaced


def gain_of(changes: Sequence[Change]) -> float:
    """The weighted mean gain. Raises LooksAhead if it exceeds rounding."""
    if not changes:
        return 0.0
    gains, weights = np.array([(change.gain, change.weight) for change in changes]).T
    gain = float((gains * weights).sum() / weights.sum())
    worst = changes[int(np.argmax(np.abs(gains)))]
    size, change = abs(worst.gain), float(np.abs(gains).mean())
    if size <= WORST_TOLERANCE and change <= MEAN_TOLERANCE and gain <= GAIN_TOLERANCE:
        return gain
    evidence: dict[str, JSON] = {
        "length": worst.position,
        "gain_nats": worst.gain if math.isfinite(worst.gain) else None,
        "mean_gain_nats": gain if math.isfinite(gain) else None,
        "mean_change_nats": change if math.isfinite(change) else None,
        "compared": len(changes),
    }
    raise LooksAhead(
        f"The prediction after {worst.position} tokens changes by {size:.2f} nats when the later tokens are replaced "
        f"(mean gain by the true ones {gain:.4f} nats over {len(changes)} places): the score would depend on tokens "
        "it must not see.",
        evidence,
    )


async def recheck(reader: Reader, trials: Sequence[Trial], random: np.random.Generator) -> None:
    """Repeat predictions on truncated rows, in another child and another order. Raises LooksAhead."""
    groups: dict[int, list[Trial]] = defaultdict(list)
    for index in random.permutation(len(trials)):
        groups[len(trials[index].tokens)].append(trials[index])
    changes: list[Change] = []
    for length, group in groups.items():
        hidden = await reader.hidden(np.stack([trial.tokens for trial in group]))
        repeated = reader.score(hidden[:, -1], np.array([trial.target for trial in group])).log_probs
        changes += [Change(length, trial.log_prob, float(value)) for trial, value in zip(group, repeated, strict=True)]
    sizes = [abs(change.gain) for change in changes]
    if sizes and (max(sizes) > WORST_TOLERANCE or mean(sizes) > SHORTENED_TOLERANCE):
        worst = changes[sizes.index(max(sizes))]
        raise LooksAhead(
            f"The prediction after {worst.position} tokens changes by {max(sizes):.2f} nats when the later tokens are "
            f"cut off (mean change {mean(sizes):.3f} nats over {len(sizes)} cuts).",
            {"length": worst.position, "compared": len(sizes)},
        )


async def _read_twice(
    job: Job, sandbox: Sandbox, weights: Weights, blocks: NDArray[np.int64], benchmarks: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.float64], tuple[TaskScore, ...]]:
    """The losses of all tokens, the mean losses of all blocks plus the look-ahead gain, and the benchmarks.

    Each unreplaced block is read by one child only.
    """
    scale, corpus = job.scale, job.corpus
    random = corpus.random(f"examination {job.identity}")
    sample = sample_positions(scale.context, min(scale.check_truncations, len(blocks)), random)
    compared = random.permutation(len(blocks))[: len(sample)]
    positions = np.array([position for position, _ in sample])
    replaced_blocks = with_other_ends(blocks[compared], positions, corpus.train, random)
    by_first = random.random(len(blocks)) < 0.5
    original = np.empty((len(blocks), scale.context), dtype=np.float32)
    replaced = np.empty((len(compared), scale.context), dtype=np.float32)
    tasks: tuple[TaskScore, ...] = ()
    trials: list[Trial] = []
    for first in (True, False):
        original_rows, replaced_rows = np.flatnonzero(by_first == first), np.flatnonzero(by_first[compared] != first)
        inputs = np.concatenate([blocks[original_rows], replaced_blocks[replaced_rows]])[:, :-1]
        targets = np.concatenate([blocks[original_rows], blocks[compared[replaced_rows]]])[:, 1:]
        order = random.permutation(len(inputs))
        async with open_reader(job, sandbox, weights) as reader:
            log_probs = np.empty(targets.shape, dtype=np.float32)
            hidden = await reader.hidden(inputs[order])
            scored = await asyncio.to_thread(reader.score, hidden, targets[order])
            log_probs[order] = scored.log_probs
            original[original_rows], replaced[replaced_rows] = np.split(log_probs, [len(original_rows)])
            if benchmarks and first:
                tasks, trials = await run_benchmarks(reader, random)
            elif benchmarks:
                await recheck(reader, trials, random)
    # Inputs are equal before the position, and a replaced row does not contain the target there.
    changes = [
        Change(position, float(original[row, position - 1]), float(replaced[index, position - 1]), weight)
        for index, (row, (position, weight)) in enumerate(zip(compared, sample, strict=True))
    ]
    losses, gain = -original.mean(axis=1, dtype=np.float64), gain_of(changes)
    before = np.arange(scale.context) < positions[:, None]
    require_no_memory(np.abs(original[compared] - replaced), before)
    _require_plausible(losses)
    return -original, losses + max(gain, 0.0), tasks


def require_no_memory(changes: NDArray[np.float32], before: NDArray[np.bool_]) -> None:
    """Raises TrainingFailed if earlier rows change the predictions of a row, on the mean over positions.

    Changes [rows, context] count where `before` the replaced end. Few rows reach late positions, where a mean over all
    of them would hide what is remembered.
    """
    counts = before.sum(axis=0)
    means = (changes * before).sum(axis=0, dtype=np.float64)[counts > 0] / counts[counts > 0]
    change = float(means.mean()) if means.size else 0.0
    if change <= MEMORY_TOLERANCE:
        return
    text = (
        f"Predictions for the same beginnings of rows change by {change:.3f} nats on average with the rows read before "
        "them: keep no state between calls in evaluation mode."
    )
    raise TrainingFailed("remembers", text, {"mean_change_nats": change})


def _require_plausible(losses: NDArray[np.float64]) -> None:
    """Raises TrainingFailed for losses that only a model that knows the text can reach."""
    low = float((losses < IMPLAUSIBLE_LOSS).mean())
    if losses.mean() >= IMPLAUSIBLE_LOSS and low <= IMPLAUSIBLE_BLOCKS:
        return
    text = (
        f"The held-out loss is {losses.mean():.3f} nats per token, and {low:.0%} of the blocks are below "
        f"{IMPLAUSIBLE_LOSS}: no model of text predicts so well, so it must know the text."
    )
    raise TrainingFailed("implausible", text, {"loss": float(losses.mean()), "blocks_below": low})
