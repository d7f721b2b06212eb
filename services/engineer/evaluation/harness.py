"""Candidates as models of lm_eval. Runs on the host, in a thread; no other module imports lm_eval's evaluator."""

import asyncio
import logging
import os
from collections.abc import Coroutine, Sequence
from dataclasses import asdict
from typing import TypeVar

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from datasets import Dataset
from lm_eval import evaluator
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from numpy.typing import NDArray

from services.engineer.evaluation.reader import Reader, Trial
from services.engineer.evaluation.tasks import (
    ITEMS,
    LOCAL,
    TRAINED_NAMES,
    VERSION,
    EvaluationUnavailable,
    make_questions,
    task_manager,
)
from services.engineer.training.session import Job
from services.mixers.plugins import EVALUATORS, plugin_names

T = TypeVar("T")
evaluator.get_git_commit_hash = lambda: None  # it would run git, which writes to stderr
evaluator.add_env_info = lambda results: None  # noqa: ARG005 - it would run pip, lscpu and git at every evaluation
logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of our settings at every evaluation
TRIALS = 32
"""Number of rows that are repeated, truncated, in another child."""


class HarnessModel(LM):  # type: ignore[misc]
    """Log-likelihoods and greedy decoding of one trained candidate, through its reader."""

    def __init__(self, reader: Reader, loop: asyncio.AbstractEventLoop, random: np.random.Generator) -> None:
        super().__init__()
        self._reader, self._loop, self._random = reader, loop, random
        self._tokens, self._context = reader.job.corpus.tokens, reader.job.scale.context
        self.trials: list[Trial] = []

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:  # noqa: ARG002 - the harness's
        """Log-probability of each continuation in nats, and whether greedy decoding would produce it."""
        return self._continuations([self._tokenise(*request.args) for request in requests])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002
        """Log-probability in nats of whole texts, in non-overlapping windows."""
        totals = []
        for request in requests:
            tokens = [self._tokens.boundary, *self._tokens.encode(request.args[0])]
            size = self._context
            windows = [(tokens[i : i + 1], tokens[i + 1 : i + 1 + size]) for i in range(0, len(tokens) - 1, size)]
            totals.append(sum(value for value, _ in self._continuations(windows)))
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """Greedy decoding of each request up to a stop string or the task's length."""
        return [self._generate(str(request.args[0]), dict(request.args[1])) for request in requests]

    def _tokenise(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of both; a space at the end of the context moves to the continuation, as in the harness itself."""
        stripped = context.rstrip() if context.strip() and len(self._tokens.encode(" a")) == 1 else context
        continuation, context = context[len(stripped) :] + continuation, stripped
        tokens, head = self._tokens.encode(context + continuation), self._tokens.encode(context)
        if not head:
            return [self._tokens.boundary], tokens
        return tokens[: len(head)], tokens[len(head) :]

    def _continuations(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Scores of (context, continuation) pairs. Equal inputs, as of single-token choices, are read once."""
        rows = [tuple((head + tail)[-(self._context + 1) :]) for head, tail in pairs]
        hidden = self._read(sorted({row[:-1] for row in rows}, key=lambda row: (len(row), row)))
        answers = []
        for row, (_, tail) in zip(rows, pairs, strict=True):
            targets = np.array(row[1:])
            count = min(len(tail), len(targets))
            predictions = self._reader.score(hidden[row[:-1]][-count:], targets[-count:])
            answers.append((float(predictions.log_probs.sum()), bool(predictions.greedy.all())))
        self._sample_trials(rows, hidden)
        return answers

    def _read(self, inputs: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], NDArray[np.float32]]:
        """Hidden states of rows sorted by length, padded on the right to the longest of their batch."""
        hidden: dict[tuple[int, ...], NDArray[np.float32]] = {}
        batch = 4 * self._reader.job.scale.micro_batch
        for start in range(0, len(inputs), batch):
            part = inputs[start : start + batch]
            padded = np.full((len(part), len(part[-1])), self._tokens.boundary, dtype=np.int64)
            for index, row in enumerate(part):
                padded[index, : len(row)] = row
            states = self._wait(self._reader.hidden(padded))
            hidden |= {row: states[index, : len(row)] for index, row in enumerate(part)}
        return hidden

    def _sample_trials(
        self, rows: Sequence[tuple[int, ...]], hidden: dict[tuple[int, ...], NDArray[np.float32]]
    ) -> None:
        """Store a sample of rows for the look-ahead comparison, each truncated at a random position."""
        for index in self._random.choice(len(rows), size=min(TRIALS, len(rows)), replace=False):
            row = rows[index]
            if len(row) > 2 and len(self.trials) < TRIALS:
                cut = int(self._random.integers(1, len(row) - 1))
                predictions = self._reader.score(hidden[row[:-1]][cut - 1 : cut], np.array(row[cut : cut + 1]))
                self.trials.append(Trial(np.array(row[:cut]), row[cut], float(predictions.log_probs[0])))

    def _generate(self, context: str, arguments: dict[str, object]) -> str:
        until, limit = arguments.get("until"), int(str(arguments.get("max_gen_toks", 64)))
        stops = [str(stop) for stop in (until if isinstance(until, list) else [until]) if stop]
        tokens = self._tokens.encode(context) or [self._tokens.boundary]
        generated: list[int] = []
        for _ in range(limit):
            row = np.array([(tokens + generated)[-self._context :]])
            last = self._wait(self._reader.hidden(row))[0, -1]
            generated.append(int((self._reader.head @ last).argmax()))
            text = self._tokens.decode(generated)
            if any(stop in text for stop in stops):
                return min((text.split(stop)[0] for stop in stops), key=len)
        return self._tokens.decode(generated)

    def _wait(self, coroutine: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def evaluate(model: HarnessModel, job: Job) -> dict[str, object]:
    """The harness's result: numbers per task with standard errors, and every sample. Raises EvaluationUnavailable."""
    scale = job.scale
    names = [name for name in scale.tasks if name not in (*TRAINED_NAMES, *plugin_names(EVALUATORS))]
    tasks = [local_task(name, job) if name in LOCAL else name for name in names]
    named = [task for task in tasks if isinstance(task, str)]
    try:
        results = evaluator.simple_evaluate(
            model=model,
            tasks=tasks,
            limit=scale.task_limit or None,
            bootstrap_iters=1000,
            torch_random_seed=None,  # else it imports torch, for a seed that nothing here uses
            task_manager=task_manager(named, scale.task_path),
        )
    except StopIteration as error:  # of a task's own function; a future cannot hold it, and would never be done
        raise EvaluationUnavailable("A function of a task raises StopIteration: correct its file.") from error
    assert results is not None  # noqa: S101 - None only on other ranks of a distributed evaluation
    return dict(results)


def local_task(name: str, job: Job) -> ConfigurableTask:
    """A local task with its questions, which depend on the name, VERSION, the held-out text and the secret."""
    text = job.corpus.tokens.decode(job.corpus.heldout[: 1 << 20].tolist())
    questions = make_questions(name, text, job.scale.task_limit or ITEMS, job.corpus.secret)
    config = {
        "task": name,
        "custom_dataset": lambda **_: {"test": Dataset.from_list([asdict(question) for question in questions])},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": lambda question: question["context"],
        "doc_to_choice": lambda question: question["choices"],
        "doc_to_target": lambda question: question["answer"],
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": VERSION},
    }
    return ConfigurableTask(config=config)
