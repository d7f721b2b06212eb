"""Benchmarks through lm-evaluation-harness: local tasks and those of the hub, with any trained candidate."""

import asyncio
import threading
from collections.abc import Mapping
from typing import cast

import numpy as np

from services.engineer.evaluation.reader import Reader, Trial
from services.engineer.training.result import TaskScore

_METRICS = ("acc", "contains", "word_perplexity", "perplexity")
"""What is taken of a task's numbers: the first of these that it has."""
_ONE_AT_A_TIME = threading.Lock()
"""The harness seeds global generators: two evaluations in one process take turns."""


async def run_benchmarks(reader: Reader, random: np.random.Generator) -> tuple[tuple[TaskScore, ...], list[Trial]]:
    """The scale's tasks, and a sample of what was asked for the look-ahead comparison."""
    scale = reader.job.scale
    if not scale.tasks:
        return (), []
    loop = asyncio.get_running_loop()
    return await asyncio.to_thread(_evaluate, reader, loop, random)


def _evaluate(
    reader: Reader, loop: asyncio.AbstractEventLoop, random: np.random.Generator
) -> tuple[tuple[TaskScore, ...], list[Trial]]:
    # Imported here: the harness takes a second to load, and an engineer that only checks programs never needs it.
    from services.engineer.evaluation.harness import HarnessModel, evaluate

    model = HarnessModel(reader, loop, random)
    with _ONE_AT_A_TIME:
        results = evaluate(model, reader.job)
    return tuple(_score(task, results) for task in reader.job.scale.tasks), model.trials


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
    )


def _metric_of(numbers: Mapping[str, float | str]) -> tuple[str, str]:
    """The metric's name and the harness's key, which carries the filter's name: "acc" and "acc,none"."""
    keys = {key.split(",")[0]: key for key in numbers}
    return next((metric, keys[metric]) for metric in _METRICS if metric in keys)
