"""Free ports of this machine, each given to one process only."""

import fcntl
import os
import random
import socket
import tempfile
from functools import cache
from pathlib import Path

PORTS = range(20_000, 32_000)
"""Below what Linux takes for outgoing connections: one of those must not sit on a port before its service listens."""

_given: set[int] = set()


def free_port(ports: range = PORTS) -> int:
    """A port that nothing listens on, and that no other process of this user is given as long as this one lives.

    Raises OSError where there is none, or where the temporary folder takes no file of ours.
    """
    locks = _locks()
    for port in random.sample(ports, len(ports)):
        if port not in _given and _is_free(port, locks):
            _given.add(port)
            return port
    raise OSError(f"every port from {ports.start} to {ports.stop - 1} is taken")


def _is_free(port: int, locks: int) -> bool:
    try:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
        fcntl.lockf(locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


@cache
def _locks() -> int:
    """An open file of which a process locks the bytes of the ports that it was given, until it ends.

    Its folder is everybody's: a link that somebody else has put there is not followed, and nothing is ever written.
    """
    path = Path(tempfile.gettempdir()) / f"asi-arch-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
