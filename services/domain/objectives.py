"""Several objectives: non-dominated sorting and crowding distance as in NSGA-II, and the hypervolume of a front.

NSGA-II: Deb et al. 2002, doi:10.1109/4235.996017. All values are positive *costs*, of which less is better: speed is
seconds per token, a benchmark its error.
"""

import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Costs = tuple[float, ...]
"""One number for each objective of the run, in their order."""


def metric_of(title: str) -> str:
    """What a column of a table of tasks holds, by its title: a loss, a perplexity, or else accuracies (acc)."""
    found = re.search(r"ppl|perplexity|\bloss\b", title.replace("_", " "), re.IGNORECASE)
    return "acc" if found is None else "loss" if found[0].lower() == "loss" else "perplexity"


@dataclass(frozen=True, slots=True)
class Objective:
    """A quantity that a run can optimise; `higher` values are better for people."""

    name: str
    unit: str
    higher: bool = False

    def cost(self, value: float) -> float:
        if self.name == "speed":
            return math.inf if value <= 0 else 1 / value
        return 1 - value if self.higher else value

    def value(self, cost: float) -> float:
        """The inverse of :meth:`cost`."""
        if self.name == "speed":
            return 1 / cost
        return 1 - cost if self.higher else cost


OBJECTIVES: Mapping[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("loss", "nats per token"),
        Objective("benchmark", "mean accuracy", higher=True),
        Objective("parameters", ""),
        Objective("flops", "per token"),
        Objective("speed", "tokens per second", higher=True),
        Objective("memory", "bytes at the peak"),
        Objective("state", "numbers kept per layer"),
    )
}
LOWER_IS_BETTER = ("loss", "perplexity")
"""The ends of names of such metrics of tasks."""
MAX_OBJECTIVES = 4
"""Objectives of a run: with more, almost no candidate dominates another."""


def parse_objectives(text: str) -> tuple[Objective, ...]:
    """From text such as "loss,parameters". Raises ``ValueError`` naming the possible objectives."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        return ()
    for name in names:
        if name not in OBJECTIVES:
            raise ValueError(f"policy objectives: {name!r} is unknown; choose from {', '.join(OBJECTIVES)}")
    if len(set(names)) < len(names) or not 2 <= len(names) <= MAX_OBJECTIVES or names[0] != "loss":
        raise ValueError(
            f"policy objectives must be loss and one to {MAX_OBJECTIVES - 1} others, commas between, not {text!r}"
        )
    return tuple(OBJECTIVES[name] for name in names)


def costs_of(objectives: Sequence[Objective], measured: Mapping[str, float | None]) -> Costs | None:
    """The costs of one candidate; None if one was not measured or is not finite."""
    values = ((objective, measured.get(objective.name)) for objective in objectives)
    costs = tuple(math.inf if value is None else objective.cost(value) for objective, value in values)
    return costs if all(map(math.isfinite, costs)) else None


def dominates(costs: Costs, other: Costs) -> bool:
    """No worse in anything and better in something."""
    return all(a <= b for a, b in zip(costs, other, strict=True)) and costs != other


def fronts(points: Sequence[Costs]) -> list[list[int]]:
    """Indices of the points by rounds of non-dominated sorting."""
    left = list(range(len(points)))
    sorted_fronts = []
    while left:
        best = [index for index in left if not any(dominates(points[other], points[index]) for other in left)]
        sorted_fronts.append(best)
        left = [index for index in left if index not in set(best)]
    return sorted_fronts


def crowding(points: Sequence[Costs]) -> list[float]:
    """The crowding distance of each point of one front; infinite at its ends, 0 for duplicates."""
    indices: dict[Costs, int] = {}
    for index, point in enumerate(points):
        indices.setdefault(point, index)
    distances = [0.0] * len(points)
    for axis in range(len(points[0]) if points else 0):
        ordered = sorted(indices.values(), key=lambda index: points[index][axis])
        span = points[ordered[-1]][axis] - points[ordered[0]][axis]
        distances[ordered[0]] = distances[ordered[-1]] = math.inf
        for before, index, after in zip(ordered, ordered[1:], ordered[2:], strict=False):
            distances[index] += (points[after][axis] - points[before][axis]) / span if span else 0.0
    return distances


def nsga_order(points: Sequence[Costs]) -> list[int]:
    """Indices of the points, best first; the earlier of equals."""
    order = []
    for front in fronts(points):
        distances = dict(zip(front, crowding([points[index] for index in front]), strict=True))
        order += sorted(front, key=lambda index: -distances[index])
    return order


def hypervolume(points: Iterable[Costs], reference: Costs) -> float:
    """The share of the box from zero to ``reference`` that the points dominate, by slices along the last objective."""
    if not all(0 < limit < math.inf for limit in reference):
        raise ValueError(f"reference must be positive and finite in every objective, not {reference!r}")
    scaled = {tuple(max(0.0, cost / limit) for cost, limit in zip(p, reference, strict=True)) for p in points}
    return _volume([point for point in scaled if all(cost < 1 for cost in point)])


@dataclass(frozen=True, slots=True)
class Progress:
    """The front of a run, and (index in the run, hypervolume) after each new member."""

    front: frozenset[int]
    volumes: tuple[tuple[int, float], ...]


def progress(costs: Sequence[Costs | None], baselines: Sequence[int]) -> Progress | None:
    """Over candidates in order; ``None`` unless one of `baselines`, whose indices set the reference, is measured."""
    reference = reference_of(cost for index in baselines if (cost := costs[index]) is not None)
    if reference is None:
        return None
    front: dict[int, Costs] = {}
    volumes: list[tuple[int, float]] = []
    for index, cost in enumerate(costs):
        if cost is None or any(point == cost or dominates(point, cost) for point in front.values()):
            continue
        front = {other: point for other, point in front.items() if not dominates(cost, point)} | {index: cost}
        volumes.append((index, hypervolume(front.values(), reference)))
    return Progress(frozenset(front), tuple(volumes))


def _volume(points: Sequence[Costs]) -> float:
    """Between the points and the corner of ones."""
    if not points:
        return 0.0
    if len(points[0]) == 1:
        return 1 - min(point[0] for point in points)
    ordered = sorted(points, key=lambda point: point[-1])
    volume = 0.0
    for index, point in enumerate(ordered):
        above = ordered[index + 1][-1] if index + 1 < len(ordered) else 1.0
        if above > point[-1]:
            volume += (above - point[-1]) * _volume([lower[:-1] for lower in ordered[: index + 1]])
    return volume


def reference_of(baselines: Iterable[Costs]) -> Costs | None:
    """The worst of the baselines in each objective; None without any."""
    columns = list(zip(*baselines, strict=True))
    return tuple(max(column) for column in columns) or None


def scalarised(points: Sequence[Costs], rng: random.Random) -> list[float]:
    """Scores, higher is better, by ParEGO with random weights (Knowles 2006, doi:10.1109/TEVC.2005.851274)."""
    if not points:
        return []
    drawn = [rng.expovariate(1.0) for _ in points[0]]
    weights = [weight / sum(drawn) for weight in drawn]
    lows, highs = ([end(column) for column in zip(*points, strict=True)] for end in (min, max))
    scores = []
    for point in points:
        parts = [
            weight * ((cost - low) / (high - low) if high > low else 0.0)
            for weight, cost, low, high in zip(weights, point, lows, highs, strict=True)
        ]
        scores.append(-max(parts) - 0.05 * sum(parts))
    return scores
