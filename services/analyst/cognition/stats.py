"""Which entries were used by candidates that improved on their parents."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Use:
    """The entries that were retrieved for one candidate and its gain over its parent in fitness.

    `gain` is None where candidate or parent has no fitness: such a use counts, but neither as better nor as worse.
    """

    entries: tuple[str, ...]
    gain: float | None


@dataclass(frozen=True)
class EntryStatistics:
    """How often an entry was used, how many of those uses have a gain, how many improved, and the mean gain."""

    entry: str
    uses: int
    measured: int
    improved: int
    mean_gain: float | None

    @property
    def share_improved(self) -> float | None:
        """Improved of measured, 0 to 1; None without a measured use."""
        return self.improved / self.measured if self.measured else None


def statistics_of(uses: Iterable[Use]) -> tuple[EntryStatistics, ...]:
    """One row per entry that was ever used: most improvements first, then larger mean gain, then by id.

    An entry that a candidate retrieved several times counts once for it. This is correlation: entries retrieved for
    weak parents have more room to improve.
    """
    gains: dict[str, list[float | None]] = defaultdict(list)
    for use in uses:
        for entry in dict.fromkeys(use.entries):
            gains[entry].append(use.gain)
    return tuple(sorted((_row(entry, found) for entry, found in gains.items()), key=_rank))


def _row(entry: str, gains: list[float | None]) -> EntryStatistics:
    measured = [gain for gain in gains if gain is not None]
    mean = statistics.fmean(measured) if measured else None
    return EntryStatistics(entry, len(gains), len(measured), sum(gain > 0 for gain in measured), mean)


def _rank(row: EntryStatistics) -> tuple[int, bool, float, str]:
    return (-row.improved, row.mean_gain is None, -(row.mean_gain or 0.0), row.entry)
