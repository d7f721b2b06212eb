"""Exact searches in memory over what a backend keeps: motivations by cosine, programs by structure.

100,000 vectors of 1,024 float32 are 400 MB and one matrix product of about 15 ms on two cores.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.domain.structure import Fingerprint

BLOCK = 8192
"""Rows per block: an index grows by whole blocks, so nothing is copied when it grows."""

HASHES = 64
"""Minima per sketch: an estimate of a Jaccard index with a standard error of at most 1/16."""

_EMPTY = np.uint32(2**32 - 1)
_RUNS = np.dtype([("run", "<u4"), ("count", "<u2")])
_coefficients = np.random.default_rng(2507_18074)
_FACTORS = _coefficients.integers(1, 2**64, HASHES, dtype=np.uint64) | np.uint64(1)
_SUMMANDS = _coefficients.integers(0, 2**64, HASHES, dtype=np.uint64)

Scored = tuple[str, float]
"""A candidate's id and how near it is."""


class Rows:
    """Rows of equal width, in blocks."""

    def __init__(self, width: int, kind: type[np.float32] | type[np.uint32]) -> None:
        self.width = width
        self._kind = kind
        self._blocks: list[NDArray[np.float32 | np.uint32]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, row: NDArray[np.float32] | NDArray[np.uint32]) -> None:
        """Append one row of `width` numbers."""
        place = self._count % BLOCK
        if place == 0:
            self._blocks.append(np.empty((BLOCK, self.width), self._kind))
        self._blocks[-1][place] = row
        self._count += 1

    def blocks(self) -> list[NDArray[np.float32 | np.uint32]]:
        """The filled rows, in order."""
        return [block[: self._count - at * BLOCK] for at, block in enumerate(self._blocks)]


class MotivationIndex:
    """The unit vectors of one run and one embedder."""

    def __init__(self, width: int) -> None:
        self.last = 0  # sequence of the newest row
        self._rows = Rows(width, np.float32)
        self._ids: list[str] = []

    def add(self, sequence: int, candidate: str, vector: bytes) -> None:
        """A row as the archive keeps it. One of another width, or without a direction, cannot be near anything."""
        self.last = sequence
        values = np.frombuffer(vector, "<f4")
        length = float(np.linalg.norm(values.astype(np.float64)))
        if values.size == self._rows.width and np.isfinite(length) and length > 0:
            self._rows.add((values / length).astype(np.float32))
            self._ids.append(candidate)

    def nearest(self, embedding: NDArray[np.float32], count: int, except_id: str) -> list[Scored]:
        """The nearest by cosine, best first, ties by id. ValueError for a vector of another width."""
        if embedding.size != self._rows.width:
            raise ValueError(
                f"embedding has {embedding.size} numbers, but this embedder's have {self._rows.width} in this run"
            )
        if not self._ids:
            return []
        cosines = np.concatenate([block @ embedding for block in self._rows.blocks()])
        return _best(self._ids, cosines, count, except_id)


@dataclass(frozen=True)
class Sketched:
    """A program's structure in short: the digest of it all and the minima of its token runs' hashes."""

    digest: str
    sketch: NDArray[np.uint32]
    runs: bytes

    @classmethod
    def of(cls, found: Fingerprint) -> "Sketched":
        """From a fingerprint, of which nothing but the counts above 65,535 is lost."""
        table = np.array([(run, min(count, 65_535)) for run, count in sorted(found.runs.items())], _RUNS)
        return cls(found.digest, _minima(table["run"]), table.tobytes())

    @classmethod
    def none(cls) -> "Sketched":
        """Of what cannot be parsed: near to nothing."""
        return cls("", np.full(HASHES, _EMPTY), b"")

    def fingerprint(self) -> Fingerprint:
        """What it was made from."""
        table = np.frombuffer(self.runs, _RUNS)
        return Fingerprint(self.digest, dict(zip(table["run"].tolist(), table["count"].tolist(), strict=True)))


class ProgramIndex:
    """The sketches of one run's programs: which share a structure, and which are worth comparing run by run."""

    def __init__(self) -> None:
        self.last = 0  # sequence of the newest row
        self._rows = Rows(HASHES, np.uint32)
        self._ids: list[str] = []
        self._by_digest: dict[str, list[str]] = {}

    def add(self, sequence: int, candidate: str, digest: str, sketch: NDArray[np.uint32]) -> None:
        """A row as the archive keeps it."""
        self.last = sequence
        self._rows.add(sketch)
        self._ids.append(candidate)
        if digest:
            self._by_digest.setdefault(digest, []).append(candidate)

    def same(self, digest: str, except_id: str) -> list[str]:
        """Those of equal structure, by id."""
        return sorted(one for one in self._by_digest.get(digest, ()) if one != except_id)

    def likely(self, sketch: NDArray[np.uint32], count: int, except_id: str) -> list[str]:
        """The most similar ones as far as sketches tell."""
        if not self._ids:
            return []
        agreeing = [(block == sketch).sum(axis=1, dtype=np.float32) for block in self._rows.blocks()]
        return [one for one, _ in _best(self._ids, np.concatenate(agreeing), count, except_id)]


def unit(embedding: Sequence[float]) -> NDArray[np.float32]:
    """The direction of an embedding. ValueError where it has none."""
    values = np.array(embedding, dtype=np.float64)
    length = float(np.linalg.norm(values))
    if not np.isfinite(length) or length == 0:
        raise ValueError("embedding must hold finite numbers that are not all zero")
    return (values / length).astype(np.float32)


def _best(ids: Sequence[str], scores: NDArray[np.float32], count: int, except_id: str) -> list[Scored]:
    """The highest scores; ties by id, also at the edge of what is kept."""
    wanted = min(count + 1, len(ids))  # one more than asked for: one id may be left out
    if wanted < 1:
        return []
    least = np.partition(scores, len(ids) - wanted)[len(ids) - wanted]
    found = ((ids[place], float(scores[place])) for place in np.flatnonzero(scores >= least).tolist())
    kept = (pair for pair in found if pair[0] != except_id)
    return heapq.nsmallest(count, kept, key=lambda pair: (-pair[1], pair[0]))


def _minima(runs: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """MinHash (Broder 1997) by multiply-shift hashing: the top half of a·x + b modulo 2^64, its least over all runs."""
    if not runs.size:
        return np.full(HASHES, _EMPTY)
    mixed = runs.astype(np.uint64)[:, None] * _FACTORS + _SUMMANDS
    minima: NDArray[np.uint32] = (mixed >> np.uint64(32)).astype(np.uint32).min(axis=0)
    return minima
