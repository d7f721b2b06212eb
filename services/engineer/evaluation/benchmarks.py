"""Benchmarks of a trained candidate: tasks of lm-evaluation-harness (local, from the hub, from files), and evaluators
of other distributions (entry point group asi_arch.evaluators)."""

import asyncio
import math
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from services.engineer.evaluation.reader import Reader, Trial
from services.engineer.evaluation.tasks import METRICS, TRAINED_NAMES, EvaluationUnavailable
from services.engineer.training.result import TaskScore
from services.mixers.plugins import EVALUATORS, load_plugin, plugin_names

Evaluator = Callable[[Reader], Awaitable[TaskScore]]
"""Scores a trained model through its reader. Its rows are not tested for look-ahead, so an evaluator must not pass the
target of a prediction in the row."""
_HARNESS_LOCK = threading.Lock()
"""The harness seeds global generators, so evaluations in one process must not overlap."""


async def run_benchmarks(reader: Reader, random: np.random.Generator) -> tuple[tuple[TaskScore, ...], list[Trial]]:
    """Scores of the scale's tasks without TRAINED_NAMES, and a sample of predictions for the look-ahead comparison."""
    tasks = [task for task in reader.job.scale.tasks if task not in TRAINED_NAMES]
    loop, plugins = asyncio.get_running_loop(), plugin_names(EVALUATORS)
    scores, trials = dict[str, TaskScore](), list[Trial]()
    if any(task not in plugins for task in tasks):
        scores, trials = await asyncio.to_thread(_evaluate, reader, loop, random)
    for task in tasks:
        if task in plugins:
            score = await cast("Evaluator", load_plugin(EVALUATORS, task))(reader)
            if not isinstance(score, TaskScore) or not math.isfinite(score.value):
                raise EvaluationUnavailable(
                    f"The evaluator {task} must return a TaskScore with a finite value, not {score!r}."
                )
            scores[task] = replace(score, task=task)
    return tuple(scores[task] for task in tasks), trials


def _evaluate(
    reader: Reader, loop: asyncio.AbstractEventLoop, random: np.random.Generator
) -> tuple[dict[str, TaskScore], list[Trial]]:
    from services.engineer.evaluation.harness import HarnessModel, evaluate  # takes a second to import

    model = HarnessModel(reader, loop, random)
    with _HARNESS_LOCK:
        results = evaluate(model, reader.job)
    evaluated = cast("Mapping[str, object]", results["results"])
    return {task: _score(task, results) for task in reader.job.scale.tasks if task in evaluated}, model.trials


def _score(task: str, results: Mapping[str, object]) -> TaskScore:
    numbers = cast("dict[str, dict[str, float | str]]", results["results"])[task]
    keys = {key.split(",")[0]: key for key in numbers}  # a key also names the filter, as in "acc,none"
    metric = next(metric for metric in METRICS if metric in keys)
    key = keys[metric]
    samples = cast("dict[str, list[dict[str, object]]]", results["samples"])[task]
    answered = samples if metric == "acc" else []
    choices = [len(cast("Sequence[object]", sample["resps"])) for sample in answered]
    guessed = min(choices, default=0) > 1  # items with a single choice cannot be guessed
    stderr = numbers.get(key.replace(",", "_stderr,"))
    return TaskScore(
        task=task,
        metric=metric,
        value=float(numbers[key]),
        stderr=float(stderr) if isinstance(stderr, float) else None,
        items=len(samples),
        correct=tuple(bool(sample[metric]) for sample in answered),
        chance=sum(1 / count for count in choices) / len(choices) if guessed else None,
    )
