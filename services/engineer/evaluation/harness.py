"""The one place that imports lm_eval: our models behind its `LM` interface. Host side, in a thread of its own."""

import asyncio
import logging
import os
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict
from typing import TypeVar

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
from datasets import Dataset
from lm_eval import evaluator
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager
from numpy.typing import NDArray

from services.chassis.plugins import EVALUATORS, plugin_names
from services.engineer.evaluation.questions import LOCAL, VERSION, make_questions
from services.engineer.evaluation.reader import Reader, Trial
from services.engineer.evaluation.tasks import ITEMS, TRAINED_NAMES
from services.engineer.training.session import Job

T = TypeVar("T")
evaluator.get_git_commit_hash = lambda: None  # it would ask git about the working folder, which complains on stderr
evaluator.add_env_info = lambda results: None  # noqa: ARG005 - pip, lscpu and git at every evaluation; measured elsewhere
logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of our own settings at every evaluation
TRIALS = 32
"""How many of the rows that were asked are asked again, cut off, in another child."""


class HarnessModel(LM):  # type: ignore[misc]
    """Log-likelihoods and greedy text of one trained candidate, through its reader."""

    def __init__(self, reader: Reader, loop: asyncio.AbstractEventLoop, random: np.random.Generator) -> None:
        super().__init__()
        self._reader, self._loop, self._random = reader, loop, random
        self._tokens, self._context = reader.job.corpus.tokens, reader.job.scale.context
        self.trials: list[Trial] = []

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:  # noqa: ARG002 - the harness's
        """Log-probability of each continuation in nats, and whether it is what greedy decoding would write."""
        pairs = [self._pair(*request.args) for request in requests]
        return self._continuations(pairs)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:  # noqa: ARG002
        """Log-probability in nats of whole texts, in windows that do not overlap, each token scored once."""
        totals = []
        for request in requests:
            tokens = [self._tokens.boundary, *self._tokens.encode(request.args[0])]
            size = self._context
            windows = [(tokens[i : i + 1], tokens[i + 1 : i + 1 + size]) for i in range(0, len(tokens) - 1, size)]
            totals.append(sum(value for value, _ in self._continuations(windows)))
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:  # noqa: ARG002
        """Greedy text of each request up to a stop string or the task's length."""
        return [self._generate(str(request.args[0]), dict(request.args[1])) for request in requests]

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of both; a space at the end of the context belongs to the continuation, as in the harness itself."""
        stripped = context.rstrip() if context.strip() and len(self._tokens.encode(" a")) == 1 else context
        continuation, context = context[len(stripped) :] + continuation, stripped
        whole, head = self._tokens.encode(context + continuation), self._tokens.encode(context)
        if not head:
            return [self._tokens.boundary], whole
        return whole[: len(head)], whole[len(head) :]

    def _continuations(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Each different input row goes to the child once: single-token choices of one question share theirs."""
        rows = [tuple((head + tail)[-(self._context + 1) :]) for head, tail in pairs]
        hidden = self._read(sorted({row[:-1] for row in rows}, key=lambda row: (len(row), row)))
        answers = []
        for row, (_, tail) in zip(rows, pairs, strict=True):
            targets = np.array(row[1:])
            wanted = min(len(tail), len(targets))
            scored = self._reader.score(hidden[row[:-1]][-wanted:], targets[-wanted:])
            answers.append((float(scored.log_probs.sum()), bool(scored.greedy.all())))
        self._remember(rows, hidden)
        return answers

    def _read(self, inputs: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], NDArray[np.float32]]:
        """Hidden states of rows that are sorted by length, padded on the right to the longest of their batch."""
        found: dict[tuple[int, ...], NDArray[np.float32]] = {}
        at_once = 4 * self._reader.job.scale.micro_batch
        for start in range(0, len(inputs), at_once):
            part = inputs[start : start + at_once]
            padded = np.full((len(part), len(part[-1])), self._tokens.boundary, dtype=np.int64)
            for index, row in enumerate(part):
                padded[index, : len(row)] = row
            states = self._wait(self._reader.hidden(padded))
            found |= {row: states[index, : len(row)] for index, row in enumerate(part)}
        return found

    def _remember(self, rows: Sequence[tuple[int, ...]], hidden: dict[tuple[int, ...], NDArray[np.float32]]) -> None:
        """A sample of rows for the look-ahead comparison, each cut at a random place."""
        for index in self._random.choice(len(rows), size=min(TRIALS, len(rows)), replace=False):
            row = rows[index]
            if len(row) > 2 and len(self.trials) < TRIALS:
                place = int(self._random.integers(1, len(row) - 1))
                scored = self._reader.score(hidden[row[:-1]][place - 1 : place], np.array(row[place : place + 1]))
                self.trials.append(Trial(np.array(row[:place]), row[place], float(scored.log_probs[0])))

    def _generate(self, context: str, arguments: dict[str, object]) -> str:
        stops, most = _stops(arguments.get("until")), int(str(arguments.get("max_gen_toks", 64)))
        tokens = self._tokens.encode(context) or [self._tokens.boundary]
        written: list[int] = []
        for _ in range(most):
            row = np.array([(tokens + written)[-self._context :]])
            last = self._wait(self._reader.hidden(row))[0, -1]
            written.append(int((self._reader.head.numpy() @ last).argmax()))
            text = self._tokens.decode(written)
            if any(stop in text for stop in stops):
                return min((text.split(stop)[0] for stop in stops), key=len)
        return self._tokens.decode(written)

    def _wait(self, coroutine: Coroutine[None, None, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def evaluate(model: HarnessModel, job: Job) -> dict[str, object]:
    """The harness's own result: numbers per task with standard errors, and every sample."""
    scale = job.scale
    named = [name for name in scale.tasks if name not in (*TRAINED_NAMES, *plugin_names(EVALUATORS))]
    tasks = [local_task(name, job) if name in LOCAL else name for name in named]
    hub = any(isinstance(task, str) for task in tasks)
    results = evaluator.simple_evaluate(
        model=model,
        tasks=tasks,
        limit=scale.task_limit or None,
        bootstrap_iters=1000,
        task_manager=TaskManager(include_path=scale.task_path or None, include_defaults=hub),
    )
    assert results is not None  # noqa: S101 - None is what other ranks of a distributed evaluation get
    return dict(results)


def local_task(name: str, job: Job) -> ConfigurableTask:
    """The task `name` with its questions, which depend on the name, VERSION, the held-out text and the secret."""
    text = job.corpus.tokens.decode(job.corpus.heldout[: 1 << 20].tolist())
    questions = make_questions(name, text, job.scale.task_limit or ITEMS, job.corpus.secret)
    config = {
        "task": name,
        "custom_dataset": lambda **_: {"test": Dataset.from_list([asdict(question) for question in questions])},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": _context,
        "doc_to_choice": _choices,
        "doc_to_target": _answer,
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": VERSION},
    }
    return ConfigurableTask(config=config)


def _context(question: Mapping[str, str]) -> str:
    return question["context"]


def _choices(question: Mapping[str, list[str]]) -> list[str]:
    return question["choices"]


def _answer(question: Mapping[str, int]) -> int:
    return question["answer"]


def _stops(until: object) -> list[str]:
    return [str(stop) for stop in until if stop] if isinstance(until, list) else [str(until)] if until else []
