"""Search: the entries whose trigger patterns lie nearest to what an experiment showed."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import sklearn
from numpy.typing import NDArray
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.preprocessing import normalize

from services.analyst.cognition.corpus import Corpus, Knowledge
from services.llm.embedder import Embedder, Vector, validate_not_empty, validate_same_embedder

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

        `vector` is the query's embedding where the caller has it already.
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


VERSION = "v1"
LATENT = 64
"""Dimensions of the latent space."""
WEIGHTS = (1.0, 0.5, 0.8)
"""Stems, character n-grams, latent space; chosen beforehand, not tuned on the bench's queries."""

_WORD = re.compile(r"[a-z][a-z0-9]+")
_SUFFIXES = ("isations", "isation", "ations", "ation", "ingly", "ness", "ment", "able", "ally", "ings", "ing", "ied",
             "ies", "edly", "est", "ers", "ed", "er", "es", "ly", "al", "s", "e")  # fmt: skip


def stem(word: str) -> str:
    """A word without its ending, at least three letters long: 'gating', 'gated' and 'gates' become 'gat'."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)]
    return word


def stems(text: str) -> list[str]:
    """The stems of a text's content words, in order."""
    return [stem(word) for word in _WORD.findall(text.lower()) if word not in ENGLISH_STOP_WORDS]


def whole(knowledge: Knowledge) -> str:
    """All prose of an entry, from which term weights are learned."""
    entry = knowledge.entry
    fields = (entry.design_insight, entry.experimental_trigger_patterns, entry.background)
    return " ".join((*fields, entry.algorithmic_innovation, entry.implementation_guidance))


class CorpusEmbedder:
    """Fitted once on a corpus; deterministic for it, and named after it, so that vectors of another one are refused."""

    def __init__(self, corpus: Corpus, weights: tuple[float, float, float] = WEIGHTS) -> None:
        texts = [whole(knowledge) for knowledge in corpus.entries]
        self._weights = weights
        self._words = TfidfVectorizer(analyzer=stems, sublinear_tf=True).fit(texts)
        self._grams = TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 5), sublinear_tf=True, max_features=8192)
        self._grams.fit(texts)
        self._basis = _latent_basis(self._words.transform(texts).toarray(), LATENT)
        digest = hashlib.sha256(repr((texts, weights)).encode()).hexdigest()[:8]
        self._dimension: int = len(self._words.vocabulary_) + len(self._grams.vocabulary_) + self._basis.shape[1] + 1
        self._name = f"corpus-{VERSION}-{digest}"

    @property
    def name(self) -> str:
        """Algorithm, version and a digest of what it was fitted on."""
        return self._name

    @property
    def dimension(self) -> int:
        """The length of a vector."""
        return self._dimension

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """Vectors in the order of `texts`, computed in a thread; raises ValueError naming an empty text."""
        validate_not_empty(texts)
        rows = await asyncio.to_thread(self._rows, list(texts))
        return [Vector(self._name, row) for row in rows]

    def _rows(self, texts: list[str]) -> NDArray[np.float32]:
        """Shape [texts, dimension]. The last column gives a text without any known word a direction of its own."""
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            words = self._words.transform(texts).toarray()
            parts = (words, self._grams.transform(texts).toarray(), normalize(words @ self._basis))
        weighted = [weight * part for weight, part in zip(self._weights, parts, strict=True)]
        return np.hstack([*weighted, np.full((len(texts), 1), 1e-4)]).astype(np.float32)


def _latent_basis(documents: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """The leading right singular vectors, shape [terms, kept]; signs fixed so that machines agree."""
    _, _, rows = np.linalg.svd(documents, full_matrices=False)
    basis = rows[: min(most, len(documents))].T
    largest = np.abs(basis).argmax(axis=0)
    signs: NDArray[np.float64] = np.sign(basis[largest, np.arange(basis.shape[1])])
    return np.asarray(basis * signs)
