"""What follows from a loss that looks too good to be true: a closer look, and what its findings mean.

arXiv:2507.18074 discards a final loss more than 10% below the baseline. True gains of that size exist, so that a low
loss is only a reason to look harder here. Policy ``investigate`` (the default) rejects on evidence alone: a probe that
fails, a gain that is not there again with another seed, shifted training data and other text, or one of which nothing
is left on text from another source. ``probe`` asks the probes only. ``paper`` is the paper's rule. At tiny scale honest
controls are below the threshold already (DeltaNet with a gated value skip is 10% below DeltaNet), so where they are,
the best of them is what the threshold is measured from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.domain.fitness import refuse_impossible

THRESHOLD = 0.10
INVESTIGATE, PROBE, PAPER = "investigate", "probe", "paper"
POLICIES = (INVESTIGATE, PROBE, PAPER)
REPEATED_SHARE = 0.5
"""The share of a suspected gain that has to be there again; a leak through seed or data order leaves about none."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Whether a loss is suspect, with the numbers that say so: the evidence of a rejection."""

    suspected: bool
    loss: float
    reference: float
    """The honest loss compared with: the baseline's, or the best control's where that passes the threshold itself."""
    floor: float
    """A loss below this one is suspect."""


@dataclass(frozen=True, slots=True)
class Investigation:
    """What a closer look at a suspected loss found. A measurement that was not made is ``None``.

    ``gain`` is the root's loss minus the candidate's as they were measured first, ``repeated_gain`` the same of both
    trained again with another seed on shifted data and scored on other text, ``other_text_gain`` that of these two on
    text from another source, all in nats.
    """

    failed_probes: tuple[str, ...]
    gain: float
    repeated_gain: float | None = None
    other_text_gain: float | None = None


def leakage_policy(name: str) -> str:
    """The policy of that name, the default for an empty one. Raises ``ValueError`` listing the names there are."""
    if name and name not in POLICIES:
        raise ValueError(f"policy leakage is {name!r}; choose one of {', '.join(POLICIES)}")
    return name or INVESTIGATE


def suspicion(loss: float, baseline_loss: float, controls: Sequence[float], threshold: float = THRESHOLD) -> Suspicion:
    """Compare ``loss`` (nats) with the floor that the baseline and the run's honest ``controls`` set.

    Raises ``ValueError`` for a loss that is NaN, infinite or negative, a baseline of zero, or a threshold not in (0,
    1).
    """
    refuse_impossible("loss", loss)
    refuse_impossible("baseline_loss", baseline_loss)
    for value in controls:
        refuse_impossible("controls", value)
    if baseline_loss == 0:
        raise ValueError("baseline_loss is zero: nothing can be below it; measure the baseline again")
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be a share between 0 and 1, not {threshold!r}")
    best = min(controls, default=baseline_loss)
    reference = best if best < (1 - threshold) * baseline_loss else baseline_loss
    floor = (1 - threshold) * reference
    return Suspicion(loss < floor, loss, reference, floor)


def fault(policy: str, found: Investigation) -> str | None:
    """Why a suspected candidate is rejected, or ``None`` where the policy keeps it."""
    if found.failed_probes:
        return f"the thorough check fails ({found.failed_probes[0]})"
    if policy == PAPER:
        return "no probe explains it, but the run's policy leakage=paper keeps no such loss"
    if policy == INVESTIGATE and found.repeated_gain is not None and found.repeated_gain < REPEATED_SHARE * found.gain:
        return (
            f"trained again with another seed and shifted data and scored on other text, it gains "
            f"{found.repeated_gain:.4f} nats over the root instead of {found.gain:.4f}"
        )
    if policy == INVESTIGATE and found.other_text_gain is not None and found.other_text_gain <= 0:
        return (
            f"on text from another source it gains {found.other_text_gain:.4f} nats over the root, "
            f"but {found.gain:.4f} on what it was selected by"
        )
    return None
