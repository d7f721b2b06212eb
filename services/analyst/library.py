"""The cognition base as the service holds it: our corpus and users' entries, embedded again when they change."""

import asyncio
from pathlib import Path

from services.analyst.cognition.corpus import SHIPPED, CorpusError, Knowledge, load
from services.analyst.cognition.embedder import CorpusEmbedder
from services.analyst.cognition.search import Hit, Index, index
from services.chassis.errors import Transient
from services.chassis.llm.embedder import Embedder
from services.chassis.logs import get_logger

DEFAULT_COUNT = 3
LEAST_FITTED = 0.2
LEAST_OF_AN_ENDPOINT = 0.5
"""Least cosines: the paper's, and one for sparse vectors, whose cosines are smaller."""
Files = tuple[tuple[str, int, int], ...]  # name, time of change in ns, bytes


class Library:
    """Searches entries by their trigger patterns (the paper's top 3).

    Without an embedder one is fitted to the corpus. Query and entries always meet in one space: the index is made anew
    with every start, by the embedder that embeds the queries.
    """

    def __init__(self, own_entries: Path, threshold: float | None = None, embedder: Embedder | None = None) -> None:
        self._own = own_entries
        self._embedder = embedder
        default = LEAST_FITTED if embedder is None else LEAST_OF_AN_ENDPOINT
        self._threshold = default if threshold is None else threshold
        self._index: Index | None = None
        self._seen: Files = ()
        self._building = asyncio.Lock()

    async def search(self, query: str, count: int = 0, threshold: float | None = None) -> tuple[Hit, ...]:
        """Best first. Raises ValueError for an empty query, too great a count or an impossible threshold."""
        least = self._threshold if threshold is None else threshold
        if not -1 <= least <= 1:
            raise ValueError(f"threshold must be a cosine, -1 to 1, not {least}")
        return await (await self.index()).search(query, count or DEFAULT_COUNT, least)

    async def entry(self, entry_id: str) -> Knowledge | None:
        """The entry with this id, or None."""
        return (await self.index()).corpus.entry(entry_id)

    async def index(self) -> Index:
        """The index of everything there is now.

        Raises CorpusError at the first call for a file that was added and cannot be read. Later, such a file is
        logged and what was known before serves on: a half-copied file must not end the analyses of a run. Raises
        Transient while an endpoint that embeds is out of reach and nothing was embedded before.
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
