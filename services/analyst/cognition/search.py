"""Search: the entries whose trigger patterns lie nearest to what an experiment showed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from services.analyst.cognition.corpus import Corpus, Knowledge
from services.llm.embedder import Embedder, Vector, validate_same_embedder

MOST = 50
"""More entries than this are refused: a context full of entries explains nothing."""

REMEMBERED = 256
"""Queries whose vectors are kept: a parent that is drawn again asks the same again."""


@dataclass(frozen=True)
class Hit:
    """An entry and the cosine, −1 to 1, between the query and its trigger patterns."""

    knowledge: Knowledge
    similarity: float


@dataclass(frozen=True)
class Index:
    """Trigger patterns as vectors of one embedder, in the corpus' order; made by `index`."""

    corpus: Corpus
    embedder: Embedder
    vectors: tuple[Vector, ...]
    _asked: dict[str, Vector] = field(default_factory=dict, init=False, repr=False, compare=False)

    async def search(
        self, query: str, count: int = 3, threshold: float = 0.5, vector: Vector | None = None
    ) -> tuple[Hit, ...]:
        """The `count` nearest entries with a cosine of at least `threshold`, best first.

        `vector` is the query's where somebody has embedded it already.
        Equal cosines (to six decimals, so that machines with different arithmetic agree) are in the order of ids.
        Raises ValueError for an empty query or a count outside 1 to 50.
        """
        if not query.strip():
            raise ValueError("query is empty: describe what the experiment showed")
        if not 1 <= count <= MOST:
            raise ValueError(f"count must be 1 to {MOST}, not {count}")
        if vector is None:
            vector = await self._embedded(query)
        return self.nearest(vector, count, threshold)

    async def _embedded(self, query: str) -> Vector:
        if query not in self._asked:
            if len(self._asked) >= REMEMBERED:
                self._asked.clear()
            (self._asked[query],) = await self.embedder.embed([query])
        return self._asked[query]

    def nearest(self, query: Vector, count: int, threshold: float) -> tuple[Hit, ...]:
        """As `search`, for a vector; raises EmbedderMismatch when another embedder made it."""
        cosines = self._cosines(query)
        kept = np.flatnonzero(cosines >= threshold)
        if len(kept) > count:
            least = np.partition(cosines[kept], -count)[-count]
            kept = kept[cosines[kept] >= least - 1e-6]  # with what rounds to the same
        hits = [Hit(self.corpus.entries[place], float(cosines[place])) for place in kept]
        return tuple(sorted(hits, key=lambda hit: (-round(hit.similarity, 6), hit.knowledge.id))[:count])

    def _cosines(self, query: Vector) -> NDArray[np.float64]:
        """With every entry. Raises EmbedderMismatch."""
        validate_same_embedder(query, self.vectors[:1])
        cosines: NDArray[np.float64] = self._matrix @ query.values.astype(np.float64)
        return np.clip(cosines, -1.0, 1.0)

    @cached_property
    def _matrix(self) -> csr_array:
        """All vectors as rows, made once: those of the local embedder are nearly empty."""
        return csr_array(np.stack([vector.values for vector in self.vectors]).astype(np.float64))


def triggers(corpus: Corpus) -> Sequence[str]:
    """The only embedded field, of every entry."""
    return [knowledge.entry.experimental_trigger_patterns for knowledge in corpus.entries]


async def index(corpus: Corpus, embedder: Embedder) -> Index:
    """Embed all trigger patterns once; raises what the embedder raises."""
    return Index(corpus, embedder, tuple(await embedder.embed(triggers(corpus))))
