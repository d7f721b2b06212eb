"""The host's side of the fork server: its start, environment and readable paths, requests, and supervisors' reports."""

import asyncio
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import services
from services.sandbox import linux
from services.sandbox.cgroups import Groups
from services.sandbox.confinement import BUBBLEWRAP, CGROUP, HIDES_PROCESSES, NAMESPACES, SECCOMP, USER, level
from services.sandbox.limits import SandboxUnavailable
from services.sandbox.processes import descendants, kill_descendants, private_bytes, start_time

_START_SECONDS = 120.0
_TRIAL_SECONDS = 10
_CREDENTIALS = struct.Struct("3i")
_INSTRUCTIONS = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")
"""Variables that restrict the processor's instructions, to emulate an older machine."""
_GPU = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES")
_PASSED = ("LD_LIBRARY_PATH", "TZ", *_GPU, *_INSTRUCTIONS)
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/opt", "/nix/store", "/gnu/store")
_DRAIN_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Signals that end or drain an engineer. Slurm and systemd send them to all processes of a job: a training that they
ended would count against its candidate. The sandbox ends its processes with SIGKILL."""
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "alternatives", "passwd", "group", "nsswitch.conf")

# Trainings free and allocate the same large tensors at every step. By default glibc returns them to the kernel, and
# page faults cost a tenth of the time in a process forked from a large one.
_MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=4294967296"


@dataclass(frozen=True)
class Settings:
    """Settings of a sandbox's fork servers."""

    preload: tuple[str, ...]
    readable: tuple[Path, ...]
    layers: frozenset[str]
    environment: tuple[tuple[str, str], ...] = ()


class Server:
    """A running fork server, created by `Server.start`."""

    def __init__(
        self, process: subprocess.Popen[bytes], connection: socket.socket, layers: frozenset[str], groups: Groups | None
    ) -> None:
        self._process = process
        self._connection = connection
        self.level = level(layers | {CGROUP} if groups else layers)
        self.changes_user = USER in layers  # each job runs as a user of its own
        self.own_files = NAMESPACES in layers  # each job has a writable file system of its own, limited by the kernel
        self.can_be_killed = SECCOMP not in layers  # a job can send signals to the fork server and to its supervisor
        self.groups = groups
        self._own = descendants(process.pid)  # bubblewrap's, which include the server
        self.shared_bytes = max(private_bytes(pid) for pid in [process.pid, *self._own])  # with each new child
        if not layers & HIDES_PROCESSES:
            linux.prctl(linux.PR_SET_DUMPABLE, 0)  # else a child could read our environment in /proc

    @classmethod
    async def start(cls, settings: Settings, root: Path) -> Self:
        """Start a fork server, in bubblewrap if requested. Raises SandboxUnavailable with the end of its log."""
        wrap: list[str] = []
        if BUBBLEWRAP in settings.layers and (program := shutil.which("bwrap")):
            wrap = _bubblewrap(program, _readable_paths(settings.readable), root)
            wrap = wrap if await asyncio.to_thread(_works, wrap) else []
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log = root / "forkserver.log"
        with theirs:
            process = _spawn(wrap, theirs.fileno(), log, settings, root)
        search = asyncio.create_task(asyncio.to_thread(Groups.find)) if CGROUP in settings.layers else None
        ours.setblocking(False)
        report, fault = b"", ""
        try:
            report = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ours, 1 << 16), _START_SECONDS)
        except TimeoutError:
            fault = f"it gave no answer within {_START_SECONDS:g} s"
        except OSError as error:
            fault = str(error)
        if not report:
            process.kill()
            fault = f"{fault or 'it ended'} (status {process.wait()})"
            reason = log.read_text()[-2000:].strip()
            raise SandboxUnavailable(f"the sandbox's fork server does not start: {fault}{reason and ': ' + reason}")
        layers = frozenset(json.loads(report)["layers"])
        groups = await search if search else None
        return cls(process, ours, layers | {BUBBLEWRAP} if wrap else layers, groups)

    @property
    def process_id(self) -> int:
        """The process id of the fork server or of bubblewrap."""
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def children(self) -> list[int]:
        return [pid for pid in descendants(self._process.pid) if pid not in self._own]

    def request(self, text: bytes, descriptors: list[int]) -> None:
        """Request one child. Raises OSError if the server has ended or does not keep up."""
        socket.send_fds(self._connection, [text], descriptors)

    async def close(self) -> None:
        self._connection.close()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        if self.alive():  # else its pid may be reused, and its descendants have ended
            kill_descendants(lambda: descendants(self._process.pid))
            self._process.kill()
            self._process.wait()


def _spawn(wrap: list[str], connection: int, log: Path, settings: Settings, root: Path) -> subprocess.Popen[bytes]:
    arguments = {
        "connection": connection,
        "preload": settings.preload,
        "layers": sorted(settings.layers - {BUBBLEWRAP, CGROUP}),
        "readable": _readable_paths(settings.readable),
        "root": str(root),
    }
    os.set_inheritable(connection, True)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _DRAIN_SIGNALS)  # the fork server and its children inherit it
    try:
        with log.open("wb") as output:
            return subprocess.Popen(
                [*wrap, sys.executable, "-P", "-m", "services.sandbox.forkserver", json.dumps(arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**_environment(root), **dict(settings.environment)},
                cwd="/",
                pass_fds=[connection],
                start_new_session=True,
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _bubblewrap(program: str, readable: tuple[str, ...], root: Path) -> list[str]:
    """A command prefix that runs the fork server in bubblewrap, where it can write only to `root`."""
    binds = [word for path in readable for word in ("--ro-bind", path, path)]
    devices = [word for path in linux.nvidia_devices() for word in ("--dev-bind", path, path)]
    system = ["--ro-bind-try", "/sys", "/sys"] if devices else []
    unshare = ["--unshare-user-try", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    return [program, *unshare, "--die-with-parent", *binds, "--proc", "/proc", "--dev", "/dev", *devices, *system,
            "--bind", str(root), str(root), "--"]  # fmt: skip


def _works(wrap: list[str]) -> bool:
    """Whether bubblewrap works on this machine."""
    try:
        return subprocess.run([*wrap, "/bin/true"], capture_output=True, timeout=_TRIAL_SECONDS).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _environment(scratch: Path) -> dict[str, str]:
    """The environment of the fork server: of ours, only variables for libraries and devices are passed."""
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    fixed = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/cuda/bin:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(str(Path(path).resolve().parent) for path in services.__path__),
        "LANG": "C.UTF-8",
        "HOME": str(scratch),
        "USER": "job",  # torch.compile before 2.13 asks for the name of a job's user, who is in no list of users
        "TMPDIR": str(scratch),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "GLIBC_TUNABLES": _MALLOC,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONHASHSEED": "0",
        "HF_HUB_OFFLINE": "1",
        # Else torch.compile compiles in programs of its own, which start CUDA: of a job, only the first process can, as
        # others may not name their threads in /proc.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }
    return {**passed, **fixed}


def _readable_paths(extra: tuple[Path, ...] = ()) -> tuple[str, ...]:
    """Paths that a child may read: the system's programs and libraries, Python, our packages, and `extra`.

    The folder around our packages is not included, as it may contain secrets or a run's data; sys.path is not used for
    the same reason. For symbolic links, their targets are included.
    """
    packages = [Path(path) for path in services.__path__]
    python = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    prefixes = [Path(path) for path in (sys.prefix, sys.base_prefix, sys.exec_prefix)]
    system = [Path(path) for path in _SYSTEM] + [Path("/etc") / name for name in _ETC]
    existing = [path for path in (*system, *prefixes, *python, *packages, *extra) if path.exists()]
    return tuple(sorted({str(path) for entry in existing for path in (entry.absolute(), entry.resolve())}))


class Control:
    """The host's end of the control socket, on which the supervisor reports its start and the job's exit status.

    The kernel adds the sender's process id, in the host's namespace, to each message. The socket closes with the
    supervisor, so its loss is noticed at once. `supervisor` becomes the supervisor's process id, and `ended` the job's
    exit code (negative: a signal), or None if the supervisor was lost.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        connection.setblocking(False)
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self.supervisor_started = ""  # as in `processes.start_time`
        self.supervisor: asyncio.Future[int] = self._loop.create_future()
        self.ended: asyncio.Future[int | None] = self._loop.create_future()
        self._loop.add_reader(connection.fileno(), self._read)

    def _read(self) -> None:
        try:
            text, ancillary, _, _ = self._connection.recvmsg(4096, socket.CMSG_SPACE(_CREDENTIALS.size))
        except BlockingIOError:
            return
        except OSError:
            text, ancillary = b"", []
        if text:
            self._handle(json.loads(text), ancillary)
            return
        self._loop.remove_reader(self._connection.fileno())
        if not self.supervisor.done():
            self.supervisor.set_exception(SandboxUnavailable("the fork server ended before it started the child"))
        if not self.ended.done():
            self.ended.set_result(None)

    def _handle(self, report: dict[str, str | int], ancillary: list[tuple[int, int, bytes]]) -> None:
        if report["event"] == "started" and not self.supervisor.done():
            credentials = [data for _, kind, data in ancillary if kind == socket.SCM_CREDENTIALS]
            pid = int(_CREDENTIALS.unpack(credentials[0])[0])
            self.supervisor_started = start_time(pid)
            self.supervisor.set_result(pid)
        elif report["event"] == "ended" and not self.ended.done():
            self.ended.set_result(int(report["status"]))
        elif report["event"] == "refused" and not self.ended.done():
            self.ended.set_exception(SandboxUnavailable(f"a child could not be confined: {report['reason']}"))

    def require_start(self) -> None:
        """Let a supervisor that has not reported its start end as soon as it tries to."""
        if not self.supervisor.done():
            self._connection.shutdown(socket.SHUT_RD)  # what was sent before can still be read
            self._read()

    def close(self) -> None:
        """Close the socket and discard unread results."""
        self._loop.remove_reader(self._connection.fileno())
        self._connection.close()
        for future in (self.supervisor, self.ended):
            if future.done() and not future.cancelled():
                future.exception()
            future.cancel()
