"""Fitness of a record against the baselines of its run: the domain's rules applied to messages."""

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, stdev

from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.domain.curves import Curve
from services.domain.fitness import (
    BENCHMARK,
    JUDGE,
    LOSS,
    STANDARDISED_GAIN,
    TERMS,
    Conditions,
    Fitness,
    Measured,
    Replicates,
    Scale,
    check_conditions,
    fitness,
    scale_of,
    standardised_gain,
)
from services.domain.objectives import Costs, Objective, costs_of, parse_objectives
from services.domain.pool import BY_FITNESS
from services.domain.statistics import Interval, Noise, bootstrap, pooled_noise

RESAMPLES = 200
Rows = Callable[[pb.Candidate, pb.Candidate], list[list[float]]]
"""Paired differences of two records, by shared seed and held-out item."""


def terms_of(settings: events_pb2.RunSettings) -> frozenset[str]:
    """The fitness terms of a run."""
    return frozenset({LOSS, BENCHMARK}) if settings.ablations.without_judge else TERMS


def objectives_of(settings: events_pb2.RunSettings) -> tuple[Objective, ...]:
    """The objectives of a run; empty for fitness alone. Raises ValueError for invalid ones."""
    objectives = parse_objectives(settings.policies.objectives)
    if objectives and settings.parent_policy in BY_FITNESS:
        raise ValueError(
            f"parent policy {settings.parent_policy} ranks by fitness alone; with the policy objectives choose paper, "
            "uniform or power-law"
        )
    return objectives


def program_of(record: pb.Candidate) -> str:
    """The trained program, which may be a revision, else the proposed one; empty without any."""
    return record.training.program or record.proposal.program


def measures_of(record: pb.Candidate) -> dict[str, float | None]:
    """The measures of a record by name; None for unmeasured ones."""
    measurements = [seed.measurements for seed in record.training.seeds]

    def mean(field: str) -> float | None:
        values = [getattr(seed, field) for seed in measurements if seed.HasField(field)]  # type: ignore[arg-type]
        return fmean(values) if values else None

    return {
        "loss": loss_of(record),
        "benchmark": benchmark_of(record),
        "parameters": float(measurements[0].parameters) or None if measurements else None,
        "flops": mean("flops_per_token"),
        "speed": mean("tokens_per_second"),
        "memory": mean("peak_memory_bytes"),
        "state": mean("state_size"),
    }


def costs_of_record(record: pb.Candidate, settings: events_pb2.RunSettings) -> Costs | None:
    """The costs of a record in the objectives of its run; None without objectives, if one was not measured, and if
    training stopped early."""
    objectives = objectives_of(settings)
    if not objectives or stopped_early(record):
        return None
    return costs_of(objectives, measures_of(record))


def conditions_of(record: pb.Candidate) -> Conditions:
    """The conditions under which a record was measured."""
    seeds = record.training.seeds
    fingerprints = ", ".join(sorted({seed.measurements.data_fingerprint for seed in seeds}))
    precisions = ", ".join(sorted({seed.measurements.precision for seed in seeds}))
    return Conditions(record.run, record.stage, fingerprints, precisions)


def loss_of(record: pb.Candidate) -> float | None:
    """Held-out loss in nats per token; None if unmeasured."""
    return record.training.loss if record.training.HasField("loss") else None


def benchmark_of(record: pb.Candidate) -> float | None:
    """Mean accuracy, 0 to 1; None if unmeasured."""
    return record.training.benchmark if record.training.HasField("benchmark") else None


def task_means(record: pb.Candidate) -> dict[str, float]:
    """Mean score of each task over the seeds."""
    scores: dict[str, list[float]] = {}
    for seed in record.training.seeds:
        for score in seed.scores:
            scores.setdefault(score.task, []).append(score.value)
    return {task: fmean(values) for task, values in scores.items()}


def loss_error(record: pb.Candidate) -> float | None:
    """The standard error of the mean loss over seeds, or of a single seed's over its held-out blocks."""
    if record.training.HasField("loss_stderr"):
        return record.training.loss_stderr
    seeds = record.training.seeds
    return seeds[0].loss_stderr if len(seeds) == 1 and seeds[0].HasField("loss_stderr") else None


def seed_noise(records: Iterable[pb.Candidate]) -> Noise | None:
    """The deviation of losses between seeds, pooled over the records with several; None without any."""
    groups = [[seed.loss for seed in record.training.seeds] for record in records if len(record.training.seeds) > 1]
    return pooled_noise(groups) if groups else None


def score(
    version: str,
    record: pb.Candidate,
    raw: float | None,
    root: pb.Candidate,
    terms: frozenset[str],
    baselines: Sequence[pb.Candidate],
) -> pb.Fitness | None:
    """The fitness with its terms and interval; None if a required value is unmeasured.

    `baselines` are those of the record's stage; the measured ones determine the scale of standardised gains. Raises
    ValueError if record and root were measured under different conditions.
    """
    if version == STANDARDISED_GAIN:
        return _standardised(record, root, terms, baselines)
    baseline = Measured(loss_of(root), benchmark_of(root), None, conditions_of(root))
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


def _standardised(
    record: pb.Candidate, root: pb.Candidate, terms: frozenset[str], baselines: Sequence[pb.Candidate]
) -> pb.Fitness | None:
    check_conditions(conditions_of(record), conditions_of(root))
    scale = stage_scale(root, baselines, terms)
    if scale is None:
        return None
    gains = {
        LOSS: _difference(loss_of(root), loss_of(record)),
        BENCHMARK: _difference(benchmark_of(record), benchmark_of(root)),
    }
    if shared := shared_seeds(record, root):  # the noise is that of such differences: seeds have a part in common
        gains[LOSS] = fmean(theirs.loss - own.loss for own, theirs in shared)
        if all(seed.HasField("benchmark") for pair in shared for seed in pair):
            gains[BENCHMARK] = fmean(own.benchmark - theirs.benchmark for own, theirs in shared)
    pairs = {name: _PAIRED[name](record, root) for name in scale.weights} if record.id != root.id else {}
    intervals = {name: _bootstrap(_mean_row(rows), record) for name, rows in pairs.items()}
    value = standardised_gain(gains, scale, intervals, max(1, len(pairs.get(LOSS, ()))))
    if value is None:
        return None
    own = value.interval
    return pb.Fitness(
        version=STANDARDISED_GAIN, value=value.value,
        interval=None if own is None else pb.Interval(low=own.low, high=own.high, level=own.level),
        terms=[
            pb.FitnessTerm(name=name, gain=gains[name], noise=term.noise, reliability=term.reliability,
                           weight=scale.weights.get(name, 0.0))
            for name, term in scale.terms.items()
        ],
    )  # fmt: skip


def stage_scale(root: pb.Candidate, baselines: Sequence[pb.Candidate], terms: frozenset[str] = TERMS) -> Scale | None:
    """The noise and reliability of a stage's measurements, from its measured baselines; None without any noise."""
    others = [
        baseline for baseline in baselines if baseline.id != root.id and conditions_of(baseline) == conditions_of(root)
    ]
    models = [root, *sorted(others, key=lambda baseline: baseline.request.number)]
    measured = [model for model in models if model.training.HasField("loss")]
    if not measured or measured[0].id != root.id:
        return None
    blocks = _item_errors(measured, block_gains, lambda seed: list(seed.block_losses))
    losses = [{seed.seed: seed.loss for seed in record.training.seeds} for record in measured]
    replicates = {LOSS: Replicates(losses, blocks)}
    accuracies = [_benchmarks(record) for record in measured]
    if BENCHMARK in terms and all(accuracies):
        answers = _item_errors(measured, _item_rows, lambda seed: [float(c) for s in seed.scores for c in s.correct])
        replicates[BENCHMARK] = Replicates(accuracies, answers)
    return scale_of(replicates)


def _benchmarks(record: pb.Candidate) -> dict[int, float]:
    """Benchmarks by seed; empty if one is unknown."""
    seeds = record.training.seeds
    if all(seed.HasField("benchmark") for seed in seeds):
        return {seed.seed: seed.benchmark for seed in seeds}
    return {seeds[0].seed: record.training.benchmark} if len(seeds) == 1 and benchmark_of(record) is not None else {}


def _item_errors(
    models: Sequence[pb.Candidate], paired: Rows, own: Callable[[pb.SeedResult], list[float]]
) -> list[float]:
    """The standard errors over held-out items of gains over the root, or without others of the root's own value."""
    root, *baselines = models
    if baselines:
        return [error for baseline in baselines if (error := _error(paired(baseline, root))) is not None]
    alone = _error([items for seed in root.training.seeds if (items := own(seed))])
    return [] if alone is None else [alone * math.sqrt(2)]


def _error(rows: Sequence[Sequence[float]]) -> float | None:
    """The standard error of the mean over items, each averaged over the seeds; None for fewer than two items."""
    if not rows or len({len(row) for row in rows}) > 1:
        return None
    items = [fmean(column) for column in zip(*rows, strict=True)]
    return stdev(items) / math.sqrt(len(items)) if len(items) > 1 else None


def _difference(higher: float | None, lower: float | None) -> float | None:
    return None if higher is None or lower is None else higher - lower


def loss_gain(record: pb.Candidate, reference: pb.Candidate) -> Interval | None:
    """The interval of the reference's loss minus the record's, paired by seed and held-out block; None without pairs.

    Seeds with other data or another precision are not paired.
    """
    return _bootstrap(block_gains(record, reference), record)


def benchmark_gain(record: pb.Candidate, reference: pb.Candidate) -> Interval | None:
    """The interval of the record's accuracy minus the reference's, paired by seed and item."""
    return _bootstrap(_item_rows(record, reference), record)


def _interval(
    value: Fitness, record: pb.Candidate, root: pb.Candidate, raw: float | None, terms: frozenset[str]
) -> pb.Interval | None:
    """Fitness at the lower and the upper ends of both paired intervals, which is conservative.

    None for the root and without pairs. The judge's spread is recorded separately.
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
    """The fitness for these gains over the root."""
    baseline = value.baseline
    loss = None if baseline.loss is None else max(0.0, baseline.loss - loss_gain)
    accuracy = None if baseline.benchmark is None else max(0.0, baseline.benchmark + benchmark_gain)
    moved = fitness(value.version, Measured(loss, accuracy, raw, baseline.conditions), baseline, terms)
    return value.value if moved is None else moved.value


def _bootstrap(gains: list[list[float]], record: pb.Candidate) -> Interval | None:
    """None without pairs, or if seeds have different numbers of items."""
    if not gains or not gains[0] or len({len(row) for row in gains}) > 1:
        return None
    return bootstrap(gains, random.Random(f"{record.run}.{record.id}"), resamples=RESAMPLES)


def block_gains(record: pb.Candidate, reference: pb.Candidate) -> list[list[float]]:
    """Per shared seed, the reference's loss minus the record's in each held-out block."""
    return [
        [b - a for a, b in zip(own.block_losses, theirs.block_losses, strict=True)]
        for own, theirs in shared_seeds(record, reference)
        if 0 < len(own.block_losses) == len(theirs.block_losses)
    ]


def _item_rows(record: pb.Candidate, reference: pb.Candidate) -> list[list[float]]:
    """Per shared seed and item: 1 if only the record answered it correctly, −1 if only the reference did, else 0."""
    rows = []
    for own, seed in shared_seeds(record, reference):
        theirs = {score.task: score for score in seed.scores}
        tasks = [s for s in own.scores if s.task in theirs and 0 < len(s.correct) == len(theirs[s.task].correct)]
        rows.append([float(a) - b for s in tasks for a, b in zip(s.correct, theirs[s.task].correct, strict=True)])
    return [row for row in rows if row]


_PAIRED: Mapping[str, Rows] = {LOSS: block_gains, BENCHMARK: _item_rows}


def _mean_row(rows: list[list[float]]) -> list[list[float]]:
    """One row with each item's mean over the seeds; the rows as they are if they are uneven."""
    return [[fmean(column) for column in zip(*rows, strict=True)]] if len(set(map(len, rows))) == 1 else rows


def shared_seeds(record: pb.Candidate, reference: pb.Candidate) -> list[tuple[pb.SeedResult, pb.SeedResult]]:
    """The trainings of both with equal seed, held-out text and precision."""
    theirs = {seed.seed: seed for seed in reference.training.seeds}
    pairs = [(seed, theirs[seed.seed]) for seed in record.training.seeds if seed.seed in theirs]
    return [(own, other) for own, other in pairs if measured_on(own) == measured_on(other)]


def is_comparable(record: pb.Candidate, reference: pb.Candidate) -> bool:
    """Whether all seeds of both were measured on the same text, in the same precision, and after all steps."""
    seeds = (*record.training.seeds, *reference.training.seeds)
    return len(set(map(measured_on, seeds))) <= 1 and not stopped_early(record) and not stopped_early(reference)


def stopped_early(record: pb.Candidate) -> str:
    """Why its training was stopped before all steps; empty if it was not. Its loss does not compare with others'."""
    return next((seed.stopped for seed in record.training.seeds if seed.HasField("stopped")), "")


def measured_on(seed: pb.SeedResult) -> tuple[str, str]:
    """The fingerprint of the text and the precision: losses are compared only where both are equal."""
    return seed.measurements.data_fingerprint, seed.measurements.precision


def curves_of(records: Sequence[pb.Candidate]) -> list[Curve]:
    """One curve per seed, in order, without those of imported records, which have no held-out loss.

    Trainings that stopped early have no final loss.
    """
    seeds = [seed for record in records if record.kind != pb.KIND_IMPORTED for seed in record.training.seeds]
    steps = max((point.step for seed in seeds for point in seed.curve), default=1)
    curves = []
    for seed in seeds:
        points = {point.step: point.train_loss for point in seed.curve if point.HasField("train_loss") and point.step}
        if points:
            final = None if seed.HasField("stopped") else seed.loss
            curves.append(Curve(tuple(sorted(points)), tuple(points[step] for step in sorted(points)), steps, final))
    return curves
