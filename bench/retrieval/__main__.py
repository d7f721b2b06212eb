"""`python -m bench.retrieval`: recall@3 of the local embedders and of plain word overlap.

A query counts if one of the papers that answer it is among the three best. No threshold is applied. If the environment
names an endpoint's embedder (ASI_EMBEDDING_MODEL), it is measured too.
"""

from __future__ import annotations

import asyncio
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from services.analyst.cognition import Corpus, load
from services.analyst.cognition.search import MAX_RESULTS, CorpusEmbedder, index, triggers
from services.llm.embedder import Embedder, LocalEmbedder
from services.llm.openai_embedder import endpoint_embedder

QUERIES = Path(__file__).parent / "queries.toml"


@dataclass(frozen=True)
class Query:
    """A symptom and the arXiv ids of the papers that answer it."""

    text: str
    papers: frozenset[str]


def queries() -> tuple[Query, ...]:
    """The retrieval test set."""
    rows = tomllib.loads(QUERIES.read_text(encoding="utf-8"))["query"]
    return tuple(Query(row["text"], frozenset(row["papers"])) for row in rows)


def _words(text: str) -> set[str]:
    return {word for word in "".join(c if c.isalnum() else " " for c in text.lower()).split() if len(word) > 3}


def overlap_ranking(corpus: Corpus, text: str) -> list[str]:
    """Papers by the share of the query's words (of four letters and more) in the trigger patterns, best first."""
    words = _words(text)
    scores = [len(words & _words(pattern)) / max(1, len(words)) for pattern in triggers(corpus)]
    ranked = sorted(zip(corpus.entries, scores, strict=True), key=lambda pair: (-pair[1], pair[0].id))
    return list(dict.fromkeys(knowledge.paper.reference for knowledge, _ in ranked))


async def recall(corpus: Corpus, embedder: Embedder, count: int = 3) -> float:
    """Share of queries, 0 to 1, with an answering paper among the best `count`."""
    built = await index(corpus, embedder)
    answered = 0
    for query in queries():
        hits = await built.search(query.text, MAX_RESULTS, threshold=-1.0)
        best = list(dict.fromkeys(hit.knowledge.paper.reference for hit in hits))[:count]
        answered += not query.papers.isdisjoint(best)
    return answered / len(queries())


def overlap_recall(corpus: Corpus, count: int = 3) -> float:
    """The same share for plain word overlap."""
    answered = sum(not query.papers.isdisjoint(overlap_ranking(corpus, query.text)[:count]) for query in queries())
    return answered / len(queries())


async def main() -> None:
    """Print one line per method."""
    corpus = load()
    endpoint = endpoint_embedder(os.environ)
    embedders: list[Embedder] = [LocalEmbedder(), CorpusEmbedder(corpus), *([endpoint] if endpoint else [])]
    print(f"{len(corpus.papers)} papers, {len(corpus.entries)} entries, {len(queries())} queries")
    print(f"recall@3  word overlap      {overlap_recall(corpus):.2f}")
    for embedder in embedders:
        print(f"recall@3  {embedder.name:17} {await recall(corpus, embedder):.2f}")
    if endpoint is not None:
        await endpoint.close()


if __name__ == "__main__":
    asyncio.run(main())
