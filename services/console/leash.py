"""Run a command that receives SIGTERM when its parent process ends for any reason (Linux).

    python leash.py PARENT COMMAND…

It is a separate program because running Python code between fork and exec is not safe in a process with gRPC threads.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence


def leashed(command: Sequence[str]) -> list[str]:
    """The command line of a child that does not outlive this process."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def main() -> None:
    """Request SIGTERM at the end of PARENT, then exec the command. Exits if PARENT has already ended."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG; outlives exec
        if os.getppid() != parent:
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main()
