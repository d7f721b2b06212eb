"""The questions of the local benchmarks: multiple choice, made by seeded functions, without a network.

They ask what a language model of bytes can show after a minute of training: recall of pairs, induction, copying,
closing brackets, completing a name of the text, telling the true continuation of held-out text. Chance is 1 / choices.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from string import ascii_lowercase, digits
from types import MappingProxyType

from services.engineer.evaluation.tasks import LOCAL_NAMES

VERSION = 2
"""Raised whenever a question changes: scores of two versions are not compared."""
_CONTEXT, _CONTINUATION = 96, 32
_NAME = re.compile(r"[A-Za-z_]\w{4,}")
_TRIES = 1000
_PAIRS = 6
_CLOSING = {"(": ")", "[": "]", "{": "}"}


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


def mqar(random: Random, text: str) -> Question:  # noqa: ARG001 - every question has the same signature
    """Multi-query associative recall (Arora et al. 2023, arXiv:2312.04927): name = digit pairs, then one name again."""
    names, values = random.sample(ascii_lowercase, _PAIRS), random.sample(digits, _PAIRS)
    pairs = list(zip(names, values, strict=True))
    name, value = random.choice(pairs)
    context = "".join(f"{n} = {v}\n" for n, v in pairs) + f"{name} = "
    return question(random, context, value, random.sample([v for v in values if v != value], 3))


def induction(random: Random, text: str) -> Question:  # noqa: ARG001
    """A random string once in full, then its beginning: the next letter (Olsson et al. 2022, arXiv:2209.11895)."""
    letters = random.sample(ascii_lowercase, 8)
    cut = random.randrange(2, 7)
    word = "".join(letters)
    context = f"{word}\n{word[:cut]}"
    return question(random, context, letters[cut], random.sample([x for x in letters if x != letters[cut]], 3))


def copying(random: Random, text: str) -> Question:  # noqa: ARG001
    """Six made-up words on a line, then the line again up to its last word but one or more."""
    words = ["".join(random.choices(ascii_lowercase, k=4)) for _ in range(6)]
    cut = random.randrange(2, 6)
    context = " ".join(words) + "\n" + " ".join(words[:cut])
    wrong = random.sample([word for index, word in enumerate(words) if index != cut], 3)
    return question(random, context, f" {words[cut]}", [f" {word}" for word in wrong])


def brackets(random: Random, text: str) -> Question:  # noqa: ARG001
    """Nested brackets around names, partly closed: which bracket closes next."""
    opened = [random.choice("([{") for _ in range(random.randrange(2, 5))]
    names = ["".join(random.choices(ascii_lowercase, k=random.randrange(1, 4))) for _ in range(len(opened) + 1)]
    inside = "".join(name + bracket for name, bracket in zip(names, opened, strict=False)) + names[-1]
    closed = random.randrange(len(opened))
    closing = [_CLOSING[bracket] for bracket in reversed(opened)]
    right = closing[closed]
    context = f"x = {inside}{''.join(closing[:closed])}"
    return question(random, context, right, [other for other in ")]}" if other != right])


def cloze(random: Random, text: str) -> Question:
    """The next 32 characters at a word boundary, against those at three other places of the held-out text."""
    places = [_boundary(random, text) for _ in range(4)]
    right, *wrong = (text[place : place + _CONTINUATION] for place in places)
    return question(random, text[places[0] - _CONTEXT : places[0]], right, wrong)


def code(random: Random, text: str) -> Question:
    """A name that stood earlier, cut off after two characters, against the ends of three other names of the text."""
    for _ in range(_TRIES):
        start = random.randrange(len(text) - 2 * _CONTEXT)
        window = text[start : start + 2 * _CONTEXT]
        found = _repeated_name(window)
        if found is not None:
            place, name, others = found
            wrong = [other[2:] for other in random.sample(others, 3)]
            return question(random, window[: place + 2], name[2:], wrong)
    raise ValueError("The held-out text has no repeated names; it is too short for the task code.")


def _boundary(random: Random, text: str) -> int:
    """A place where a word begins, far enough from both ends."""
    for _ in range(_TRIES):
        place = random.randrange(_CONTEXT, len(text) - _CONTINUATION)
        if text[place].isalpha() and not text[place - 1].isalnum():
            return place
    raise ValueError("The held-out text has no words; it is too short for the task cloze.")


def _repeated_name(window: str) -> tuple[int, str, list[str]] | None:
    """Where a name occurs again, the name, and at least three other names before it."""
    seen: list[str] = []
    for match in _NAME.finditer(window):
        name = match.group()
        others = sorted({other for other in seen if other[2:] != name[2:]})
        if name in seen and len(others) >= 3:
            return match.start(), name, others
        seen.append(name)
    return None


LOCAL: Mapping[str, Callable[[Random, str], Question]] = MappingProxyType(
    dict(zip(LOCAL_NAMES, (mqar, induction, copying, brackets, code, cloze), strict=True))
)


@lru_cache(maxsize=32)
def make_questions(name: str, text: str, count: int, secret: bytes = b"") -> tuple[Question, ...]:
    """The first `count` questions of a task; asking for more keeps the earlier ones.

    They cannot be reproduced without the secret, so no program can contain their answers.
    """
    return tuple(LOCAL[name](Random(f"{name}:{VERSION}:{index}:{secret.hex()}"), text) for index in range(count))
