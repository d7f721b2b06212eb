"""A child that takes whole parts from a second mixer."""

import random

from pydantic import ValidationError

from services.mixers.description import Mixer

_GROUPS: tuple[tuple[str, ...], ...] = (("inputs",), ("features", "memory"), ("paths", "fusion"), ("output",))


def cross(first: Mixer, second: Mixer, rng: random.Random) -> Mixer | None:
    """`first` with one or two groups of parts of `second`; None where no such child is sound and new.

    Features travel with the memory and paths with their fusion, because they are sound only together.
    """
    for _ in range(8):
        taken = rng.sample(_GROUPS, k=rng.choice((1, 2)))
        fields = {name: getattr(second, name) for group in taken for name in group}
        try:
            child = Mixer.model_validate(first.model_copy(update=fields).model_dump()).settled()
        except ValidationError:
            continue
        if child.structure() not in {first.structure(), second.structure()}:
            return child
    return None
