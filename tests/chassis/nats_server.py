"""A nats-server with the users and rights of the code, and with TLS if a test needs it."""

import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from deploy.make_env import authorization, new_seeds
from services.chassis.settings import ServiceSettings
from services.local.processes import find_nats_server, free_port


@dataclass
class NatsServer:
    """Start it, ask it for a user's settings, stop it."""

    folder: Path
    tls: str = ""  # the tls block of its configuration
    seeds: dict[str, str] = field(default_factory=new_seeds)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"nats://127.0.0.1:{self.port}"

    def settings(self, user: str | None, **more: object) -> ServiceSettings:
        """The settings of a service that connects as `user`; None: as nobody."""
        seed = {"nats_nkey_seed": self.seeds[user]} if user else {}
        return ServiceSettings.model_validate({"nats_url": self.url, "data_dir": self.folder, **seed, **more})

    def start(self) -> None:
        """Wait until it is ready for clients."""
        self.folder.mkdir(parents=True, exist_ok=True)
        config, log = self.folder / "nats.conf", self.folder / "nats.log"
        config.write_text(
            f'host: "127.0.0.1"\nport: {self.port}\njetstream {{ store_dir: "{self.folder}" }}\n'
            + self.tls
            + authorization(self.seeds)
        )
        with log.open("wb") as output:
            self.process = subprocess.Popen([find_nats_server(), "-c", config], stdout=output, stderr=output)
        deadline = time.monotonic() + 20
        while "Server is ready" not in log.read_text():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)

    def stop(self) -> None:
        """End it."""
        if self.process:
            self.process.terminate()
            self.process.wait(10)
