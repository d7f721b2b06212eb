"""Which moves paid off in this archive: Thompson sampling over the fitness that children gained on their parents."""

import math
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from services.mixers.moves import LIBRARY, Move

# In units of the root mean square of the gains that were seen, since fitness has no fixed scale.
PRIOR_SPREAD = 0.25  # gained by one move before anything was seen: mean 0, this standard deviation
NOISE_SPREAD = 0.25  # spread of a measured gain around a move's true one
REJECTION_GAIN = -0.25  # what a rejected child counts for: one noise spread below its parent
HINT_BONUS = 0.15  # added to a draw for a move that cognition suggests


@dataclass(frozen=True)
class Observation:
    """One earlier candidate of the archive: the moves that made it and what they gained.

    `gain` is its fitness less its parent's; None for a candidate that was rejected.
    """

    moves: tuple[str, ...]
    gain: float | None
    structure: str = ""  # `Mixer.structure()` of the candidate; empty where unknown

    def __post_init__(self) -> None:
        """Refuse a gain that is no number, because one would poison every later draw."""
        if self.gain is not None and not math.isfinite(self.gain):
            raise ValueError(f"gain of an observation must be finite, not {self.gain}; use None for a rejection")


@dataclass(frozen=True)
class Belief:
    """A normal belief about a move's gain in fitness, with how often it was seen."""

    mean: float
    spread: float
    seen: int


@dataclass(frozen=True)
class Bandit:
    """Draws moves by belief. A child of several moves shares its gain among them equally."""

    beliefs: Mapping[str, Belief]
    hinted: frozenset[str] = field(default_factory=frozenset)
    unit: float = 1.0  # of fitness, the root mean square of the gains that were seen

    @classmethod
    def learned(cls, history: Iterable[Observation], hinted: Collection[str] = ()) -> "Bandit":
        """Beliefs from all observations; the order of the history does not matter."""
        observations = list(history)
        gains = [seen.gain for seen in observations if seen.gain]
        unit = math.sqrt(math.fsum(gain**2 for gain in gains) / len(gains)) if gains else 1.0
        shares: dict[str, list[float]] = {}
        for seen in observations:
            gain = REJECTION_GAIN * unit if seen.gain is None else seen.gain
            for name in seen.moves:
                shares.setdefault(name, []).append(gain / len(seen.moves))
        return cls({name: _belief(share, unit) for name, share in shares.items()}, frozenset(hinted), unit)

    def belief(self, move: str) -> Belief:
        """The belief about a move; the prior where it was never tried."""
        return self.beliefs.get(move, Belief(0.0, PRIOR_SPREAD * self.unit, 0))

    def ranking(self, rng: random.Random) -> Sequence[Move]:
        """All moves, best draw first."""
        drawn = [(self._draw(move.name, rng), move) for move in LIBRARY]
        return [move for _, move in sorted(drawn, key=lambda pair: pair[0], reverse=True)]

    def _draw(self, move: str, rng: random.Random) -> float:
        belief = self.belief(move)
        return rng.gauss(belief.mean, belief.spread) + (HINT_BONUS * self.unit if move in self.hinted else 0.0)


def _belief(gains: Sequence[float], unit: float) -> Belief:
    """Posterior of a normal prior and normal noise with known spreads."""
    precision = PRIOR_SPREAD**-2 + len(gains) * NOISE_SPREAD**-2
    mean = math.fsum(gains) * NOISE_SPREAD**-2 / precision
    return Belief(mean, precision**-0.5 * unit, len(gains))
