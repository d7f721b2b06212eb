"""The names of the local tasks, and a test that other tasks can be loaded.

Imports neither torch nor, without such tasks, the harness.
"""

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from services.engineer.scales import Scale
from services.mixers.plugins import EVALUATORS, plugin_names

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

LOCAL_NAMES = ("mqar", "induction", "copying", "brackets", "code", "cloze")
"""The tasks that need no network."""
TRAINED_NAMES = tuple(
    f"trained-{name}"
    for name in ("mqar", "fuzzy-recall", "noisy-recall", "copying", "compression", "hops", "arithmetic")
)
"""Tasks of `trained_tasks`, on each of which a small model of the candidate's program is trained."""
METRICS = ("acc", "contains", "exact_match", "f1", "word_perplexity", "perplexity")
"""In order of preference: the first one that a task of the harness has is its score."""
ITEMS = 500
"""Questions of a task if the scale sets no limit."""


class EvaluationUnavailable(Exception):  # noqa: N818 - a condition for the operator
    """A task of the scale cannot be loaded. The message says which, why, and how to fix it."""


def require_tasks(scale: Scale, shipped: bool = True) -> None:
    """Load every task that is not local, with its data. Blocking. Raises EvaluationUnavailable.

    With `shipped` false, tasks that are not in the files of `task_path` are left out, since listing those that the
    harness ships takes seconds.
    """
    hub = [name for name in scale.tasks if name not in (*LOCAL_NAMES, *TRAINED_NAMES, *plugin_names(EVALUATORS))]
    if not hub:
        return
    if unknown := [name for name in hub if name.startswith("trained-")]:
        raise EvaluationUnavailable(f"There is no task {unknown[0]}: choose from {', '.join(TRAINED_NAMES)}.")
    if scale.task_path and not Path(scale.task_path).is_dir():
        raise EvaluationUnavailable(f"There is no folder {scale.task_path} with task files: set task_path to one.")
    if not shipped:
        hub = [name for name in hub if scale.task_path and name in own_tasks(scale.task_path).all_tasks]
    manager = task_manager(hub, scale.task_path)
    for name in hub:
        try:
            loaded = manager.load([name])
        except Exception as error:  # the harness and the datasets library raise many types
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            own = f"write a valid task file in UTF-8 into {scale.task_path}, or " if scale.task_path else ""
            raise EvaluationUnavailable(
                f"The task {name} cannot be loaded ({reason}): {own}connect to the Hugging Face hub, fill its cache, "
                f"or choose local tasks with tasks={','.join(LOCAL_NAMES)}."
            ) from error
        if name not in loaded["tasks"]:
            raise EvaluationUnavailable(f"{name} is a group of tasks: list them, as in {next(iter(loaded['tasks']))}.")
        if not {*METRICS} & {*(metrics := loaded["tasks"][name].aggregation())}:
            raise EvaluationUnavailable(
                f"The task {name} measures {', '.join(metrics)}: a score is one of {', '.join(METRICS)}."
            )


def own_tasks(path: str) -> "TaskManager":
    """The harness's tasks in the files of `path`, if any."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=path or None, include_defaults=False)


def task_manager(names: Sequence[str], path: str) -> "TaskManager":
    """The harness's tasks in the files of `path` (if any), with those that it ships unless all of `names` are there.

    It ships fourteen thousand, which take seven seconds to list: this is done once per process.
    """
    own = own_tasks(path)
    if set(names) <= set(own.all_tasks):
        return own
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=path) if path else _shipped_tasks()


@cache
def _shipped_tasks() -> "TaskManager":
    from lm_eval.tasks import TaskManager

    return TaskManager()
