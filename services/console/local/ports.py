"""Free ports of this machine, each given to one process only."""

import fcntl
import os
import random
import socket
import tempfile
from functools import cache
from pathlib import Path
from typing import IO

PORTS = range(20_000, 32_000)
"""Below what Linux takes for outgoing connections: one of those must not sit on a port before its service listens."""

_given: set[int] = set()


def free_port() -> int:
    """A port that nothing listens on, and that no other process of this user is given as long as this one lives.

    Raises OSError where there is none.
    """
    for port in random.sample(PORTS, len(PORTS)):
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise OSError(f"every port from {PORTS.start} to {PORTS.stop - 1} is taken")


def _is_free(port: int) -> bool:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
        fcntl.lockf(_locks(), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


@cache
def _locks() -> IO[bytes]:
    """A file of which a process locks the bytes of the ports that it was given, until it ends."""
    path = Path(tempfile.gettempdir()) / f"asi-arch-ports-{os.getuid()}"
    return path.open("wb")
