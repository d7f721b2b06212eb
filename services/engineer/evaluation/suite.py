"""The local benchmark suite: multiple-choice questions that need no network, made by seeded functions.

They ask what a language model of bytes can show after a minute of training: recall of pairs, induction, copying,
closing brackets, completing a name of the text, telling the true continuation of held-out text. Chance is 1 / choices.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from random import Random
from types import MappingProxyType

from datasets import Dataset
from lm_eval.api.task import ConfigurableTask

from services.engineer.evaluation.names import ITEMS, LOCAL_NAMES
from services.engineer.evaluation.questions import Question
from services.engineer.evaluation.reading import cloze, code
from services.engineer.evaluation.recall import brackets, copying, induction, mqar
from services.engineer.training.session import Job

VERSION = 1
"""Raised whenever a question changes: scores of two versions are not compared."""

LOCAL: Mapping[str, Callable[[Random, str], Question]] = MappingProxyType(
    dict(zip(LOCAL_NAMES, (mqar, induction, copying, brackets, code, cloze), strict=True))
)


def local_task(name: str, job: Job) -> ConfigurableTask:
    """The task `name` with its questions, which depend on the name, VERSION and the held-out text alone."""
    text = job.corpus.tokens.decode(job.corpus.heldout[: 1 << 20].tolist())
    questions = make_questions(name, text, job.scale.task_limit or ITEMS)
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


@lru_cache(maxsize=32)
def make_questions(name: str, text: str, count: int) -> tuple[Question, ...]:
    """The first `count` questions of a task; asking for more keeps the earlier ones."""
    return tuple(LOCAL[name](Random(f"{name}:{VERSION}:{index}"), text) for index in range(count))


def _context(question: Mapping[str, str]) -> str:
    return question["context"]


def _choices(question: Mapping[str, list[str]]) -> list[str]:
    return question["choices"]


def _answer(question: Mapping[str, int]) -> int:
    return question["answer"]
