"""Search for entries by the similarity of their trigger patterns."""

import asyncio
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from services.analyst.cognition import Corpus, Knowledge
from services.llm.embedder import Embedder, Vector, validate_not_empty, validate_same_embedder

MAX_RESULTS = 50
"""The largest number of entries per search."""

CACHED_QUERIES = 256
"""Cached query vectors: a parent that is drawn again has the same query."""


@dataclass(frozen=True)
class Hit:
    """An entry and the cosine, −1 to 1, of the query and its trigger patterns."""

    knowledge: Knowledge
    similarity: float


@dataclass(frozen=True)
class Index:
    """Trigger patterns as vectors of one embedder, in the corpus' order; created by `index`."""

    corpus: Corpus
    embedder: Embedder
    vectors: tuple[Vector, ...]
    _cache: dict[str, Vector] = field(default_factory=dict, init=False, repr=False, compare=False)

    async def search(
        self, query: str, count: int = 3, threshold: float = 0.5, vector: Vector | None = None
    ) -> tuple[Hit, ...]:
        """The `count` nearest entries with a cosine of at least `threshold`, best first.

        `vector` is the query's embedding, if the caller has it. Equal cosines (to six decimals, so that machines with
        different arithmetic agree) are ordered by id. Raises ValueError for an empty query or a count outside 1 to 50,
        and EmbedderMismatch for a vector of another embedder.
        """
        if not query.strip():
            raise ValueError("query is empty: describe what the experiment showed")
        if not 1 <= count <= MAX_RESULTS:
            raise ValueError(f"count must be 1 to {MAX_RESULTS}, not {count}")
        if vector is None and (vector := self._cache.get(query)) is None:
            if len(self._cache) >= CACHED_QUERIES:
                self._cache.clear()
            (vector,) = await self.embedder.embed([query])
            self._cache[query] = vector
        validate_same_embedder(vector, self.vectors[:1])
        cosines = np.clip(self._matrix @ vector.values.astype(np.float64), -1.0, 1.0)
        indices = np.flatnonzero(cosines >= threshold)
        if len(indices) > count:
            smallest = np.partition(cosines[indices], -count)[-count]
            indices = indices[cosines[indices] >= smallest - 1e-6]  # including ties after rounding
        hits = [Hit(self.corpus.entries[index], float(cosines[index])) for index in indices]
        return tuple(sorted(hits, key=lambda hit: (-round(hit.similarity, 6), hit.knowledge.id))[:count])

    @cached_property
    def _matrix(self) -> csr_array:
        """All vectors as rows; those of the local embedder are sparse."""
        return csr_array(np.stack([vector.values for vector in self.vectors]).astype(np.float64))


def triggers(corpus: Corpus) -> Sequence[str]:
    """The trigger patterns of all entries, the only embedded field."""
    return [knowledge.entry.experimental_trigger_patterns for knowledge in corpus.entries]


async def index(corpus: Corpus, embedder: Embedder) -> Index:
    """Embed all trigger patterns. Raises the errors of the embedder."""
    return Index(corpus, embedder, tuple(await embedder.embed(triggers(corpus))))


VERSION = "v1"
LATENT = 64
"""Dimensions of the latent space."""
WEIGHTS = (1.0, 0.5, 0.8)
"""Stems, character n-grams, latent space; not tuned on the benchmark's queries."""

_WORD = re.compile(r"[a-z][a-z0-9]+")
_SUFFIXES = ("isations", "isation", "ations", "ation", "ingly", "ness", "ment", "able", "ally", "ings", "ing", "ied",
             "ies", "edly", "est", "ers", "ed", "er", "es", "ly", "al", "s", "e")  # fmt: skip
_STOP_WORDS = frozenset(
    """
    a about above across after afterwards again against all almost alone along already also although always am among
    amongst amoungst amount an and another any anyhow anyone anything anyway anywhere are around as at back be
    became because become becomes becoming been before beforehand behind being below beside besides between beyond
    bill both bottom but by call can cannot cant co con could couldnt cry de describe detail do done down due during
    each eg eight either eleven else elsewhere empty enough etc even ever every everyone everything everywhere
    except few fifteen fifty fill find fire first five for former formerly forty found four from front full further
    get give go had has hasnt have he hence her here hereafter hereby herein hereupon hers herself him himself his
    how however hundred i ie if in inc indeed interest into is it its itself keep last latter latterly least less
    ltd made many may me meanwhile might mill mine more moreover most mostly move much must my myself name namely
    neither never nevertheless next nine no nobody none noone nor not nothing now nowhere of off often on once one
    only onto or other others otherwise our ours ourselves out over own part per perhaps please put rather re same
    see seem seemed seeming seems serious several she should show side since sincere six sixty so some somehow
    someone something sometime sometimes somewhere still such system take ten than that the their them themselves
    then thence there thereafter thereby therefore therein thereupon these they thick thin third this those though
    three through throughout thru thus to together too top toward towards twelve twenty two un under until up upon
    us very via was we well were what whatever when whence whenever where whereafter whereas whereby wherein
    whereupon wherever whether which while whither who whoever whole whom whose why will with within without would
    yet you your yours yourself yourselves
    """.split()  # noqa: SIM905 - three hundred quoted words are harder to read
)
"""Function words of English: scikit-learn's list."""


def stem(word: str) -> str:
    """A word without its ending, at least three letters long: 'gating', 'gated' and 'gates' become 'gat'."""
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            return word[: -len(suffix)]
    return word


def stems(text: str) -> list[str]:
    """The stems of a text's content words, in order."""
    return [stem(word) for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS]


def grams(text: str) -> list[str]:
    """Sequences of four and five characters within words, spaces around each word included."""
    sequences = []
    for word in (f" {word} " for word in text.lower().split()):
        for size in (4, 5):
            sequences += [word[start : start + size] for start in range(max(1, len(word) - size + 1))]
            if len(word) <= size:  # a short word counts once
                break
    return sequences


class TermWeights:
    """TF-IDF with logarithmic counts, rows of unit length, as scikit-learn's, whose import takes two seconds."""

    def __init__(self, texts: Sequence[str], terms: Callable[[str], list[str]], max_terms: int | None = None) -> None:
        """`max_terms` limits the vocabulary to the most frequent terms."""
        self._terms = terms
        counts = [Counter(terms(text)) for text in texts]
        total, documents = Counter[str](), Counter[str]()
        for count in counts:
            total.update(count)
            documents.update(count.keys())
        vocabulary = sorted(total)
        if max_terms is not None and len(vocabulary) > max_terms:
            order = np.argsort([-total[term] for term in vocabulary])[:max_terms]
            vocabulary = [vocabulary[index] for index in sorted(order)]
        self.columns = {term: column for column, term in enumerate(vocabulary)}
        self._rarity = np.array([np.log((1 + len(texts)) / (1 + documents[term])) + 1 for term in vocabulary])

    def rows(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Shape [texts, terms]."""
        rows = np.zeros((len(texts), len(self.columns)))
        for row, text in zip(rows, texts, strict=True):
            for term, count in Counter(self._terms(text)).items():
                if (column := self.columns.get(term)) is not None:
                    row[column] = 1 + np.log(count)
        return unit_rows(rows * self._rarity)


def unit_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row divided by its length; rows of zeros are unchanged."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths == 0, 1.0, lengths))


def full_text(knowledge: Knowledge) -> str:
    """All prose of an entry, to which term weights are fitted."""
    entry = knowledge.entry
    fields = (entry.design_insight, entry.experimental_trigger_patterns, entry.background)
    return " ".join((*fields, entry.algorithmic_innovation, entry.implementation_guidance))


class CorpusEmbedder:
    """An embedder fitted to a corpus; its name identifies the corpus, so that vectors of another one are refused."""

    def __init__(self, corpus: Corpus) -> None:
        texts = [full_text(knowledge) for knowledge in corpus.entries]
        self._words, self._grams = TermWeights(texts, stems), TermWeights(texts, grams, max_terms=8192)
        _, _, rows = np.linalg.svd(self._words.rows(texts), full_matrices=False)
        basis = rows[:LATENT].T  # the leading right singular vectors, shape [terms, at most LATENT]
        signs = np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(basis.shape[1])])  # the same on all machines
        self._basis: NDArray[np.float64] = basis * signs
        digest = hashlib.sha256(repr((texts, WEIGHTS)).encode()).hexdigest()[:8]
        self.dimension: int = len(self._words.columns) + len(self._grams.columns) + self._basis.shape[1] + 1
        self.name = f"corpus-{VERSION}-{digest}"

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        """See the port. Computed in a thread."""
        validate_not_empty(texts)
        rows = await asyncio.to_thread(self._rows, list(texts))
        return [Vector(self.name, row) for row in rows]

    def _rows(self, texts: list[str]) -> NDArray[np.float32]:
        """Shape [texts, dimension]. The last column gives texts without known words a direction."""
        words = self._words.rows(texts)
        parts = (words, self._grams.rows(texts), unit_rows(words @ self._basis))
        weighted = [weight * part for weight, part in zip(WEIGHTS, parts, strict=True)]
        return np.hstack([*weighted, np.full((len(texts), 1), 1e-4)]).astype(np.float32)
