"""Fitness of a record against the root of its run: the domain's rules applied to what events carry."""

import random
from collections.abc import Sequence

from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain.fitness import BENCHMARK, JUDGE, LOSS, TERMS, Baseline, Conditions, Fitness, Measured, fitness
from services.domain.statistics import Interval, bootstrap

RESAMPLES = 200


def terms_of(settings: events_pb2.RunSettings) -> frozenset[str]:
    """The fitness terms that a run has not switched off."""
    return frozenset({LOSS, BENCHMARK}) if settings.ablations.without_judge else TERMS


def conditions_of(record: pb.Candidate) -> Conditions:
    """Under what a record was measured."""
    seeds = record.training.seeds
    fingerprint = seeds[0].measurements.data_fingerprint if seeds else ""
    return Conditions(record.run, record.stage, fingerprint, precision_of(record))


def precision_of(record: pb.Candidate) -> str:
    """In what a record was trained, commas between where its seeds differ; empty where it was not trained."""
    return ", ".join(sorted({seed.measurements.precision for seed in record.training.seeds}))


def loss_of(record: pb.Candidate) -> float | None:
    """Held-out loss in nats per token; None where it was not measured."""
    return record.training.loss if record.training.HasField("loss") else None


def benchmark_of(record: pb.Candidate) -> float | None:
    """Mean accuracy, 0 to 1; None where it was not measured."""
    return record.training.benchmark if record.training.HasField("benchmark") else None


def score(
    version: str, record: pb.Candidate, raw: float | None, root: pb.Candidate, terms: frozenset[str]
) -> pb.Fitness | None:
    """The fitness with its parts and interval, or None where a switched-on term was not measured.

    Raises ValueError where record and root were not measured under the same conditions.
    """
    baseline = Baseline(loss_of(root), benchmark_of(root), conditions_of(root))
    measured = Measured(loss_of(record), benchmark_of(record), raw, conditions_of(record))
    value = fitness(version, measured, baseline, terms)
    if value is None:
        return None
    return pb.Fitness(
        version=version,
        value=value.value,
        loss_term=value.parts.get(LOSS),
        benchmark_term=value.parts.get(BENCHMARK),
        judge_term=value.parts.get(JUDGE),
        interval=_interval(value, record, root, raw, terms),
    )


def loss_gain(record: pb.Candidate, other: pb.Candidate) -> Interval | None:
    """The interval of other's loss minus record's, paired by seed and held-out block; None where nothing is shared.

    Seeds that were trained in different precision share nothing.
    """
    return _bootstrap([[b - a for a, b in zip(one, two, strict=True)] for one, two in _blocks(record, other)], record)


def benchmark_gain(record: pb.Candidate, other: pb.Candidate) -> Interval | None:
    """The interval of record's accuracy minus other's, paired by seed and item."""
    return _bootstrap(
        [[float(a) - b for a, b in zip(one, two, strict=True)] for one, two in _items(record, other)], record
    )


def _interval(
    value: Fitness, record: pb.Candidate, root: pb.Candidate, raw: float | None, terms: frozenset[str]
) -> pb.Interval | None:
    """Fitness at the lower ends of both paired intervals, and at the upper: wider than exact, never narrower.

    None for the root itself and where nothing can be paired. The judge's spread is recorded apart.
    """
    if record.id == root.id:
        return None
    loss, benchmark = loss_gain(record, root), benchmark_gain(record, root)
    if loss is None or (BENCHMARK in terms and benchmark is None):
        return None
    better, worse = (benchmark.high, benchmark.low) if benchmark else (0.0, 0.0)
    low, high = _at(loss.low, worse, value, raw, terms), _at(loss.high, better, value, raw, terms)
    return pb.Interval(low=low, high=high, level=loss.level)


def _at(loss_gain: float, benchmark_gain: float, value: Fitness, raw: float | None, terms: frozenset[str]) -> float:
    """The fitness that these gains over the root would have."""
    baseline = value.baseline
    loss = None if baseline.loss is None else max(0.0, baseline.loss - loss_gain)
    accuracy = None if baseline.benchmark is None else max(0.0, baseline.benchmark + benchmark_gain)
    moved = fitness(value.version, Measured(loss, accuracy, raw, baseline.conditions), baseline, terms)
    return value.value if moved is None else moved.value


def _bootstrap(gains: list[list[float]], record: pb.Candidate) -> Interval | None:
    """None where there is nothing to pair, or seeds were examined on different numbers of items."""
    if not gains or not gains[0] or len({len(row) for row in gains}) > 1:
        return None
    return bootstrap(gains, random.Random(f"{record.run}.{record.id}"), resamples=RESAMPLES)


def _blocks(record: pb.Candidate, other: pb.Candidate) -> list[tuple[Sequence[float], Sequence[float]]]:
    return [
        (one.block_losses, two.block_losses)
        for one, two in _shared_seeds(record, other)
        if len(one.block_losses) == len(two.block_losses)
    ]


def _items(record: pb.Candidate, other: pb.Candidate) -> list[tuple[list[bool], list[bool]]]:
    pairs = []
    for one, two in _shared_seeds(record, other):
        theirs = {score.task: score for score in two.scores}
        tasks = [s for s in one.scores if s.task in theirs and 0 < len(s.correct) == len(theirs[s.task].correct)]
        pairs.append(([c for s in tasks for c in s.correct], [c for s in tasks for c in theirs[s.task].correct]))
    return [pair for pair in pairs if pair[0]]


def _shared_seeds(record: pb.Candidate, other: pb.Candidate) -> list[tuple[pb.SeedResult, pb.SeedResult]]:
    theirs = {seed.seed: seed for seed in other.training.seeds}
    pairs = [(seed, theirs[seed.seed]) for seed in record.training.seeds if seed.seed in theirs]
    return [(one, two) for one, two in pairs if one.measurements.precision == two.measurements.precision]
