"""Synthetic tasks on which a small model is trained: recall, copying, compression, hops and arithmetic.

A language model trained for seconds answers questions about its context at chance level; trained on one of these tasks,
it shows the abilities of its mixer. Only answer tokens count, in the loss and in the accuracy. The host samples the
data and computes the accuracy; the training child never sees the answers of the test rows.

After 400 steps of 32 rows, DeltaNet at `mini`'s width copies 0.89 of the answers, but stays at chance in `mqar` (0.002)
and reaches 0.06 in `noisy-recall` after 300: recall over these vocabularies needs more steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from services.engineer.data.corpus import Corpus
from services.engineer.evaluation.reader import Trial, open_reader
from services.engineer.scales import load_scale
from services.engineer.training.audit import AdamW
from services.engineer.training.protocol import ask, limits_of, names, state
from services.engineer.training.result import TaskScore
from services.engineer.training.session import Job, Weights
from services.sandbox import Sandbox

JOB = "services.engineer.training.child:run"
THRESHOLD = 0.9
TEST_ROWS = 128
TRIALS = 64
"""Test rows with one prediction to repeat."""
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Sampler = Callable[[np.random.Generator, int], tuple[Rows, Mask]]


@dataclass(frozen=True)
class Task:
    """`sample(random, rows)` returns tokens [rows, length + 1] and a mask [rows, length] of the targets that count."""

    name: str
    vocabulary: int
    chance: float  # the accuracy of the best constant answer
    length: int
    sample: Sampler


@dataclass(frozen=True)
class TaskResult:
    """The result of a task with one seed."""

    task: str
    seed: int
    accuracy: float  # at the end, over all answers
    reached: int | None  # the first measured step with an accuracy of 0.9
    curve: tuple[tuple[int, float], ...]  # steps and accuracies
    cpu_seconds: float  # of the training child


@dataclass(frozen=True)
class _Tokens:
    """Token numbers written as decimal text."""

    vocabulary: int
    boundary: int = 0

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(str(token) for token in tokens)


@dataclass(frozen=True)
class TrainedModel:
    """A model trained on a task, with predictions that can be repeated without the rest of their row."""

    job: Job
    weights: Weights
    trials: tuple[Trial, ...]


async def train_on(
    task: Task, program: str, seed: int, sandbox: Sandbox, *,
    steps: int = 200, evaluations: int = 5, wall_seconds: float | None = None,
) -> tuple[TaskResult, TrainedModel]:  # fmt: skip
    """Train from `seed` on newly sampled rows, and measure the accuracy on test rows. Raises TrainingFailed.

    The time limit is that of scale `mini`, or `wall_seconds`. The child computes gradients only and the optimiser runs
    here, so that a program can make neither more nor larger steps. The program's buffers keep their initial values.
    """
    overrides = {
        "context": str(task.length), "batch": "32", "micro_batch": "32", "steps": str(steps), "tasks": "",
        "averaged": "", "learning_rate": "0.004",
    }  # fmt: skip
    scale = load_scale("mini", overrides)
    if wall_seconds is not None:
        scale = replace(scale, wall_seconds=wall_seconds)
    nothing = np.zeros(0, dtype=np.uint16)
    corpus = Corpus(
        task.name, _Tokens(task.vocabulary), nothing, nothing, nothing, 1.0, task.name, secret=task.name.encode()
    )
    job = Job(program, seed, scale, corpus)
    limits = limits_of(scale)
    async with sandbox.child(JOB, limits) as child:
        ready = await ask(child, "begin", job.header(), {}, expect="ready", timeout=limits.wall_seconds)
        untrained = await ask(child, "weights", {}, {}, expect="weights", timeout=limits.wall_seconds)
    weights = dict(state(untrained, scale))
    optimiser = AdamW.resumed(job, weights, names(ready, "parameters"), steps=0)
    random = np.random.default_rng([seed, 1])
    test = task.sample(np.random.default_rng([seed, 2]), TEST_ROWS)
    measured = {steps * part // evaluations for part in range(1, evaluations + 1)}
    curve, seconds, trials = list[tuple[int, float]](), 0.0, tuple[Trial, ...]()
    async with open_reader(job, sandbox, weights) as reader:
        for step in range(steps):
            tokens, mask = task.sample(random, scale.batch)
            start = reader.child.usage().cpu_seconds
            gradients = await reader.gradients(tokens, optimiser.weights(), {}, mask)
            seconds += reader.child.usage().cpu_seconds - start
            optimiser.step(step, gradients)
            if step + 1 in measured:
                weights |= optimiser.weights()
                accuracy, trials = await _accuracy(job, sandbox, weights, *test)
                curve.append((step + 1, accuracy))
    reached = next((step for step, accuracy in curve if accuracy >= THRESHOLD), None)
    result = TaskResult(task.name, seed, curve[-1][1], reached, tuple(curve), seconds)
    return result, TrainedModel(job, weights, trials)


def score_of(name: str, result: TaskResult) -> TaskScore:
    """A result as the score of a scale's task."""
    task = TASKS[result.task]
    answers = int(task.sample(np.random.default_rng([result.seed, 2]), TEST_ROWS)[1].sum())
    error = math.sqrt(result.accuracy * (1 - result.accuracy) / answers)
    return TaskScore(name, "acc", result.accuracy, error, answers, chance=task.chance)


async def _accuracy(
    job: Job, sandbox: Sandbox, weights: Weights, tokens: Rows, mask: Mask
) -> tuple[float, tuple[Trial, ...]]:
    """The share of correct answers, and the prediction of one answer in each of the first rows."""
    async with open_reader(job, sandbox, weights) as reader:
        predictions = await reader.predict(tokens)
    random, trials = np.random.default_rng(), list[Trial]()  # unpredictable for the program
    for row in range(TRIALS):
        position = int(random.choice(np.flatnonzero(mask[row])))
        head, target = tokens[row, : position + 1], int(tokens[row, position + 1])
        trials.append(Trial(head, target, float(predictions.log_probs[row, position])))
    return float(predictions.greedy[mask].mean()), tuple(trials)


def _recall(pairs: int, vocabulary: int, motif: int = 1, noise: float = 0.0) -> tuple[int, Sampler]:
    """Key–value pairs, then every key again in another order: its value is the answer.

    Keys are `motif` tokens long. A share `noise` of tokens from a separate range is inserted between the pairs.
    """
    pair_length = motif + 1
    extra = round(noise * pairs * pair_length / (1 - noise))
    length = 2 * pairs * pair_length + extra
    third = vocabulary // 3

    def sample(random: np.random.Generator, rows: int) -> tuple[Rows, Mask]:
        tokens = np.zeros((rows, length + 1), dtype=np.int64)
        mask = np.zeros((rows, length), dtype=np.bool_)
        for row in range(rows):
            keys = random.choice(third, size=(pairs, motif), replace=False)
            values = third + random.integers(third, size=(pairs, 1))
            table = np.concatenate([keys, values], axis=1)
            gaps = np.sort(random.integers(pairs + 1, size=extra))
            first = np.insert(table.reshape(-1), gaps * pair_length, 2 * third + random.integers(third, size=extra))
            queries = table[random.permutation(pairs)].reshape(-1)
            tokens[row, :length] = np.concatenate([first, queries])
            answers = len(first) + np.arange(pairs) * pair_length + motif
            mask[row, answers - 1] = True  # targets are shifted by one position
        return tokens, mask

    return length, sample


def _copying(count: int, alphabet: int) -> tuple[int, Sampler]:
    """Random symbols, a separator, and the symbols again, all of which the state has to store."""
    length = 2 * count + 1

    def sample(random: np.random.Generator, rows: int) -> tuple[Rows, Mask]:
        symbols = 1 + random.integers(alphabet, size=(rows, count))
        zeros = np.zeros((rows, 1), dtype=np.int64)  # the separator, and the end
        mask = np.zeros((rows, length), dtype=np.bool_)
        mask[:, count : 2 * count] = True
        return np.concatenate([symbols, zeros, symbols, zeros], axis=1), mask

    return length, sample


def _compression(alphabet: int, length: int, noise: float) -> tuple[int, Sampler]:
    """The output of a source that each row draws anew: a symbol is a function of the two before it, or random.

    A share `noise` of the symbols is random. The answers are the others whose context has occurred before, which is all
    that a compressor of the row could save. After the tasks of "compression" of MAD (arXiv:2403.17844) and of
    in-context languages (arXiv:2401.12973).
    """

    def sample(random: np.random.Generator, rows: int) -> tuple[Rows, Mask]:
        successor = random.integers(alphabet, size=(rows, alphabet * alphabet))
        tokens = random.integers(alphabet, size=(rows, length + 1))
        jumps = random.random((rows, length + 1)) < noise
        mask = np.zeros((rows, length), dtype=np.bool_)
        seen = np.zeros((rows, alphabet * alphabet), dtype=np.bool_)
        every = np.arange(rows)
        for position in range(2, length + 1):
            context = tokens[:, position - 2] * alphabet + tokens[:, position - 1]
            follows = ~jumps[:, position]
            tokens[follows, position] = successor[every, context][follows]
            mask[:, position - 1] = follows & seen[every, context]
            seen[every, context] |= follows
        return tokens, mask

    return length, sample


def _hops(nodes: int, max_hops: int, questions: int) -> tuple[int, Sampler]:
    """The edges of a cycle in random order, then questions: the node that a number of hops from a node leads to.

    After "Depo" of the Physics of Language Models 4.1 (arXiv:2512.17351), smaller.
    """
    length = 2 * nodes + 3 * questions

    def sample(random: np.random.Generator, rows: int) -> tuple[Rows, Mask]:
        tokens = np.zeros((rows, length + 1), dtype=np.int64)
        mask = np.zeros((rows, length), dtype=np.bool_)
        for row in range(rows):
            cycle = random.permutation(nodes)
            successor = np.empty(nodes, dtype=np.int64)
            successor[cycle] = np.roll(cycle, -1)
            sources = random.permutation(nodes)
            tokens[row, : 2 * nodes] = np.stack([sources, successor[sources]], axis=1).reshape(-1)
            for start in range(2 * nodes, length, 3):
                node, hops = int(random.integers(nodes)), int(random.integers(1, max_hops + 1))
                goal = node
                for _ in range(hops):
                    goal = int(successor[goal])
                tokens[row, start : start + 3] = (nodes + hops, node, goal)
                mask[row, start + 1] = True
        return tokens, mask

    return length, sample


def _arithmetic(terms: int, modulus: int, problems: int) -> tuple[int, Sampler]:
    """Chains of + and × modulo a prime, evaluated from left to right, each followed by its value.

    After "Mano" of the Physics of Language Models 4.1 (arXiv:2512.17351), smaller and without nesting. A product is
    often zero, which is thus the answer to 0.23 of chains of three terms modulo seven.
    """
    problem_length = 2 * terms + 1
    length = problem_length * problems
    plus, times, equals = modulus, modulus + 1, modulus + 2

    def sample(random: np.random.Generator, rows: int) -> tuple[Rows, Mask]:
        numbers = random.integers(modulus, size=(rows, problems, terms))
        adds = random.integers(2, size=(rows, problems, terms - 1)) == 1
        value = numbers[..., 0]
        for term in range(1, terms):
            right = numbers[..., term]
            value = np.where(adds[..., term - 1], value + right, value * right) % modulus
        parts = np.empty((rows, problems, problem_length), dtype=np.int64)
        parts[..., 0 : 2 * terms : 2] = numbers
        parts[..., 1 : 2 * terms - 1 : 2] = np.where(adds, plus, times)
        parts[..., 2 * terms - 1], parts[..., 2 * terms] = equals, value
        tokens = np.concatenate([parts.reshape(rows, length), np.zeros((rows, 1), dtype=np.int64)], axis=1)
        mask = np.zeros((rows, length), dtype=np.bool_)
        mask[:, problem_length - 2 :: problem_length] = True
        return tokens, mask

    return length, sample


TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("mqar", 1536, 1 / 512, *_recall(16, 1536)),
        Task("fuzzy-recall", 96, 1 / 32, *_recall(8, 96, motif=3)),
        Task("noisy-recall", 192, 1 / 64, *_recall(16, 192, noise=0.2)),
        Task("copying", 17, 1 / 16, *_copying(32, 16)),
        Task("compression", 8, 1 / 8, *_compression(8, 96, 0.1)),
        Task("hops", 32, 1 / 16, *_hops(16, 4, 16)),
        Task("arithmetic", 16, 0.23, *_arithmetic(3, 7, 12)),
    )
}
"""All tasks, with lengths from 64 to 96."""
