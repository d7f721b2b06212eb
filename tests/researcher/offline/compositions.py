"""Random descriptions for the tests: the catalogue's mixers after random moves and crossovers."""

import random

from services.researcher.offline.catalogue import CATALOGUE
from services.researcher.offline.crossover import cross
from services.researcher.offline.description import Mixer
from services.researcher.offline.moves import LIBRARY


def composition(seed: int) -> Mixer:
    """A mixer up to eight moves away from one of the catalogue, now and then crossed with another."""
    rng = random.Random(seed)
    mixers = list(CATALOGUE.values())
    mixer = rng.choice(mixers)
    for _ in range(rng.randint(1, 8)):
        mixer = rng.choice(LIBRARY).apply(mixer) or mixer
    if rng.random() < 0.3:
        mixer = cross(mixer, rng.choice(mixers), rng) or mixer
    return mixer.settled()
