"""A proposal in words: its name, its motivation, and where each idea came from."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.mixers.description import Mixer
from services.mixers.moves import Move
from services.researcher.offline.bandit import Belief
from services.researcher.offline.hints import cites

_BASES = {"delta": "Delta", "product": "Product", "linear": "Linear", "none": "Path"}


@dataclass(frozen=True)
class Step:
    """A move of a child, with the cognition entry that suggested it and what the archive knew of it."""

    move: Move
    entry: str | None = None
    belief: Belief | None = None


@dataclass(frozen=True)
class Idea:
    """One idea and its origin: "cognition", "analysis" (what paid off in this archive) or "original"."""

    text: str
    origin: str
    source: str = ""


def name_of(mixer: Mixer, moves: Sequence[Move]) -> str:
    """A readable name such as `WindowFloorDeltaNet3f2a`: the moves, the memory, and four digits of the structure."""
    words = "".join(move.word for move in moves) or "Cross"
    base = _BASES[mixer.memory.rule]
    return f"{words}{'' if words.endswith(base) else base}Net{mixer.structure()[:4]}"


def motivation(
    steps: Sequence[Step], parent: str, stand_in: str | None, mate: tuple[str, str] | None, choice: str = ""
) -> str:
    """A few sentences: what changed, why, on whose word, and how it was chosen."""
    sentences = []
    if stand_in:
        sentences.append(f"{parent} carries no description, so the search starts from that of {stand_in} in its place.")
    if mate:
        sentences.append(f"The child of {parent} takes whole parts from {mate[1]}, to join what made each of them fit.")
    for number, step in enumerate(steps):
        subject = f"{parent} receives" if number == 0 and not mate else "It also receives"
        sentences.append(f"{subject} {step.move.what}, because {step.move.why}{cites(step.move)}.")
    grounds = [ground for step in steps if (ground := _ground(step))]
    sentences += [*grounds, choice] if choice else grounds
    sentences.append("Found by a search over known moves, without a language model.")
    return " ".join(sentences)


def _ground(step: Step) -> str:
    name = step.move.name.replace("_", " ")
    if step.entry:
        return f"The cognition entry {step.entry} suggests the move '{name}'."
    if step.belief and step.belief.seen and step.belief.mean > 0:
        gain, times = step.belief.mean, step.belief.seen
        return f"The move '{name}' is believed to gain {gain:.3f} in fitness here, from {times} earlier candidates."
    return ""


def ideas(steps: Sequence[Step], mate: tuple[str, str] | None) -> tuple[Idea, ...]:
    """Where each idea came from; a move without entry, record or paper counts as original."""
    found = [Idea(step.move.what, *_origin(step)) for step in steps]
    if mate:
        found.insert(0, Idea(f"parts of {mate[1]}", "analysis", mate[0]))
    return tuple(found)


def _origin(step: Step) -> tuple[str, str]:
    if step.entry:
        return "cognition", step.entry
    if step.belief and step.belief.seen and step.belief.mean > 0:
        return "analysis", ""
    return ("cognition", str(step.move.source)) if step.move.source else ("original", "")
