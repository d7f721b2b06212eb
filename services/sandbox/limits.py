"""Limits on one child, the check whether it exceeds them, and the sandbox's exceptions."""

import contextlib
import math
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

from services.chassis.errors import Transient
from services.sandbox.processes import Usage

FILES = 10_000
"""Limit on files and folders created by one child."""
_DEPTH = 64  # of its folders
LOG_BYTES = 8 << 20
"""Limit on bytes written to stdout and stderr by one child."""

JOB_RAISED, REFUSED = 70, 71
"""Exit codes of a job: its function raised an exception; it could not be started."""


@dataclass(frozen=True)
class Limits:
    """Limits on one child, including all processes that it starts."""

    memory_bytes: int  # resident and private, which is not shared with the fork server
    cpu_seconds: float  # user and system time
    wall_seconds: float
    processes: int = 64  # and threads, at the same time
    file_bytes: int = 64 << 20  # written below the scratch folder, and the size of any one file
    threads: int = 1  # that torch may use
    subprocesses: bool = False
    """Whether the job may start programs (the compilers of Triton and torch.compile, the ranks of torchrun) and, in a
    network namespace of its own, communicate with them over loopback."""
    files: bool = True
    """Whether the job may open files while it runs. If not, all modules must be loaded by the fork server, and the job
    can neither read the machine's files nor share files with other jobs. Enforced by seccomp."""

    def __post_init__(self) -> None:
        """Raises ValueError for a limit that is not a positive, finite number."""
        for name, value in asdict(self).items():
            if not isinstance(value, bool) and not (math.isfinite(value) and value > 0):
                raise ValueError(f"limit {name} is {value}; give a positive, finite number")


def exceeded(used: Usage, limits: Limits) -> str | None:
    """The limit that a process tree has exceeded, if any."""
    if used.private_bytes > limits.memory_bytes:
        return f"used {used.private_bytes >> 20} MiB of memory, more than its limit of {limits.memory_bytes >> 20} MiB,"
    if used.cpu_seconds > limits.cpu_seconds:
        return f"used {used.cpu_seconds:.1f} s of processor time, more than its limit of {limits.cpu_seconds:g} s,"
    if used.tasks > limits.processes + 1:
        return f"ran {used.tasks} processes and threads, more than its limit of {limits.processes},"
    return None


def exceeded_files(scratch: Path, unlinked: int, limits: Limits) -> str | None:
    """The limit on files that has been exceeded in a scratch folder on disk, if any."""
    try:
        size, files, depth = _footprint(scratch)
    except PermissionError:
        return "made a folder that nobody may enter"
    size += unlinked
    if size > limits.file_bytes:
        return f"wrote {size >> 20} MiB to files, more than its limit of {limits.file_bytes >> 20} MiB,"
    if files > FILES:
        return f"made more than {FILES} files"
    if depth > _DEPTH:
        return f"nested folders more than {_DEPTH} deep"
    return None


def _footprint(folder: Path) -> tuple[int, int, int]:
    """The size, number and depth of files below a folder. Links are not followed, deleted files are not counted.

    Descends by descriptors, as paths may be too long, and stops when a limit is exceeded. Raises PermissionError for an
    unreadable folder.
    """
    size, files, deepest = 0, 0, 0
    pending: list[tuple[str, int, int]] = [(str(folder), -1, 0)]  # a folder, its parent's descriptor, its depth
    opened: list[int] = []
    try:
        while pending and files <= FILES and deepest <= _DEPTH:
            name, parent, depth = pending.pop()
            deepest = max(deepest, depth)
            while len(opened) > depth:
                os.close(opened.pop())
            try:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                descriptor = os.open(name, flags, dir_fd=None if parent < 0 else parent)
            except PermissionError:
                raise
            except OSError:  # deleted
                continue
            opened.append(descriptor)
            with contextlib.suppress(FileNotFoundError), os.scandir(descriptor) as entries:
                for entry in entries:
                    files += 1
                    with contextlib.suppress(FileNotFoundError):
                        size += entry.stat(follow_symlinks=False).st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            pending.append((entry.name, descriptor, depth + 1))
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return size, files, deepest


def ending(status: int | None, log_tail: str) -> str:
    """How a job ended, from its exit code (negative: a signal)."""
    last = next((line.strip() for line in reversed(log_tail.splitlines()) if line.strip()), "nothing in its log")[:300]
    if status is None:
        return "the child was lost together with its supervisor"
    if status == JOB_RAISED:
        return f"the child's job raised: {last}"
    if status == REFUSED:
        return f"the child could not be started: {last}"
    if status >= 0:
        return f"the child ended with exit status {status} before it answered"
    if status == -signal.SIGXCPU:
        return "the child used more processor time than its limit and was killed"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # most real-time signals have no name
        name = f"SIGRTMIN+{-status - signal.SIGRTMIN}" if -status > signal.SIGRTMIN else f"signal {-status}"
    return f"the child was killed by {name}: {last}"


MAX_LOST = 5
"""What loses its child this often in a row is given up, as something outside of the sandbox may kill it each time."""


class SandboxUnavailable(Transient):
    """The sandbox cannot run on this machine (no fork server, or a layer failed): work goes to another one."""


class SandboxLost(SandboxUnavailable):
    """The fork server ended while a child ran, or something outside of the sandbox killed the child's supervisor."""


class ChildError(Exception):
    """A child failed, for the `reason` in one sentence: its program should be rejected."""

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
