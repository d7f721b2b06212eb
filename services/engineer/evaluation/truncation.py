"""Does a prediction change when what comes after it is cut off? Asked of another fresh child, in another order.

A program that behaves in the check and looks ahead while it is scored, that carries something from one held-out
sequence to the next, or that knows the usual length of a scoring batch, answers differently here.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.engineer.evaluation.reader import Predictions, Reader
from services.engineer.training.errors import LooksAhead
from services.engineer.training.ports import JSON

MEAN_TOLERANCE, WORST_TOLERANCE = 0.03, 0.5
"""Nats. Rounding to bfloat16 in another chunking moves log-probabilities of trained mixers by far less than these."""


@dataclass(frozen=True)
class Trial:
    """The first tokens of a scored row, the token after them, and the log-probability it got with the rest in view."""

    tokens: NDArray[np.int64]
    target: int
    log_prob: float


def trials_of(
    rows: NDArray[np.int64], predictions: Predictions, *, count: int, lengths: int, random: np.random.Generator
) -> list[Trial]:
    """About `count` cuts of rows [rows, length + 1], spread over at most `lengths` random places of at least 1/8."""
    context = rows.shape[1] - 1
    places = random.permutation(np.arange(max(1, context // 8), context))[:lengths]
    share = min(-(-count // max(1, len(places))), len(rows))
    return [
        Trial(rows[row, :place], int(rows[row, place]), float(predictions.log_probs[row, place - 1]))
        for place in places
        for row in random.choice(len(rows), size=share, replace=False)
    ]


async def recheck(reader: Reader, trials: Sequence[Trial], random: np.random.Generator) -> float:
    """The worst change of a log-probability in nats. Raises LooksAhead with evidence beyond the tolerance."""
    groups: dict[int, list[Trial]] = defaultdict(list)
    for index in random.permutation(len(trials)):
        groups[len(trials[index].tokens)].append(trials[index])
    found: list[tuple[int, float]] = []
    for length, group in groups.items():
        hidden = await reader.hidden(np.stack([trial.tokens for trial in group]))
        again = reader.score(hidden[:, -1], np.array([trial.target for trial in group])).log_probs
        found += [(length, trial.log_prob - float(value)) for trial, value in zip(group, again, strict=True)]
    return judge(found)


def judge(gains: Sequence[tuple[int, float]]) -> float:
    """Decide over (length, nats gained by seeing the rest) pairs; NaN counts as a change without bound."""
    sizes = [abs(gain) if np.isfinite(gain) else float("inf") for _, gain in gains]
    worst, mean = max(sizes, default=0.0), float(np.mean(sizes)) if sizes else 0.0
    if worst <= WORST_TOLERANCE and mean <= MEAN_TOLERANCE:
        return worst
    length, gain = gains[sizes.index(worst)]
    evidence: dict[str, JSON] = {
        "length": length,
        "gain_nats": gain if np.isfinite(gain) else None,
        "mean_change_nats": mean if np.isfinite(mean) else None,
        "compared": len(gains),
    }
    raise LooksAhead(
        f"The prediction after {length} tokens changes by {worst:.2f} nats when the later tokens are cut off "
        f"(mean change {mean:.3f} nats over {len(gains)} cuts): the score would rest on tokens it must not see.",
        evidence,
    )
