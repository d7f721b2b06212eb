"""Ports that are given out before anybody listens on them."""

import socket
import subprocess
import sys

import pytest

from services.console.local.processes import PORTS, free_port

PICK = "from services.console.local.processes import free_port; print(free_port(range({0}, {1})))"


def test_a_port_is_free_and_none_is_given_twice() -> None:
    """Outside of what the kernel takes for outgoing connections."""
    found = [free_port() for _ in range(50)]

    assert len(set(found)) == 50
    assert set(found) <= set(PORTS)
    with socket.socket() as service:
        service.bind(("127.0.0.1", found[0]))


def test_another_process_is_given_another_one() -> None:
    """Though nobody listens on it yet; and one that is listened on is given to nobody."""
    first = free_port()
    with socket.socket() as service:
        service.bind(("127.0.0.1", 0))
        service.listen()
        taken = service.getsockname()[1]
        for low in (first, taken):
            told = subprocess.run(
                [sys.executable, "-c", PICK.format(low, low + 1)], capture_output=True, text=True, check=False
            )
            assert "is taken" in told.stderr
        with pytest.raises(OSError, match="is taken"):
            free_port(range(taken, taken + 1))
