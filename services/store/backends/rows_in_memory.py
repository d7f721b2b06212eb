"""Rows of numbers in memory, and the best of many scores."""

import heapq
from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", np.float32, np.uint32, np.int8)

BLOCK = 8192
"""Rows per block: a table grows by whole blocks, so nothing is copied when it grows."""

Scored = tuple[str, float]
"""A candidate's id and how near it is."""


class Rows(Generic[Number]):
    """Rows of equal width, in blocks."""

    def __init__(self, width: int, kind: type[Number]) -> None:
        self.width = width
        self._kind: type[Number] = kind
        self._blocks: list[NDArray[Number]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def extend(self, rows: NDArray[Number]) -> None:
        """Append rows, an array of shape [any, width]."""
        while len(rows):
            place = self._count % BLOCK
            if place == 0:
                self._blocks.append(np.empty((BLOCK, self.width), self._kind))
            fitting = rows[: BLOCK - place]
            self._blocks[-1][place : place + len(fitting)] = fitting
            self._count += len(fitting)
            rows = rows[len(fitting) :]

    def blocks(self) -> list[NDArray[Number]]:
        """The filled rows, in order."""
        return [block[: self._count - at * BLOCK] for at, block in enumerate(self._blocks)]

    def take(self, places: NDArray[np.intp]) -> NDArray[Number]:
        """Some rows, by ascending places."""
        edges = np.searchsorted(places, np.arange(len(self._blocks) + 1) * BLOCK)
        parts: list[NDArray[Number]] = [np.empty((0, self.width), self._kind)]
        for at, block in enumerate(self._blocks):
            parts.append(block[places[edges[at] : edges[at + 1]] - at * BLOCK])
        return np.concatenate(parts)


def best(ids: Sequence[str], scores: NDArray[np.float32], count: int, except_id: str) -> list[Scored]:
    """The highest scores; ties by id, also at the edge of what is kept."""
    wanted = min(count + 1, len(ids))  # one more than asked for: one id may be left out
    if wanted < 1:
        return []
    least = np.partition(scores, len(ids) - wanted)[len(ids) - wanted]
    found = ((ids[place], float(scores[place])) for place in np.flatnonzero(scores >= least).tolist())
    kept = (pair for pair in found if pair[0] != except_id)
    return heapq.nsmallest(count, kept, key=lambda pair: (-pair[1], pair[0]))
