"""Search: determinism, threshold, refusals, and whether it beats counting words."""

from __future__ import annotations

import numpy as np
import pytest

from bench.retrieval.__main__ import overlap_recall, queries, recall
from services.analyst.cognition import Corpus, load
from services.analyst.cognition.search import CorpusEmbedder, TermWeights, full_text, grams, index, stems
from services.llm.embedder import EmbedderMismatch, LocalEmbedder

QUERY = "Parity is never learnt and accuracy stays at chance for alternating patterns."


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """The shipped corpus, read once."""
    return load()


@pytest.fixture(scope="module")
def fitted(corpus: Corpus) -> CorpusEmbedder:
    """The embedder of the shipped corpus, fitted once."""
    return CorpusEmbedder(corpus)


async def test_two_indices_give_the_same_hits_in_the_same_order(corpus: Corpus) -> None:
    """A replayed run must retrieve what it retrieved before."""
    first = await (await index(corpus, CorpusEmbedder(corpus))).search(QUERY, threshold=0.0)
    again = await (await index(corpus, CorpusEmbedder(corpus))).search(QUERY, threshold=0.0)

    assert first == again
    assert first[0].knowledge.paper.arxiv == "2411.12537"


async def test_hits_are_best_first_and_none_is_below_the_threshold(corpus: Corpus, fitted: CorpusEmbedder) -> None:
    """Irrelevant entries would be read as advice."""
    built = await index(corpus, fitted)
    hits = await built.search(QUERY, count=50, threshold=0.1)

    similarities = [hit.similarity for hit in hits]
    assert similarities == sorted(similarities, reverse=True)
    assert min(similarities) >= 0.1
    assert await built.search(QUERY, threshold=0.999) == ()


async def test_a_text_without_any_known_word_finds_nothing(corpus: Corpus, fitted: CorpusEmbedder) -> None:
    """Unknown words have no direction; that must not become an error or a random hit."""
    built = await index(corpus, fitted)

    assert await built.search("жжж 12345", threshold=0.1) == ()


@pytest.mark.parametrize(("query", "count"), [("  ", 3), (QUERY, 0), (QUERY, 51)])
async def test_an_empty_query_or_an_impossible_count_is_refused(corpus: Corpus, query: str, count: int) -> None:
    """The gRPC contract answers INVALID_ARGUMENT on these."""
    built = await index(corpus, LocalEmbedder())

    with pytest.raises(ValueError, match=r"query|count"):
        await built.search(query, count=count)


async def test_vectors_of_another_embedder_are_refused(corpus: Corpus, fitted: CorpusEmbedder) -> None:
    """A cosine between two spaces is a number without meaning."""
    built = await index(corpus, fitted)

    with pytest.raises(EmbedderMismatch):
        await built.search(QUERY, 3, 0.0, LocalEmbedder().vector(QUERY))


def test_an_embedder_fitted_on_another_corpus_has_another_name(corpus: Corpus) -> None:
    """Otherwise stored vectors would be compared after the corpus has changed."""
    smaller = Corpus(corpus.papers[:50])

    assert CorpusEmbedder(corpus).name == CorpusEmbedder(corpus).name
    assert CorpusEmbedder(smaller).name != CorpusEmbedder(corpus).name


def test_the_bench_has_forty_queries_whose_answers_are_in_the_corpus(corpus: Corpus) -> None:
    """A query without an answering paper would only lower the recall."""
    known = {paper.reference for paper in corpus.papers}

    assert len(queries()) >= 40
    assert all(query.papers and query.papers <= known for query in queries())


async def test_the_fitted_embedder_recalls_more_than_word_overlap(corpus: Corpus, fitted: CorpusEmbedder) -> None:
    """If it did not, the simpler method would have to be used."""
    assert await recall(corpus, fitted) > overlap_recall(corpus)


def test_term_weights_are_those_of_scikit_learn(corpus: Corpus) -> None:
    """The slow, obvious reference: words, and character n-grams of which the most frequent are kept."""
    text = pytest.importorskip("sklearn.feature_extraction.text")
    texts = [full_text(knowledge) for knowledge in corpus.entries]
    queries = [QUERY, "a I x2 overlong", "zzzz", *texts[:20]]
    by_words = text.TfidfVectorizer(analyzer=stems, sublinear_tf=True).fit(texts)
    by_grams = text.TfidfVectorizer(analyzer="char_wb", ngram_range=(4, 5), sublinear_tf=True, max_features=2000)
    by_grams.fit(texts)

    assert np.allclose(TermWeights(texts, stems).rows(queries), by_words.transform(queries).toarray(), atol=1e-12)
    assert np.allclose(TermWeights(texts, grams, 2000).rows(queries), by_grams.transform(queries).toarray(), atol=1e-12)
