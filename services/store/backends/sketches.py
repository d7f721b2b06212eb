"""Programs by structure: equal ones by digest, similar ones by MinHash sketches of their token runs."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.domain.structure import Fingerprint
from services.store.backends.rows_in_memory import Rows, best

HASHES = 64
"""Minima per sketch: an estimate of a Jaccard index with a standard error of at most 1/16."""

_EMPTY = np.uint32(2**32 - 1)
_RUNS = np.dtype([("run", "<u4"), ("count", "<u2")])
_coefficients = np.random.default_rng(2507_18074)
_FACTORS = _coefficients.integers(1, 2**64, HASHES, dtype=np.uint64) | np.uint64(1)
_SUMMANDS = _coefficients.integers(0, 2**64, HASHES, dtype=np.uint64)


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

    def similarities(self, others: Sequence["Sketched"]) -> list[float]:
        """As `services.domain.structure.similarity` of the fingerprints, with each of the others; all in one go."""
        if not others:
            return []
        tables = [np.frombuffer(one.runs, _RUNS) for one in others]
        mine, theirs = np.frombuffer(self.runs, _RUNS), np.concatenate(tables)
        runs, counts = np.ascontiguousarray(mine["run"]), np.ascontiguousarray(mine["count"])
        place = np.minimum(np.searchsorted(runs, theirs["run"]), len(runs) - 1)  # runs are in order, and not empty
        least = np.where(runs[place] == theirs["run"], np.minimum(counts[place], theirs["count"]), 0)
        owner = np.repeat(np.arange(len(others)), [len(table) for table in tables])
        shared = np.bincount(owner, least, len(others))
        either = counts.sum(dtype=np.int64) + np.bincount(owner, theirs["count"], len(others)) - shared
        equal = np.array([one.digest == self.digest for one in others])
        alike: list[float] = np.where(equal, 1.0, shared / either).tolist()
        return alike


class ProgramIndex:
    """The sketches of one run's programs: which share a structure, and which are worth comparing run by run."""

    def __init__(self) -> None:
        self.last = 0  # sequence of the newest row
        self._rows = Rows(HASHES, np.uint32)
        self._ids: list[str] = []
        self._by_digest: dict[str, list[str]] = {}

    @property
    def rows(self) -> int:
        """How many there are. No length: an index without any would not be there for `if index`."""
        return len(self._ids)

    def add(self, sequence: int, candidate: str, digest: str, sketch: NDArray[np.uint32]) -> None:
        """A row as the archive keeps it."""
        self.last = sequence
        self._rows.extend(sketch[None])
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
        return [one for one, _ in best(self._ids, np.concatenate(agreeing), count, except_id)]


def _minima(runs: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """MinHash (Broder 1997) by multiply-shift hashing: the top half of a·x + b modulo 2^64, its least over all runs."""
    if not runs.size:
        return np.full(HASHES, _EMPTY)
    mixed = runs.astype(np.uint64)[:, None] * _FACTORS + _SUMMANDS
    minima: NDArray[np.uint32] = (mixed >> np.uint64(32)).astype(np.uint32).min(axis=0)
    return minima
