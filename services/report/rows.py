"""Candidates as plain rows, for `list --json` and tables, and comparisons of two candidates."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, TypedDict

from google.protobuf.message import Message

from services.archive.scoring import (
    benchmark_of,
    costs_of_record,
    is_comparable,
    loss_gain,
    loss_of,
    measures_of,
    shared_seeds,
    stopped_early,
)
from services.chassis.errors import printable
from services.contracts import archive_pb2, events_pb2
from services.contracts import candidate_pb2 as pb
from services.domain.objectives import Progress, progress
from services.domain.statistics import Interval, Noise, with_seed_noise

IN_FLIGHT = [
    state for state in pb.State.values() if state not in (pb.STATE_UNSPECIFIED, pb.STATE_ARCHIVED, pb.STATE_REJECTED)
]


class Row(TypedDict):
    """One candidate; None is not measured. Loss in nats per token, benchmark 0–1, judge 1–10, seconds of training and
    evaluation, FLOPs per token, tokens per second, peak bytes, numbers kept per layer. `text` is the fingerprint
    of the data. `front`: whether it is on the run's Pareto front; None without objectives.
    """

    id: str
    name: str
    run: str
    parent: str | None
    kind: str
    stage: str
    state: str
    loss: float | None
    loss_difference: float | None
    benchmark: float | None
    judge: float | None
    fitness: float | None
    fitness_low: float | None
    fitness_high: float | None
    parameters: int | None
    seconds: float | None
    precision: str | None
    text: str | None
    reason: str | None
    flops: float | None
    speed: float | None
    memory: float | None
    state_size: float | None
    front: bool | None


class Node(TypedDict):
    """One node of the tree."""

    id: str
    parent: str | None
    name: str
    fitness: float | None
    loss: float | None
    state: str
    kind: str


def root_among(records: Iterable[pb.Candidate], settings: events_pb2.RunSettings) -> pb.Candidate | None:
    """The first baseline of a run, if it was measured."""
    baselines = (record for record in records if record.request.baseline in settings.baselines[:1])
    return next((baseline for baseline in baselines if loss_of(baseline) is not None), None)


def row(record: pb.Candidate, root: pb.Candidate | None = None) -> Row:
    """A candidate's row, with the difference to the root's loss if text and precision are the same."""
    training, verdict, loss = record.training, record.verdict, loss_of(record)
    loss_of_root = None if root is None or not is_comparable(record, root) else loss_of(root)
    interval = verdict.fitness.interval if verdict.fitness.HasField("interval") else None
    measures = measures_of(record)
    measured = training.seeds[0].measurements if training.seeds else pb.Measurements()
    return Row(
        id=record.id,
        name=record.proposal.name or record.request.baseline,
        run=record.run,
        parent=record.proposal.parent or None,
        kind=kind_name(record.kind),
        stage=record.stage,
        state=state_name(record.state),
        loss=loss,
        loss_difference=loss - loss_of_root if loss is not None and loss_of_root is not None else None,
        benchmark=benchmark_of(record),
        judge=verdict.raw if verdict.HasField("raw") else None,
        fitness=verdict.fitness.value if verdict.HasField("fitness") else None,
        fitness_low=interval.low if interval else None,
        fitness_high=interval.high if interval else None,
        parameters=measured.parameters or None,
        seconds=seconds_of(record) or None,
        precision=measured.precision or None,
        text=measured.data_fingerprint or None,
        reason=record.rejection.reason if record.HasField("rejection") else None,
        flops=measures["flops"],
        speed=measures["speed"],
        memory=measures["memory"],
        state_size=measures["state"],
        front=None,
    )


def progress_of(records: Sequence[pb.Candidate], settings: events_pb2.RunSettings) -> Progress | None:
    """The front of a run over its candidates in order, without rejected ones and ablations; None without objectives."""
    costs = [
        None if record.HasField("rejection") or record.kind == pb.KIND_ABLATION else costs_of_record(record, settings)
        for record in records
    ]
    return progress(costs, [index for index, record in enumerate(records) if record.kind == pb.KIND_BASELINE])


def by_number(records: Iterable[pb.Candidate]) -> list[pb.Candidate]:
    """In the order of the run."""
    return sorted(records, key=lambda record: (record.request.number, record.id))


def seconds_of(record: pb.Candidate | pb.Verification) -> float:
    """Seconds of training and evaluation of all seeds; a candidate's verifications are not included."""
    return sum(seed.measurements.seconds for seed in record.training.seeds)


def name_of(record: pb.Candidate) -> str:
    """The name for a page or figure, or the id if there is none."""
    name = record.proposal.name or record.request.baseline or record.id
    return printable(" ".join(name.split()) or record.id)


LABEL = 40
LONG_LABEL = 80  # characters; a model's names are no longer


def label_of(record: pb.Candidate, longest: int = LABEL) -> str:
    """The name for a figure, cut to so many characters."""
    name = name_of(record)
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def final_train_loss(record: pb.Candidate) -> float | None:
    """The last training loss, averaged over seeds; None unless every curve ends with one."""
    ends = [seed.curve[-1] for seed in record.training.seeds if seed.curve]
    return fmean(end.train_loss for end in ends) if ends and all(end.HasField("train_loss") for end in ends) else None


def mean_curves(record: pb.Candidate) -> dict[str, list[tuple[int, float]]]:
    """Training and held-out loss by step ("train" and "heldout"), averaged over seeds."""
    points = [point for seed in record.training.seeds for point in seed.curve]
    curves = {}
    for name, field in (("train", "train_loss"), ("heldout", "loss")):
        losses = defaultdict[int, list[float]](list)
        for point in points:
            if point.HasField(field):  # type: ignore[arg-type]
                losses[point.step].append(getattr(point, field))
        curves[name] = [(step, fmean(values)) for step, values in sorted(losses.items())]
    return curves


def tree_row(node: archive_pb2.TreeNode) -> Node:
    return Node(
        id=node.id,
        parent=node.parent or None,
        name=node.name,
        fitness=node.fitness if node.HasField("fitness") else None,
        loss=node.loss if node.HasField("loss") else None,
        state=state_name(node.state),
        kind=kind_name(node.kind),
    )


def ranked(rows: Sequence[Row]) -> list[Row]:
    """Best fitness first; those without one last, in the order given."""
    return sorted(rows, key=lambda row: (row["fitness"] is None, -(row["fitness"] or 0.0)))


def state_name(number: pb.State.ValueType) -> str:
    """As in "training"."""
    return pb.State.Name(number).removeprefix("STATE_").lower()


def kind_name(number: pb.Kind.ValueType) -> str:
    """As in "baseline"."""
    return pb.Kind.Name(number).removeprefix("KIND_").lower()


def as_dict(message: Message) -> dict[str, Any]:
    """A message as JSON with the contracts' field names."""
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True)


@dataclass(frozen=True)
class Gain:
    """The difference of two candidates' held-out losses (nats per token), paired by seed and block."""

    mean: float
    interval: Interval
    seeds: int
    other_seeds: bool = False  # whether the interval of a single seed was widened by the noise between seeds

    @property
    def conclusion(self) -> str:
        if self.interval.crosses_zero:
            return "not told apart"
        covered = "" if self.seeds > 1 or self.other_seeds else " with this seed"
        return f"{'better' if self.mean > 0 else 'worse'}{covered}"

    @property
    def sentence(self) -> str:
        """The numbers and the conclusion."""
        over = "one seed" if self.seeds == 1 else f"{self.seeds} seeds"
        interval = interval_text(*bounds(self.interval))
        return f"{self.mean:+.4f} {interval} nats per token over {over}: {self.conclusion}"


def gain_over(reference: pb.Candidate | None, record: pb.Candidate) -> Gain | None:
    """None for the candidate itself, without a common seed with held-out losses by block, or if one stopped early."""
    if reference is None or record.id == reference.id or stopped_early(record) or stopped_early(reference):
        return None
    if (interval := loss_gain(record, reference)) is None:
        return None
    gains = [theirs.loss - own.loss for own, theirs in shared_seeds(record, reference)]
    return Gain(sum(gains) / len(gains), interval, len(gains))


def widened(gain: Gain, between: Noise | None) -> Gain:
    """A gain over one seed with its interval widened by the noise between seeds."""
    if gain.seeds > 1 or between is None:
        return gain
    return replace(gain, interval=with_seed_noise(gain.interval, between, gain.seeds), other_seeds=True)


ABSENT = "–"


def bounds(interval: Interval | None) -> tuple[float, float] | tuple[None, None]:
    """The ends of an interval; None and None without one."""
    return (None, None) if interval is None else (interval.low, interval.high)


def interval_text(low: float | None, high: float | None, pattern: str = "+.4f") -> str:
    """As in "[-0.0100, +0.0200]"; a dash without an interval."""
    return ABSENT if low is None or high is None else f"[{low:{pattern}}, {high:{pattern}}]"


def number(value: float | None, pattern: str = ".4f") -> str:
    """A number, or a dash if it is absent; beyond a billion in scientific notation unless it is a count."""
    if value is None:
        return ABSENT
    return format(value, ".3g" if abs(value) >= 1e9 and "," not in pattern else pattern)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds, as in 1:02:03."""
    total = int(seconds)
    hours, minutes = divmod(total // 60, 60)
    return f"{hours}:{minutes:02d}:{total % 60:02d}" if hours else f"{minutes}:{total % 60:02d}"
