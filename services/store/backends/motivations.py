"""Motivations by cosine: exact, at the price of reading a quarter of the numbers.

Every vector is kept twice: as it is, and rounded to one byte a number. The rounded ones give each cosine within a
bound that is known exactly (what rounding took from either side, by Cauchy and Schwarz); only what could be among the
nearest within that bound is computed from the vectors themselves. 100,000 vectors of 1,024 numbers take 0.5 GB and
about 4 ms on one core, where one product with all of them takes 20.
"""

from collections.abc import Sequence

import numpy as np
import simsimd
from numpy.typing import NDArray

from services.store.backends.rows_in_memory import Rows, Scored, best

_STEPS = 127  # whole numbers on either side of zero in one byte
_SLACK = 1e-5  # of a cosine: what float32 itself rounds, generously
_THREADS = 2


class Rounded:
    """A unit vector as whole numbers: `codes` × `step` differs from it by a vector of length `error`."""

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.step = float(np.abs(values).max()) / _STEPS
        self.codes: NDArray[np.int8] = np.round(values / self.step).astype(np.int8)
        near = self.codes.astype(np.float64) * self.step
        self.error = float(np.linalg.norm(values.astype(np.float64) - near))


class MotivationIndex:
    """The unit vectors of one run and one embedder."""

    def __init__(self, width: int) -> None:
        self.last = 0  # sequence of the newest row
        self._width = width
        self._vectors = Rows(width, np.float32)
        self._codes = Rows(width, np.int8)
        self._rounding = Rows(2, np.float32)  # step and error of each
        self._ids: list[str] = []

    def add(self, sequence: int, candidate: str, vector: bytes) -> None:
        """A row as the archive keeps it. One of another width, or without a direction, cannot be near anything."""
        self.last = sequence
        values = np.frombuffer(vector, "<f4")
        length = float(np.linalg.norm(values.astype(np.float64)))
        if values.size != self._width or not np.isfinite(length) or length == 0:
            return
        direction = (values / length).astype(np.float32)
        rounded = Rounded(direction)
        self._vectors.add(direction)
        self._codes.add(rounded.codes)
        self._rounding.add(np.array([rounded.step, rounded.error], np.float32))
        self._ids.append(candidate)

    def nearest(self, wanted: NDArray[np.float32], count: int, except_id: str) -> list[Scored]:
        """The nearest to a unit vector by cosine, best first, ties by id. ValueError for one of another width."""
        if wanted.size != self._width:
            raise ValueError(f"embedding has {wanted.size} numbers, but this embedder's have {self._width} in this run")
        if not self._ids or count < 1:
            return []
        places = self._possible(wanted, min(count + 1, len(self._ids)))  # one more: an id may be left out
        cosines = self._vectors.take(places) @ wanted
        return best([self._ids[place] for place in places.tolist()], cosines, count, except_id)

    def _possible(self, wanted: NDArray[np.float32], count: int) -> NDArray[np.intp]:
        """The places, ascending, of everything that may be among the nearest `count`."""
        about, bound = self._about(wanted)
        leading = np.sort(np.argpartition(-about, count - 1)[:count])
        least = float((self._vectors.take(leading) @ wanted).min())  # the nearest `count` are at least this near
        return np.flatnonzero(about + bound >= least - _SLACK)

    def _about(self, wanted: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Every cosine from the rounded vectors, and how far it may be off."""
        rounded = Rounded(wanted)
        products = [
            np.frombuffer(simsimd.cdist(rounded.codes[None], block, "dot", threads=_THREADS), np.float64)
            for block in self._codes.blocks()
        ]
        rounding = np.concatenate(self._rounding.blocks())
        about = (np.concatenate(products) * rounded.step).astype(np.float32) * rounding[:, 0]
        return about, rounding[:, 1] * (1 + rounded.error) + rounded.error


def unit(embedding: Sequence[float]) -> NDArray[np.float32]:
    """The direction of an embedding. ValueError where it has none."""
    values = np.array(embedding, dtype=np.float64)
    length = float(np.linalg.norm(values))
    if not np.isfinite(length) or length == 0:
        raise ValueError("embedding must hold finite numbers that are not all zero")
    return (values / length).astype(np.float32)
