"""One candidate against another, in numbers that come from the records alone."""

import math
from dataclasses import dataclass
from statistics import fmean, stdev

from services.contracts import candidate_pb2 as pb

CERTAIN = 1.96  # standard errors: the two-sided 95 % of a normal mean


@dataclass(frozen=True)
class Difference:
    """Mean paired difference in held-out loss, other minus candidate: positive where the candidate is better."""

    gain: float
    stderr: float | None  # over held-out blocks; None where nothing could be paired

    @property
    def certain(self) -> bool:
        """Whether the interval of the difference leaves zero out."""
        return self.stderr is not None and abs(self.gain) > CERTAIN * self.stderr


def loss_difference(record: pb.Candidate, other: pb.Candidate) -> Difference | None:
    """None where either was not measured."""
    if not record.training.HasField("loss") or not other.training.HasField("loss"):
        return None
    gains = _paired(record, other)
    stderr = stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else None
    return Difference(other.training.loss - record.training.loss, stderr)


def task_means(record: pb.Candidate) -> dict[str, float]:
    """Mean score of each task over the seeds."""
    scores: dict[str, list[float]] = {}
    for seed in record.training.seeds:
        for score in seed.scores:
            scores.setdefault(score.task, []).append(score.value)
    return {task: fmean(values) for task, values in scores.items()}


def largest_changes(record: pb.Candidate, other: pb.Candidate, count: int = 2) -> list[tuple[str, float, float]]:
    """The tasks whose mean changed most: (task, other's, candidate's)."""
    ours, theirs = task_means(record), task_means(other)
    shared = sorted(ours.keys() & theirs.keys(), key=lambda task: (-abs(ours[task] - theirs[task]), task))
    return [(task, theirs[task], ours[task]) for task in shared[:count]]


def speed_of(record: pb.Candidate) -> float | None:
    """Mean tokens per second over the seeds."""
    speeds = [
        seed.measurements.tokens_per_second
        for seed in record.training.seeds
        if seed.measurements.HasField("tokens_per_second")
    ]
    return fmean(speeds) if speeds else None


def _paired(record: pb.Candidate, other: pb.Candidate) -> list[float]:
    theirs = {seed.seed: seed.block_losses for seed in other.training.seeds}
    rows = [
        [b - a for a, b in zip(seed.block_losses, theirs[seed.seed], strict=True)]
        for seed in record.training.seeds
        if seed.seed in theirs and len(theirs[seed.seed]) == len(seed.block_losses)
    ]
    return [fmean(column) for column in zip(*rows, strict=True)] if rows else []
