"""The compose file for tests: started under its own project name, queried, disturbed, removed."""

import os
import secrets
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from deploy.make_env import new_seeds, server_config
from services.chassis.bus.access import seed_variable
from services.local.processes import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = ("-f", str(DEPLOY / "compose.yaml"), "-f", str(DEPLOY / "compose.tls.yaml"))


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
    """One project of the compose files, encrypted, with ports, certificates and NATS users of its own."""

    command: list[str]
    logs: Path
    project: str = field(default_factory=lambda: f"asitest{secrets.token_hex(3)}")
    seeds: dict[str, str] = field(default_factory=new_seeds)
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="asi-compose-")))
    nats_port: int = field(default_factory=free_port)
    archive_port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        """Make what an operator makes before the first start."""
        subprocess.run([DEPLOY / "make_certificates.sh", self.folder / "certificates"], check=True)
        (self.folder / "nats.conf").write_text(server_config(self.seeds, tls=True))

    @property
    def console(self) -> dict[str, object]:
        """The settings of whoever starts and watches runs."""
        own = self.folder / "certificates" / "console"
        return {
            "nats_url": self.nats_url,
            "nats_nkey_seed": self.seeds["console"],
            "nats_ca": own / "ca.crt",
            "grpc_ca": own / "ca.crt",
            "grpc_cert": own / "tls.crt",
            "grpc_key": own / "tls.key",
            "archive_address": f"127.0.0.1:{self.archive_port}",
        }

    @property
    def nats_url(self) -> str:
        """The event log, on loopback."""
        return f"nats://127.0.0.1:{self.nats_port}"

    def call(self, *arguments: str, seconds: float = 900) -> str:
        """Run one compose command; what it printed. Raises AssertionError with its output where it failed."""
        done = subprocess.run(
            [*self.command, "-p", self.project, *FILES, *arguments],
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
            _docker(verb, container)

    def keep_logs(self) -> None:
        """Write what every container said and how it stands below `logs`."""
        self.logs.mkdir(parents=True, exist_ok=True)
        for name, arguments in (("logs.txt", ("logs", "--no-color")), ("ps.txt", ("ps",))):
            (self.logs / name).write_text(self.call(*arguments))

    def tear_down(self) -> None:
        """Remove containers, networks, volumes and images: the images and their build stages are several GB."""
        self.call("kill")  # nobody needs what they would finish
        self.call("down", "--volumes", "--remove-orphans", "--timeout", "5")
        tags = _docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", f"asi-arch/*:{self.project}").split()
        if tags:
            _docker("image", "rm", *tags)
        _docker("image", "prune", "--force", "--filter", "label=org.opencontainers.image.title=asi-arch")
        shutil.rmtree(self.folder)

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("ASI_")}
        return inherited | {
            **{seed_variable(user): seed for user, seed in self.seeds.items()},
            "IMAGE_TAG": self.project,
            "NATS_CONF": str(self.folder / "nats.conf"),
            "CERTIFICATES": str(self.folder / "certificates"),
            "NATS_PORT": str(self.nats_port),
            "ARCHIVE_PORT": str(self.archive_port),
        }


def _docker(*arguments: str) -> str:
    command = ["docker", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def main() -> None:
    """Build the images without starting them, beside other tests: a later start finds their layers."""
    command = compose_command()
    if command is not None:
        stack = Stack(command, DEPLOY.parent / "build" / "compose")
        stack.call("build", seconds=1100)
        shutil.rmtree(stack.folder)


if __name__ == "__main__":
    main()
