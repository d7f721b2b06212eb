"""Results of trainings as the messages that events carry."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from safetensors.numpy import save

from services.chassis.artifacts import Artifacts
from services.contracts import candidate_pb2 as pb
from services.contracts.progress_pb2 import TrainingProgress
from services.engineer.training.ports import Array
from services.engineer.training.result import CurvePoint, Measurements, Metrics, TrainingResult

MOST_POINTS = 200


def seed_message(result: TrainingResult) -> pb.SeedResult:
    """One seed. What was not measured stays unset."""
    return pb.SeedResult(
        seed=result.seed,
        curve=[point_message(one) for one in thinned(result.curve)],
        loss=result.loss,
        bits_per_byte=result.bits_per_byte,
        loss_stderr=result.loss_stderr,
        scores=[
            pb.TaskScore(
                task=score.task,
                metric=score.metric,
                value=score.value,
                stderr=score.stderr,
                items=score.items,
                correct=score.correct,
                chance=score.chance,
            )
            for score in result.scores
        ],
        block_losses=result.block_losses,
        part_losses=[pb.PartLoss(part=one.part, loss=one.loss, share=one.share) for one in result.part_losses],
        measurements=_measurements(result.measurements),
        stopped=result.stopped,
        other_text=result.other_text or "",
        other_text_loss=result.other_text_loss,
    )


def training_message(seeds: Sequence[pb.SeedResult], averaged: Sequence[str]) -> pb.Training:
    """All seeds of a candidate: means over seeds, with the standard error of the mean where there are several."""
    training = pb.Training(seeds=seeds)
    losses = [seed.loss for seed in seeds]
    training.loss = fmean(losses)
    if len(losses) > 1:
        training.loss_stderr = stdev(losses) / math.sqrt(len(losses))
    for seed in training.seeds:
        if (score := benchmark_of(seed, averaged)) is not None:
            seed.benchmark = score
    benchmarks = [seed.benchmark for seed in training.seeds if seed.HasField("benchmark")]
    if len(benchmarks) == len(seeds):
        training.benchmark = fmean(benchmarks)
        if len(benchmarks) > 1:
            training.benchmark_stderr = stdev(benchmarks) / math.sqrt(len(benchmarks))
    return training


def benchmark_of(seed: pb.SeedResult, averaged: Sequence[str]) -> float | None:
    """The mean over the tasks that the scale averages; None where one of them has no score."""
    scores = {score.task: score.value for score in seed.scores}
    return fmean(scores[task] for task in averaged) if averaged and all(task in scores for task in averaged) else None


def thinned(curve: Sequence[CurvePoint]) -> list[CurvePoint]:
    """At most 200 points, evenly taken; points with a held-out loss and the last one always stay."""
    step = max(1, math.ceil(len(curve) / MOST_POINTS))
    last = len(curve) - 1
    return [one for place, one in enumerate(curve) if place % step == 0 or one.loss is not None or place == last]


def point_message(point: CurvePoint) -> pb.CurvePoint:
    """A point of a curve as the contracts carry it."""
    return pb.CurvePoint(step=point.step, tokens=point.tokens, train_loss=point.train_loss, loss=point.loss)


def _measurements(measured: Measurements) -> pb.Measurements:
    flops = None if measured.flops_per_token is None else measured.flops_per_token * measured.tokens
    return pb.Measurements(
        parameters=measured.parameters,
        flops_per_token=measured.flops_per_token,
        tokens_per_second=measured.tokens_per_second,
        peak_memory_bytes=measured.peak_memory_bytes,
        energy_joules=measured.energy_joules,
        seconds=measured.seconds,
        gpu_seconds=measured.seconds if measured.device == "cuda" else None,
        device=measured.device,
        device_name=measured.device_name,
        versions=measured.versions,
        data_fingerprint=measured.data_fingerprint,
        initialisation=measured.initialisation,
        precision=measured.precision,
        isolation=measured.isolation,
        tokens=measured.tokens,
        flops=flops,
    )


def training_progress(metrics: Metrics) -> TrainingProgress:
    """Where a training stands, as it is announced. The time left is by the mean pace, which seldom changes much."""
    return TrainingProgress(
        seed=metrics.seed,
        step=metrics.step,
        steps=metrics.steps,
        loss=metrics.train_loss,
        tokens_per_second=metrics.tokens_per_second,
        seconds_left=(metrics.steps - metrics.step) * metrics.seconds / metrics.step if metrics.step else 0.0,
    )


KIND = "weights"
_MODEL = "model/"  # before each name, as the training child sends them


async def keep_weights(artifacts: Artifacts, weights: Mapping[str, Array]) -> pb.Artifact:
    """Store parameters and buffers as one safetensors artifact."""
    return await artifacts.put(save({name.removeprefix(_MODEL): array for name, array in weights.items()}), KIND)
