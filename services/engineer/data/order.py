"""Which tokens a model sees in which step: decided here, outside the child, by the seed alone."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from services.engineer.data.corpus import CorpusError, TokenArray


def batches(
    part: TokenArray, *, batch: int, context: int, seed: int, first: int, count: int
) -> Iterator[NDArray[np.int64]]:
    """Batches [batch, context + 1] of the steps first … first + count - 1.

    The part is cut into windows that overlap by one token; each pass over them is a fresh permutation. Asking for steps
    from the middle gives what an uninterrupted run would have seen there.
    """
    windows = (len(part) - 1) // context
    if windows < batch:
        raise CorpusError(f"One batch needs {batch} windows of {context} tokens, but the training part has {windows}.")
    epoch, permutation = -1, np.empty(0, dtype=np.int64)
    for step in range(first, first + count):
        rows = []
        for position in range(step * batch, (step + 1) * batch):
            if position // windows != epoch:
                epoch = position // windows
                permutation = np.random.default_rng([seed, epoch]).permutation(windows)
            start = int(permutation[position % windows]) * context
            rows.append(part[start : start + context + 1])
        yield np.stack(rows).astype(np.int64)
