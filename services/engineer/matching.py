"""A candidate made as wide as its baseline has parameters: how unequal sizes are made comparable without refusing."""

from collections.abc import Mapping

from services.domain.promotion import matched_width
from services.engineer.stages import Stages

NEIGHBOURS = (-1, 0, 1)
CHANNELS_PER_HEAD = 4
"""Widths are tried in steps of so many channels per head: programs halve heads and rotate pairs."""
EXPONENT = 1.5
"""Parameters grow with the width between once (tables) and twice (projections); it only says where the tries lie."""


async def overrides_for(
    stages: Stages, name: str, overrides: Mapping[str, str], program: str, target: int
) -> dict[str, str]:
    """The overrides with the width at which the program's parameters come nearest to ``target``.

    Three widths are tried beside the stage's own. Where nothing can be counted, the overrides stay as they are.
    """
    stage = await stages.open(name, overrides)
    own, step = stage.scale.width, stage.scale.heads * CHANNELS_PER_HEAD
    measured = {own: count} if (count := await _counted(stages, name, overrides, program)) else {}
    if not measured:
        return dict(overrides)
    guess = own * (target / measured[own]) ** (1 / EXPONENT)
    for neighbour in NEIGHBOURS:
        width = max(step, (round(guess / step) + neighbour) * step)
        count = await _counted(stages, name, {**overrides, "width": str(width)}, program)
        if count:
            measured[width] = count
    return {**overrides, "width": str(matched_width(measured, target))}


async def _counted(stages: Stages, name: str, overrides: Mapping[str, str], program: str) -> int | None:
    """Parameters of the whole model at these sizes; None where the program cannot be built there."""
    stage = await stages.open(name, overrides)
    return (await stages.check(stage, program, exempt_from_cost=True, thorough=False)).parameters
