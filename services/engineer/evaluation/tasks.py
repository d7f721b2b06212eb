"""The tasks of a scale: the questions of the local ones, and a test that others can be loaded.

The local tasks ask multiple-choice questions that are generated from a seed without a network. They test abilities that
a byte-level language model can show after a minute of training: recall of pairs, induction, copying, closing brackets,
completing names, and choosing the true continuation of held-out text.

Imports neither torch nor, without other tasks, the harness.
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from random import Random
from string import ascii_lowercase, digits
from typing import TYPE_CHECKING

from services.engineer.scales import Scale
from services.mixers.plugins import EVALUATORS, plugin_names

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

VERSION = 3
"""To be raised when a question changes: scores of different versions are not comparable."""
_CONTEXT, _CONTINUATION = 96, 32
_NAME = re.compile(r"[A-Za-z_]\w{4,}")
_TRIES = 1000
_PAIRS = 6
_CLOSING = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class Question:
    """`choices[answer]` is the correct continuation of `context`."""

    context: str
    choices: list[str]
    answer: int


def question(random: Random, context: str, right: str, wrong: Sequence[str]) -> Question:
    """A question with choices in random order."""
    choices = [right, *wrong]
    random.shuffle(choices)
    return Question(context, choices, choices.index(right))


def mqar(random: Random, text: str) -> Question:  # noqa: ARG001 - all generators have the same signature
    """Multi-query associative recall (Arora et al. 2023, arXiv:2312.04927): name = digit pairs, then one name again."""
    names, values = random.sample(ascii_lowercase, _PAIRS), random.sample(digits, _PAIRS)
    pairs = list(zip(names, values, strict=True))
    name, value = random.choice(pairs)
    context = "".join(f"{n} = {v}\n" for n, v in pairs) + f"{name} = "
    return question(random, context, value, random.sample([v for v in values if v != value], 3))


def induction(random: Random, text: str) -> Question:  # noqa: ARG001
    """A random string, then its beginning: which letter follows (Olsson et al. 2022, arXiv:2209.11895)."""
    letters = random.sample(ascii_lowercase, 8)
    cut = random.randrange(2, 7)
    word = "".join(letters)
    context = f"{word}\n{word[:cut]}"
    return question(random, context, letters[cut], random.sample([x for x in letters if x != letters[cut]], 3))


def copying(random: Random, text: str) -> Question:  # noqa: ARG001
    """Six random words on a line, then some of them again: which word follows."""
    words = ["".join(random.choices(ascii_lowercase, k=4)) for _ in range(6)]
    cut = random.randrange(2, 6)
    context = " ".join(words) + "\n" + " ".join(words[:cut])
    wrong = random.sample([word for index, word in enumerate(words) if index != cut], 3)
    return question(random, context, f" {words[cut]}", [f" {word}" for word in wrong])


def brackets(random: Random, text: str) -> Question:  # noqa: ARG001
    """Nested brackets around names, partly closed: which bracket follows."""
    opened = [random.choice("([{") for _ in range(random.randrange(2, 5))]
    names = ["".join(random.choices(ascii_lowercase, k=random.randrange(1, 4))) for _ in range(len(opened) + 1)]
    inside = "".join(name + bracket for name, bracket in zip(names, opened, strict=False)) + names[-1]
    closed = random.randrange(len(opened))
    closing = [_CLOSING[bracket] for bracket in reversed(opened)]
    right = closing[closed]
    context = f"x = {inside}{''.join(closing[:closed])}"
    return question(random, context, right, [other for other in ")]}" if other != right])


def cloze(random: Random, text: str) -> Question:
    """The next 32 characters at a word boundary, or those at three other positions of the held-out text."""
    choices: dict[str, int] = {}  # a text may repeat a line, such as that of a licence
    for _ in range(_TRIES):
        position = _boundary(random, text)
        choices.setdefault(text[position : position + _CONTINUATION], position)
        if len(choices) == 4:
            right, *wrong = choices
            return question(random, text[choices[right] - _CONTEXT : choices[right]], right, wrong)
    raise ValueError("The held-out text repeats itself; it is too short for the task cloze.")


def code(random: Random, text: str) -> Question:
    """The rest of a repeated name after two characters, or the rest of three other names of the text."""
    for _ in range(_TRIES):
        start = random.randrange(len(text) - 2 * _CONTEXT)
        window = text[start : start + 2 * _CONTEXT]
        repetition = _repeated_name(window)
        if repetition is not None:
            position, name, others = repetition
            wrong = [other[2:] for other in random.sample(others, 3)]
            return question(random, window[: position + 2], name[2:], wrong)
    raise ValueError("The held-out text has no repeated names; it is too short for the task code.")


def _boundary(random: Random, text: str) -> int:
    """A random position where a word begins, with enough text on both sides."""
    for _ in range(_TRIES):
        position = random.randrange(_CONTEXT, len(text) - _CONTINUATION)
        if text[position].isalpha() and not text[position - 1].isalnum():
            return position
    raise ValueError("The held-out text has no words; it is too short for the task cloze.")


def _repeated_name(window: str) -> tuple[int, str, list[str]] | None:
    """The position of a repeated name, the name, and at least three other names before it, with different ends."""
    earlier: list[str] = []
    for match in _NAME.finditer(window):
        name = match.group()
        others = {other[2:]: other for other in earlier if other[2:] != name[2:]}  # no choice twice
        if name in earlier and len(others) >= 3:
            return match.start(), name, sorted(others.values())
        earlier.append(name)
    return None


LOCAL: Mapping[str, Callable[[Random, str], Question]] = {
    generate.__name__: generate for generate in (mqar, induction, copying, brackets, code, cloze)
}
"""The tasks that need no network."""


@lru_cache(maxsize=32)
def make_questions(name: str, text: str, count: int, secret: bytes = b"") -> tuple[Question, ...]:
    """The first `count` questions of a task. They are seeded by the secret, so no program can contain the answers."""
    return tuple(LOCAL[name](Random(f"{name}:{VERSION}:{index}:{secret.hex()}"), text) for index in range(count))


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
    hub = [name for name in scale.tasks if name not in (*LOCAL, *TRAINED_NAMES, *plugin_names(EVALUATORS))]
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
                f"or choose local tasks with tasks={','.join(LOCAL)}."
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
