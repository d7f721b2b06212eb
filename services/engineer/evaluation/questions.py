"""One multiple-choice question."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Question:
    """`choices[answer]` is the right continuation of `context`."""

    context: str
    choices: list[str]
    answer: int


def question(random: Random, context: str, right: str, wrong: Sequence[str]) -> Question:
    """A question with its choices in random order."""
    choices = [right, *wrong]
    random.shuffle(choices)
    return Question(context, choices, choices.index(right))
