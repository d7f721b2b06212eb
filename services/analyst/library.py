"""The cognition base as the service holds it: our corpus and users' entries, embedded again when they change."""

from pathlib import Path

from services.analyst.cognition.corpus import SHIPPED, load
from services.analyst.cognition.embedder import CorpusEmbedder
from services.analyst.cognition.search import Hit, Index, index
from services.chassis.logs import get_logger

DEFAULT_COUNT = 3


class Library:
    """Searches entries by their trigger patterns (the paper's top 3)."""

    def __init__(self, own_entries: Path, threshold: float) -> None:
        self._own = own_entries
        self._threshold = threshold
        self._index: Index | None = None
        self._seen: tuple[tuple[str, int], ...] | None = None

    async def search(self, query: str, count: int = 0, threshold: float | None = None) -> tuple[Hit, ...]:
        """Best first. Raises ValueError for an empty query or too great a count."""
        held = await self.index()
        least = self._threshold if threshold is None else threshold
        return await held.search(query, count or DEFAULT_COUNT, least)

    async def index(self) -> Index:
        """The index of everything there is now. Raises CorpusError for a file that was added and cannot be read."""
        seen = self._files()
        if self._index is None or seen != self._seen:
            corpus = load(SHIPPED, *([self._own] if seen else []))
            self._index = await index(corpus, CorpusEmbedder(corpus))
            self._seen = seen
            get_logger().info("cognition", entries=len(corpus.entries), added=len(seen))
        return self._index

    def _files(self) -> tuple[tuple[str, int], ...]:
        if not self._own.is_dir():
            return ()
        return tuple(sorted((file.name, file.stat().st_mtime_ns) for file in self._own.glob("*")))
