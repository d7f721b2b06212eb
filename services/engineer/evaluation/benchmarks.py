"""Benchmarks of a trained candidate: tasks through lm-evaluation-harness (local, of the hub, of own files), and
evaluators that other distributions add (group asi_arch.evaluators)."""

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from services.chassis.plugins import EVALUATORS, load_plugin, plugin_names
from services.engineer.evaluation.reader import Reader, Trial
from services.engineer.evaluation.tasks import TRAINED_NAMES, EvaluationUnavailable
from services.engineer.training.result import TaskScore

Evaluator = Callable[[Reader], Awaitable[TaskScore]]
"""Scores a trained model by what its reader answers. These rows are not compared for looking ahead: let no score rest
on a prediction whose target stands in the row."""
_METRICS = ("acc", "contains", "exact_match", "f1", "word_perplexity", "perplexity")
"""What is taken of a task's numbers: the first of these that it has."""
_ONE_AT_A_TIME = threading.Lock()
"""The harness seeds global generators: two evaluations in one process take turns."""


async def run_benchmarks(reader: Reader, random: np.random.Generator) -> tuple[tuple[TaskScore, ...], list[Trial]]:
    """The scale's tasks, and a sample of what was asked for the look-ahead comparison.

    Tasks that a model of their own is trained on are left to `trained_tasks.trained_scores`.
    """
    scale = reader.job.scale
    asked = [task for task in scale.tasks if task not in TRAINED_NAMES]
    if not asked:
        return (), []
    loop, plugins = asyncio.get_running_loop(), plugin_names(EVALUATORS)
    scores, trials = dict[str, TaskScore](), list[Trial]()
    if any(task not in plugins for task in asked):
        scores, trials = await asyncio.to_thread(_evaluate, reader, loop, random)
    for task in asked:
        if task in plugins:
            evaluator = cast("Evaluator", load_plugin(EVALUATORS, task))
            scores[task] = _required(task, await evaluator(reader))
    return tuple(scores[task] for task in asked), trials


def _required(task: str, score: TaskScore) -> TaskScore:
    """An evaluator's score under the name of its task. Raises EvaluationUnavailable for what is none."""
    if not isinstance(score, TaskScore) or not math.isfinite(score.value):
        raise EvaluationUnavailable(f"The evaluator {task} must return a TaskScore with a finite value, not {score!r}.")
    return replace(score, task=task)


def _evaluate(
    reader: Reader, loop: asyncio.AbstractEventLoop, random: np.random.Generator
) -> tuple[dict[str, TaskScore], list[Trial]]:
    # Imported here: the harness takes a second to load, and an engineer that only checks programs never needs it.
    from services.engineer.evaluation.harness import HarnessModel, evaluate

    model = HarnessModel(reader, loop, random)
    with _ONE_AT_A_TIME:
        results = evaluate(model, reader.job)
    measured = cast("Mapping[str, object]", results["results"])
    return {task: _score(task, results) for task in reader.job.scale.tasks if task in measured}, model.trials


def _score(task: str, results: Mapping[str, object]) -> TaskScore:
    numbers = cast("dict[str, dict[str, float | str]]", results["results"])[task]
    metric, key = _metric_of(numbers)
    samples = cast("dict[str, list[dict[str, object]]]", results["samples"])[task]
    stderr = numbers.get(key.replace(",", "_stderr,"))
    correct = tuple(bool(sample[metric]) for sample in samples) if metric == "acc" else ()
    return TaskScore(
        task=task,
        metric=metric,
        value=float(numbers[key]),
        stderr=float(stderr) if isinstance(stderr, float) else None,
        items=len(samples),
        correct=correct,
        chance=_chance(samples) if metric == "acc" else None,
    )


def _chance(samples: Sequence[Mapping[str, object]]) -> float | None:
    """The accuracy of guessing: the harness scores each choice of an item apart. None where there is but one."""
    choices = [len(cast("Sequence[object]", sample["resps"])) for sample in samples]
    return sum(1 / count for count in choices) / len(choices) if choices and min(choices) > 1 else None


def _metric_of(numbers: Mapping[str, float | str]) -> tuple[str, str]:
    """The metric's name and the harness's key, which carries the filter's name: "acc" and "acc,none"."""
    keys = {key.split(",")[0]: key for key in numbers}
    return next((metric, keys[metric]) for metric in _METRICS if metric in keys)
