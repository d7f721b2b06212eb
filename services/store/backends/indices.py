"""In-memory search: motivations by exact cosine; programs by digest (equal) and by MinHash sketches (similar).

Motivations are compared with one matrix product; 100,000 vectors of 1,024 numbers take 0.4 GB. Programs have hundreds
of token runs, which would take twenty times the memory of their sketches, and an inverted index over them would have to
be rebuilt as programs arrive.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.domain.structure import Fingerprint

Number = TypeVar("Number", np.float32, np.uint32)

BLOCK = 8192
"""Rows per block: tables grow by whole blocks, without copying."""

Scored = tuple[str, float]
"""A candidate's id and its similarity."""


class Rows(Generic[Number]):
    """Rows of equal width, in blocks."""

    def __init__(self, width: int, dtype: type[Number]) -> None:
        self.width = width
        self._dtype: type[Number] = dtype
        self._blocks: list[NDArray[Number]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def extend(self, rows: NDArray[Number]) -> None:
        """Append rows, an array of shape [any, width]."""
        while len(rows):
            offset = self._count % BLOCK
            if offset == 0:
                self._blocks.append(np.empty((BLOCK, self.width), self._dtype))
            fitting = rows[: BLOCK - offset]
            self._blocks[-1][offset : offset + len(fitting)] = fitting
            self._count += len(fitting)
            rows = rows[len(fitting) :]

    def blocks(self) -> list[NDArray[Number]]:
        """The filled rows, in order."""
        return [block[: self._count - at * BLOCK] for at, block in enumerate(self._blocks)]

    def take(self, positions: NDArray[np.intp]) -> NDArray[Number]:
        """The rows at ascending positions."""
        edges = np.searchsorted(positions, np.arange(len(self._blocks) + 1) * BLOCK)
        parts: list[NDArray[Number]] = [np.empty((0, self.width), self._dtype)]
        for at, block in enumerate(self._blocks):
            parts.append(block[positions[edges[at] : edges[at + 1]] - at * BLOCK])
        return np.concatenate(parts)


def best(
    ids: Sequence[str], scores: NDArray[np.float32] | NDArray[np.float64], count: int, except_id: str
) -> list[Scored]:
    """The `count` highest scores, ties by id, without `except_id`."""
    size = min(count + 1, len(ids))  # one more, since `except_id` may be among them
    if size < 1:
        return []
    threshold = np.partition(scores, len(ids) - size)[len(ids) - size]
    pairs = ((ids[index], float(scores[index])) for index in np.flatnonzero(scores >= threshold).tolist())
    others = (pair for pair in pairs if pair[0] != except_id)
    return heapq.nsmallest(count, others, key=lambda pair: (-pair[1], pair[0]))


_SLACK = 1e-5  # exceeds the rounding error of a float32 cosine


class MotivationIndex:
    """The unit vectors of one run and one embedder, in the order of the log."""

    def __init__(self, width: int) -> None:
        self.last = 0  # sequence of the newest row
        self._width = width
        self._vectors = Rows(width, np.float32)
        self._ids: list[str] = []

    @property
    def rows(self) -> int:
        """The number of rows. No `__len__`: an empty index must stay truthy."""
        return len(self._ids)

    def extend(self, last: int, candidates: Sequence[str], vectors: Sequence[bytes]) -> None:
        """Add stored vectors; those of another width, zero or not finite are skipped."""
        self.last = last
        usable = [index for index, vector in enumerate(vectors) if len(vector) == 4 * self._width]
        values = np.frombuffer(b"".join(vectors[index] for index in usable), "<f4").reshape(-1, self._width)
        lengths = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
        sound = np.isfinite(lengths) & (lengths > 0)
        directions = (values[sound] / lengths[sound, None]).astype(np.float32)
        self._vectors.extend(directions)
        self._ids += [candidates[usable[index]] for index in np.flatnonzero(sound).tolist()]

    def nearest(self, direction: NDArray[np.float32], count: int, except_id: str) -> list[Scored]:
        """The nearest by cosine to a unit vector, best first, ties by id. Raises ValueError for another width."""
        if direction.size != self._width:
            raise ValueError(
                f"embedding has {direction.size} numbers, but this embedder's have {self._width} in this run"
            )
        if not self._ids or count < 1:
            return []
        cosines = np.concatenate([block @ direction for block in self._vectors.blocks()])
        size = min(count + 1, len(self._ids))  # one more, since `except_id` may be among them
        positions = np.flatnonzero(cosines >= np.partition(cosines, -size)[-size] - _SLACK)
        # A matrix product rounds equal rows differently depending on their position; these sums keep ties.
        exact = np.einsum("ij,j->i", self._vectors.take(positions), direction, dtype=np.float64)
        return best([self._ids[index] for index in positions.tolist()], exact, count, except_id)


def unit(embedding: Sequence[float]) -> NDArray[np.float32]:
    """The embedding as a unit vector. Raises ValueError if it is zero or not finite."""
    values = np.array(embedding, dtype=np.float64)
    length = float(np.linalg.norm(values))
    if not np.isfinite(length) or length == 0:
        raise ValueError("embedding must hold finite numbers that are not all zero")
    return (values / length).astype(np.float32)


HASHES = 64
"""Minima per sketch: an estimate of a Jaccard index with a standard error of at most 1/16."""

_EMPTY = np.uint32(2**32 - 1)
_RUNS = np.dtype([("run", "<u4"), ("count", "<u2")])
_coefficients = np.random.default_rng(2507_18074)
_FACTORS = _coefficients.integers(1, 2**64, HASHES, dtype=np.uint64) | np.uint64(1)
_SUMMANDS = _coefficients.integers(0, 2**64, HASHES, dtype=np.uint64)


@dataclass(frozen=True)
class Sketched:
    """A program's structure: its digest, and the minima of its token runs' hashes."""

    digest: str
    sketch: NDArray[np.uint32]
    runs: bytes

    @classmethod
    def of(cls, fingerprint: Fingerprint) -> "Sketched":
        size = len(fingerprint.runs)
        runs = np.fromiter(fingerprint.runs.keys(), np.uint32, size)
        counts = np.minimum(np.fromiter(fingerprint.runs.values(), np.int64, size), 65_535)
        order = np.argsort(runs)
        table = np.empty(size, _RUNS)
        table["run"], table["count"] = runs[order], counts[order]
        return cls(fingerprint.digest, _minima(runs), table.tobytes())

    @classmethod
    def none(cls) -> "Sketched":
        """Of a program that cannot be parsed; similar to no program."""
        return cls("", np.full(HASHES, _EMPTY), b"")

    def similarities(self, others: Sequence["Sketched"]) -> list[float]:
        """`services.domain.structure.similarity` with each of the others, vectorised."""
        if not others:
            return []
        tables = [np.frombuffer(other.runs, _RUNS) for other in others]
        mine, theirs = np.frombuffer(self.runs, _RUNS), np.concatenate(tables)
        runs, counts = np.ascontiguousarray(mine["run"]), np.ascontiguousarray(mine["count"])
        positions = np.minimum(np.searchsorted(runs, theirs["run"]), len(runs) - 1)  # runs are sorted and not empty
        overlap = np.where(runs[positions] == theirs["run"], np.minimum(counts[positions], theirs["count"]), 0)
        owner = np.repeat(np.arange(len(others)), [len(table) for table in tables])
        shared = np.bincount(owner, overlap, len(others))
        either = counts.sum(dtype=np.int64) + np.bincount(owner, theirs["count"], len(others)) - shared
        equal = np.array([other.digest == self.digest for other in others])
        alike: list[float] = np.where(equal, 1.0, shared / either).tolist()
        return alike


class ProgramIndex:
    """The sketches of one run's programs: finds equal structures, and candidates for exact comparison."""

    def __init__(self) -> None:
        self.last = 0  # sequence of the newest row
        self._rows = Rows(HASHES, np.uint32)
        self._ids: list[str] = []
        self._by_digest: dict[str, list[str]] = {}

    @property
    def rows(self) -> int:
        """The number of rows. No `__len__`: an empty index must stay truthy."""
        return len(self._ids)

    def add(self, sequence: int, candidate: str, digest: str, sketch: NDArray[np.uint32]) -> None:
        """Add a stored sketch."""
        self.last = sequence
        self._rows.extend(sketch[None])
        self._ids.append(candidate)
        if digest:
            self._by_digest.setdefault(digest, []).append(candidate)

    def same(self, digest: str, except_id: str) -> list[str]:
        """Programs of equal structure, by id."""
        return sorted(name for name in self._by_digest.get(digest, ()) if name != except_id)

    def likely(self, sketch: NDArray[np.uint32], count: int, except_id: str) -> list[str]:
        """The programs whose sketches are most similar."""
        if not self._ids:
            return []
        agreeing = [(block == sketch).sum(axis=1, dtype=np.float32) for block in self._rows.blocks()]
        return [name for name, _ in best(self._ids, np.concatenate(agreeing), count, except_id)]


def _minima(runs: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """MinHash (Broder 1997) by multiply-shift hashing: the minimum over all runs of the top half of a·x + b modulo
    2^64.
    """
    if not runs.size:
        return np.full(HASHES, _EMPTY)
    mixed = runs.astype(np.uint64)[:, None] * _FACTORS
    mixed += _SUMMANDS
    minima: NDArray[np.uint32] = (mixed.min(axis=0) >> np.uint64(32)).astype(np.uint32)
    return minima
