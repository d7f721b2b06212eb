"""The names of the local tasks, and whether those of the hub and of own files are within reach.

Loads neither torch nor the harness, unless there are such."""

import os
from pathlib import Path

from services.chassis.plugins import EVALUATORS, plugin_names
from services.engineer.scales import Scale

LOCAL_NAMES = ("mqar", "induction", "copying", "brackets", "code", "cloze")
"""The tasks that need no network."""
TRAINED_NAMES = tuple(
    f"trained-{name}" for name in ("mqar", "fuzzy-recall", "noisy-recall", "copying", "hops", "arithmetic")
)
"""Tasks that a small model of the candidate's program is trained on by itself, as in `trained_tasks`."""
ITEMS = 500
"""Questions of a task where the scale sets no limit."""


class EvaluationUnavailable(Exception):  # noqa: N818 - a state of the world, for the operator
    """A task of the scale cannot be loaded. The message says which, why, and what to do."""


def require_tasks(scale: Scale) -> None:
    """Load every task that is not local, data included. Raises EvaluationUnavailable; it blocks, so use a thread."""
    hub = [name for name in scale.tasks if name not in (*LOCAL_NAMES, *TRAINED_NAMES, *plugin_names(EVALUATORS))]
    if not hub:
        return
    if scale.task_path and not Path(scale.task_path).is_dir():
        raise EvaluationUnavailable(f"There is no folder {scale.task_path} with task files: set task_path to one.")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=scale.task_path or None)
    for name in hub:
        try:
            manager.load([name])
        except Exception as error:
            # The harness and the datasets library raise anything here, from KeyError to their own; all mean the same.
            raise EvaluationUnavailable(_sentence(name, error)) from error


def _sentence(name: str, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"The task {name} cannot be loaded ({reason}): connect to the Hugging Face hub, fill its cache, or choose "
        f"local tasks with tasks={','.join(LOCAL_NAMES)}."
    )
