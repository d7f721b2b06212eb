"""Random descriptions for the tests: the catalogue's mixers after random moves and crossovers."""

import random

from services.mixers.description import CATALOGUE, Mixer
from services.mixers.moves import LIBRARY
from services.mixers.moves.move import cross


def composition(seed: int) -> Mixer:
    """A mixer up to eight moves away from one of the catalogue, now and then crossed with another."""
    rng = random.Random(seed)
    mixers = list(CATALOGUE.values())
    mixer = rng.choice(mixers)
    for _ in range(rng.randint(1, 8)):
        mixer = rng.choice(LIBRARY).apply(mixer) or mixer
    if rng.random() < 0.3:
        mixer = cross(mixer, rng.choice(mixers), rng) or mixer
    return mixer.canonical()
