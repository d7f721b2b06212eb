"""What one child may use."""

import math
from dataclasses import asdict, dataclass

from services.sandbox.wire import JSON


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
    """

    memory_bytes: int
    cpu_seconds: float
    wall_seconds: float
    processes: int = 64
    file_bytes: int = 64 << 20
    threads: int = 1
    subprocesses: bool = False

    def __post_init__(self) -> None:
        """Refuse a limit that is not a positive, finite number."""
        for name, value in asdict(self).items():
            if name != "subprocesses" and not (math.isfinite(value) and value > 0):
                raise ValueError(f"limit {name} is {value}; give a positive, finite number")

    def as_json(self) -> dict[str, JSON]:
        """The form in which the limits travel to the fork server."""
        return asdict(self)
