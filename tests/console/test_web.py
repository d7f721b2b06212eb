"""`asi-arch web` where it cannot listen."""

import socket
import subprocess
import sys
from pathlib import Path

from tests.console.conftest import bare_environment


def test_an_address_that_cannot_be_listened_on_gives_one_message(tmp_path: Path) -> None:
    """A port in use, and an address that is not one of this machine."""
    (tmp_path / "archive.db").touch()  # an empty one
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        messages = [
            subprocess.run(
                [sys.executable, "-m", "services.console", "web", "--host", host, "--port", str(port)],
                env=bare_environment(tmp_path), capture_output=True, text=True, check=False, timeout=100,
            ).stderr
            for host in ("127.0.0.1", "192.0.2.1")
        ]  # fmt: skip

    assert len(messages[0].splitlines()) == len(messages[1].splitlines()) == 1
    assert messages[0].startswith(f"asi-arch: port {port} of 127.0.0.1 is in use: try `asi-arch web --port ")
    assert messages[1].startswith(f"asi-arch: --host 192.0.2.1 with --port {port} cannot be listened on: ")
