"""Questions about what stands in the context: pairs, repeated strings, open brackets."""

from random import Random
from string import ascii_lowercase, digits

from services.engineer.evaluation.questions import Question, question

_PAIRS = 6
_CLOSING = {"(": ")", "[": "]", "{": "}"}


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
