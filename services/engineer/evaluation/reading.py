"""Questions about held-out text: which continuation is the true one, which name is meant."""

import re
from random import Random

from services.engineer.evaluation.questions import Question, question

_CONTEXT, _CONTINUATION = 96, 32
_NAME = re.compile(r"[A-Za-z_]\w{4,}")
_TRIES = 1000


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
