"""Results and errors of trainings."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from services.sandbox import JSON

if TYPE_CHECKING:  # protobuf, which a check does not need
    from services.contracts import candidate_pb2 as pb


@dataclass(frozen=True)
class CurvePoint:
    """The mean training loss since the last point, reported by the child, and at a few points the loss computed by the
    host. In nats per token."""

    step: int
    tokens: int
    train_loss: float | None
    loss: float | None = None


@dataclass(frozen=True)
class Metrics:
    """Metrics of one chunk of steps. Losses and gradient norms are reported by the child, times measured by the host.

    `busy_per_step` is CPU time per thread, None on a GPU; `waited_per_step` is the part of `seconds_per_step` in which
    other work had the processor.
    """

    seed: int
    step: int
    steps: int
    tokens: int
    train_loss: float
    grad_norm: float
    tokens_per_second: float
    seconds_per_step: float
    seconds: float
    peak_memory_bytes: int | None
    busy_per_step: float | None = None
    waited_per_step: float = 0.0


@dataclass(frozen=True)
class TaskScore:
    """A task's score with its standard error over `items`."""

    task: str
    metric: str
    value: float
    stderr: float | None
    items: int
    correct: tuple[bool, ...] = ()  # for each item, if the metric is an accuracy
    chance: float | None = None  # the accuracy of guessing, for multiple-choice items


def benchmark_of(scores: "Iterable[TaskScore | pb.TaskScore]", averaged: Sequence[str]) -> float | None:
    """Mean accuracy over the averaged tasks; None if one of them has none or there are none."""
    values = {score.task: score.value for score in scores if not score.metric.endswith("perplexity")}
    return fmean(values[task] for task in averaged) if averaged and values.keys() >= set(averaged) else None


@dataclass(frozen=True)
class PartLoss:
    """The mean held-out loss over a part of the tokens, and the share of this part."""

    part: str
    loss: float
    share: float


@dataclass(frozen=True)
class Measurements:
    """Cost and conditions of a training. Missing measurements are None."""

    parameters: int
    flops_per_token: float | None
    tokens_per_second: float | None
    peak_memory_bytes: int | None
    energy_joules: float | None
    seconds: float
    device: str
    device_name: str
    versions: Mapping[str, str]
    data_fingerprint: str
    initialisation: str
    precision: str
    isolation: str
    tokens: int
    compiled: bool
    auxiliary_loss: float | None


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Held-out loss in nats per token with its standard error over blocks, and benchmarks as lm-eval computed them."""

    loss: float
    loss_stderr: float
    bits_per_byte: float
    block_losses: tuple[float, ...]
    part_losses: tuple[PartLoss, ...]
    scores: tuple[TaskScore, ...]
    benchmark: float | None


@dataclass(frozen=True, kw_only=True)
class TrainingResult(Scores):
    """The result of one seed. `stopped` is the reason of an early stop, `other_text` the name of the other corpus."""

    seed: int
    scale: str
    curve: tuple[CurvePoint, ...]
    measurements: Measurements
    stopped: str | None
    other_text: str | None
    other_text_loss: float | None


class TrainingFailed(Exception):  # noqa: N818 - an outcome for the candidate
    """The candidate caused its training or scoring to fail.

    `kind` is one of: "error" (the program raised), "died" (the child ended: exit, signal or limit), "timeout",
    "malformed" (a violation of the protocol), "stopped" (by the watcher), "not-finite" (a prediction or gradient),
    "looks-ahead" (scores depend on later tokens), "remembers" (they depend on earlier rows), "implausible" (the
    loss is too low for any model of text), "forged" (false reports on the training), "superlinear" (the cost of the
    trained model), "parameters" (more trained parameters than allowed). `evidence` holds numbers and positions,
    `log_tail` the end of the child's output or traceback.
    """

    def __init__(self, kind: str, message: str, evidence: Mapping[str, JSON], log_tail: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.evidence = dict(evidence)
        self.log_tail = log_tail

    @property
    def dishonest(self) -> bool:
        """Whether the failure must not be repaired, as the program violates the conditions of scoring."""
        return self.kind in {"looks-ahead", "implausible", "forged"}


class LooksAhead(TrainingFailed):
    """Log-probabilities change when the later part of a sequence is replaced or removed."""

    def __init__(self, message: str, evidence: Mapping[str, JSON]) -> None:
        super().__init__("looks-ahead", message, evidence)


class Drained(Exception):  # noqa: N818 - not an error
    """The training was stopped after `step` steps, and can be resumed from `checkpoint` if there is one."""

    def __init__(self, checkpoint: Path | None, step: int) -> None:
        super().__init__(f"Stopped after step {step}; the checkpoint is {checkpoint}.")
        self.checkpoint = checkpoint
        self.step = step
