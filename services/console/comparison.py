"""Two candidates compared: the interval of their difference in loss, and the difference of their programs."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.archive.scoring import loss_gain
from services.contracts import candidate_pb2 as pb
from services.domain.statistics import Interval, Noise, pooled_noise, with_seed_noise


@dataclass(frozen=True)
class Gain:
    """How far a candidate's held-out loss lies below another's, in nats per token, paired by seed and block."""

    mean: float
    interval: Interval
    seeds: int
    other_seeds: bool = False  # whether the interval of a single seed was widened by the noise between seeds

    @property
    def words(self) -> str:
        """The conclusion that the interval allows: an interval over the items of one seed says nothing about others."""
        if self.interval.crosses_zero:
            return "not told apart"
        return ("better" if self.mean > 0 else "worse") + (
            " with this seed" if self.seeds == 1 and not self.other_seeds else ""
        )

    @property
    def sentence(self) -> str:
        """The numbers and the conclusion."""
        over = "one seed" if self.seeds == 1 else f"{self.seeds} seeds"
        low, high = self.interval.low, self.interval.high
        return f"{self.mean:+.4f} [{low:+.4f}, {high:+.4f}] nats per token over {over}: {self.words}"


def gain_over(other: pb.Candidate | None, record: pb.Candidate) -> Gain | None:
    """None for the candidate itself and where they share no seed with held-out losses by block."""
    if other is None or record.id == other.id:
        return None
    interval = loss_gain(record, other)
    losses = {seed.seed: seed.loss for seed in other.training.seeds}
    gains = [losses[seed.seed] - seed.loss for seed in record.training.seeds if seed.seed in losses]
    return None if interval is None or not gains else Gain(sum(gains) / len(gains), interval, len(gains))


def seed_noise(records: Sequence[pb.Candidate]) -> Noise | None:
    """How much a loss differs from seed to seed, pooled over all with several seeds; None without any."""
    groups = [[seed.loss for seed in record.training.seeds] for record in records if len(record.training.seeds) > 1]
    return pooled_noise(groups) if groups else None


def widened(gain: Gain, between: Noise | None) -> Gain:
    """A gain over one seed with an interval that covers other seeds too; unchanged over several, or without noise."""
    if gain.seeds > 1 or between is None:
        return gain
    return replace(gain, interval=with_seed_noise(gain.interval, between, gain.seeds), other_seeds=True)


def program_of(record: pb.Candidate) -> str:
    """The program that was trained, else the one that was proposed; empty where there is none."""
    return record.training.program or record.proposal.program


def program_difference(first: pb.Candidate, second: pb.Candidate) -> str:
    """A unified diff of two programs."""
    before, after = (program_of(record).splitlines(keepends=True) for record in (first, second))
    return "".join(difflib.unified_diff(before, after, fromfile=f"{first.id}.py", tofile=f"{second.id}.py"))
