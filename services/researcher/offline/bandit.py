"""Which moves paid off in this archive: Thompson sampling over the fitness that children gained on their parents."""

import math
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from services.mixers.moves import LIBRARY, Move

PRIOR_SPREAD = 0.05  # fitness gained by one move before anything was seen: mean 0, this standard deviation
NOISE_SPREAD = 0.05  # spread of a measured gain around a move's true one
REJECTION_GAIN = -0.05  # what a rejected child counts for: one noise spread below its parent
HINT_BONUS = 0.03  # added to a draw for a move that cognition suggests


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

    @classmethod
    def learned(cls, history: Iterable[Observation], hinted: Collection[str] = ()) -> "Bandit":
        """Beliefs from all observations; the order of the history does not matter."""
        shares: dict[str, list[float]] = {}
        for seen in history:
            gain = REJECTION_GAIN if seen.gain is None else seen.gain
            for name in seen.moves:
                shares.setdefault(name, []).append(gain / len(seen.moves))
        return cls({name: _belief(gains) for name, gains in shares.items()}, frozenset(hinted))

    def belief(self, move: str) -> Belief:
        """The belief about a move; the prior where it was never tried."""
        return self.beliefs.get(move, Belief(0.0, PRIOR_SPREAD, 0))

    def ranking(self, rng: random.Random) -> Sequence[Move]:
        """All moves, best draw first."""
        drawn = [(self._draw(move.name, rng), move) for move in LIBRARY]
        return [move for _, move in sorted(drawn, key=lambda pair: pair[0], reverse=True)]

    def _draw(self, move: str, rng: random.Random) -> float:
        belief = self.belief(move)
        return rng.gauss(belief.mean, belief.spread) + (HINT_BONUS if move in self.hinted else 0.0)


def _belief(gains: Sequence[float]) -> Belief:
    """Posterior of a normal prior and normal noise with known spreads."""
    precision = PRIOR_SPREAD**-2 + len(gains) * NOISE_SPREAD**-2
    mean = sum(gains) * NOISE_SPREAD**-2 / precision
    return Belief(mean, precision**-0.5, len(gains))
