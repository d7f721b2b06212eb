"""What one child may use, and the errors that say it did not answer as asked."""

import math
from dataclasses import asdict, dataclass

FILES = 10_000
"""Files and folders that one child may make."""
LOG_BYTES = 8 << 20
"""Bytes that one child may write to stdout and stderr."""

JOB_RAISED, REFUSED = 70, 71
"""Exit codes of a job: its function raised; it could not be started."""


@dataclass(frozen=True)
class Limits:
    """Limits on one child and everything it starts, together.

    Attributes:
        memory_bytes: resident private memory beyond what the warm fork server shares with the child.
        cpu_seconds: processor time, user and system, of all processes.
        wall_seconds: time from the start of the child to its end.
        processes: tasks (processes and threads) alive at one moment.
        file_bytes: bytes written below the scratch folder, and of any one file.
        threads: threads that torch may use.
        subprocesses: the job may start programs (the compilers of Triton and torch.compile, the ranks of torchrun)
            and, where it has a network namespace of its own, talk to them over its loopback. Off: no fork, no exec.
        files: the job may open files once it runs. Off: what it needs must be loaded by the fork server. It then reads
            nothing of the machine, and shares no file with another job. It needs the layer seccomp.
    """

    memory_bytes: int
    cpu_seconds: float
    wall_seconds: float
    processes: int = 64
    file_bytes: int = 64 << 20
    threads: int = 1
    subprocesses: bool = False
    files: bool = True

    def __post_init__(self) -> None:
        """Refuse a limit that is not a positive, finite number."""
        for name, value in asdict(self).items():
            if not isinstance(value, bool) and not (math.isfinite(value) and value > 0):
                raise ValueError(f"limit {name} is {value}; give a positive, finite number")


class SandboxError(Exception):
    """Root of everything this package raises on purpose."""


class SandboxUnavailable(SandboxError):  # noqa: N818 -- the word is the fact
    """The machine cannot run the sandbox (no fork server, a promised layer refused): stop or repair."""


class ChildError(SandboxError):
    """A child did not answer as asked: reject what it ran.

    Attributes:
        reason: one sentence that says what happened.
        log_tail: the end of what the child wrote to stdout and stderr, for the record.
    """

    def __init__(self, reason: str, log_tail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.log_tail = log_tail


class ChildDied(ChildError):  # noqa: N818 -- the word is the fact
    """The child ended, by itself or because it passed a limit other than time."""


class ChildTimeout(ChildError):  # noqa: N818 -- the word is the fact
    """The child did not answer in the time the caller gave it, or passed its own limit on wall time."""


class Malformed(ChildError):  # noqa: N818 -- the word is the fact
    """What came over the channel is not a message of the protocol."""
