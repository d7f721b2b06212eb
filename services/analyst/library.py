# ruff: noqa: N802, ARG002 - names and signatures are those of the generated servicer
"""The cognition base in memory (shipped corpus and additions, re-embedded on changes), and its gRPC service."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from services.analyst.cognition import CorpusError, Knowledge, load_with
from services.analyst.cognition.search import CorpusEmbedder, Hit, Index, index
from services.chassis.errors import Transient
from services.chassis.logs import get_logger
from services.contracts import cognition_pb2 as pb
from services.contracts import cognition_pb2_grpc
from services.llm.embedder import Embedder, Vector

DEFAULT_COUNT = 3
FITTED_THRESHOLD = 0.2
ENDPOINT_THRESHOLD = 0.5
"""Default minimum cosines: the paper's for endpoints, and a smaller one for sparse vectors."""
Files = tuple[tuple[str, int, int], ...]  # name, modification time in ns, bytes


@dataclass(frozen=True)
class SearchResult:
    """Entries, best first, and the name of the embedder."""

    hits: tuple[Hit, ...]
    embedder: str


class Library:
    """Searches entries by their trigger patterns.

    Searches use the space of the endpoint's `embedder` if the query has a vector of it, for which the caller has paid;
    otherwise that of an embedder fitted to the entries, which is free.
    """

    def __init__(self, own_entries: Path, threshold: float | None = None, embedder: Embedder | None = None) -> None:
        self._fitted = _EmbeddedCorpus(own_entries, FITTED_THRESHOLD if threshold is None else threshold, None)
        minimum = ENDPOINT_THRESHOLD if threshold is None else threshold
        self._embedded = None if embedder is None else _EmbeddedCorpus(own_entries, minimum, embedder)
        self._embedder = embedder

    async def search(
        self, query: str, count: int = 0, threshold: float | None = None, vector: Vector | None = None
    ) -> SearchResult:
        """Best first. Raises ValueError for an empty query, or an invalid count or threshold."""
        by_endpoint = vector is not None and self._embedder is not None and vector.embedder == self._embedder.name
        corpus = self._embedded if self._embedded is not None and by_endpoint else self._fitted
        minimum = corpus.threshold if threshold is None else threshold
        if not -1 <= minimum <= 1:
            raise ValueError(f"threshold must be a cosine, -1 to 1, not {minimum}")
        index = await corpus.index()
        hits = await index.search(query, count or DEFAULT_COUNT, minimum, vector if by_endpoint else None)
        return SearchResult(hits, index.embedder.name)

    async def embedded(self, query: str) -> Vector | None:
        """The query's embedding by the endpoint, charged to no run; None without an endpoint. For the command line."""
        return None if self._embedder is None else (await self._embedder.embed([query]))[0]

    async def entry(self, entry_id: str) -> Knowledge | None:
        return (await self._fitted.index()).corpus.entry(entry_id)

    async def index(self) -> Index:
        """The index of all current entries, by the endpoint if there is one.

        The first call raises CorpusError for an unreadable added file, and Transient if the endpoint is unreachable.
        """
        return await (self._embedded or self._fitted).index()


class _EmbeddedCorpus:
    """The entries in the space of one embedder, indexed at the first use."""

    def __init__(self, own_entries: Path, threshold: float, embedder: Embedder | None) -> None:
        self.threshold = threshold
        self._own = own_entries
        self._embedder = embedder
        self._index: Index | None = None
        self._indexed: Files = ()
        self._building = asyncio.Lock()

    async def index(self) -> Index:
        """See `Library.index`. Later errors are logged and the previous index remains in use: a half-copied file must
        not end the analyses of a run."""
        async with self._building:
            folder = self._own.iterdir() if self._own.is_dir() else ()
            entries = [(file.name, file.stat()) for file in folder if file.suffix in (".toml", ".json")]
            files = tuple(sorted((name, status.st_mtime_ns, status.st_size) for name, status in entries))
            if self._index is None:
                self._index = await self._build(files)
            elif files != self._indexed:
                try:
                    self._index = await self._build(files)
                except CorpusError as error:
                    problem = "added entries cannot be read; the previous index remains in use"
                    get_logger().error(problem, error=str(error))
                except Transient as transient:
                    get_logger().warning("added entries are not embedded yet", reason=str(transient))
                    return self._index
            self._indexed = files
            return self._index

    async def _build(self, files: Files) -> Index:
        corpus = await asyncio.to_thread(load_with, self._own)
        embedder = self._embedder
        if embedder is None:
            embedder = await asyncio.to_thread(CorpusEmbedder, corpus)
        built = await index(corpus, embedder)
        get_logger().info("cognition", entries=len(corpus.entries), added=len(files), embedder=embedder.name)
        return built


class CognitionService(cognition_pb2_grpc.CognitionServicer):
    """Empty queries, counts over 50 and zero embeddings are INVALID_ARGUMENT."""

    def __init__(self, library: Library) -> None:
        self._library = library

    async def Search(self, request: pb.SearchRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.SearchReply:
        threshold = request.threshold if request.HasField("threshold") else None
        vector = Vector(request.embedder, np.array(request.embedding)) if request.embedding else None
        hits = await self._library.search(request.query, request.count, threshold, vector)
        return pb.SearchReply(entries=[entry_message(hit) for hit in hits.hits], embedder=hits.embedder)


def entry_message(hit: Hit) -> pb.CognitionEntry:
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
