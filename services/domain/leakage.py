"""The leakage rule: a loss that is too good to be true is suspected of having seen the answers.

Source: arXiv:2507.18074 discards a final loss more than 10% below the baseline. At tiny scale honest controls are
there already (DeltaNet with a gated value skip is 10% below DeltaNet), so where they pass the threshold themselves,
the best of them is what the threshold is measured from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.domain.fitness import refuse_impossible

THRESHOLD = 0.10


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Whether a loss is suspect, with the numbers that say so: the evidence of a rejection."""

    suspected: bool
    loss: float
    reference: float
    """The honest loss compared with: the baseline's, or the best control's where that passes the threshold itself."""
    floor: float
    """A loss below this one is suspect."""


def suspicion(loss: float, baseline_loss: float, controls: Sequence[float], threshold: float = THRESHOLD) -> Suspicion:
    """Compare ``loss`` (nats) with the floor that the baseline and the run's honest ``controls`` set.

    Raises ``ValueError`` for a loss that is NaN, infinite or negative, a baseline of zero, or a threshold not in (0,
    1).
    """
    for field, value in (
        ("loss", loss),
        ("baseline_loss", baseline_loss),
        *(("controls", value) for value in controls),
    ):
        refuse_impossible(field, value)
    if baseline_loss == 0:
        raise ValueError("baseline_loss is zero: nothing can be below it; measure the baseline again")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be a share between 0 and 1, not {threshold!r}")
    reference = baseline_loss
    best = min(controls, default=baseline_loss)
    if best < (1 - threshold) * baseline_loss:
        reference = best
    floor = (1 - threshold) * reference
    return Suspicion(loss < floor, loss, reference, floor)


def leaks(loss: float, baseline_loss: float, controls: Sequence[float], threshold: float = THRESHOLD) -> bool:
    """Whether ``loss`` has to be probed again, harder; see :func:`suspicion` for the numbers."""
    return suspicion(loss, baseline_loss, controls, threshold).suspected
