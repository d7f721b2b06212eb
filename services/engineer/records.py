"""Results of trainings as messages, and the files of a candidate."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev

import structlog
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from pydantic import ValidationError
from safetensors.numpy import save

from services.archive.artifacts import FsspecArtifacts
from services.contracts import candidate_pb2 as pb
from services.contracts.progress_pb2 import TrainingProgress
from services.engineer.scales import Scale
from services.engineer.substitution import SLOW, Substitution
from services.engineer.training.result import CurvePoint, Measurements, Metrics, TrainingResult, benchmark_of
from services.mixers.description import CATALOGUE, Mixer, state_size
from services.sandbox import Array

MAX_POINTS = 200


def seed_message(result: TrainingResult) -> pb.SeedResult:
    """The result of one seed. Missing measurements are unset."""
    copied = ("seed", "loss", "bits_per_byte", "loss_stderr", "block_losses", "stopped", "other_text_loss")
    return pb.SeedResult(
        **{name: getattr(result, name) for name in copied},
        curve=[pb.CurvePoint(**asdict(point)) for point in thin_out(result.curve)],
        scores=[pb.TaskScore(**asdict(score)) for score in result.scores],
        part_losses=[pb.PartLoss(**asdict(part)) for part in result.part_losses],
        measurements=_measurements(result.measurements),
        other_text=result.other_text or "",
    )


def training_message(seeds: Sequence[pb.SeedResult], averaged: Sequence[str]) -> pb.Training:
    """All seeds of a candidate, with means and, for several seeds, standard errors of the means."""
    training = pb.Training(seeds=seeds)
    losses = [seed.loss for seed in seeds]
    training.loss = fmean(losses)
    if len(losses) > 1:
        training.loss_stderr = stdev(losses) / math.sqrt(len(losses))
    for seed in training.seeds:
        if (score := benchmark_of(seed.scores, averaged)) is not None:
            seed.benchmark = score
    benchmarks = [seed.benchmark for seed in training.seeds if seed.HasField("benchmark")]
    if len(benchmarks) == len(seeds):
        training.benchmark = fmean(benchmarks)
        if len(benchmarks) > 1:
            training.benchmark_stderr = stdev(benchmarks) / math.sqrt(len(benchmarks))
    return training


def substitution_messages(substitutions: Sequence[Substitution], program: str) -> list[pb.Substitution]:
    """The substitutions in the trained program; a repair may have reverted some."""
    return [
        pb.Substitution(
            function=substitution.reading.function,
            operator=f"{substitution.reading.operator.module}.{substitution.reading.operator.name}",
            difference=substitution.difference,
            lengths=substitution.lengths,
        )
        for substitution in substitutions
        if SLOW + substitution.reading.function in program
    ]


def thin_out(curve: Sequence[CurvePoint]) -> list[CurvePoint]:
    """About MAX_POINTS evenly spaced points, and all points with a held-out loss and the last one."""
    step, last = max(1, math.ceil(len(curve) / MAX_POINTS)), len(curve) - 1
    return [point for index, point in enumerate(curve) if index % step == 0 or point.loss is not None or index == last]


def _measurements(measurements: Measurements) -> pb.Measurements:
    fields = asdict(measurements)
    del fields["compiled"], fields["auxiliary_loss"]
    flops, seconds = measurements.flops_per_token, measurements.seconds
    return pb.Measurements(
        **fields,
        gpu_seconds=seconds if measurements.device == "cuda" else None,
        flops=None if flops is None else flops * measurements.tokens,
    )


def add_state_size(training: pb.Training, record: pb.Candidate, scale: Scale) -> None:
    """Record the state size that follows from the mixer's description, unless the program has none or was repaired."""
    mixer = CATALOGUE.get(record.request.baseline)
    if record.proposal.HasField("description"):
        try:
            mixer = Mixer.model_validate(MessageToDict(record.proposal.description))
        except ValidationError:  # the description of a researcher of another version
            return
    if mixer is not None and not training.revisions:
        for seed in training.seeds:
            seed.measurements.state_size = state_size(mixer, scale.width, scale.heads)


def add_overhead(overhead: pb.Overhead, seconds: float, device: str) -> None:
    """Add the time of a training without a result."""
    overhead.seconds += seconds
    if device == "cuda":
        overhead.gpu_seconds += seconds


def training_progress(metrics: Metrics) -> TrainingProgress:
    """The progress of a training; the remaining time is estimated from the mean speed."""
    return TrainingProgress(
        seed=metrics.seed,
        step=metrics.step,
        steps=metrics.steps,
        loss=metrics.train_loss,
        tokens_per_second=metrics.tokens_per_second,
        seconds_left=(metrics.steps - metrics.step) * metrics.seconds / metrics.step if metrics.step else 0.0,
    )


async def keep_weights(artifacts: FsspecArtifacts, weights: Mapping[str, Array]) -> pb.Artifact:
    """Store parameters and buffers as one safetensors artifact."""
    content = save({name.removeprefix("model/"): array for name, array in weights.items()})
    return await artifacts.put(content, "weights")


class WorkFolder:
    """The folder `work/<run>/<candidate>/`: checkpoints of running seeds, and results of finished ones.

    The name of a result holds a hash of everything that it depends on.
    """

    def __init__(self, data_dir: Path, run: str, candidate: str) -> None:
        self._folder = data_dir / "work" / run / candidate

    def checkpoint(self, seed: int) -> Path:
        """The path of a seed's checkpoint."""
        return self._folder / f"{seed}.checkpoint"

    def read_result(self, seed: int, identity: str) -> pb.SeedResult | None:
        """The result of a seed from an earlier attempt under the same conditions."""
        try:
            return pb.SeedResult.FromString(self._result(seed, identity).read_bytes())
        except (OSError, DecodeError):
            return None

    def write_result(self, identity: str, result: pb.SeedResult) -> None:
        """Store a seed's result atomically in place of its checkpoint; on a full disk another attempt must train it."""
        path = self._result(result.seed, identity)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")  # engineers of one machine may share the folder
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(result.SerializeToString())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            self.checkpoint(result.seed).unlink(missing_ok=True)
        except OSError as error:
            structlog.get_logger().warning("a result was not stored for later attempts", error=str(error))

    def _result(self, seed: int, identity: str) -> Path:
        return self._folder / f"{seed}-{identity[:16]}.result"
