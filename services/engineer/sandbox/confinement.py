"""Which layers hold a job, and how they are put around it, one after another."""

import resource
from dataclasses import dataclass
from pathlib import Path

from services.engineer.sandbox import linux
from services.engineer.sandbox.limits import Limits


@dataclass(frozen=True)
class Confinement:
    """The layers in force and what a job may read."""

    layers: frozenset[str] = frozenset()
    readable: tuple[str, ...] = ()

    def separate(self) -> bool:
        """Enter new namespaces; True if the next fork begins a pid namespace. Raises OSError."""
        return False

    def furnish(self, scratch: Path, limits: Limits) -> None:
        """Build the file system of the new mount namespace. Raises OSError."""

    def confine(self, scratch: Path, limits: Limits, user: int, channel: int) -> None:
        """Put the remaining layers around this process, for good. Raises OSError."""
        set_limits(limits)
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)


def set_limits(limits: Limits) -> None:
    pairs = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: 256,
        resource.RLIMIT_CPU: int(limits.cpu_seconds) + 2,
    }
    for which, value in pairs.items():
        resource.setrlimit(which, (value, value))
