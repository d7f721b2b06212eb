"""The offline mind: a search over descriptions of mixers, without a language model."""

import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from services.contracts import candidate_pb2 as pb
from services.contracts.cognition_pb2 import CognitionEntry
from services.domain.components import VOCABULARY
from services.mixers.components import components_of
from services.mixers.description import CATALOGUE, ROOT, Mixer
from services.mixers.moves import LIBRARY, Move
from services.mixers.moves.move import cross
from services.mixers.render import render
from services.mixers.surrogate import Bandit, Belief, Observation, Prior, expected_improvement
from services.researcher.draft import Draft

MAX_NAME_MOVES = 4
_BASES = {"delta": "Delta", "product": "Product", "linear": "Linear", "none": "Path"}


@dataclass(frozen=True)
class Step:
    """A move of a child, the cognition entry that suggested it, and the belief about it."""

    move: Move
    entry: str | None
    belief: Belief


def motivation(
    steps: Sequence[Step], parent: str, substitute: str | None, mate: tuple[str, str] | None, choice: str = ""
) -> str:
    """A few sentences: the changes, their reasons, sources and selection."""
    sentences = []
    if substitute:
        sentences.append(
            f"{parent} carries no description, so the search starts from that of {substitute} in its place."
        )
    if mate:
        sentences.append(f"The child of {parent} takes whole parts from {mate[1]}, to join what made each of them fit.")
    for number, step in enumerate(steps):
        subject = f"{parent} receives" if number == 0 and not mate else "It also receives"
        source = f" ({step.move.source})" if step.move.source else ""
        sentences.append(f"{subject} {step.move.what}, because {step.move.why}{source}.")
    grounds = [ground for step in steps if (ground := _ground(step))]
    sentences += [*grounds, choice] if choice else grounds
    sentences.append("Found by a search over known moves, without a language model.")
    return " ".join(sentences)


def _ground(step: Step) -> str:
    name = step.move.name.replace("_", " ")
    if step.entry:
        return f"The cognition entry {step.entry} suggests the move '{name}'."
    gain, times = step.belief.mean, step.belief.observations
    if times and gain > 0:
        return f"The move '{name}' is believed to gain {gain:.3f} in fitness here, from {times} earlier candidates."
    return ""


def ideas(steps: Sequence[Step], mate: tuple[str, str] | None) -> list[pb.Idea]:
    """The ideas with their origins: "cognition", "analysis" (gains in this archive), or "original" for the others."""
    found = [pb.Idea(text=f"parts of {mate[1]}", origin="analysis", source=mate[0])] if mate else []
    for step in steps:
        origin, source = ("cognition", str(step.move.source)) if step.move.source else ("original", "")
        if step.entry:
            origin, source = "cognition", step.entry
        elif step.belief.observations and step.belief.mean > 0:
            origin, source = "analysis", ""
        found.append(pb.Idea(text=step.move.what, origin=origin, source=source))
    return found


def suggested(retrieved: Iterable[CognitionEntry]) -> dict[str, str]:
    """The entry that suggests each move: the first that names an added component or the move's paper."""
    entries: dict[str, str] = {}
    for entry in retrieved:
        tags = _tags(entry)
        for move in LIBRARY:
            if set(move.adds) & tags or (move.source is not None and move.source.reference in entry.title):
                entries.setdefault(move.name, entry.id)
    return entries


def _tags(entry: CognitionEntry) -> set[str]:
    """The entry's own tags, else the components whose names or aliases its title contains."""
    tags = {VOCABULARY.normalise(tag) for tag in entry.components if tag in VOCABULARY}
    if tags:
        return tags
    text = " " + re.sub(r"[^a-z0-9]+", " ", entry.title.lower()) + " "
    words = {c.name: (c.name, *c.aliases) for c in VOCABULARY}
    return {name for name, spellings in words.items() if any(f" {s.replace('-', ' ')} " in text for s in spellings)}


TRIES = 64
CROSSOVER_SHARE = 0.2
NUMBER_OF_MOVES = (1, 1, 2, 2, 3)  # drawn from uniformly
DRAWS = 200
"""Children among which the surrogate chooses."""
PARENTS = 10
"""The number of best measured mixers whose children are drawn."""
NEIGHBOURHOODS = 5
"""The number of best measured mixers whose children by one move are all considered besides."""
WALKS = (1, 1, 2, 2, 3, 4, 6, 8)
"""Numbers of moves to a child of the surrogate. Children within three moves of one parent gave three times the regret
(`asi-arch table compare`): the model also predicts distant mixers."""
FIRST_WALKS = (4, 6, 8)
"""Numbers of moves to a child before there is a model."""
MIN_MEASURED = 8
"""The minimum number of measured descriptions for a surrogate."""


class SearchExhaustedError(RuntimeError):
    """No new architecture was found within the tries; the seat should be rejected."""


@dataclass(frozen=True)
class Seed:
    """A parent or reference."""

    candidate: str
    name: str
    program: str
    fitness: float | None = None  # None if it was never scored
    description: str | None = None  # JSON of a `Mixer`; None for other programs
    family: str | None = None  # a name of the catalogue, for a program of the zoo


@dataclass(frozen=True)
class _Child:
    mixer: Mixer
    moves: tuple[Move, ...]
    mate: Seed | None = None


def propose_offline(
    parent: Seed,
    references: Sequence[Seed],
    history: Sequence[Observation],
    retrieved: Sequence[CognitionEntry],
    rng: random.Random,
    is_repeat: Callable[[str], bool] = lambda _: False,
) -> Draft:
    """Propose a new child of the parent by the gains of moves in `history` and by what `retrieved` entries suggest.

    A parent without a description is replaced by its family or DeltaNet, which the motivation names; references without
    one are not crossed. Raises SearchExhaustedError, and ValueError for a parent whose description is invalid.
    """
    start, substitute = starting_point(parent)
    entries = suggested(retrieved)
    bandit = Bandit.learned(history, entries)
    mates = [seed for seed in references if seed.description]
    structures = {start.structure(), *(Mixer.model_validate_json(seed.description or "").structure() for seed in mates)}
    for _ in range(TRIES):
        child = _child(start, mates, bandit, rng)
        if child is None or child.mixer.structure() in structures:
            continue
        proposal = _proposal(child, parent, substitute, bandit, entries)
        if not is_repeat(proposal.program):
            return proposal
        structures.add(child.mixer.structure())
    raise SearchExhaustedError(f"no new architecture within {TRIES} tries from {parent.name}: choose another parent")


def propose_by_surrogate(
    parent: Seed,
    references: Sequence[Seed],
    measured: Sequence[Seed],
    retrieved: Sequence[CognitionEntry],
    rng: random.Random,
    is_repeat: Callable[[str], bool] = lambda _: False,
    measure: str = "fitness",
    prior: Prior | None = None,
) -> Draft:
    """Of many near and far children of the best mixers, propose the one with the highest expected improvement.

    `measured` are the run's scored candidates; `measure` names the score. With too few descriptions for a model, a
    distant child is drawn at random, or the one of which the `prior` expects most. Other arguments and exceptions are
    those of `propose_offline`.
    """
    described = [(starting_point(seed)[0], seed) for seed in measured if seed.description or seed.family in CATALOGUE]
    scored = [(mixer, seed.fitness) for mixer, seed in described if seed.fitness is not None]
    ranked = sorted(
        (seed for _, seed in described if seed.fitness is not None), key=lambda seed: -(seed.fitness or 0.0)
    )
    starts = [parent, *(seed for seed in ranked[:PARENTS] if seed.candidate != parent.candidate)]
    fits = len(scored) >= MIN_MEASURED
    entries = suggested(retrieved)
    untrained = Bandit.learned((), entries)
    mates = [seed for seed in references if seed.description]
    structures = {starting_point(parent)[0].structure(), *(mixer.structure() for mixer, _ in described)}
    children: dict[str, tuple[Seed, _Child]] = {}  # by structure

    def consider(start: Seed, child: _Child) -> None:
        structure = child.mixer.structure()
        if structure not in structures:
            children.setdefault(structure, (start, child))

    for _ in range(DRAWS if fits else TRIES):
        start = rng.choice(starts)
        moves = rng.choice(WALKS if fits else FIRST_WALKS)
        child = _child(starting_point(start)[0], mates, untrained, rng, moves)
        if child is not None:
            consider(start, child)
    for start in ranked[:NEIGHBOURHOODS] if fits else ():
        for move in LIBRARY:
            mixer = move.apply(starting_point(start)[0])
            if mixer is not None:
                consider(start, _Child(mixer, (move,)))
    ranking = list(children.values())
    grounds = ["Drawn by chance, far from what is known: too little is measured yet for a model."] * len(ranking)
    if ranking and (found := _expected([child.mixer for _, child in ranking], scored if fits else (), prior, measure)):
        expected, ground = found
        best_first = sorted(range(len(ranking)), key=lambda index: -expected[index])
        ranking = [ranking[index] for index in best_first]
        grounds = [f"Of {len(ranking)} children considered {ground.format(expected[index])}" for index in best_first]
    for (start, child), ground in zip(ranking, grounds, strict=True):
        proposal = _proposal(child, start, starting_point(start)[1], untrained, entries, ground)
        if not is_repeat(proposal.program):
            return proposal
    raise SearchExhaustedError(f"no new architecture among {DRAWS} draws from {parent.name}: choose another parent")


def _expected(
    mixers: Sequence[Mixer], scored: Sequence[tuple[Mixer, float]], prior: Prior | None, measure: str
) -> tuple[list[float], str] | None:
    """What is expected of each mixer by a model of the scored ones, or by the prior alone, and how to say it."""
    if scored:
        known, scores = zip(*scored, strict=True)
        begins = " that begins with the shipped table" if prior else ""
        return expected_improvement(mixers, known, scores, prior).tolist(), (
            f"it has the highest expected improvement, {{:.3f}} in {measure}, under a model of {len(scored)} measured "
            f"mixers{begins}."
        )
    if prior is None:
        return None
    return prior(mixers).tolist(), (
        "it is the best by the shipped table, {:+.1f} standard deviations from the table's mean; the run has measured "
        "too little for a model."
    )


def starting_point(parent: Seed) -> tuple[Mixer, str | None]:
    """The parent's description, or a substitute with its name in the catalogue."""
    if parent.description:
        return Mixer.model_validate_json(parent.description).canonical(), None
    if parent.family is not None and parent.family in CATALOGUE:
        return CATALOGUE[parent.family].canonical(), None
    return CATALOGUE[ROOT].canonical(), ROOT


def _child(
    start: Mixer, mates: Sequence[Seed], bandit: Bandit, rng: random.Random, moves: int | None = None
) -> _Child | None:
    child = _Child(start, ())
    count = rng.choice(NUMBER_OF_MOVES) if moves is None else moves
    if mates and rng.random() < CROSSOVER_SHARE:
        mate = rng.choice(mates)
        mixed = cross(start, Mixer.model_validate_json(mate.description or ""), rng)
        child = _Child(mixed, (), mate) if mixed else child
        count -= 1
    for move in bandit.ranking(rng):
        if len(child.moves) >= count:
            break
        # A move must not undo an earlier step.
        if not any(set(move.removes) & set(earlier.adds) for earlier in child.moves):
            mixer = move.apply(child.mixer)
            child = child if mixer is None else replace(child, mixer=mixer, moves=(*child.moves, move))
    return child if child.moves or child.mate else None


def _proposal(
    child: _Child, parent: Seed, substitute: str | None, bandit: Bandit, entries: dict[str, str], ground: str = ""
) -> Draft:
    steps = [Step(move, entries.get(move.name), bandit.belief(move.name)) for move in child.moves]
    # Such as `WindowFloorDeltaNet3f2a`: the moves, the memory, and four digits of the structure.
    words = "".join(move.word for move in child.moves[:MAX_NAME_MOVES]) or "Cross"
    base = _BASES[child.mixer.memory.rule]
    name = f"{words}{'' if words.endswith(base) else base}Net{child.mixer.structure()[:4]}"
    mate = None if child.mate is None else (child.mate.candidate, child.mate.name)
    text = motivation(steps, parent.name, substitute, mate, ground)
    return Draft(
        name=name,
        motivation=text,
        program=render(child.mixer, name, text),
        description=child.mixer.model_dump(mode="json"),
        moves=tuple(move.name for move in child.moves),
        components=components_of(child.mixer),
        ideas=ideas(steps, mate),
        parent=parent.candidate,
    )
