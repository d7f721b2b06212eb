# ruff: noqa: N802, ARG002 - names and signatures are those of the generated servicer
"""The cognition base in memory (shipped corpus and additions, re-embedded when they change), and its gRPC service."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from services.analyst.cognition import SHIPPED, CorpusError, Knowledge, load
from services.analyst.cognition.search import CorpusEmbedder, Hit, Index, index
from services.chassis.errors import Transient
from services.chassis.logs import get_logger
from services.contracts import cognition_pb2 as pb
from services.contracts import cognition_pb2_grpc
from services.llm.embedder import Embedder, Vector

DEFAULT_COUNT = 3
LEAST_FITTED = 0.2
LEAST_OF_AN_ENDPOINT = 0.5
"""Least cosines: the paper's, and one for sparse vectors, whose cosines are smaller."""
Files = tuple[tuple[str, int, int], ...]  # name, time of change in ns, bytes


@dataclass(frozen=True)
class Found:
    """Entries, best first, and the embedder in whose space they were compared."""

    hits: tuple[Hit, ...]
    embedder: str


class Library:
    """Searches entries by their trigger patterns (the paper's top 3).

    They are compared in the space of an endpoint's `embedder` where one is given and the query comes with its vector,
    which the caller has paid for; else in the space of an embedder that is fitted to them, which costs nothing.
    """

    def __init__(self, own_entries: Path, threshold: float | None = None, embedder: Embedder | None = None) -> None:
        self._fitted = _Shelf(own_entries, LEAST_FITTED if threshold is None else threshold, None)
        least = LEAST_OF_AN_ENDPOINT if threshold is None else threshold
        self._embedded = None if embedder is None else _Shelf(own_entries, least, embedder)
        self._embedder = embedder

    async def search(
        self, query: str, count: int = 0, threshold: float | None = None, vector: Vector | None = None
    ) -> Found:
        """Best first. Raises ValueError for an empty query, too great a count or an impossible threshold."""
        here = vector is not None and self._embedder is not None and vector.embedder == self._embedder.name
        shelf = self._embedded if self._embedded is not None and here else self._fitted
        least = shelf.threshold if threshold is None else threshold
        if not -1 <= least <= 1:
            raise ValueError(f"threshold must be a cosine, -1 to 1, not {least}")
        index = await shelf.index()
        hits = await index.search(query, count or DEFAULT_COUNT, least, vector if here else None)
        return Found(hits, index.embedder.name)

    async def embedded(self, query: str) -> Vector | None:
        """The query's embedding by the endpoint, charged to no run: for the command line. None without an endpoint."""
        return None if self._embedder is None else (await self._embedder.embed([query]))[0]

    async def entry(self, entry_id: str) -> Knowledge | None:
        """The entry with this id, or None."""
        return (await self._fitted.index()).corpus.entry(entry_id)

    async def index(self) -> Index:
        """The index of everything there is now, by the endpoint where there is one.

        Raises CorpusError at the first call for a file that was added and cannot be read, and Transient while an
        endpoint that embeds is out of reach and nothing was embedded before.
        """
        return await (self._embedded or self._fitted).index()


class _Shelf:
    """The entries in one space. The index is made anew with every start, by the embedder that embeds the queries."""

    def __init__(self, own_entries: Path, threshold: float, embedder: Embedder | None) -> None:
        self.threshold = threshold
        self._own = own_entries
        self._embedder = embedder
        self._index: Index | None = None
        self._seen: Files = ()
        self._building = asyncio.Lock()

    async def index(self) -> Index:
        """Raises as `Library.index` does at the first call.

        Later, a file that cannot be read is logged and what was known before serves on: a half-copied file must not
        end the analyses of a run.
        """
        async with self._building:
            seen = self._files()
            if self._index is None:
                self._index = await self._built(seen)
            elif seen != self._seen:
                try:
                    self._index = await self._built(seen)
                except CorpusError as error:
                    get_logger().error("added entries cannot be read; the earlier ones serve on", error=str(error))
                except Transient as transient:
                    get_logger().warning("added entries are not embedded yet", reason=str(transient))
                    return self._index
            self._seen = seen
            return self._index

    async def _built(self, seen: Files) -> Index:
        corpus = await asyncio.to_thread(load, SHIPPED, *([self._own] if seen else []))
        embedder = self._embedder
        if embedder is None:
            embedder = await asyncio.to_thread(CorpusEmbedder, corpus)
        built = await index(corpus, embedder)
        get_logger().info("cognition", entries=len(corpus.entries), added=len(seen), embedder=embedder.name)
        return built

    def _files(self) -> Files:
        if not self._own.is_dir():
            return ()
        files = [file for file in self._own.iterdir() if file.suffix in (".toml", ".json")]
        return tuple(sorted((file.name, (stat := file.stat()).st_mtime_ns, stat.st_size) for file in files))


class CognitionService(cognition_pb2_grpc.CognitionServicer):
    """Empty queries, counts over 50 and embeddings without direction are INVALID_ARGUMENT."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def Search(self, request: pb.SearchRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.SearchReply:
        threshold = request.threshold if request.HasField("threshold") else None
        vector = Vector(request.embedder, np.array(request.embedding)) if request.embedding else None
        hits = await self._library.search(request.query, request.count, threshold, vector)
        return pb.SearchReply(entries=[entry_message(hit) for hit in hits.hits], embedder=hits.embedder)


def entry_message(hit: Hit) -> pb.CognitionEntry:
    """An entry as the contracts carry it."""
    entry, paper = hit.knowledge.entry, hit.knowledge.paper
    return pb.CognitionEntry(
        id=hit.knowledge.id,
        title=paper.title,
        arxiv=paper.arxiv or "",
        year=paper.year,
        design_insight=entry.design_insight,
        trigger_patterns=entry.experimental_trigger_patterns,
        background=entry.background,
        innovation=entry.algorithmic_innovation,
        guidance=entry.implementation_guidance,
        components=entry.components,
        similarity=hit.similarity,
    )
