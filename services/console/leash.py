"""Run a command that is asked to end when the process which wanted it is gone, however that went (Linux).

    python leash.py PARENT COMMAND…

It runs between fork and the command, in a process of its own: Python code between fork and exec of a process with
gRPC's threads is not safe.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence


def leashed(command: Sequence[str]) -> list[str]:
    """The command as a child that does not outlive this process."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main() -> None:
    """Tie this process to PARENT's life, then become the command. A tie that comes too late ends it at once."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG; outlives exec
        if os.getppid() != parent:
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
