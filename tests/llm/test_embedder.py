"""Vectors: deterministic, of unit length, near for related texts, never mixed between embedders."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.llm.embedder import EmbedderMismatch, LocalEmbedder, Vector, validate_same_embedder

GATE = "Add a data-dependent forget gate to the delta rule so that stale associations decay before new writes."
GATED = "Gating the decay of the state: stale memories of a delta-rule layer are forgotten by a learned gate."
BREAD = "Mix flour with water and salt, let the dough rise over night, and bake it in a hot oven."


def test_a_text_has_the_same_vector_on_every_machine() -> None:
    """Stored embeddings stay comparable, so the numbers themselves are part of the name's promise."""
    values = LocalEmbedder(64).vector("forget gate").values

    assert zlib.crc32(np.round(values * 1000).astype("<i4").tobytes()) == 716692306


@given(st.text(min_size=1).filter(str.strip))
def test_every_text_has_a_direction(text: str) -> None:
    """No text may give a zero or NaN vector."""
    try:
        vector = LocalEmbedder(256).vector(text)
    except ValueError:
        raise AssertionError(repr(text)) from None

    assert np.linalg.norm(vector.values) == pytest.approx(1.0, abs=1e-6)


def test_related_texts_are_nearer_than_unrelated_ones() -> None:
    """The novelty check and the cognition base rest on this order."""
    embedder = LocalEmbedder()
    gate, gated, bread = (embedder.vector(text).values for text in (GATE, GATED, BREAD))
    near, far = gate @ gated, gate @ bread

    assert near > 0.3
    assert abs(far) < 0.1


async def test_embed_keeps_order_and_number() -> None:
    """Callers pair texts and vectors by position."""
    embedder = LocalEmbedder()
    vectors = await embedder.embed([GATE, BREAD, GATE])

    assert vectors == [embedder.vector(GATE), embedder.vector(BREAD), embedder.vector(GATE)]


async def test_an_empty_text_is_refused_with_its_index() -> None:
    """It would have no direction."""
    with pytest.raises(ValueError, match=r"texts\[1\] is empty"):
        await LocalEmbedder().embed([GATE, "  "])


def test_vectors_of_two_embedders_are_never_compared() -> None:
    """Their cosine has no meaning."""
    with pytest.raises(EmbedderMismatch, match=r"hashed-64-v1.*hashed-128-v1"):
        validate_same_embedder(LocalEmbedder(64).vector(GATE), [LocalEmbedder(128).vector(GATE)])


def test_a_vector_survives_storage_to_the_bit() -> None:
    """Messages and databases carry the floats; a replay must find the same vector."""
    vector = LocalEmbedder().vector(GATE)

    assert Vector(vector.embedder, np.array([float(value) for value in vector.values])) == vector


@pytest.mark.parametrize("values", [[0.0, 0.0], [float("nan"), 1.0], [[1.0]], [float("inf"), 1.0]])
def test_a_vector_without_a_direction_is_refused(values: list[float]) -> None:
    """Absence is not a number."""
    with pytest.raises(ValueError, match=r"vector\.values of x"):
        Vector("x", np.array(values))
