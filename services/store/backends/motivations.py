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


class MotivationIndex:
    """The unit vectors of one run and one embedder, in the order in which they came."""

    def __init__(self, width: int) -> None:
        self.last = 0  # sequence of the newest row
        self._width = width
        self._vectors = Rows(width, np.float32)
        self._codes = Rows(width, np.int8)
        self._rounding = Rows(2, np.float32)  # step and error of each
        self._ids: list[str] = []

    @property
    def rows(self) -> int:
        """How many there are. No length: an index without any would not be there for `if index`."""
        return len(self._ids)

    def extend(self, last: int, candidates: Sequence[str], vectors: Sequence[bytes]) -> None:
        """Rows as the archive keeps them. One of another width, or without a direction, cannot be near anything."""
        self.last = last
        usable = [place for place, vector in enumerate(vectors) if len(vector) == 4 * self._width]
        values = np.frombuffer(b"".join(vectors[place] for place in usable), "<f4").reshape(-1, self._width)
        lengths = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
        sound = np.isfinite(lengths) & (lengths > 0)
        directions = (values[sound] / lengths[sound, None]).astype(np.float32)
        codes, rounding = rounded(directions)
        self._vectors.extend(directions)
        self._codes.extend(codes)
        self._rounding.extend(rounding)
        self._ids += [candidates[usable[place]] for place in np.flatnonzero(sound).tolist()]

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
        codes, [[step, error]] = rounded(wanted[None])
        products = [np.asarray(simsimd.cdist(codes, block, "dot"))[0] for block in self._codes.blocks()]
        rounding = np.concatenate(self._rounding.blocks())
        about = (np.concatenate(products) * step).astype(np.float32) * rounding[:, 0]
        return about, rounding[:, 1] * (1 + error) + error


def rounded(directions: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Unit vectors as whole numbers, and of each how long a step is and how long the difference that is left."""
    steps = np.abs(directions).max(axis=1, keepdims=True, initial=0) / _STEPS
    codes = np.round(directions / steps).astype(np.int8)
    errors = np.linalg.norm(directions - codes * steps, axis=1, keepdims=True)
    return codes, np.hstack([steps, errors]).astype(np.float32)


def unit(embedding: Sequence[float]) -> NDArray[np.float32]:
    """The direction of an embedding. ValueError where it has none."""
    values = np.array(embedding, dtype=np.float64)
    length = float(np.linalg.norm(values))
    if not np.isfinite(length) or length == 0:
        raise ValueError("embedding must hold finite numbers that are not all zero")
    return (values / length).astype(np.float32)
