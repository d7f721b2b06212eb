"""What every backend answers in the same way: nearest motivations and programs, as records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from services.contracts import candidate_pb2
from services.store.port import CandidateRow, Near

if TYPE_CHECKING:  # numpy, which only a search for neighbours needs
    from services.store.backends.indices import Scored
    from services.store.backends.neighbours import Neighbours, Source


class Searching(ABC):
    """The part of `services.store.port.Archive` that rests on other questions of it."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @cached_property
    def _neighbours(self) -> Neighbours:
        from services.store.backends.neighbours import Neighbours

        return Neighbours(self._source)

    @abstractmethod
    async def candidate(self, run: str, candidate: str) -> CandidateRow:
        """See the port."""

    @abstractmethod
    async def candidates(self, run: str, ids: Sequence[str]) -> list[candidate_pb2.Candidate]:
        """See the port."""

    @abstractmethod
    async def known(self, run: str) -> str:
        """The name of a run that exists, the newest for an empty one. Raises NotFound."""

    async def record(self, run: str, candidate: str) -> candidate_pb2.Candidate:
        """See the port."""
        return (await self.candidate(run, candidate)).record

    async def nearest_motivations(
        self, run: str, embedding: Sequence[float], embedder: str, count: int, except_id: str
    ) -> list[Near]:
        """See the port."""
        run = await self.known(run)
        scored = await self._neighbours.motivations(run, embedding, embedder, count, except_id)
        return await self._near(run, scored, same=0)

    async def nearest_programs(self, run: str, program: str, count: int, except_id: str) -> list[Near]:
        """See the port."""
        run = await self.known(run)
        scored, same = await self._neighbours.programs(run, program, count, except_id)
        return await self._near(run, scored, same)

    async def _near(self, run: str, scored: Sequence[Scored], same: int) -> list[Near]:
        records = {candidate.id: candidate for candidate in await self.candidates(run, [name for name, _ in scored])}
        return [
            Near(records[name], max(0.0, min(1.0, similarity)), place < same)
            for place, (name, similarity) in enumerate(scored)
            if name in records
        ]
