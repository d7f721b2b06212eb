"""A candidate beside the root of its run, with the interval of the difference: nothing is called better inside it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.archive.scoring import loss_gain
from services.contracts import candidate_pb2 as pb
from services.domain.statistics import Interval, Noise, pooled_noise, with_seed_noise


@dataclass(frozen=True)
class Gain:
    """How far a candidate's held-out loss lies below the root's, in nats per token, paired by seed and block."""

    mean: float
    interval: Interval
    seeds: int
    other_seeds: bool = False  # whether the interval of a single seed was widened by the scatter between seeds

    @property
    def words(self) -> str:
        """What may be said: an interval over the items of one seed is silent about other seeds."""
        if self.interval.crosses_zero:
            return "not told apart"
        return ("better" if self.mean > 0 else "worse") + (
            " with this seed" if self.seeds == 1 and not self.other_seeds else ""
        )

    @property
    def sentence(self) -> str:
        """The numbers and what they allow to be said."""
        over = "one seed" if self.seeds == 1 else f"{self.seeds} seeds"
        low, high = self.interval.low, self.interval.high
        return f"{self.mean:+.4f} [{low:+.4f}, {high:+.4f}] nats over {over} and all held-out blocks: {self.words}"


def gain_over(root: pb.Candidate | None, record: pb.Candidate) -> Gain | None:
    """None for the root itself and where they share no seed with held-out losses by block."""
    if root is None or record.id == root.id:
        return None
    interval = loss_gain(record, root)
    theirs = {seed.seed: seed.loss for seed in root.training.seeds}
    gains = [theirs[seed.seed] - seed.loss for seed in record.training.seeds if seed.seed in theirs]
    return None if interval is None or not gains else Gain(sum(gains) / len(gains), interval, len(gains))


def seed_noise(records: Sequence[pb.Candidate]) -> Noise | None:
    """How much a loss differs from seed to seed, pooled over all with several seeds; None without any."""
    groups = [[seed.loss for seed in one.training.seeds] for one in records if len(one.training.seeds) > 1]
    return pooled_noise(groups) if groups else None


def widened(gain: Gain, between: Noise | None) -> Gain:
    """The same with an interval that other seeds are part of; as it is where it is over seeds or nothing is known."""
    if gain.seeds > 1 or between is None:
        return gain
    return replace(gain, interval=with_seed_noise(gain.interval, between, gain.seeds), other_seeds=True)
