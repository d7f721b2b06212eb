"""Training curves of records as the rule of stopping reads them, the same for the engineer's watcher and a replay."""

from collections.abc import Sequence

from services.contracts import candidate_pb2 as pb
from services.domain.curves import Curve


def curves_of(records: Sequence[pb.Candidate]) -> list[Curve]:
    """One curve per seed, in the order of the records. What was cut short has no final loss."""
    seeds = [seed for one in records for seed in one.training.seeds]
    steps = max((point.step for seed in seeds for point in seed.curve), default=1)
    return [curve for seed in seeds if (curve := curve_of(seed, steps)) is not None]


def curve_of(seed: pb.SeedResult, steps: int) -> Curve | None:
    """A training of `steps` steps; None where no curve was kept."""
    points = {one.step: one.train_loss for one in seed.curve if one.HasField("train_loss") and 0 < one.step <= steps}
    if not points:
        return None
    order = sorted(points)
    final = None if seed.HasField("stopped") else seed.loss
    return Curve(tuple(order), tuple(points[step] for step in order), steps, final)
