"""The compose file as a test sees it: brought up under a name of its own, asked, hurt, taken down."""

import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from services.chassis.bus.credentials import new_seeds, server_config, variable
from services.console.local.broker import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"


def compose_command() -> list[str] | None:
    """`docker compose` or docker-compose 1.29, whichever is here; None without an engine that answers."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:
        return None
    if subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


@dataclass
class Stack:
    """One project of the compose file, with ports and NATS users of its own."""

    command: list[str]
    logs: Path
    project: str = field(default_factory=lambda: f"asitest{secrets.token_hex(3)}")
    seeds: dict[str, str] = field(default_factory=new_seeds)
    nats_port: int = field(default_factory=free_port)
    archive_port: int = field(default_factory=free_port)

    @property
    def nats_url(self) -> str:
        """The event log, on loopback."""
        return f"nats://127.0.0.1:{self.nats_port}"

    def call(self, *arguments: str, seconds: float = 900) -> str:
        """Run one compose command; what it printed. Raises AssertionError with its output where it failed."""
        done = subprocess.run(
            [*self.command, "-p", self.project, "-f", str(DEPLOY / "compose.yaml"), *arguments],
            env=self._environment(), capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
        return done.stdout

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers."""
        return self.call("ps", "-q", service).split()

    def kill(self, container: str) -> None:
        """SIGKILL, as in a crash, and a new start: the engine does not itself restart what it was told to kill."""
        for verb in ("kill", "start"):
            subprocess.run(["docker", verb, container], capture_output=True, check=True, timeout=60)  # noqa: S607

    def keep_logs(self) -> None:
        """Write what every container said and how it stands below `logs`."""
        self.logs.mkdir(parents=True, exist_ok=True)
        for name, arguments in (("logs.txt", ("logs", "--no-color")), ("ps.txt", ("ps",))):
            (self.logs / name).write_text(self.call(*arguments))

    def tear_down(self) -> None:
        """Remove containers, networks and volumes."""
        self.call("down", "--volumes", "--remove-orphans", "--timeout", "5")

    def _nats_conf(self) -> Path:
        """The broker's configuration, where the engine can mount it."""
        self.logs.mkdir(parents=True, exist_ok=True)
        path = self.logs / f"{self.project}.conf"
        path.write_text(server_config(self.seeds, tls=False))
        return path

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ASI_")}
        return kept | {
            **{variable(user): seed for user, seed in self.seeds.items()},
            "NATS_CONF": str(self._nats_conf()),
            "NATS_PORT": str(self.nats_port),
            "ARCHIVE_PORT": str(self.archive_port),
        }
