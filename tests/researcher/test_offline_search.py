"""Proposals of the offline mind."""

import ast
import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from services.contracts.cognition_pb2 import CognitionEntry
from services.domain.structure import fingerprint
from services.mixers.description import CATALOGUE, Mixer, Output, Path
from services.mixers.moves import LIBRARY
from services.mixers.render import render
from services.mixers.surrogate import Observation, expected_improvement
from services.researcher.draft import Draft
from services.researcher.offline_search import (
    SearchExhaustedError,
    Seed,
    propose_by_surrogate,
    propose_offline,
    suggested,
)
from tests.researcher.compositions import composition

PARENT = Seed("c0001", "DeltaNet", "", 0.5, CATALOGUE["delta_net"].model_dump_json())
REFERENCE = Seed("c0002", "GatedDeltaNet", "", 0.6, CATALOGUE["gated_delta_net"].model_dump_json())


def proposal(
    seed: int,
    history: tuple[Observation, ...] = (),
    hints: tuple[CognitionEntry, ...] = (),
    earlier: Collection[str] = (),
) -> Draft:
    """One proposal from DeltaNet."""
    return propose_offline(PARENT, [REFERENCE], history, hints, random.Random(seed), is_repeat=repeats(earlier))


def repeats(earlier: Collection[str]) -> Callable[[str], bool]:
    """Whether a program has the structure of an earlier one."""
    digests = {fingerprint(program).digest for program in earlier}
    return lambda program: fingerprint(program).digest in digests


def structure(child: Draft) -> str:
    """That of the description."""
    return Mixer.model_validate(child.description).structure()


def test_the_same_seed_gives_the_same_proposal() -> None:
    """A run must be repeatable from its log."""
    assert proposal(3) == proposal(3)


def test_children_differ_from_parent_references_and_earlier_ones() -> None:
    """Forty proposals in a row must be forty architectures."""
    children: list[Draft] = []
    for seed in range(40):
        children.append(proposal(seed, earlier=[child.program for child in children]))
    known = {Mixer.model_validate_json(seed.description or "").structure() for seed in (PARENT, REFERENCE)}

    assert len({structure(child) for child in children} | known) == 42


def test_a_proposal_describes_what_it_renders() -> None:
    """The description in the record is what the next generation starts from."""
    child = proposal(5)

    assert render(Mixer.model_validate(child.description), child.name, child.motivation) == child.program
    assert "class DeltaNet(nn.Module)" in child.program
    assert child.name in child.program
    ast.parse(child.program)


def test_a_proposal_says_that_no_language_model_was_asked() -> None:
    """Proposals of the search must not look like those of a language model."""
    assert "without a language model" in proposal(1).motivation


def test_a_parent_without_description_is_replaced_and_the_motivation_says_by_what() -> None:
    """Imported and hand-written programs can be parents, but not silently."""
    child = propose_offline(Seed("c9", "Imported", "class DeltaNet: ..."), [], [], [], random.Random(0))

    assert "Imported carries no description" in child.motivation
    assert "delta_net" in child.motivation


def test_moves_that_paid_off_are_drawn_more_often() -> None:
    """The bandit must learn from the archive."""
    paid = tuple(Observation(("gated_value_skip",), 0.2) for _ in range(5))
    failed = tuple(Observation(("gated_value_skip",), None) for _ in range(5))
    with_gain = Counter("gated_value_skip" in proposal(seed, paid).moves for seed in range(60))
    with_loss = Counter("gated_value_skip" in proposal(seed, failed).moves for seed in range(60))

    assert with_gain[True] > 30
    assert with_loss[True] < 5


def test_moves_that_cognition_suggests_are_drawn_more_often_and_named_as_such() -> None:
    """What was retrieved for the parent's shortcomings should steer the search."""
    hint = CognitionEntry(id="entry-7", components=["head-mixing"])
    plain = [proposal(seed) for seed in range(80)]
    hinted = [proposal(seed, hints=(hint,)) for seed in range(80)]
    origins = [idea for child in hinted for idea in child.ideas if idea.source == "entry-7"]

    assert _mixes_heads(hinted) > _mixes_heads(plain)
    assert origins
    assert {idea.origin for idea in origins} == {"cognition"}


def _mixes_heads(children: list[Draft]) -> int:
    return sum(any("head_mixing" in move for move in child.moves) for child in children)


def test_an_entry_without_tags_suggests_by_its_words() -> None:
    """Cognition may come as plain text."""
    entry = CognitionEntry(id="e1", title="A sliding window of exact attention helps recall.")

    assert "window_path" in suggested([entry])


def test_an_exhausted_search_raises_an_error() -> None:
    """The seat must end as a rejection, not in a loop."""
    with pytest.raises(SearchExhaustedError, match="DeltaNet"):
        propose_offline(PARENT, [], [], [], random.Random(0), is_repeat=lambda _: True)


def test_a_nan_gain_is_refused() -> None:
    """One NaN would decide every later draw."""
    with pytest.raises(ValueError, match="finite"):
        Observation(("gate_floor",), float("nan"))


def measured(count: int) -> list[Seed]:
    """Descriptions whose fitness depends on their output gate and their skip alone."""
    seeds = []
    for number in range(count):
        mixer = composition(number)
        fitness = 0.5 + 0.3 * (mixer.output.gate != "none") + 0.2 * (mixer.output.skip != "none")
        seeds.append(Seed(f"c{number + 10:04d}", f"Net{number}", "", fitness, mixer.model_dump_json()))
    return seeds


def test_the_surrogate_chooses_children_that_blind_moves_rarely_hit() -> None:
    """A model of what was measured has to know which parts were good."""
    known = measured(60)

    def gain(child: Draft) -> float:
        mixer = Mixer.model_validate(child.description)
        return 0.3 * (mixer.output.gate != "none") + 0.2 * (mixer.output.skip != "none")

    modelled = [propose_by_surrogate(PARENT, [], known, [], random.Random(seed)) for seed in range(6)]
    blind = [propose_offline(PARENT, [], (), (), random.Random(seed)) for seed in range(6)]

    assert sum(map(gain, modelled)) > 2 * sum(map(gain, blind))
    assert "expected improvement" in modelled[0].motivation


def test_with_few_measured_descriptions_a_far_child_is_drawn_by_chance() -> None:
    """Seven points determine no model."""
    few = propose_by_surrogate(PARENT, [REFERENCE], measured(7), [], random.Random(3))

    assert "too little is measured" in few.motivation
    assert len(few.moves) >= 3


def likes_skips(mixers: Sequence[Mixer]) -> NDArray[np.float64]:
    """A prior that was right elsewhere."""
    return np.array([1.0 if mixer.output.skip != "none" else -1.0 for mixer in mixers])


def test_a_prior_guides_the_search_before_there_is_a_model() -> None:
    few = [propose_by_surrogate(PARENT, [], measured(7), [], random.Random(s), prior=likes_skips) for s in range(4)]

    assert all(Mixer.model_validate(child.description).output.skip != "none" for child in few)
    assert "it is the best by the shipped table, +1.0 standard deviations" in few[0].motivation


@pytest.mark.parametrize(("sign", "better"), [(1.0, True), (-1.0, False)])
def test_a_prior_counts_as_far_as_the_run_follows_it(sign: float, better: bool) -> None:
    """Two mixers that differ in what it likes only; one that is wrong about this run counts reversed."""
    known = [Mixer.model_validate_json(seed.description or "") for seed in measured(20)]
    scores = sign * likes_skips(known)
    plain = Mixer(paths=(Path(kind="routed"), Path(kind="dilated", size=4)))
    skipping = plain.model_copy(update={"output": Output(skip="channel")})

    without, with_prior = expected_improvement([plain, skipping], known, list(scores), likes_skips)

    assert bool(with_prior > without) is better


def test_a_program_that_hardly_trains_leaves_the_models_choice_as_it_was() -> None:
    """However bad it is, beside others it is the worst; it does not make the others equal."""
    known = [Mixer.model_validate_json(seed.description or "") for seed in measured(40)]
    scores = [seed.fitness or 0.0 for seed in measured(40)]
    children = [mixer for move in LIBRARY if (mixer := move.apply(known[0])) is not None]
    worst = min(range(40), key=scores.__getitem__)

    def expected(score: float) -> list[float]:
        changed = [score if index == worst else other for index, other in enumerate(scores)]
        return [*map(float, expected_improvement(children, known, changed))]

    assert expected(-10.0) == expected(-1e9)
    assert expected(-10.0) == pytest.approx(expected(scores[worst]), rel=0.2)


def test_a_surrogates_child_names_the_parent_that_was_modified() -> None:
    """Any of the best may be, not only the one that was drawn."""
    children: list[Draft] = []
    for seed in range(8):
        known, earlier = measured(30), repeats([child.program for child in children])
        children.append(propose_by_surrogate(PARENT, [], known, [], random.Random(seed), earlier))
    parents = {child.parent for child in children}

    assert len(parents) > 1
    assert parents <= {PARENT.candidate, *(seed.candidate for seed in measured(30))}


def test_the_surrogate_never_proposes_what_is_measured() -> None:
    """Ten in a row, each measured before the next."""
    known = measured(10)
    for seed in range(10):
        child = propose_by_surrogate(PARENT, [REFERENCE], known, [], random.Random(seed))
        known.append(Seed(f"d{seed}", child.name, child.program, 0.5, json.dumps(child.description)))

    structures = [Mixer.model_validate_json(seed.description or "").structure() for seed in known[10:]]
    assert len(set(structures)) == 10
