"""The library of moves."""

import random

import pytest

from services.domain.components import VOCABULARY
from services.mixers.description import CATALOGUE, Fusion, Mixer, Path
from services.mixers.moves import LIBRARY, Move
from services.mixers.moves.move import Papers, cross, moves, setting
from tests.researcher.compositions import composition

BUSY = Mixer(
    paths=(Path(kind="value"), Path(kind="average", size=24)),
    fusion=Fusion(kind="softmax", floor=True, temperature=True, evidence="statistics"),
)
STARTS = [*CATALOGUE.values(), BUSY, *(composition(seed) for seed in range(150))]


def test_the_library_holds_many_moves_with_names_of_their_own() -> None:
    """Names are the bandit's arms and words are what tells children apart."""
    assert len(LIBRARY) >= 40
    assert len({move.name for move in LIBRARY}) == len(LIBRARY)
    assert len({move.word for move in LIBRARY}) == len(LIBRARY)


def test_moves_add_and_remove_components() -> None:
    """A search that only adds ends in mixers that nobody can afford."""
    removals = [move for move in LIBRARY if not move.adds]

    assert len(removals) >= 10
    assert len(LIBRARY) - len(removals) >= 30


TEXT = """
longer_keys (Long)
    keys without a norm
    because the size of a key carries information
    + feature-map, temperature; - qk-normalisation; by RWKV
"""


def test_a_move_is_read_from_its_text() -> None:
    """Every line and every fact has its place."""
    (move,) = moves(TEXT, {"longer_keys": setting(features={"norm": "none"})})

    assert (move.name, move.word, move.what) == ("longer_keys", "Long", "keys without a norm")
    assert move.why == "the size of a key carries information"
    assert (move.adds, move.removes) == (("feature-map", "temperature"), ("qk-normalisation",))
    assert move.source is Papers.RWKV


@pytest.mark.parametrize("text", ["", TEXT.replace("because", "as"), TEXT + TEXT.replace("longer", "shorter")])
def test_a_move_needs_a_text_and_a_change(text: str) -> None:
    """A misspelt text would otherwise be a move that silently does not exist."""
    with pytest.raises(ValueError, match="each move needs a text of four lines and a change"):
        moves(text, {"longer_keys": setting(features={"norm": "none"})})


@pytest.mark.parametrize("move", LIBRARY, ids=lambda move: move.name)
def test_a_move_uses_the_vocabulary_and_applies_to_some_architecture(move: Move) -> None:
    """A move must apply somewhere, and an unknown tag would be missing in the figures."""
    assert all(VOCABULARY.normalise(tag) == tag for tag in (*move.adds, *move.removes))
    assert any(move.apply(start) is not None for start in STARTS)


@pytest.mark.parametrize("move", LIBRARY, ids=lambda move: move.name)
def test_a_move_changes_the_structure_or_does_not_apply(move: Move) -> None:
    """A child that equals its parent would be trained for nothing."""
    children = [(start, move.apply(start)) for start in STARTS[:40]]

    assert all(child is None or child.structure() != start.structure() for start, child in children)


def test_a_crossover_differs_from_both_parents() -> None:
    """A copy of a parent is no child."""
    first, second = CATALOGUE["delta_net"], CATALOGUE["mamba2"]

    child = cross(first, second, random.Random(0))

    assert child is not None
    assert child.structure() not in {first.structure(), second.structure()}


def test_equal_parents_have_no_crossover() -> None:
    """There is nothing to exchange."""
    assert cross(CATALOGUE["gla"], CATALOGUE["gla"], random.Random(0)) is None
