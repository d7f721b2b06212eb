"""The fork server's process: how it is started, what it may see of the machine, and the engineer's handle on it."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import services
from services.sandbox import linux
from services.sandbox.cgroups import Groups
from services.sandbox.confinement import BUBBLEWRAP, CGROUP, HIDES_PROCESSES, NAMESPACES, USER, level
from services.sandbox.limits import SandboxUnavailable
from services.sandbox.processes import descendants, kill_descendants, private_bytes

_START_SECONDS = 120.0
_TRIAL_SECONDS = 10
_INSTRUCTIONS = ("ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")
"""What limits the processor's instructions: with it an older machine is tried out on a newer one."""
_PASSED = ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES", "TZ", *_INSTRUCTIONS)
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/opt", "/nix/store", "/gnu/store")
_ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "alternatives", "passwd", "group", "nsswitch.conf")

# A training frees and allocates the same large tensors at every step. By default glibc gives them back to the kernel
# and faults them in again page by page, which costs a tenth of the time in a process forked from a large one.
_MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=4294967296"


@dataclass(frozen=True)
class Settings:
    """What every fork server of one sandbox is started with."""

    preload: tuple[str, ...]
    readable: tuple[Path, ...]
    layers: frozenset[str]
    environment: tuple[tuple[str, str], ...] = ()


class Server:
    """A running fork server. Made by `Server.start`.

    Attributes:
        level: the layers it found to hold.
        changes_user: each job runs as a user of its own.
        own_files: each job has a file system of its own to write to, which the kernel limits.
        groups: where control groups for jobs are made, None where none can be.
        shared_bytes: memory of its own that every child shares with it at first.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], line: socket.socket, layers: frozenset[str], groups: Groups | None
    ) -> None:
        self._process = process
        self._line = line
        self.level = level(layers | {CGROUP} if groups else layers)
        self.changes_user = USER in layers
        self.own_files = NAMESPACES in layers
        self.groups = groups
        self._own = descendants(process.pid)  # inside bubblewrap the server itself is one of them
        self.shared_bytes = max(private_bytes(pid) for pid in [process.pid, *self._own])
        if not layers & HIDES_PROCESSES:
            linux.prctl(linux.PR_SET_DUMPABLE, 0)  # a child of our own user could else read our environment in /proc

    @classmethod
    async def start(cls, settings: Settings, root: Path) -> Self:
        """Start a fork server and wait until it is warm; raises SandboxUnavailable with the end of its log.

        Bubblewrap is tried first where it is installed and wanted; where it does not work here, it goes without.
        """
        if BUBBLEWRAP in settings.layers and (program := shutil.which("bwrap")):
            places = _readable_places(settings.readable)
            wrap = _bubblewrap(program, places, root)
            if await asyncio.to_thread(_works, wrap):
                return await cls._start(settings, root, wrap)
        return await cls._start(settings, root, [])

    @classmethod
    async def _start(cls, settings: Settings, root: Path, wrap: list[str]) -> Self:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log = root / "forkserver.log"
        with theirs:
            process = _spawn([*wrap, *_command(settings, root, theirs.fileno())], theirs.fileno(), log, settings, root)
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
        groups = await asyncio.to_thread(Groups.find) if CGROUP in settings.layers else None
        return cls(process, ours, layers | {BUBBLEWRAP} if wrap else layers, groups)

    @property
    def process_id(self) -> int:
        """The process that was started."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def children(self) -> list[int]:
        """What runs below the server."""
        return [pid for pid in descendants(self._process.pid) if pid not in self._own]

    def request(self, text: bytes, descriptors: list[int]) -> None:
        """Ask for one child; raises OSError if the server is gone or does not keep up."""
        socket.send_fds(self._line, [text], descriptors)

    async def close(self) -> None:
        """End the server and whatever is left below it."""
        self._line.close()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        if self.alive():  # else its number may be another's, and what it started has ended with it
            kill_descendants(lambda: descendants(self._process.pid))
            self._process.kill()
            self._process.wait()


def _command(settings: Settings, root: Path, line: int) -> list[str]:
    orders = {
        "line": line,
        "preload": settings.preload,
        "layers": sorted(settings.layers - {BUBBLEWRAP, CGROUP}),
        "readable": _readable_places(settings.readable),
        "root": str(root),
    }
    return [sys.executable, "-P", "-m", "services.sandbox.forkserver", json.dumps(orders)]


def _spawn(command: list[str], line: int, log: Path, settings: Settings, root: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        os.set_inheritable(line, True)
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**_environment(root), **dict(settings.environment)},
            cwd="/",
            pass_fds=[line],
            start_new_session=True,
        )


def _bubblewrap(program: str, readable: tuple[str, ...], root: Path) -> list[str]:
    """The beginning of a command line that puts the fork server inside bubblewrap: no network, processes of its own.

    `root`, the folder of the scratch folders, is the only place to write.
    """
    binds = [word for place in readable for word in ("--ro-bind", place, place)]
    devices = [word for place in linux.graphics() for word in ("--dev-bind", place, place)]
    system = ["--ro-bind-try", "/sys", "/sys"] if devices else []
    apart = ["--unshare-user-try", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    return [program, *apart, "--die-with-parent", *binds, "--proc", "/proc", "--dev", "/dev", *devices, *system,
            "--bind", str(root), str(root), "--"]  # fmt: skip


def _works(wrap: list[str]) -> bool:
    """Whether this machine lets bubblewrap do what the command line asks."""
    try:
        return subprocess.run([*wrap, "/bin/true"], capture_output=True, timeout=_TRIAL_SECONDS).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _environment(scratch: Path) -> dict[str, str]:
    """A new environment: nothing of ours but where libraries and devices are, one thread, no network libraries' hub."""
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    fixed = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/cuda/bin:/usr/local/bin:/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(str(Path(place).resolve().parent) for place in services.__path__),
        "LANG": "C.UTF-8",
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "GLIBC_TUNABLES": _MALLOC,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONHASHSEED": "0",
        "HF_HUB_OFFLINE": "1",
    }
    return {**passed, **fixed}


def _readable_places(extra: tuple[Path, ...] = ()) -> tuple[str, ...]:
    """Files and folders that a child may read: the system's programs, Python's, our own code, and `extra`.

    Our own code means the packages, not the checkout around them, in which a secret or a run's data may lie; for the
    same reason the search path of modules is not taken as it is. Of a link, what it leads to is there as well.
    """
    packages = [Path(place) for place in services.__path__]
    paths = [Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    prefixes = [Path(place) for place in (sys.prefix, sys.base_prefix, sys.exec_prefix)]
    system = [Path(place) for place in _SYSTEM] + [Path("/etc") / name for name in _ETC]
    every = [*system, *prefixes, *paths, *packages, *extra]
    present = [place for place in every if place.exists()]
    return tuple(sorted({str(path) for place in present for path in (place.absolute(), place.resolve())}))
