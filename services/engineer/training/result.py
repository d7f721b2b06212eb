"""What a training leaves behind: numbers, each with where it comes from, and nothing that was not measured."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class CurvePoint:
    """After `step` steps: the mean training loss since the last point as the child tells it, and, at a few points, the
    held-out loss that was computed outside of it. Nats per token."""

    step: int
    tokens: int
    train_loss: float | None
    loss: float | None = None


@dataclass(frozen=True)
class Metrics:
    """Live: one chunk of steps. Seconds are the host's clock; loss, gradient norm and busy seconds the child's word.

    `busy_per_step` is CPU time per thread, which other work on the machine does not change; None on a GPU.
    """

    seed: int
    step: int
    steps: int
    tokens: int
    train_loss: float
    grad_norm: float
    auxiliary_loss: float | None
    tokens_per_second: float
    seconds_per_step: float
    seconds: float
    peak_memory_bytes: int | None
    heldout_loss: float | None = None
    busy_per_step: float | None = None


@dataclass(frozen=True)
class TaskScore:
    """One task's number with its standard error over `items`; `correct` per item, where the metric is an accuracy."""

    task: str
    metric: str
    value: float
    stderr: float | None
    items: int
    correct: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Measurements:
    """What the training cost, and on what. None stands for what was not or could not be measured."""

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


@dataclass(frozen=True)
class Scores:
    """Held-out loss in nats per token with its standard error over blocks, and benchmarks as lm-eval computed them."""

    loss: float
    loss_stderr: float
    bits_per_byte: float
    block_losses: tuple[float, ...]
    tasks: tuple[TaskScore, ...]
    benchmark: float | None


@dataclass(frozen=True)
class TrainingResult:
    """One seed of one candidate. `stopped` is the watcher's reason where the training ended early on purpose.

    `other_text` is the name of the corpus from another source that it was scored on as well, where it was.
    """

    seed: int
    scale: str
    curve: tuple[CurvePoint, ...]
    loss: float
    loss_stderr: float
    bits_per_byte: float
    block_losses: tuple[float, ...]
    scores: tuple[TaskScore, ...]
    benchmark: float | None
    measurements: Measurements
    stopped: str | None = None
    other_text: str | None = None
    other_text_loss: float | None = None
