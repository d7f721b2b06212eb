"""Corrections of p-values for how many candidates were tried."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType


def benjamini_hochberg(ps: Sequence[float], tried: int | None = None) -> list[float]:
    """Adjusted p-values, in the order given, that control the false discovery rate (Benjamini & Hochberg 1995).

    ``tried`` counts all hypotheses, tested or not; those without a p-value count as having shown nothing.
    Raises ``ValueError`` for a p outside [0, 1] or fewer tried than tested.
    """
    total = _total(ps, tried)
    order = sorted(range(len(ps)), key=lambda place: ps[place], reverse=True)
    adjusted, least = [0.0] * len(ps), 1.0
    for behind, place in enumerate(order):
        least = min(least, ps[place] * total / (len(ps) - behind))
        adjusted[place] = least
    return adjusted


def holm(ps: Sequence[float], tried: int | None = None) -> list[float]:
    """Adjusted p-values that control the chance of even one false discovery (Holm 1979); arguments as above."""
    total = _total(ps, tried)
    order = sorted(range(len(ps)), key=lambda place: ps[place])
    adjusted, most = [0.0] * len(ps), 0.0
    for before, place in enumerate(order):
        most = min(1.0, max(most, ps[place] * (total - before)))
        adjusted[place] = most
    return adjusted


CORRECTIONS: Mapping[str, Callable[[Sequence[float], int | None], list[float]]] = MappingProxyType(
    {"benjamini-hochberg": benjamini_hochberg, "holm": holm}
)
"""The corrections by the name that a run's settings use."""


def _total(ps: Sequence[float], tried: int | None) -> int:
    if not all(0 <= p <= 1 for p in ps):
        raise ValueError("p-values must lie between 0 and 1")
    if tried is not None and tried < len(ps):
        raise ValueError(f"tried ({tried}) is fewer than the {len(ps)} that were tested; count every candidate")
    return len(ps) if tried is None else tried
