"""Limits on one child, and the sandbox's exceptions."""

import math
from dataclasses import asdict, dataclass

FILES = 10_000
"""Limit on files and folders created by one child."""
LOG_BYTES = 8 << 20
"""Limit on bytes written to stdout and stderr by one child."""

JOB_RAISED, REFUSED = 70, 71
"""Exit codes of a job: its function raised an exception; it could not be started."""


@dataclass(frozen=True)
class Limits:
    """Limits on one child, including all processes that it starts.

    Attributes:
        memory_bytes: resident private memory that is not shared with the fork server.
        cpu_seconds: user and system CPU time of all processes.
        wall_seconds: wall-clock time.
        processes: concurrent tasks (processes and threads).
        file_bytes: bytes written below the scratch folder, and the size of any one file.
        threads: threads that torch may use.
        subprocesses: whether the job may start programs (the compilers of Triton and torch.compile, the ranks of
            torchrun) and, in a network namespace of its own, communicate with them over loopback.
        files: whether the job may open files while it runs. If not, all modules must be loaded by the fork server, and
            the job can neither read the machine's files nor share files with other jobs. Enforced by seccomp.
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
        """Raises ValueError for a limit that is not a positive, finite number."""
        for name, value in asdict(self).items():
            if not isinstance(value, bool) and not (math.isfinite(value) and value > 0):
                raise ValueError(f"limit {name} is {value}; give a positive, finite number")


class SandboxError(Exception):
    """Base class of the sandbox's exceptions."""


class SandboxUnavailable(SandboxError):  # noqa: N818 -- a state of the machine
    """The sandbox cannot run on this machine (no fork server, or a layer failed)."""


class ChildError(SandboxError):
    """A child failed; its program should be rejected.

    Attributes:
        reason: one sentence.
        log_tail: the end of the child's stdout and stderr.
    """

    def __init__(self, reason: str, log_tail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.log_tail = log_tail


class ChildDied(ChildError):  # noqa: N818 -- an outcome of a job
    """The child ended, by itself or because it exceeded a limit other than wall-clock time."""


class ChildTimeout(ChildError):  # noqa: N818 -- an outcome of a job
    """The child did not answer within the caller's timeout, or exceeded its wall-clock limit."""


class Malformed(ChildError):  # noqa: N818 -- an outcome of a job
    """The received bytes are not a message of the protocol."""
