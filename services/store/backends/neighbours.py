"""Nearest motivations and programs for all backends: in-memory indices over the database.

An index loads the rows that are new since its last query. Programs are fingerprinted at the first query that needs
them, not while events are applied, since parsing takes milliseconds.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol, TypeVar

import numpy as np

from services.domain.structure import fingerprint
from services.store.backends.indices import HASHES, MotivationIndex, ProgramIndex, Scored, Sketched, unit

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T")

PAGE = 500
"""Rows per query, few milliseconds of work, after which other tasks get a turn."""

MAX_INDICES = 4
"""Indices of each kind in memory; the least recently used one is evicted."""

SMALL = 2000
"""Up to this number of rows a search takes less time than a switch to a thread."""

SHORT = 32 << 10
"""Up to this number of characters, which few programs exceed, the same holds for a fingerprint."""

TEXTS = 32
"""Programs per query for missing fingerprints, and fingerprints per transaction."""

FINALISTS = 32
"""Programs selected by sketches for exact comparison: among 1,400 random compositions they contained 98 % of the five
nearest, and always the nearest."""


@dataclass(frozen=True)
class StoredVector:
    """A motivation's embedding: float32, little-endian."""

    sequence: int
    candidate: str
    vector: bytes


@dataclass(frozen=True)
class StoredProgram:
    """A program's position in the run; `sketched` is None until it is fingerprinted."""

    sequence: int
    candidate: str
    sketched: Sketched | None


class Source(Protocol):
    """Storage of these searches. Pages are ordered by sequence and may omit `runs`."""

    async def vectors(self, run: str, embedder: str, after: int, limit: int) -> list[StoredVector]:
        """Embeddings after a sequence."""

    async def programs(self, run: str, after: int, limit: int) -> list[StoredProgram]:
        """Programs after a sequence."""

    async def program_texts(self, run: str, ids: Sequence[str]) -> dict[str, str]:
        """The programs of candidates."""

    async def program_runs(self, run: str, ids: Sequence[str]) -> dict[str, Sketched]:
        """Fingerprints, with their runs."""

    async def save_fingerprints(self, sketches: Sequence[tuple[int, Sketched]]) -> None:
        """Store fingerprints by the sequence of their program."""


class Neighbours:
    """Nearest-neighbour queries; one at a time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = asyncio.Lock()
        self._motivations: OrderedDict[tuple[str, str], MotivationIndex] = OrderedDict()
        self._programs: OrderedDict[str, ProgramIndex] = OrderedDict()
        self._unsaved: dict[tuple[str, str], tuple[int, Sketched]] = {}  # by run and candidate, with their sequence

    async def motivations(
        self, run: str, embedding: Sequence[float], embedder: str, count: int, except_id: str
    ) -> list[Scored]:
        """The nearest by cosine in one embedder's space."""
        query = unit(embedding)
        async with self._lock:
            index = await self._follow_motivations(run, embedder)
            if index is None:
                return []
            return await _computed(partial(index.nearest, query, count, except_id), index.rows <= SMALL)

    async def programs(self, run: str, program: str, count: int, except_id: str) -> tuple[list[Scored], int]:
        """The nearest by structure, and the number of those (listed first) with equal structure."""
        query = await _computed(partial(_sketched, program), len(program) <= SHORT)
        async with self._lock:
            index = await self._follow_programs(run)
            same = index.same(query.digest, except_id)[:count]
            best = partial(index.likely, query.sketch, max(FINALISTS, 4 * count), except_id)
            likely = await _computed(best, index.rows <= SMALL)
        ids = [name for name in likely if name not in same]
        unsaved = {name: self._unsaved[run, name][1] for name in ids if (run, name) in self._unsaved}
        others = unsaved | await self._source.program_runs(run, [name for name in ids if name not in unsaved])
        similarities = query.similarities(list(others.values()))
        scored = sorted(zip(others, similarities, strict=True), key=lambda pair: (-pair[1], pair[0]))
        return ([(name, 1.0) for name in same] + scored)[:count], len(same)

    async def _follow_motivations(self, run: str, embedder: str) -> MotivationIndex | None:
        key = (run, embedder)
        index = self._motivations.pop(key, None)
        while page := await self._source.vectors(run, embedder, index.last if index else 0, PAGE):
            index = index or MotivationIndex(len(page[0].vector) // 4)
            ids, vectors = [row.candidate for row in page], [row.vector for row in page]
            index.extend(page[-1].sequence, ids, vectors)
            await asyncio.sleep(0)
        if index:
            _keep(self._motivations, key, index)
        return index

    async def _follow_programs(self, run: str) -> ProgramIndex:
        index = self._programs.pop(run, None) or ProgramIndex()
        while page := await self._source.programs(run, index.last, PAGE):
            fresh = await self._fingerprint(run, [row for row in page if row.sketched is None])
            for row in page:
                sketched = row.sketched or fresh[row.sequence]
                index.add(row.sequence, row.candidate, sketched.digest, sketched.sketch)
            await asyncio.sleep(0)
        _keep(self._programs, run, index)
        return index

    async def _fingerprint(self, run: str, rows: Sequence[StoredProgram]) -> dict[int, Sketched]:
        """Compute missing fingerprints. They are stored some at a time: a transaction takes longer than computing one,
        and those that a restart loses are computed again.
        """
        sketches: dict[int, Sketched] = {}
        for start in range(0, len(rows), TEXTS):
            part = rows[start : start + TEXTS]
            texts = await self._source.program_texts(run, [row.candidate for row in part])
            compute = partial(_sketched_rows, part, texts)
            sketches |= await _computed(compute, len(part) == 1 and len(texts[part[0].candidate]) <= SHORT)
        self._unsaved |= {(run, row.candidate): (row.sequence, sketches[row.sequence]) for row in rows}
        if len(self._unsaved) >= TEXTS:
            await self._source.save_fingerprints(list(self._unsaved.values()))
            self._unsaved.clear()
        return sketches


def _sketched_rows(rows: Sequence[StoredProgram], texts: Mapping[str, str]) -> dict[int, Sketched]:
    """The fingerprints by sequence; `Sketched.none()` for a program that cannot be parsed."""
    sketches: dict[int, Sketched] = {}
    for row in rows:
        try:
            sketches[row.sequence] = _sketched(texts[row.candidate])
        except ValueError:
            sketches[row.sequence] = Sketched.none()
    return sketches


async def _computed(task: Callable[[], T], small: bool) -> T:
    """The task's result; a task that is not small runs in a thread."""
    return task() if small else await asyncio.to_thread(task)


def _keep(indices: "OrderedDict[K, V]", key: K, index: V) -> None:
    indices[key] = index
    while len(indices) > MAX_INDICES:
        indices.popitem(last=False)


@lru_cache(maxsize=256)
def _sketched(program: str) -> Sketched:
    """Cached, since it is needed for the novelty query and again for the candidate. Raises ValueError."""
    return Sketched.of(fingerprint(program))


def sketch_from(digest: str, sketch: bytes, runs: bytes = b"") -> Sketched:
    """A stored fingerprint."""
    values = np.frombuffer(sketch, "<u4")
    if values.size != HASHES:
        raise ValueError(f"a stored sketch has {values.size} numbers instead of {HASHES}")
    return Sketched(digest, values.astype(np.uint32), runs)
