"""How a training ends: its measured result with the source of each number, or the error that ended it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.engineer.training.ports import JSON


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
    """One task's number with its standard error over `items`.

    Attributes:
        correct: per item, where the metric is an accuracy.
        chance: the accuracy of guessing, where each item offers choices.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    items: int
    correct: tuple[bool, ...] = ()
    chance: float | None = None


@dataclass(frozen=True)
class PartLoss:
    """The mean held-out loss over some of the tokens, by position or by kind, and their share of all."""

    part: str
    loss: float
    share: float


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
    part_losses: tuple[PartLoss, ...]
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
    part_losses: tuple[PartLoss, ...] = ()


class TrainingFailed(Exception):  # noqa: N818 - an outcome for the candidate, not an error of ours
    """The candidate broke its own training or scoring.

    `kind` is one of: "error" (the program raised), "died" (the child ended: exit, signal or limit), "timeout",
    "malformed" (it broke the protocol), "stopped" (the watcher's decision), "not-finite" (no finite held-out loss),
    "looks-ahead" (scores depend on later tokens), "remembers" (they depend on rows read before), "implausible" (no
    model of text has such a loss), "forged" (what it told of its training is not so), "parameters" (it trains more of
    them than its budget). `evidence` holds numbers and positions, `log_tail` the end of the child's own output or
    traceback: what a mind needs to repair the program.
    """

    def __init__(self, kind: str, message: str, evidence: Mapping[str, JSON], log_tail: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.evidence = dict(evidence)
        self.log_tail = log_tail

    @property
    def dishonest(self) -> bool:
        """A failure that is refused and not repaired: the score would have rested on what it must not."""
        return self.kind in {"looks-ahead", "implausible", "forged"}


class LooksAhead(TrainingFailed):
    """Log-probabilities changed when the later part of a held-out sequence was cut off."""

    def __init__(self, message: str, evidence: Mapping[str, JSON]) -> None:
        super().__init__("looks-ahead", message, evidence)


class Drained(Exception):  # noqa: N818 - an orderly way out, not an error
    """The training was asked to stop after `step` steps and can go on from `checkpoint`, unless it had no place."""

    def __init__(self, checkpoint: Path | None, step: int) -> None:
        super().__init__(f"Stopped after step {step}; the checkpoint is {checkpoint}.")
        self.checkpoint = checkpoint
        self.step = step
