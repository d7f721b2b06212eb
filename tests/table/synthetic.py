"""A synthetic table over the whole lattice: effects of values and of some pairs, and seed noise."""

import random

from services.table.lattice import cells
from services.table.records import Record

NOISE = 0.004


def synthetic_records(
    seeds: tuple[int, ...] = (1, 2, 3), seed: int = 0, failing: float = 0.0, noise: float = NOISE
) -> list[Record]:
    """Losses near 2 whose early measurements are noisy versions of the final ones."""
    rng = random.Random(seed)
    effects: dict[tuple[object, ...], float] = {}
    records = []
    for cell in cells():
        pairs = list(enumerate(cell.values))
        crossed = [(a, b) for a in pairs for b in pairs if a < b]
        effect = sum(effects.setdefault(pair, rng.gauss(0, 0.06)) for pair in pairs)
        effect += sum(effects.setdefault(pair, rng.gauss(0, 0.015)) for pair in crossed)
        broken = rng.random() < failing
        for number in seeds:
            loss = 2.0 + effect + rng.gauss(0, noise)
            curve = tuple(
                (step, 3.0, loss + (120 - step) / 100 + rng.gauss(0, (120 - step) / 2000)) for step in (30, 60, 90)
            )
            records.append(
                Record(cell.name, "mini-half", number, failure="stopped: not finite", seconds=1.0)
                if broken
                else Record(
                    cell.name, "mini-half", number, loss=loss, loss_stderr=0.03, curve=(*curve, (120, loss, None)),
                    parameters=100_000, flops_per_token=1e6, tokens_per_cpu_second=2e4, cpu_seconds=5.0, seconds=6.0,
                )
            )  # fmt: skip
    return records
