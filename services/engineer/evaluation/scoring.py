"""The scores of one trained model: held-out loss, benchmarks, and the comparison that finds looking ahead.

Two fresh children read the held-out rows, one after the other. Each gets some rows as they are and others whose
continuation, from a secret place on, is other text of the same length; what one child gets whole, the other gets
replaced. A program cannot tell which is which, and it gains by looking ahead only where the continuation is the true
one. That gain is measured, refused where it is more than rounding, and taken off the score in any case. So the score
rests on predictions that could not have seen their target, at every place from the first on.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from services.engineer.data import Corpus, batches, heldout_blocks
from services.engineer.data.corpus import TokenArray, Tokens
from services.engineer.evaluation.benchmarks import run_benchmarks
from services.engineer.evaluation.reader import Reader, Trial, open_reader
from services.engineer.evaluation.trained_tasks import trained_scores
from services.engineer.training.ports import JSON, Sandbox
from services.engineer.training.result import LooksAhead, PartLoss, Scores, TaskScore, TrainingFailed
from services.engineer.training.session import Job, Weights

QUICK_ROWS = 32
"""Rows of training text, not yet trained on, that a point of the curve is measured on."""
EVERY_PLACE = 16
"""The first places are all compared, later ones by a sample."""
MEAN_TOLERANCE, WORST_TOLERANCE, GAIN_TOLERANCE = 0.02, 0.5, 0.003
"""Nats: the mean and the worst change of a log-probability, and the mean gain by the true continuation, that still
count as rounding. Rows of equal length are computed alike, so honest programs stay far below all three."""
MEMORY_TOLERANCE = 0.01
"""Nats: the mean change of predictions at places before which all is the same, by the rows that were read before."""
SHORTENED_TOLERANCE = 0.03
"""The same for the mean change between rows of different lengths, which bfloat16 rounds in another order."""
POSITIONS = (16, 64, 256, 1024, 4096, 16384)
"""Where one part of the context ends and the next begins."""
KINDS = ("letters", "digits", "punctuation", "white space", "other characters")
IMPLAUSIBLE_LOSS, IMPLAUSIBLE_BLOCKS = 0.2, 0.03
"""Nats per token that no model of text reaches, and the share of single blocks that may lie below."""


@dataclass(frozen=True)
class Change:
    """One target predicted with its true continuation in view and without it: log-probabilities in nats.

    `weight` is the number of places of a row that this one stands for.
    """

    place: int
    whole: float
    replaced: float
    weight: float = 1.0

    @property
    def gain(self) -> float:
        """What the true continuation added; NaN and infinities count as a gain without bound."""
        gain = self.whole - self.replaced
        return gain if math.isfinite(gain) else math.inf


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
    """Everything, in two fresh children. Raises LooksAhead and TrainingFailed where the candidate is at fault."""
    scale, blocks = exam.job.scale, exam.blocks
    random = exam.job.corpus.random(f"examination {exam.job.identity}")
    token_losses, losses, tasks = await _two_readings(exam, blocks, random)
    tasks = (*tasks, *await trained_scores(exam.job, exam.sandbox))
    loss = float(losses.mean())
    return Scores(
        loss=loss,
        loss_stderr=float(losses.std(ddof=1) / math.sqrt(len(losses))),
        bits_per_byte=loss / math.log(2) / exam.job.corpus.heldout_bytes_per_token,
        block_losses=tuple(float(value) for value in losses),
        part_losses=part_losses(token_losses, blocks, exam.job.corpus.tokens),
        tasks=tasks,
        benchmark=benchmark_of(tasks, scale.averaged),
    )


async def loss_on(exam: Examination, other: Corpus) -> float:
    """Loss in nats per token on held-out text of another corpus with the same tokens, compared in the same way.

    It has fewer blocks than the scale asks for where the other text is short.
    """
    scale = exam.job.scale
    blocks = min(scale.heldout_blocks, len(other.heldout) // (scale.context + 1))
    job = replace(exam.job, corpus=other, scale=replace(scale, heldout_blocks=blocks))
    elsewhere, random = replace(exam, job=job), other.random(f"examination {job.identity}")
    _, losses, _ = await _two_readings(elsewhere, elsewhere.blocks, random, benchmarks=False)
    return float(losses.mean())


async def next_loss(exam: Examination, step: int) -> float:
    """Loss in nats per token on the batches that come next in training: a point of the curve.

    The training child still lives while this is measured. It gets the very same text in its next steps, so that
    nothing held out is at stake.
    """
    scale = exam.job.scale
    count = -(-QUICK_ROWS // scale.batch)
    order = batches(
        exam.job.corpus.train, batch=scale.batch, context=scale.context, seed=exam.job.seed, first=step, count=count
    )
    rows = np.concatenate(list(order))[:QUICK_ROWS]
    async with open_reader(exam.job, exam.sandbox, exam.weights) as reader:
        predictions = await reader.predict(rows)
    return float(_finite(-predictions.log_probs.mean(axis=1, dtype=np.float64)).mean())


def part_losses(losses: NDArray[np.float32], blocks: NDArray[np.int64], tokens: Tokens) -> tuple[PartLoss, ...]:
    """Where the loss lies: by position in the context, by kind of character, and by whether the row shows the answer.

    A token stands "after a pair seen before" where the two tokens before it came together earlier in its row. Parts
    without tokens are left out.
    """
    targets, context = blocks[:, 1:], losses.shape[1]
    known = np.unique(targets)
    kinds = np.array([_kind(tokens.decode([int(token)])) for token in known])[np.searchsorted(known, targets)]
    edges = [0, *(edge for edge in POSITIONS if edge < context), context]
    positions = np.broadcast_to(np.arange(context), losses.shape)
    parts = {f"tokens {low + 1}-{high}": (positions >= low) & (positions < high) for low, high in pairwise(edges)} | {
        kind: kinds == kind for kind in KINDS
    }
    repeated = np.array([_after_known_pairs(row) for row in blocks])
    parts |= {"after a pair seen before": repeated, "after a new pair": ~repeated}
    return tuple(
        PartLoss(part, float(losses[chosen].mean(dtype=np.float64)), float(chosen.mean()))
        for part, chosen in parts.items()
        if chosen.any()
    )


def _kind(text: str) -> str:
    """Of a token, by its first character that is not white space."""
    first = text.strip()[:1]
    if not first:
        return "white space"
    if not first.isascii():
        return "other characters"
    return "letters" if first.isalpha() else "digits" if first.isdigit() else "punctuation"


def _after_known_pairs(row: NDArray[np.int64]) -> NDArray[np.bool_]:
    """For each target of a row [context + 1], whether the two tokens before it came together earlier in the row."""
    found, seen = np.zeros(len(row) - 1, dtype=np.bool_), set[tuple[int, int]]()
    for place, pair in enumerate(pairwise(row.tolist())):
        if place + 1 < len(found):
            found[place + 1] = pair in seen
        seen.add(pair)
    return found


def benchmark_of(tasks: Sequence[TaskScore], averaged: Sequence[str]) -> float | None:
    """Mean accuracy over the averaged tasks, or None where one of them is missing or there are none."""
    found = {task.task: task.value for task in tasks}
    if not averaged or any(name not in found for name in averaged):
        return None
    return mean(found[name] for name in averaged)


def places_to_compare(context: int, count: int, random: np.random.Generator) -> list[tuple[int, float]]:
    """At most `count` places from 1 to `context` - 1 with their weights: the first ones, and a sample of the rest."""
    first = min(EVERY_PLACE, count // 2, context - 1)
    edges = np.linspace(first + 1, context, max(1, min(count, context - 1) - first) + 1).round().astype(int)
    rest = [(int(random.integers(low, high)), float(high - low)) for low, high in pairwise(edges) if high > low]
    return [*((place, 1.0) for place in range(1, first + 1)), *rest]


def with_other_ends(
    rows: NDArray[np.int64], places: NDArray[np.int64], text: TokenArray, random: np.random.Generator
) -> NDArray[np.int64]:
    """Copies of `rows` whose tokens from each row's place on are those of another passage, never the true next one."""
    replaced = rows.copy()
    width = rows.shape[1]
    for row, place in zip(replaced, places, strict=True):
        for _ in range(100):
            start = int(random.integers(0, len(text) - width))
            if text[start + place] != row[place]:
                break
        row[place:] = text[start + place : start + width]
    return replaced


def gain_of(changes: Sequence[Change]) -> float:
    """The mean gain per token of a row. Raises LooksAhead where it is more than rounding."""
    if not changes:
        return 0.0
    gains, weights = np.array([(change.gain, change.weight) for change in changes]).T
    gain = float((gains * weights).sum() / weights.sum())
    worst = changes[int(np.argmax(np.abs(gains)))]
    size, change = abs(worst.gain), float(np.abs(gains).mean())
    if size <= WORST_TOLERANCE and change <= MEAN_TOLERANCE and gain <= GAIN_TOLERANCE:
        return gain
    evidence: dict[str, JSON] = {
        "length": worst.place,
        "gain_nats": worst.gain if math.isfinite(worst.gain) else None,
        "mean_gain_nats": gain if math.isfinite(gain) else None,
        "mean_change_nats": change if math.isfinite(change) else None,
        "compared": len(changes),
    }
    raise LooksAhead(
        f"The prediction after {worst.place} tokens changes by {size:.2f} nats when the later tokens are replaced "
        f"(mean gain by the true ones {gain:.4f} nats over {len(changes)} places): the score would rest on tokens it "
        "must not see.",
        evidence,
    )


async def recheck(reader: Reader, trials: Sequence[Trial], random: np.random.Generator) -> None:
    """Ask rows again, cut off, in another child and another order. Raises LooksAhead with evidence."""
    groups: dict[int, list[Trial]] = defaultdict(list)
    for index in random.permutation(len(trials)):
        groups[len(trials[index].tokens)].append(trials[index])
    changes: list[Change] = []
    for length, group in groups.items():
        hidden = await reader.hidden(np.stack([trial.tokens for trial in group]))
        again = reader.score(hidden[:, -1], np.array([trial.target for trial in group])).log_probs
        changes += [Change(length, trial.log_prob, float(value)) for trial, value in zip(group, again, strict=True)]
    sizes = [abs(change.gain) for change in changes]
    if sizes and (max(sizes) > WORST_TOLERANCE or mean(sizes) > SHORTENED_TOLERANCE):
        worst = changes[sizes.index(max(sizes))]
        raise LooksAhead(
            f"The prediction after {worst.place} tokens changes by {max(sizes):.2f} nats when the later tokens are "
            f"cut off (mean change {mean(sizes):.3f} nats over {len(sizes)} cuts).",
            {"length": worst.place, "compared": len(sizes)},
        )


async def _two_readings(
    exam: Examination, blocks: NDArray[np.int64], random: np.random.Generator, benchmarks: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.float64], tuple[TaskScore, ...]]:
    """Losses of all tokens; of all blocks, each read whole by one child only, plus the mean gain by looking ahead; the
    benchmarks."""
    scale, corpus = exam.job.scale, exam.job.corpus
    chosen = places_to_compare(scale.context, min(scale.check_truncations, len(blocks)), random)
    compared = random.permutation(len(blocks))[: len(chosen)]
    places = np.array([place for place, _ in chosen])
    replaced = with_other_ends(blocks[compared], places, corpus.train, random)
    by_first = random.random(len(blocks)) < 0.5
    whole = np.empty((len(blocks), scale.context), dtype=np.float32)
    instead = np.empty((len(compared), scale.context), dtype=np.float32)
    tasks: tuple[TaskScore, ...] = ()
    trials: list[Trial] = []
    for first in (True, False):
        own, foreign = np.flatnonzero(by_first == first), np.flatnonzero(by_first[compared] != first)
        inputs = np.concatenate([blocks[own], replaced[foreign]])[:, :-1]
        targets = np.concatenate([blocks[own], blocks[compared[foreign]]])[:, 1:]
        order = random.permutation(len(inputs))
        async with open_reader(exam.job, exam.sandbox, exam.weights) as reader:
            answers = np.empty(targets.shape, dtype=np.float32)
            answers[order] = reader.score(await reader.hidden(inputs[order]), targets[order]).log_probs
            whole[own], instead[foreign] = answers[: len(own)], answers[len(own) :]
            if benchmarks and first:
                tasks, trials = await run_benchmarks(reader, random)
            elif benchmarks:
                await recheck(reader, trials, random)
    # Up to the place, both inputs are the same; a replaced row holds no trace of the token that the last of them is to
    # predict.
    changes = [
        Change(place, float(whole[row, place - 1]), float(instead[index, place - 1]), weight)
        for index, (row, (place, weight)) in enumerate(zip(compared, chosen, strict=True))
    ]
    losses, gain = _finite(-whole.mean(axis=1, dtype=np.float64)), gain_of(changes)
    before = np.arange(scale.context) < places[:, None]
    _require_no_memory(np.abs(whole[compared] - instead)[before])
    _require_plausible(losses)
    return -whole, losses + max(gain, 0.0), tasks


def _require_no_memory(changes: NDArray[np.float32]) -> None:
    """Raises TrainingFailed where what came before a row changes its predictions: rows are to be scored one by one."""
    change = float(changes.mean(dtype=np.float64))
    if change <= MEMORY_TOLERANCE:
        return
    text = (
        f"The same beginnings of rows, read after other rows in another process, are predicted otherwise by "
        f"{change:.3f} nats on average: keep nothing from call to call in evaluation mode."
    )
    raise TrainingFailed("remembers", text, {"mean_change_nats": change if math.isfinite(change) else None})


def _require_plausible(losses: NDArray[np.float64]) -> None:
    """Raises TrainingFailed for losses that no model of text has: it must have known the text."""
    low = float((losses < IMPLAUSIBLE_LOSS).mean())
    if losses.mean() >= IMPLAUSIBLE_LOSS and low <= IMPLAUSIBLE_BLOCKS:
        return
    text = (
        f"The held-out loss is {losses.mean():.3f} nats per token, and {low:.0%} of the blocks lie below "
        f"{IMPLAUSIBLE_LOSS}: no model of text predicts so well, so it knows the text."
    )
    raise TrainingFailed("implausible", text, {"loss": float(losses.mean()), "blocks_below": low})


def _finite(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    if np.isfinite(losses).all():
        return losses
    bad = int((~np.isfinite(losses)).sum())
    raise TrainingFailed(
        "not-finite", f"The held-out loss of {bad} of {len(losses)} blocks is not finite.", {"blocks": bad}
    )
