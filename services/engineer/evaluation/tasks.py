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
ITEMS = 500
"""Questions of a task if the scale sets no limit."""


class EvaluationUnavailable(Exception):  # noqa: N818 - a condition for the operator
    """A task of the scale cannot be loaded. The message says which, why, and how to fix it."""


def require_tasks(scale: Scale) -> None:
    """Load every task that is not local, with its data. Blocking. Raises EvaluationUnavailable."""
    hub = [name for name in scale.tasks if name not in (*LOCAL_NAMES, *TRAINED_NAMES, *plugin_names(EVALUATORS))]
    if not hub:
        return
    if unknown := [name for name in hub if name.startswith("trained-")]:
        raise EvaluationUnavailable(f"There is no task {unknown[0]}: choose from {', '.join(TRAINED_NAMES)}.")
    if scale.task_path and not Path(scale.task_path).is_dir():
        raise EvaluationUnavailable(f"There is no folder {scale.task_path} with task files: set task_path to one.")
    manager = task_manager(hub, scale.task_path)
    for name in hub:
        try:
            manager.load([name])
        except Exception as error:  # the harness and the datasets library raise many types
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise EvaluationUnavailable(
                f"The task {name} cannot be loaded ({reason}): connect to the Hugging Face hub, fill its cache, or "
                f"choose local tasks with tasks={','.join(LOCAL_NAMES)}."
            ) from error


def task_manager(names: Sequence[str], path: str) -> "TaskManager":
    """The harness's tasks in the files of `path` (if any), with those that it ships unless all of `names` are there.

    It ships fourteen thousand, which take seven seconds to list: this is done once per process.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from lm_eval.tasks import TaskManager

    own = TaskManager(include_path=path or None, include_defaults=False)
    if set(names) <= set(own.all_subtasks):
        return own
    return TaskManager(include_path=path) if path else _shipped_tasks()


@cache
def _shipped_tasks() -> "TaskManager":
    from lm_eval.tasks import TaskManager

    return TaskManager()
