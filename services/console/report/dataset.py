"""A run as the report reads it: candidates by number, the root, None where nothing was measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from services.console.rows import Row, row
from services.contracts import archive_pb2
from services.contracts import candidate_pb2 as pb


@dataclass(frozen=True)
class Dataset:
    """Everything the figures draw from."""

    status: archive_pb2.RunStatus
    records: tuple[pb.Candidate, ...]  # by number

    @classmethod
    def of(cls, status: archive_pb2.RunStatus, records: Sequence[pb.Candidate]) -> "Dataset":
        """Ordered by number."""
        return cls(status, tuple(sorted(records, key=lambda one: (one.request.number, one.id))))

    @cached_property
    def root(self) -> pb.Candidate | None:
        """The first baseline, if it was measured."""
        names = self.status.settings.baselines
        for one in self.records:
            if names and one.request.baseline == names[0] and one.training.HasField("loss"):
                return one
        return None

    @cached_property
    def rows(self) -> list[Row]:
        """One row per candidate."""
        loss = self.root.training.loss if self.root is not None else None
        return [row(one, loss) for one in self.records]

    @cached_property
    def measured(self) -> list[pb.Candidate]:
        """Candidates with at least one training curve or score."""
        return [one for one in self.records if one.training.seeds]

    @cached_property
    def scored(self) -> list[pb.Candidate]:
        """Candidates with a fitness, in order; ablations answer a question and do not compete."""
        return [one for one in self.records if one.verdict.HasField("fitness") and one.kind != pb.KIND_ABLATION]

    @cached_property
    def ranked(self) -> list[pb.Candidate]:
        """The scored ones, best first."""
        return sorted(self.scored, key=lambda one: (-one.verdict.fitness.value, one.request.number))


def seconds_of(record: pb.Candidate) -> float:
    """Seconds of training and evaluation of all seeds."""
    return sum(seed.measurements.seconds for seed in record.training.seeds)


def name_of(record: pb.Candidate) -> str:
    """The name, or the id where there is none."""
    return record.proposal.name or record.request.baseline or record.id


def final_train_loss(record: pb.Candidate) -> float | None:
    """The last recorded training loss, averaged over seeds; None where no curve was kept."""
    ends = [seed.curve[-1].train_loss for seed in record.training.seeds if seed.curve]
    known = [seed.curve[-1].HasField("train_loss") for seed in record.training.seeds if seed.curve]
    return fmean(ends) if ends and all(known) else None
