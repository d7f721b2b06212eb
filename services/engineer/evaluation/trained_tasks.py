"""Small tasks that a model is trained on, freshly sampled: recall, copying, hops and arithmetic.

A language model of a few seconds answers questions about its context by chance; the same model trained on one such
task shows what its mixer can do. Only answer tokens count, in the loss and in the accuracy. The data come from the host
and the accuracy is computed here; the training child sees the answers of what it trains on and no others.

DeltaNet at `mini`'s width copies 0.89 of the answers after 400 steps of 32 rows, but recalls none in `mqar` (0.002,
chance) and hardly any in `noisy-recall` (0.06 after 300): recall over these vocabularies needs more steps than that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from services.engineer.data.corpus import Corpus
from services.engineer.evaluation.reader import open_reader
from services.engineer.evaluation.tasks import TRAINED_NAMES
from services.engineer.scales import load_scale
from services.engineer.training.dialogue import array, ask, limits_of
from services.engineer.training.ports import JSON, Array, Sandbox
from services.engineer.training.result import TaskScore
from services.engineer.training.session import Job, Weights
from services.engineer.training.trainer import Plan

GUEST = "services.engineer.training.guest:run"
THRESHOLD = 0.9
TEST_ROWS = 128
Rows = NDArray[np.int64]
Marks = NDArray[np.bool_]
Sampler = Callable[[np.random.Generator, int], tuple[Rows, Marks]]


@dataclass(frozen=True)
class Task:
    """`sample(random, rows)` gives tokens [rows, length + 1] and which of the last `length` of them are answers."""

    name: str
    vocabulary: int
    length: int
    sample: Sampler


@dataclass(frozen=True)
class TaskResult:
    """`accuracy` over all answers at the end, `reached` the first measured step with 90 % of them right, None without
    one; `curve` holds (step, accuracy). Seconds are the training child's CPU time."""

    task: str
    seed: int
    accuracy: float
    reached: int | None
    curve: tuple[tuple[int, float], ...]
    cpu_seconds: float


@dataclass(frozen=True)
class _Tokens:
    """Numbers that stand for themselves."""

    vocabulary: int
    boundary: int = 0

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(str(token) for token in tokens)


async def train_on(
    task: Task, program: str, seed: int, sandbox: Sandbox, *, steps: int = 200, evaluations: int = 5, rate: float = 4e-3
) -> TaskResult:
    """Train from `seed` on fresh rows of the task and measure how many answers of unseen rows are right.

    Raises TrainingFailed where the candidate is at fault.
    """
    overrides = {
        "context": str(task.length), "batch": "32", "micro_batch": "32", "steps": str(steps), "tasks": "",
        "averaged": "", "learning_rate": str(rate),
    }  # fmt: skip
    scale = load_scale("mini", overrides)
    nothing = np.zeros(0, dtype=np.uint16)
    corpus = Corpus(
        task.name, _Tokens(task.vocabulary), nothing, nothing, nothing, 1.0, task.name, secret=task.name.encode()
    )
    job = Job(program, seed, scale, corpus)
    header: dict[str, JSON] = {
        "program": program, "seed": seed, "sizes": job.sizes.header(), "plan": asdict(Plan.of(scale)),
        "context": scale.context, "device": scale.device, "threads": scale.threads,
    }  # fmt: skip
    random = np.random.default_rng([seed, 1])
    test = task.sample(np.random.default_rng([seed, 2]), TEST_ROWS)
    curve, seconds = list[tuple[int, float]](), 0.0
    async with sandbox.child(GUEST, limits_of(scale)) as child:
        await ask(child, "begin", header, {}, expect="ready", timeout=scale.wall_seconds)
        done = 0
        for part in range(1, evaluations + 1):
            count = steps * part // evaluations - done
            parts = [task.sample(random, scale.batch) for _ in range(count)]
            arrays: dict[str, Array] = {
                "tokens": np.stack([tokens for tokens, _ in parts]).astype(np.uint16),
                "answers": np.stack([marks for _, marks in parts]).astype(np.uint8),
            }
            began = child.usage().cpu_seconds
            answer = await ask(child, "train", {}, arrays, expect="metrics", timeout=scale.wall_seconds)
            array(answer, "loss", (count,))
            seconds += child.usage().cpu_seconds - began
            done += count
            weights = await ask(child, "weights", {}, {}, expect="weights", timeout=scale.wall_seconds)
            curve.append((done, await _accuracy(job, sandbox, weights.arrays, *test)))
    reached = next((step for step, accuracy in curve if accuracy >= THRESHOLD), None)
    return TaskResult(task.name, seed, curve[-1][1], reached, tuple(curve), seconds)


async def trained_scores(job: Job, sandbox: Sandbox, steps: int = 200) -> tuple[TaskScore, ...]:
    """The accuracies of the scale's tasks `trained-…`, of small models that the job's program and seed make.

    Raises TrainingFailed where the candidate is at fault.
    """
    scores = []
    for name in job.scale.tasks:
        if name in TRAINED_NAMES:
            task = TASKS[name.removeprefix("trained-")]
            result = await train_on(task, job.program, job.seed, sandbox, steps=steps)
            answers = int(task.sample(np.random.default_rng([job.seed, 2]), TEST_ROWS)[1].sum())
            error = math.sqrt(result.accuracy * (1 - result.accuracy) / answers)
            scores.append(TaskScore(name, "acc", result.accuracy, error, answers))
    return tuple(scores)


async def _accuracy(job: Job, sandbox: Sandbox, weights: Weights, tokens: Rows, marks: Marks) -> float:
    async with open_reader(job, sandbox, weights) as reader:
        predictions = await reader.predict(tokens)
    return float(predictions.greedy[marks].mean())


def _recall(pairs: int, vocabulary: int, motif: int = 1, noise: float = 0.0) -> tuple[int, Sampler]:
    """Key–value pairs, then every key again in another order: its value is the answer.

    Keys are `motif` tokens long. A share `noise` of further tokens, from a range of their own, lies between the pairs.
    """
    wide = motif + 1
    extra = round(noise * pairs * wide / (1 - noise))
    length = 2 * pairs * wide + extra
    third = vocabulary // 3

    def sample(random: np.random.Generator, rows: int) -> tuple[Rows, Marks]:
        tokens = np.zeros((rows, length + 1), dtype=np.int64)
        marks = np.zeros((rows, length), dtype=np.bool_)
        for row in range(rows):
            keys = random.choice(third, size=(pairs, motif), replace=False)
            values = third + random.integers(third, size=(pairs, 1))
            written = np.concatenate([keys, values], axis=1)
            places = np.sort(random.integers(pairs + 1, size=extra))
            first = np.insert(written.reshape(-1), places * wide, 2 * third + random.integers(third, size=extra))
            asked = written[random.permutation(pairs)].reshape(-1)
            tokens[row, :length] = np.concatenate([first, asked])
            answers = len(first) + np.arange(pairs) * wide + motif
            marks[row, answers - 1] = True  # targets lie one place behind their inputs
        return tokens, marks

    return length, sample


def _copying(count: int, alphabet: int) -> tuple[int, Sampler]:
    """Random symbols, a separator, and the symbols again: the state has to hold all of them."""
    length = 2 * count + 1

    def sample(random: np.random.Generator, rows: int) -> tuple[Rows, Marks]:
        symbols = 1 + random.integers(alphabet, size=(rows, count))
        separator, end = np.zeros((rows, 1), dtype=np.int64), np.zeros((rows, 1), dtype=np.int64)
        marks = np.zeros((rows, length), dtype=np.bool_)
        marks[:, count : 2 * count] = True
        return np.concatenate([symbols, separator, symbols, end], axis=1), marks

    return length, sample


def _hops(nodes: int, most: int, questions: int) -> tuple[int, Sampler]:
    """The edges of one cycle in random order, then questions: a node and a number of hops; where do they lead?

    After "Depo" of the Physics of Language Models 4.1 (arXiv:2512.17351), smaller.
    """
    length = 2 * nodes + 3 * questions

    def sample(random: np.random.Generator, rows: int) -> tuple[Rows, Marks]:
        tokens = np.zeros((rows, length + 1), dtype=np.int64)
        marks = np.zeros((rows, length), dtype=np.bool_)
        for row in range(rows):
            cycle = random.permutation(nodes)
            after = np.empty(nodes, dtype=np.int64)
            after[cycle] = np.roll(cycle, -1)
            first = random.permutation(nodes)
            tokens[row, : 2 * nodes] = np.stack([first, after[first]], axis=1).reshape(-1)
            for question in range(questions):
                node, hops = int(random.integers(nodes)), int(random.integers(1, most + 1))
                goal = node
                for _ in range(hops):
                    goal = int(after[goal])
                at = 2 * nodes + 3 * question
                tokens[row, at : at + 3] = (nodes + hops, node, goal)
                marks[row, at + 1] = True
        return tokens, marks

    return length, sample


def _arithmetic(terms: int, modulus: int, problems: int) -> tuple[int, Sampler]:
    """Chains of + and × modulo a prime, evaluated from the left, each followed by its value.

    After "Mano" of the Physics of Language Models 4.1 (arXiv:2512.17351), smaller and without nesting.
    """
    each = 2 * terms + 1
    length = each * problems
    plus, times, equals = modulus, modulus + 1, modulus + 2

    def sample(random: np.random.Generator, rows: int) -> tuple[Rows, Marks]:
        numbers = random.integers(modulus, size=(rows, problems, terms))
        adds = random.integers(2, size=(rows, problems, terms - 1)) == 1
        value = numbers[..., 0]
        for place in range(1, terms):
            right = numbers[..., place]
            value = np.where(adds[..., place - 1], value + right, value * right) % modulus
        parts = np.empty((rows, problems, each), dtype=np.int64)
        parts[..., 0 : 2 * terms : 2] = numbers
        parts[..., 1 : 2 * terms - 1 : 2] = np.where(adds, plus, times)
        parts[..., 2 * terms - 1], parts[..., 2 * terms] = equals, value
        tokens = np.concatenate([parts.reshape(rows, length), np.zeros((rows, 1), dtype=np.int64)], axis=1)
        marks = np.zeros((rows, length), dtype=np.bool_)
        marks[:, each - 2 :: each] = True
        return tokens, marks

    return length, sample


def _made(name: str, vocabulary: int, shape: tuple[int, Sampler]) -> Task:
    return Task(name, vocabulary, *shape)


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            _made("mqar", 1536, _recall(16, 1536)),
            _made("fuzzy-recall", 96, _recall(8, 96, motif=3)),
            _made("noisy-recall", 192, _recall(16, 192, noise=0.2)),
            _made("copying", 17, _copying(32, 16)),
            _made("hops", 32, _hops(16, 4, 16)),
            _made("arithmetic", 16, _arithmetic(3, 7, 12)),
        )
    }
)
"""All of them, lengths 64 to 84."""
