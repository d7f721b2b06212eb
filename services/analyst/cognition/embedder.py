"""An embedder fitted on the corpus: no download, no GPU, and it knows which words of this field go together.

Three parts, each of unit length before it is weighted: stems of words (TF-IDF), character n-grams inside words (so that
"normalise" and "normalisation" are near), and a latent space (LSA: Deerwester et al. 1990, Indexing by Latent Semantic
Analysis) in which "forget" is near "decay" because the corpus uses them together. All fields of the entries teach the
weights; what is embedded for search is still the trigger patterns only.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.preprocessing import normalize

from services.analyst.cognition.corpus import Corpus, Knowledge
from services.llm.embedder import Vector, validate_not_empty

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
