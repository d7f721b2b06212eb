"""Embedders: from texts to unit vectors that name their embedder.

`services.llm.openai_embedder.OpenAIEmbedder` implements the port with an endpoint.

The local embedder needs no network and no model, and gives the same vector on every machine. It hashes words,
pairs of neighbouring words and the character n-grams inside words (so that "gate", "gated" and "gating" are near) into
a fixed number of signed buckets. Sources: feature hashing, Weinberger et al. 2009, arXiv:0902.2206; sub-word n-grams,
Bojanowski et al. 2017, arXiv:1607.04606; sublinear term frequency, Manning et al., Introduction to Information
Retrieval, 6.4.1. It knows spelling, not meaning: paraphrases without common words score near 0, unrelated English
texts 0.0–0.1, texts on one mechanism 0.2–0.6.
"""

import asyncio
import math
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class EmbedderMismatch(ValueError):  # noqa: N818
    """Vectors of different embedders cannot be compared."""


@dataclass(frozen=True, slots=True, eq=False)
class Vector:
    """A direction in the space of one embedder; `values` is float32 of shape [dimension], of length 1, read-only.

    Raises ValueError for `values` that are not one-dimensional, not finite or all zero.
    """

    embedder: str
    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float64)
        norm = float(np.linalg.norm(values)) if values.ndim == 1 else math.nan
        if not math.isfinite(norm) or norm == 0.0:
            raise ValueError(f"vector.values of {self.embedder} must be one row of finite numbers, not all zero")
        # A vector from float32 storage has length 1 and must not change.
        unit = (values if abs(norm - 1.0) < 1e-6 else values / norm).astype(np.float32)
        unit.setflags(write=False)
        object.__setattr__(self, "values", unit)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Vector):
            return NotImplemented
        return self.embedder == other.embedder and np.array_equal(self.values, other.values)


class Embedder(Protocol):
    """Embeds texts.

    `embed` returns one vector per text, in order; equal texts have equal vectors. `name` identifies the space: a
    changed algorithm or model has another name. An empty text raises ValueError naming its index, an unreachable
    endpoint Transient.
    """

    @property
    def name(self) -> str: ...

    async def embed(self, texts: Sequence[str]) -> list[Vector]: ...


def validate_same_embedder(query: Vector, others: Sequence[Vector]) -> None:
    """Raises EmbedderMismatch unless all come from one embedder."""
    for other in others:
        if other.embedder != query.embedder or other.values.shape != query.values.shape:
            raise EmbedderMismatch(
                f"a vector of {query.embedder} ({query.values.size}) cannot be compared with one of "
                f"{other.embedder} ({other.values.size}); embed the texts again with one embedder"
            )


def validate_not_empty(texts: Sequence[str]) -> None:
    """Raises ValueError naming the first empty text."""
    for index, text in enumerate(texts):
        if not text.strip():
            raise ValueError(f"texts[{index}] is empty; an embedder needs some text")


_WORD = re.compile(r"[^\W_]+")
_STOP = frozenset(
    _WORD.findall(
        "a an and are as at be been but by can could do does for from had has have how if in into is it its may more "
        "most no nor not of on or our over so such than that the their then there these they this those through to "
        "under up us was we were what when where which while who will with without would you your"
    )
)
_STOP_WEIGHT = 0.05
_SUBWORD_WEIGHT = 0.7
_PAIR_WEIGHT = 0.4


class LocalEmbedder:
    """Deterministic hashing of words, word pairs and sub-word n-grams; numpy only, about 1 ms a paragraph."""

    def __init__(self, dimension: int = 1024) -> None:
        if dimension < 2:
            raise ValueError(f"dimension must be at least 2, not {dimension}")
        self._dimension = dimension

    @property
    def name(self) -> str:
        return f"hashed-{self._dimension}-v1"

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """See the port. Computed in a thread."""
        validate_not_empty(texts)
        return await asyncio.to_thread(lambda: [self.vector(text) for text in texts])

    def vector(self, text: str) -> Vector:
        """The vector of one text. Raises ValueError for an empty text."""
        validate_not_empty([text])
        values = np.zeros(self._dimension)
        for feature, weight in _features(text):
            code = zlib.crc32(feature.encode("utf-8", "surrogatepass"))
            values[(code >> 1) % self._dimension] += weight if code & 1 else -weight
        return Vector(self.name, values.astype(np.float32))


def _features(text: str) -> Iterator[tuple[str, float]]:
    """Weighted features of a text: repeated words weigh 1 + ln(times), stop words little."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = _WORD.findall(folded) or ["".join(folded.split())]
    for word, times in Counter(words).items():
        weight = (1.0 + math.log(times)) * (_STOP_WEIGHT if word in _STOP else 1.0)
        yield f"w {word}", weight
        # The 3- to 5-grams of the word with its ends marked; the norm of their weights is `_SUBWORD_WEIGHT` of its own.
        marked = f"<{word}>"
        grams = [marked[at : at + size] for size in (3, 4, 5) for at in range(len(marked) - size + 1)]
        for gram in grams:
            yield f"g {gram}", _SUBWORD_WEIGHT * weight / math.sqrt(len(grams))
    content = [word for word in words if word not in _STOP]
    for (left, right), times in Counter(pairwise(content)).items():
        yield f"p {left} {right}", _PAIR_WEIGHT * (1.0 + math.log(times))
