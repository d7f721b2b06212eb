"""How a training can end without a result."""

from collections.abc import Mapping
from pathlib import Path

from services.engineer.training.ports import JSON


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
