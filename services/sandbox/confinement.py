"""The layers that confine a job, and how a process applies them: user, resource limits, Landlock, seccomp."""

import contextlib
import ctypes
import os
import resource
import signal
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from services.sandbox import linux, namespaces, seccomp
from services.sandbox.limits import Limits

BUBBLEWRAP, NAMESPACES, USER, LANDLOCK = "bubblewrap", "namespaces", "uid", "landlock"
SECCOMP, CGROUP = "seccomp", "cgroup"
_STRONGEST_FIRST = (BUBBLEWRAP, NAMESPACES, USER, LANDLOCK, SECCOMP, CGROUP)

ALL_LAYERS = frozenset(_STRONGEST_FIRST)
"""All optional layers; resource limits are always applied."""

HIDES_PROCESSES = frozenset({BUBBLEWRAP, NAMESPACES, USER, LANDLOCK})
"""Each of these prevents a job from reading another process's environment in /proc."""

FIRST_USER = 61184
USERS = 4096
"""If the sandbox runs as root, each job gets a user id from this range, which no account uses."""

_TRIAL_LIMITS = Limits(memory_bytes=1 << 30, cpu_seconds=10, wall_seconds=10)

# capabilities
_CAPSET = {"x86_64": 126, "aarch64": 91}
_CAPABILITY_VERSION = 0x20080522
_PR_CAPBSET_DROP = 24
_STACKS = 256 << 20

# Landlock
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE, _READ, _LIST, _TRUNCATE, _IOCTL = 1, 2, 4, 8, 1 << 14, 1 << 15
_MAKE_DEVICES = 1 << 6 | 1 << 11
_FILE_RIGHTS = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_RIGHTS_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_OWN_PROC = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/devices", "/proc/driver",
             "/proc/modules", "/proc/filesystems", "/proc/version", "/proc/sys/vm")  # fmt: skip


def level(layers: frozenset[str]) -> str:
    """The names of the layers, strongest first, joined by "+"."""
    return "+".join([*(name for name in _STRONGEST_FIRST if name in layers), "rlimits"])


@dataclass(frozen=True)
class Confinement:
    """The layers in force, and the files and folders that a job may read.

    Only tested layers are included; if one fails for a job, the job is not started.
    """

    layers: frozenset[str] = frozenset()
    readable: tuple[str, ...] = ()

    def enter_namespaces(self) -> bool:
        """Enter new namespaces; True if the next fork is the first process of a pid namespace. Raises OSError."""
        if NAMESPACES not in self.layers:
            return False
        namespaces.enter()
        return True

    def build_root(self, scratch: Path, limits: Limits, user: int) -> None:
        """Build the file system of the new mount namespace. Raises OSError."""
        if NAMESPACES in self.layers:
            owner = user if USER in self.layers else os.geteuid()
            namespaces.build_root(scratch, self.readable, limits, owner)

    def confine(self, scratch: Path, limits: Limits, user: int) -> None:
        """Apply the remaining layers to this process irrevocably. Raises OSError."""
        namespaced, programs = NAMESPACES in self.layers, limits.subprocesses
        _limit_resources(limits, counts_processes=USER in self.layers)
        if USER in self.layers:
            _switch_user(user)
        else:
            _drop_capabilities()
        linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)
        if LANDLOCK in self.layers:
            _landlock(scratch, self.readable, programs, own_proc_only=not namespaced)
        if SECCOMP in self.layers:
            shared_memory = programs or bool(linux.nvidia_devices())
            seccomp.install(programs, own_network=namespaced, shared_memory=shared_memory, files=limits.files)


def detect(layers: frozenset[str], readable: tuple[str, ...], root: Path) -> Confinement:
    """The confinement with those of the requested layers that work on this machine, by trial."""
    best = Confinement(readable=readable)
    for layer in (NAMESPACES, USER, LANDLOCK, SECCOMP):
        candidate = replace(best, layers=best.layers | {layer})
        if layer in layers and _works(candidate, root):
            best = candidate
    return best


def _works(candidate: Confinement, root: Path) -> bool:
    """Whether a confined child can still read our code and write to its scratch folder."""
    scratch = Path(tempfile.mkdtemp(prefix="trial-", dir=root))
    try:
        if USER in candidate.layers:
            os.chown(scratch, FIRST_USER, FIRST_USER)
        return _in_child(lambda: _trial(candidate, scratch)) == 0
    except OSError:
        return False
    finally:
        (scratch / "written").unlink(missing_ok=True)
        scratch.rmdir()


def _trial(candidate: Confinement, scratch: Path) -> int:
    def confined() -> int:
        candidate.build_root(scratch, _TRIAL_LIMITS, FIRST_USER)
        return _in_child(work)

    def work() -> int:
        candidate.confine(scratch, _TRIAL_LIMITS, FIRST_USER)
        cuda = ["/proc/self/comm"] if linux.nvidia_devices() else []  # CUDA does not start without /proc
        for path in (__file__, os.__file__, "/dev/null", *cuda):
            Path(path).open("rb").close()
        (scratch / "written").write_text("yes")
        return 0

    return _in_child(confined) if candidate.enter_namespaces() else confined()


def _in_child(body: Callable[[], int]) -> int:
    """The exit code of `body` in a fork; 1 if it raises OSError."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = body()
        except OSError as error:
            os.write(2, f"not available here: {error}\n".encode())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _switch_user(user: int) -> None:
    """Switch to an ordinary user without groups. Raises OSError."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # changing the user has reset it
    linux.prctl(linux.PR_SET_DUMPABLE, 1)  # else /proc/self, which CUDA reads, would belong to root


def _drop_capabilities() -> None:
    """Drop all capabilities, also for programs executed later. Raises OSError."""
    for capability in range(64):
        with contextlib.suppress(OSError):  # unknown to the kernel, or not permitted to drop
            linux.prctl(_PR_CAPBSET_DROP, capability)
    header = ctypes.create_string_buffer(struct.pack("<Ii", _CAPABILITY_VERSION, 0))
    linux.syscall("capset", _CAPSET[linux.MACHINE], header, ctypes.create_string_buffer(24))


def _limit_resources(limits: Limits, counts_processes: bool) -> None:
    """Set limits slightly above those that the host enforces with clearer messages.

    Processor time beyond the soft limit ends the job with a signal of its own, beyond the hard one with SIGKILL.
    `counts_processes`: the user id is used by this job only, so the number of its tasks can be limited.
    """
    values = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: 1024 if limits.subprocesses else 256,
        resource.RLIMIT_CPU: int(limits.cpu_seconds) + 4,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if counts_processes:
        values[resource.RLIMIT_NPROC] = limits.processes + 8
    if not linux.nvidia_devices():  # CUDA maps far more than it uses
        values[resource.RLIMIT_DATA] = _mapped_data() + limits.memory_bytes + _STACKS
    for kind, value in values.items():
        _, hard_limit = resource.getrlimit(kind)
        value = value if hard_limit == resource.RLIM_INFINITY else min(value, hard_limit)
        resource.setrlimit(kind, (max(1, value - 2) if kind == resource.RLIMIT_CPU else value, value))


def _mapped_data() -> int:
    """Bytes of private writable memory mapped by this process (VmData); a high estimate without /proc."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) << 10
    return 2 << 30


def _landlock(scratch: Path, readable: tuple[str, ...], programs: bool, own_proc_only: bool) -> None:
    """Restrict this process and its children irrevocably to reading `readable` and writing `scratch`.

    `programs` allows executing files; `own_proc_only` is for a /proc that shows the host's processes. Landlock from
    version 4 on also forbids TCP (except for `programs`, whose network is private), and from version 6 on signals and
    abstract sockets to other processes. Raises OSError if the kernel has no Landlock.
    """
    version = linux.syscall("landlock_create_ruleset", _CREATE_RULESET, None, 0, 1)
    handled = max(rights for since, rights in _RIGHTS_BY_VERSION.items() if since <= version)
    network = 3 if version >= 4 and not programs else 0
    rules = struct.pack("<QQQ", handled, network, 3 if version >= 6 else 0)
    buffer = ctypes.create_string_buffer(rules, len(rules))
    size = 8 if version < 4 else 16 if version < 6 else 24  # later fields are unknown to older kernels
    ruleset = linux.syscall("landlock_create_ruleset", _CREATE_RULESET, buffer, size, 0)
    execute = _EXECUTE if programs else 0
    proc = _OWN_PROC if own_proc_only else ("/proc",)
    for path in (*readable, *proc, "/sys"):
        _allow(ruleset, path, (_READ | _LIST | execute) & handled)
    if programs:  # NVIDIA's driver names its threads there from 570 on; where it cannot, CUDA ends with error 304
        _allow(ruleset, "/proc/self/task", (_READ | _LIST | _WRITE | _TRUNCATE) & handled)
    for path in (*namespaces.DEVICES, *linux.nvidia_devices()):
        _allow(ruleset, path, (_READ | _LIST | _WRITE | _IOCTL) & handled)
    writable = handled & ~_MAKE_DEVICES
    if not programs:
        writable &= ~_EXECUTE
    for path in (str(scratch), *(["/dev/shm"] if programs else [])):  # noqa: S108 -- in a private namespace
        _allow(ruleset, path, writable)
    linux.syscall("landlock_restrict_self", _RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    """Add a rule for a path, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not Path(path).is_dir():
                rights &= _FILE_RIGHTS
            rule = ctypes.create_string_buffer(struct.pack("<Qi", rights, descriptor))
            linux.syscall("landlock_add_rule", _ADD_RULE, ruleset, 1, rule, 0)
        finally:
            os.close(descriptor)
